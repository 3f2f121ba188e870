"""Every algorithm alone and on several ranks, which `tests/test_ranks.py` starts:

torchrun --nproc_per_node 2 tests/on_ranks.py ALONE FILE [CASE ...]

ALONE has what `run_case` made of each case without ranks. Each rank writes what is not the same to FILE and its number, as
JSON: {case: what differs}; without a CASE, of all.
"""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import play  # noqa: E402
from test_algorithms import MODULES, answers_of, equal, federation_for, options_of  # noqa: E402

from federation import ranks  # noqa: E402


def run_case(case: str, pool=None) -> dict:
    """What two rounds leave."""
    federation = replace(federation_for(case, participation=0.7), pool=pool)
    state, done = play(federation, options_of(case), rounds=2)
    return {
        "state": state,
        "loss": done.loss,
        "answers": answers_of(federation, done),
        "bytes": federation.wire.collect(),
        "counts": tuple(sorted(federation.meter.spent.items())),
    }


def differing(alone: dict, shared: dict) -> list[str]:
    """What of them is not the same."""
    return [what for what in alone if not equal(alone[what], shared[what])]


if __name__ == "__main__":
    expected = pickle.loads(Path(sys.argv[1]).read_bytes())
    with ranks.joined():
        results = {case: differing(expected[case], run_case(case, ranks.Ranks())) for case in sys.argv[3:] or MODULES}
        Path(f"{sys.argv[2]}{ranks.rank()}").write_text(json.dumps(results))
        if ranks.rank() > 0:
            ranks.follow(print)  # until the leader is there, too
