"""How fast is it? What takes minutes and depends on the machine, and so is no test.

    make bench          # or: python -m checks.bench [rounds] [plan] [study] [--jobs fedavg cfkd] [--times 3] [--record]
    make bench-peers    # or: python -m checks.bench peers
    make cuda           # where there is a CUDA device; of it, python -m checks.bench cuda

*rounds*: Chorus and bare PyTorch loops on the jobs of `jobs.py`. *peers*: Chorus and other systems on the first two of them.
*cuda*: as rounds, on a CUDA device. *before*: Chorus beside an earlier revision of itself. *plan*: what `--plan` foretells
against what runs take. *study*: many runs, side by side with `--jobs`. *growth*: 1,000 clients, 1,000 runs, 200 tiny runs,
and the start-up. *page*: the tables of docs/speed.md, made anew from
what is recorded. *defaults*, which is not about speed: the table in docs/settings.md of what every method reaches with its
own defaults; runs what saves/defaults does not have. The exit status is the number of results that are wrong.
"""

import argparse
import sys

from checks.bench import before, defaults, growth, plan, results, rounds, study
from checks.bench.contestants import BARE, CHORUS, ON_CUDA, PEERS, Contestant
from checks.bench.jobs import JOBS

PARTS = ("rounds", "plan", "study", "peers", "cuda", "before", "page", "defaults", "growth")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m checks.bench", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=PARTS[:3], metavar="part", help=f"{', '.join(PARTS)}; default: three")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, help="of rounds and peers; default: all, and the first two")
    parser.add_argument(
        "--who", nargs="+", default=[""], help="of these alone, by how their names begin; Chorus is always there"
    )
    parser.add_argument("--revision", default="564cfaf", help="of before: the earlier one")
    parser.add_argument("--commands", nargs="+", choices=before.COMMANDS, default=list(before.COMMANDS), help="of before")
    parser.add_argument("--times", type=int, default=3, help="how often each is timed")
    parser.add_argument(
        "--record", action="store_true", help="keep what rounds and peers find, in results.json and docs/speed.md"
    )
    args = parser.parse_args()
    if strange := set(args.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(strange))}: must be one of {', '.join(PARTS)}")
    flags = {"times": args.times, "record": args.record}

    def chosen(everyone: dict[str, Contestant]) -> dict[str, Contestant]:
        return {who: item for who, item in everyone.items() if who.startswith(("Chorus", *args.who))}

    does = {
        "rounds": lambda: rounds.compared("rounds", chosen({**CHORUS, **BARE}), args.jobs or JOBS, **flags),
        "peers": lambda: rounds.compared("peers", chosen({**CHORUS, **BARE, **PEERS}), args.jobs or list(JOBS)[:2], **flags),
        "cuda": lambda: rounds.compared("cuda", ON_CUDA, args.jobs or JOBS, **flags),
        "before": lambda: before.compared(args.revision, args.commands, args.times),
        "plan": lambda: plan.compared(args.times),
        "study": lambda: study.compared(args.times),
        "growth": lambda: growth.compared(args.times),
        "page": results.write,
        "defaults": defaults.measured,
    }
    return sum(does[part]() or 0 for part in args.parts)


if __name__ == "__main__":
    sys.exit(main())
