"""What does Chorus withstand? It takes most of an hour.

    make hard          # or: python -m tests.hard [kill] [corrupt] [repeat] [starve] [strangers] [fuzz] [--seed N] [--record]

The exit status is 1 where a promise of docs/reliability.md is not kept. With `--record` the figures stand there."""

import argparse
import importlib
import platform
import sys
import time
from datetime import date
from importlib import metadata
from pathlib import Path

from experiment.identity import revision
from tests.hard import Outcome

PARTS = ("kill", "corrupt", "repeat", "starve", "strangers", "fuzz")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hard", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--record", action="store_true", help="write the figures into docs/reliability.md")
    asked = parser.parse_args()
    if strange := set(asked.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(strange))}: must be one of {', '.join(PARTS)}")
    failed = 0
    for part in asked.parts:
        began = time.perf_counter()
        found: Outcome = importlib.import_module(f"tests.hard.{part}").tried(asked.seed)
        taken = time.perf_counter() - began
        print(f"{part} (seed {asked.seed}, {taken:.0f} s)")
        for what, told in found.figures.items():
            print(f"  {what}: {told}")
        for line in found.failures:
            print(f"  FAILED: {line}", flush=True)
        failed += len(found.failures)
        if asked.record:
            PAGE.write_text(recorded(PAGE.read_text(), part, asked.seed, taken, found))
    return min(failed, 1)


def recorded(page: str, part: str, seed: int, seconds: float, found: Outcome) -> str:
    """The page, with the figures of a part between its markers made anew."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    carried = f"torch {metadata.version('torch')}, Python {platform.python_version()}, {platform.machine()}"
    rows = [f"| {what} | {told} |" for what, told in {**found.figures, "failed": len(found.failures)}.items()]
    caption = (
        f"`python -m tests.hard {part} --seed {seed}`: {date.today()}, {seconds / 60:.0f} min on 2 cores, code of "
        f"{revision()}, {carried}."
    )
    return "\n".join([before + begin, "", "| tried | |", "|---|---|", *rows, "", caption, "", end + after])


if __name__ == "__main__":
    sys.exit(main())
