"""Every algorithm alone and on several ranks, which `tests/test_ranks.py` starts:

torchrun --nproc_per_node 2 tests/on_ranks.py FILE

Each rank writes what is not the same to FILE and its number, as JSON: {case: what differs}.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import play  # noqa: E402
from test_algorithms import MODULES, answers_of, equal, federation_for, options_of  # noqa: E402

from federation import ranks  # noqa: E402


def differing(case: str) -> list[str]:
    """What of two rounds is not what it is alone."""
    alone, shared = (federation_for(case, participation=0.7) for _ in range(2))
    shared = replace(shared, pool=ranks.Ranks())
    (state, done), (again, redone) = (play(federation, options_of(case), rounds=2) for federation in (alone, shared))
    pairs = {
        "state": (state, again),
        "loss": (done.loss, redone.loss),
        "answers": (answers_of(alone, done), answers_of(shared, redone)),
        "bytes": (alone.wire.collect(), shared.wire.collect()),
        "counts": tuple(sorted(one.meter.spent.items()) for one in (alone, shared)),
    }
    return [what for what, pair in pairs.items() if not equal(*pair)]


if __name__ == "__main__":
    with ranks.joined():
        found = {case: differing(case) for case in MODULES}
        Path(f"{sys.argv[1]}{ranks.rank()}").write_text(json.dumps(found))
        if ranks.rank() > 0:
            ranks.follow(print)  # until the leader is there, too
