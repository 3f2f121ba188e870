"""Does Chorus compute on a CUDA device what it computes on the processor? A part of `make cuda`.

    python checks/on_cuda.py              # or: --device cpu, to see that it is in order where there is no CUDA device

Every algorithm plays two rounds with tiny networks in float64, on the device twice and on the processor: the same bits when
it is repeated, weights that agree to a tolerance, the same bytes and counts, and no step that waits for the device. Then how
often an evaluation waits for the device, and the table of `make run`, on the device. No machine with such a device was at
hand when this was written. The exit status is the number of algorithms with a difference.
"""

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import play  # noqa: E402
from test_algorithms import MODULES, answers_of, equal, federation_for, options_of, tensors  # noqa: E402
from test_evaluation import SPLIT  # noqa: E402

from experiment.evaluation import evaluate  # noqa: E402
from federation import local  # noqa: E402

CLOSE = 1e-6  # relative and absolute: float64, after two rounds
JOB = (
    "cfkd fd fedavg independent centralized --dataset digits --n_clients 5 --partition lda --alpha 0.5 --lr 3e-3 "
    "--rounds 60"  # of `make run`
)


def differing(case: str, device: str) -> list[str]:
    """What is not as it should be, in words."""
    here, once, again = (federation_for(case, participation=0.7, device=where) for where in ("cpu", device, device))
    with _waits() as waited:
        states, rounds = zip(*(play(item, options_of(case), rounds=2) for item in (here, once, again)), strict=True)
    answers = [answers_of(item, done) for item, done in zip((here, once, again), rounds, strict=True)]
    results = []
    if not equal(states[1], states[2]) or not equal(answers[1], answers[2]):
        results.append("not repeatable")
    for entry, other in zip(tensors([states[0], answers[0]]), tensors([states[1], answers[1]]), strict=True):
        if entry.is_floating_point() and not torch.allclose(entry, other.cpu(), CLOSE, CLOSE):
            results.append(f"apart by {(entry - other.cpu()).abs().max():.1e}")
            break
    if here.wire.collect() != once.wire.collect() or here.meter.spent != once.meter.spent:
        results.append("other bytes or counts")
    if waited:
        results.append(f"{len(waited)} times a step waited for the device, first in {waited[0]}")
    return results


def waits_of_evaluation(device: str) -> tuple[int, int]:
    """How often an evaluation waits for the device, and of how many models it is. Few are right: one for the models that are
    evaluated together, and each that torch makes for the labels; not one a model or a batch."""
    federation = federation_for("independent", device=device)
    _, done = play(federation, options_of("independent"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        _tell("warn")
        evaluate(federation, SPLIT, done)
        _tell("default")
    return sum("synchroniz" in str(warning.message) for warning in warned), len(federation.clients)


class _waits:
    """Inside, a list of where local steps wait for a CUDA device."""

    def __enter__(self) -> list[str]:
        self._epochs, self._found = local.cut_batches, []
        self._caught = warnings.catch_warnings(record=True)
        self._warned = self._caught.__enter__()
        warnings.simplefilter("always")

        def batches(*args):
            """The batches, during which torch tells of waiting."""
            _tell("warn")
            yield from self._epochs(*args)
            _tell("default")

        local.cut_batches = batches
        return self._found

    def __exit__(self, *_) -> None:
        local.cut_batches = self._epochs
        self._caught.__exit__(None, None, None)
        self._found += [f"{w.filename}:{w.lineno}" for w in self._warned if "synchroniz" in str(w.message)]


def _tell(flags: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(flags)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device is there")
        return 1
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = False
    wrong = 0
    for case in MODULES:
        result = differing(case, args.device)
        wrong += bool(result)
        print(f"{case}: {'; '.join(result) or 'the same'}", flush=True)
    n_waits, n_models = waits_of_evaluation(args.device)
    print(f"an evaluation of {n_models} models waits {n_waits} times for the device")
    words = [sys.executable, "run.py", *JOB.split(), "--device", args.device]
    return wrong + bool(subprocess.run(words, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    sys.exit(main())
