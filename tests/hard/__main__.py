"""What does Chorus withstand? It takes most of an hour.

    make hard          # or: python -m tests.hard [kill] [corrupt] [repeat] [starve] [strangers] [fuzz] [--seed N] [--record]

The exit status is 1 where something failed that is promised in docs/reliability.md."""

import argparse
import importlib
import sys
import time

from tests.hard import Outcome

PARTS = ("kill", "corrupt", "repeat", "starve", "strangers", "fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hard", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    asked = parser.parse_args()
    if strange := set(asked.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(strange))}: must be one of {', '.join(PARTS)}")
    failed = 0
    for part in asked.parts:
        began = time.perf_counter()
        found: Outcome = importlib.import_module(f"tests.hard.{part}").tried(asked.seed)
        print(f"{part} (seed {asked.seed}, {time.perf_counter() - began:.0f} s)")
        for what, told in found.figures.items():
            print(f"  {what}: {told}")
        for line in found.failures:
            print(f"  FAILED: {line}")
        failed += len(found.failures)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
