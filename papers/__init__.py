"""Repeat published systems: each has a package with its tables, published numbers, our results and conclusions.

    python -m papers                     # the tables, and how many of their runs are recorded
    python -m papers cfkd                # run what is missing of a paper's tables, and print them

A paper is a module `papers/NAME/__init__.py`, which has
- `TITLE` and `ABOUT`: what was published, and what was repeated of it;
- `TABLES`: see `papers.tables`. A cell is found by the whole identity of the run that its command makes, never by a few of
  its options;
- `words(results)`: what the tables show, with numbers computed from the results: the finding in two sentences as the first
  paragraph, then details;
- optionally `check(results)`: in words, the expectations that do not hold; `PICTURE` and `draw(results, path)`.

`papers/NAME/results.csv` has the results of its runs, each with its identity. RESULTS.md is made from these files alone.
`papers/NAME/run.sh` has the commands of its tables, made from TABLES, for running them by hand."""

from types import ModuleType

from papers import (
    benchmark,
    cfkd,
    chorus,
    data_exchange,
    fedavg_from_scratch,
    fedgkt,
    fedproto,
    leakage,
    mhmd,
    niid_bench,
    scaffold,
)

PAPERS: dict[str, ModuleType] = {
    "benchmark": benchmark,
    "cfkd": cfkd,
    "fedavg_from_scratch": fedavg_from_scratch,
    "fedgkt": fedgkt,
    "mhmd": mhmd,
    "data_exchange": data_exchange,
    "fedproto": fedproto,
    "scaffold": scaffold,
    "niid_bench": niid_bench,
    "chorus": chorus,
    "leakage": leakage,
}
