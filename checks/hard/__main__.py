"""What does Chorus withstand? It takes less than an hour on two cores.

    make hard          # or: python -m checks.hard [PART ...] [--seed N] [--record]

The exit status is 1 where a promise of docs/reliability.md is not kept. With `--record` the figures stand there."""

import argparse
import importlib
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib import metadata

from filelock import FileLock

from checks.hard import Outcome
from checks.hard.forks import ROOT
from experiment.identity import revision

PARTS = ("kill", "corrupt", "repeat", "starve", "strangers", "meddlers", "users", "fuzz")
SIDE_BY_SIDE = (
    "fuzz",
    "starve",
    "strangers",
    "meddlers",
    "users",
)  # each does one thing after another; the other parts keep two cores busy
PAGE = ROOT / "docs" / "reliability.md"
LOCK = ROOT / "build" / "hard" / "record.lock"  # of the page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m checks.hard", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--record", action="store_true", help="write the figures into docs/reliability.md")
    parser.add_argument("--code", default=revision() or "no commit", help="the commit that stands there; default: this one")
    args = parser.parse_args()
    if strange := set(args.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(strange))}: must be one of {', '.join(PARTS)}")
    if len(args.parts) == 1:
        return tried(*args.parts, args)
    failed = [_in_a_process(part, args) for part in args.parts if part not in SIDE_BY_SIDE]
    with ThreadPoolExecutor(2) as both:
        failed += both.map(lambda part: _in_a_process(part, args), [part for part in SIDE_BY_SIDE if part in args.parts])
    return int(any(failed))


def tried(part: str, options: argparse.Namespace) -> int:
    """Carry a part out, and tell what came of it; 1 where something failed, and else 0."""
    began = time.perf_counter()
    result: Outcome = importlib.import_module(f"checks.hard.{part}").tried(options.seed)
    taken = time.perf_counter() - began
    print(f"{part} (seed {options.seed}, {taken:.0f} s)")
    for what, message in result.figures.items():
        print(f"  {what}: {message}")
    for line in result.failures:
        print(f"  FAILED: {line}")
    if options.record:
        with FileLock(LOCK):
            PAGE.write_text(recorded(PAGE.read_text(), part, options, taken, result))
    return min(len(result.failures), 1)


def _in_a_process(part: str, options: argparse.Namespace) -> int:
    words = [sys.executable, "-m", "checks.hard", part, "--seed", str(options.seed)]
    words += ["--record", "--code", options.code] * options.record  # the page is changed by the first part that is over
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    return done.returncode


def recorded(page: str, part: str, options: argparse.Namespace, seconds: float, result: Outcome) -> str:
    """The page, with the figures of a part between its markers made anew."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    carried = f"torch {metadata.version('torch')}, Python {platform.python_version()}, {platform.machine()}"
    rows = [f"| {what} | {message} |" for what, message in {**result.figures, "failed": len(result.failures)}.items()]
    caption = (
        f"`python -m checks.hard {part} --seed {options.seed}`: {date.today()}, {seconds / 60:.0f} min on 2 cores, code of "
        f"{options.code}, {carried}."
    )
    return "\n".join([before + begin, "", "| tried | |", "|---|---|", *rows, "", caption, "", end + after])


if __name__ == "__main__":
    sys.exit(main())
