"""One run on several machines, in two ways: on the ranks of a torchrun, as Chorus does (`federation/ranks.py`), and with
actors of Ray, which was tried beside it. What is measured: seconds of a round, and what crosses the network.

    torchrun --nproc_per_node 1 --nnodes 2 ... checks/bench/machines.py ranks JOB
    python checks/bench/machines.py actors JOB --address auto      # with Ray installed

`machines.sh` makes two machines of one: network namespaces of Linux, with a link of a given speed between them, whose bytes
it counts. JOB is one of `jobs.py`, of which so many rounds are played as it has, without tests.
"""

import argparse
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch

import experiment
from checks.bench.contestants import prepared
from checks.bench.jobs import JOBS
from federation import Federation, pool, ranks

TRIES = 3  # of a client whose actor dies


class Actors:
    """Actors of a Ray cluster, each with a replica of a federation, which are sent a client at a time: the longest first,
    each to the first that is free. What an actor is at as it dies is sent to another."""

    is_ready = True

    def __init__(self, n: int, build: Callable[[], Federation]) -> None:
        import ray

        self._ray = ray
        actor = ray.remote(num_cpus=1)(_Actor)
        self._free = [actor.remote(pool.packed(build)) for _ in range(n)]
        ray.get([item.is_ready.remote() for item in self._free])

    def map_clients(
        self, federation: Federation, work: Callable[..., Any], clients: Sequence[int], rows: Sequence
    ) -> list[Any]:
        """[work(federation, k, row of the first, ...) for every client k]."""
        tasks = list(zip(clients, *rows, strict=True))
        waiting = sorted(range(len(tasks)), key=lambda place: -len(federation.shares[clients[place]]))
        out, done = {}, {}
        while len(done) < len(tasks):
            while waiting and self._free:
                place, actor = waiting.pop(0), self._free.pop()
                out[actor.execute.remote(pool.packed((federation.round, work, *tasks[place])))] = place, actor
            (reference,), _ = self._ray.wait(list(out))
            place, actor = out.pop(reference)
            try:
                done[place], spent = pickle.loads(self._ray.get(reference))
            except self._ray.exceptions.RayActorError:
                print(f"an actor is gone; client {clients[place]} goes to another", file=sys.stderr)
                waiting.insert(0, place)
                continue
            federation.meter.spent.update(spent)
            self._free.append(actor)
        return [done[place] for place in range(len(tasks))]


class _Actor:
    def __init__(self, build: bytes) -> None:
        torch.set_num_threads(1)
        self._federation = pickle.loads(build)()

    def is_ready(self) -> bool:
        """It is there."""
        return True

    def execute(self, task: bytes) -> bytes:
        """One client's work, and what it counted."""
        r, work, k, *row = pickle.loads(task)
        (done,) = self._federation.at(r).map_clients(work, [k], *([part] for part in row))
        spent = dict(self._federation.meter.spent)
        self._federation.meter.clear()
        return pool.packed((done, spent))


def _replica(name: str) -> Federation:
    return experiment.federation_of(prepared(JOBS[name]))


def _played(name: str, create: Callable[[], Any]) -> None:
    run_experiment = prepared(JOBS[name])
    torch.set_num_threads(1)
    federation = replace(experiment.federation_of(run_experiment), pool=create())
    state, seconds, crossed = run_experiment.module.start(federation, run_experiment.options), [], [_crossed()]
    for r in range(1, run_experiment.options.rounds + 1):
        began = time.perf_counter()
        done = run_experiment.module.communicate(federation.at(r), state, run_experiment.options)
        seconds.append(time.perf_counter() - began)
        crossed.append(_crossed())
        if ranks.rank() == 0:
            print(f"round {r}: {seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    if ranks.rank() == 0:
        rounds, ways = len(seconds) - 1, zip(crossed[1], crossed[-1], strict=True)
        out, back = ((after - before) / rounds / 1e6 for before, after in ways)
        print(
            f"{name}: {median(seconds[1:]):.3f} s a round, {out:.2f} MB out of the first machine and {back:.2f} MB into it, "
            f"loss {done.loss.mean():.9f}",
            flush=True,
        )


def _crossed() -> tuple[int, int]:
    """Bytes that left this machine through the link that `machines.sh` has made, and that came in."""
    counted = [sorted(Path("/sys/class/net").glob(f"chorus*/statistics/{way}_bytes")) for way in ("tx", "rx")]
    return tuple(sum(int(path.read_text()) for path in paths) for paths in counted)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("ranks", "actors", "alone"))
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--address", default="auto")
    parser.add_argument("--n", type=int, default=2, help="how many actors")
    args = parser.parse_args()
    if args.way == "actors":
        import ray

        ray.init(args.address, log_to_driver=False)
        _played(args.job, lambda: Actors(args.n, partial(_replica, args.job)))
    elif args.way == "alone":
        _played(args.job, lambda: None)
    else:
        with ranks.joined():
            _played(args.job, ranks.Ranks)
            if ranks.rank() > 0:
                ranks.follow(print)


if __name__ == "__main__":
    main()
