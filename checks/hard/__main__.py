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
    asked = parser.parse_args()
    if strange := set(asked.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(strange))}: must be one of {', '.join(PARTS)}")
    if len(asked.parts) == 1:
        return tried(*asked.parts, asked)
    failed = [_in_a_process(part, asked) for part in asked.parts if part not in SIDE_BY_SIDE]
    with ThreadPoolExecutor(2) as both:
        failed += both.map(lambda part: _in_a_process(part, asked), [part for part in SIDE_BY_SIDE if part in asked.parts])
    return int(any(failed))


def tried(part: str, asked: argparse.Namespace) -> int:
    """Carry a part out, and tell what came of it; 1 where something failed, and else 0."""
    began = time.perf_counter()
    found: Outcome = importlib.import_module(f"checks.hard.{part}").tried(asked.seed)
    taken = time.perf_counter() - began
    print(f"{part} (seed {asked.seed}, {taken:.0f} s)")
    for what, told in found.figures.items():
        print(f"  {what}: {told}")
    for line in found.failures:
        print(f"  FAILED: {line}")
    if asked.record:
        with FileLock(LOCK):
            PAGE.write_text(recorded(PAGE.read_text(), part, asked, taken, found))
    return min(len(found.failures), 1)


def _in_a_process(part: str, asked: argparse.Namespace) -> int:
    words = [sys.executable, "-m", "checks.hard", part, "--seed", str(asked.seed)]
    words += ["--record", "--code", asked.code] * asked.record  # the page is changed by the first part that is over
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    return done.returncode


def recorded(page: str, part: str, asked: argparse.Namespace, seconds: float, found: Outcome) -> str:
    """The page, with the figures of a part between its markers made anew."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    carried = f"torch {metadata.version('torch')}, Python {platform.python_version()}, {platform.machine()}"
    rows = [f"| {what} | {told} |" for what, told in {**found.figures, "failed": len(found.failures)}.items()]
    caption = (
        f"`python -m checks.hard {part} --seed {asked.seed}`: {date.today()}, {seconds / 60:.0f} min on 2 cores, code of "
        f"{asked.code}, {carried}."
    )
    return "\n".join([before + begin, "", "| tried | |", "|---|---|", *rows, "", caption, "", end + after])


if __name__ == "__main__":
    sys.exit(main())
