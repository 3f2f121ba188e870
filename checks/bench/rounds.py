"""Seconds of the same jobs, done by Chorus and by others, side by side in one run.

All do a job in turn, a process each, and then again, so that what else the machine does falls on all alike. Seconds of a
round are medians over all rounds but the first; those of the command have the start-up too; core-seconds are what all of its
processes took. Whoever takes other steps than Chorus, or ends at another accuracy than the job allows, did other work: that
is said, and counts as wrong, as do other bits with more workers.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from checks.bench import results
from checks.bench.contestants import Contestant, done, prepared, work_of
from checks.bench.jobs import JOBS, Job
from errors import UserError


def compared(part: str, contestants: Mapping[str, Contestant], names: Iterable[str], times: int, record: bool) -> int:
    """Prints a table a job; returns how many did other work."""
    wrong = 0
    for name in names:
        job = JOBS[name]
        print(f"\n{name}: {job.words}\n  run.py {job.command}", flush=True)
        try:
            run_experiment = prepared(job)
        except UserError as error:
            print(f"  left out: {error}")
            continue
        absent = {who: contestant.missing for who, contestant in contestants.items() if contestant.missing}
        taken: results.Taken = {who: [] for who in contestants if who not in absent}
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "work.pt"
            work_of(run_experiment).write(work)
            for _ in range(times):
                for who in [who for who in taken if who not in absent]:
                    try:
                        sample = results.summary(done(contestants[who], job, work))
                    except RuntimeError as error:
                        absent[who] = str(error).splitlines()[-1]
                        print(f"  {who}: failed\n{error}", flush=True)
                        continue
                    taken[who].append(sample)
                    print("  " + "  ".join(f"{key} {value:.4g}" for key, value in sample.items() if value), who, flush=True)
        taken = {who: samples for who, samples in taken.items() if samples}
        print(f"\n{results.describe(taken, absent, job)}")
        for line in others(taken, job):
            print(f"  WRONG: {line}")
            wrong += 1
        if record:
            results.record(
                part, name, {"command": job.command, "here": results.here(run_experiment), "taken": taken, "absent": absent}
            )
    return wrong


def others(taken: results.Taken, job: Job) -> list[str]:
    """Who did other work than Chorus, of which more workers are to give the same bits, in words."""
    result = []
    (base, *_) = next(samples for who, samples in taken.items() if who.startswith("Chorus"))
    for who, samples in taken.items():
        apart = 0 if who.endswith(("worker", "workers")) else job.apart / 100
        for sample in samples:
            if sample["steps"] != base["steps"]:
                result.append(f"{who} took {sample['steps']} steps, Chorus {base['steps']}")
            if abs(sample["accuracy"] - base["accuracy"]) > apart:
                result.append(f"{who} ended at {sample['accuracy']:.4f}, Chorus at {base['accuracy']:.4f}")
    return result
