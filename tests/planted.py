r"""Bugs planted one at a time in a copy of the working tree, and the first test that notices each.

    make planted                          # or: python tests/planted.py; writes the table in tests/README.md
    python tests/planted.py 3 17          # these two; the table stays as it is

A plant in `PLANTS` is a line "words | file | what pytest is given, below tests/", then the text that is replaced (-), which
must occur exactly once in the file, and what stands there instead (+). A star before the words: no test noticed it when it was
first planted, and an assertion was added. All tests that are named must pass before anything is planted. The exit status is the
number of plants that no test noticed or that could not be planted.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests" / "README.md"
BEGIN, END = "<!-- planted: begin -->", "<!-- planted: end -->"

PLANTS = r"""
@@LIST@@
"""


class Plant(NamedTuple):
    words: str
    added: bool
    file: str
    targets: str
    old: str
    new: str


def parsed(text: str) -> list[Plant]:
    found, lines = [], text.strip("\n").splitlines()
    heads = [i for i, line in enumerate(lines) if line[:2] not in ("- ", "+ ")]
    for head, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        words, file, targets = lines[head].split(" | ")
        old, new = ("\n".join(line[2:] for line in lines[head + 1 : end] if line[0] == sign) for sign in "-+")
        found.append(Plant(words.removeprefix("* "), words.startswith("* "), file, targets, old, new))
    return found


def copied(folder: Path) -> None:
    """The files of the working tree that git does not ignore."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def tested(folder: Path, targets: str) -> tuple[int, str]:
    """pytest's exit status, and the name of the first test that fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [f"tests/{word}" if ".py" in word else word for word in shlex.split(targets)]
    done = subprocess.run([*command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return done.returncode, failed[0].partition("::")[2].partition("[")[0].partition(" - ")[0] if failed else ""


def planted(folder: Path, plant: Plant) -> tuple[bool, str]:
    """Whether a test noticed the plant, and which."""
    path = folder / plant.file
    before = path.read_text()
    if before.count(plant.old) != 1:
        return False, f"NOT PLANTED: its text occurs {before.count(plant.old)} times"
    path.write_text(before.replace(plant.old, plant.new))
    try:
        status, name = tested(folder, plant.targets)
    finally:
        path.write_text(before)
    return (True, name) if status == 1 and name else (False, f"NOT NOTICED (pytest ends with {status})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER", help="of the plants, from 1; none is all")
    numbers = parser.parse_args().numbers
    plants = {i: plant for i, plant in enumerate(parsed(PLANTS), start=1) if not numbers or i in numbers}
    rows, missed = ["| | bug | in | noticed by |", "|---|---|---|---|"], 0
    with tempfile.TemporaryDirectory() as scratch:
        copied(Path(scratch))
        for targets in dict.fromkeys(plant.targets for plant in plants.values()):
            status, name = tested(Path(scratch), targets)
            if status:
                sys.exit(f"without a plant, {targets} ends with {status}: {name}")
        for i, plant in plants.items():
            noticed, what = planted(Path(scratch), plant)
            missed += not noticed
            print(f"{i:>3} {plant.words:<90} {what}", flush=True)
            shown = f"`{what}`" if noticed else what
            rows.append(f"| {i} | {plant.words} | `{plant.file}` | {shown}{', assertion added' if plant.added else ''} |")
    print(f"{len(plants) - missed} of {len(plants)} plants were noticed")
    if not numbers:
        text = RECORD.read_text()
        RECORD.write_text("\n".join([text.partition(BEGIN)[0] + BEGIN, *rows, END + text.partition(END)[2]]))
    return min(missed, 99)


if __name__ == "__main__":
    sys.exit(main())
