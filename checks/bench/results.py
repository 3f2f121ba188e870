"""What was measured, kept as JSON in git, and the tables of docs/speed.md that are made from it."""

import json
import re
import textwrap
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from checks.bench.contestants import CORES, ENVIRONMENTS, ROOT, Sample
from checks.bench.jobs import JOBS, Job
from experiment import Experiment

FILE = Path(__file__).with_name("results.json")
PAGE, README = ROOT / "docs" / "speed.md", ROOT / "README.md"
YARDSTICK = "bare loop"  # so begins the name of what the others are so many times as fast as: the first of these
PACKAGES = {"fluke": "fluke-fl", "pfl": "pfl", "fedlab": "fedlab", "flower": "flwr", "blazefl": "blazefl"}
HEADER = ("", "training, s", "test, s", "a round, s (from, to)", "times as fast", "command, s", "core-s", "accuracy, %")

Taken = dict[str, list[Sample]]  # by contestant, in the order in which they were taken


def here(ours: Experiment) -> dict[str, Any]:
    """The machine, the code and the versions, of which `ours` knows the most."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    environment = ours.config["environment"]
    versions = {name: environment[name] for name in ("python", "torch", "numpy")}
    for name, package in PACKAGES.items():
        result = list(map(str, (ENVIRONMENTS / name).glob("lib/*/site-packages")))
        versions |= {item.name: item.version for item in metadata.distributions(name=package, path=result)}
    machine = {"cores": CORES, "processor": f"{(names or ['unknown'])[0]}, {environment['processor']}"}
    code = {name: ours.config[name] for name in ("source", "revision")}
    return {**machine, **code, "versions": versions, "data": ours.data.unverified}


def summary(sample: Sample) -> Sample:
    """What is kept of a sample: medians over its rounds but the first, and over its tests, but the first where there are
    several; None where tests are part of the rounds."""
    kept = {name: sample[name] for name in ("command", "cores", "accuracy", "steps")}
    tests = sample["tests"][1:] or sample["tests"]
    return {"training": median(sample["rounds"][1:]), "test": median(tests) if tests else None, **kept}


def describe(taken: Taken, absent: Mapping[str, str], job: Job) -> str:
    """A table in Markdown: a row a contestant, medians over the times that it did the job."""
    rows = [HEADER, tuple("---" for _ in HEADER)]
    base = next((_seconds(samples, job) for name, samples in taken.items() if name.startswith(YARDSTICK)), None)
    for name, samples in taken.items():
        parts = [_seconds(samples, job, part) for part in ("training", "test")]
        rounds = [_of(sample, job) for sample in samples]
        rows.append(
            (
                name,
                *("" if part is None else f"{part:.2f}" for part in parts),
                f"{median(rounds):.2f} ({min(rounds):.2f}, {max(rounds):.2f})",
                "" if base is None else f"{base / median(rounds):.2f}",
                *(f"{median(sample[what] for sample in samples):.0f}" for what in ("command", "cores")),
                f"{100 * median(sample['accuracy'] for sample in samples):.1f}",
            )
        )
    rows += [(name, f"did not take part: {why}") + ("",) * (len(HEADER) - 2) for name, why in absent.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _of(sample: Sample, job: Job) -> float:
    """Seconds of a round; with its test, where every round has one."""
    return sample["training"] + (sample["test"] if job.every_round and sample["test"] else 0)


def _seconds(samples: list[Sample], job: Job, part: str = "") -> float | None:
    """Median over the times of doing the job."""
    results = [sample[part] if part else _of(sample, job) for sample in samples]
    return None if None in results else median(results)


def read() -> dict[str, Any]:
    """What is kept: {part: {job: {"command", "here", "taken", "absent"}}}."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def record(part: str, name: str, result: dict[str, Any]) -> None:
    """Keep what was found of a job. Samples of the same command, code, machine and versions are added to those that are
    kept; what was taken otherwise is replaced. The same code is the same `source`, whatever revision it stands in."""
    kept = read()
    there = kept.setdefault(part, {}).get(name)
    if there and _alike(there) == _alike(result):
        for contestant, samples in result["taken"].items():
            there["taken"].setdefault(contestant, []).extend(samples)
        absent = {**there["absent"], **result["absent"]}
        there["absent"] = {who: why for who, why in absent.items() if who not in there["taken"]}
    else:
        kept[part][name] = result
    FILE.write_text(json.dumps(kept, indent=1) + "\n")
    write()


def _alike(result: dict[str, Any]) -> list[Any]:
    here = {name: value for name, value in result["here"].items() if name != "revision"}
    return [result["command"], here]


def write() -> None:
    """Make the tables of the page anew, and the README's sentence."""
    kept, page = read(), PAGE.read_text()
    for part, jobs in kept.items():
        blocks = [_block(JOBS[name], jobs[name]) for name in JOBS if name in jobs]
        page = between(page, f"bench {part}", "\n\n" + "\n\n".join(blocks) + "\n\n")
    PAGE.write_text(page)
    if result := kept.get("rounds", {}).get("fedavg"):
        README.write_text(between(README.read_text(), "bench", _sentence(JOBS["fedavg"], result)))


def between(text: str, name: str, new: str) -> str:
    """The text, with what stands between two markers replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    return before + begin + new + end + rest.partition(end)[2]


def _sentence(job: Job, result: dict[str, Any]) -> str:
    """How fast Chorus is with all cores, in words."""
    seconds = {who: _seconds(samples, job) for who, samples in result["taken"].items()}
    ours = next(name for name in reversed(seconds) if name.startswith("Chorus"))
    others = [name for name in seconds if name.startswith("bare loop")]
    ratios = [f"{seconds[other] / seconds[ours]:.1f} ({other.removeprefix('bare loop, ')})" for other in others]
    here, n = result["here"], len(result["taken"][ours])
    words = (
        f"{job.words}: with {ours.removeprefix('Chorus, ')}, a round and its test take {seconds[ours]:.2f} s. Time of a "
        f"bare PyTorch loop relative to that: {', '.join(ratios)}. Medians of {n} commands on {here['cores']} cores of "
        f"{here['processor']}, torch {here['versions']['torch']}, code of {here['revision']}."
    )
    return "\n" + textwrap.fill(words, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False) + "\n  "


def _block(job: Job, result: dict[str, Any]) -> str:
    here = result["here"]
    times = sorted({len(samples) for samples in result["taken"].values()})
    n = " to ".join(str(times[i]) for i in sorted({0, len(times) - 1}))
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    tested = "tested after every round" if job.every_round else "tested after the last round"
    data = "; files without their published checksum" if here["data"] else ""
    return (
        f"**{job.words}**, {tested}: `run.py {job.command}`{data}\n\n"
        f"{describe(result['taken'], result['absent'], job)}\n\n"
        f"n = {n}; {here['cores']} cores of {here['processor']}; {versions}; code of {here['revision']}."
    )
