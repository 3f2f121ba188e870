"""The short texts of the command line: the page of `python run.py -h`, and the names that `--list` prints."""

import platform
import re
import textwrap
from collections.abc import Callable, Collection, Mapping
from importlib import metadata

import torch

from experiment.identity import revision
from untrusted import WIDTH

HEAD = """\
usage: python run.py [METHOD ...] [--flag VALUE ...]

Compare methods of federated learning on one data split. Without a method: cfkd.
All flags of a method, with defaults and sources: python run.py METHOD -h
All models, datasets, partitions or methods: python run.py --list models"""

FLAGS = """\
most used flags (several values of a flag are several runs)
  data        --dataset MNIST --reduced 0.1 --n_clients 10; --clients FOLDER: data by client
  split       --partition lda --alpha 0.3; --split_seed seed; --show_split draws the split
  training    --model LeNet5 --rounds 100 --epoch_per_round 1 --batch_size 32 --lr 0.05
  evaluation  --validation 0.1 to choose settings; --ft_epochs 5 to fine-tune the final models
  cost        --plan estimates bytes, FLOPs, memory and time without training
  seeds       --seed 0 1 2: tables show means over seeds
  execution   --jobs 4: runs in parallel; --export_dir saves --data_dir data --force --quiet
  sweeps      --study FILE; on a cluster --slurm OPTIONS or --ray ADDRESS
  shorthands  --preset fl, fd, il or cl, as in the CFKD code; --config_file FILE of a saved run"""

EXAMPLES = """\
examples
  python run.py cfkd fedavg independent --n_clients 10 --partition lda --alpha 0.3 --seed 0 1 2
  python run.py fedavg --lr 0.01 0.05 0.1 --validation 0.2
  python run.py fedavg --dataset MNIST --n_clients 10 --plan
  python -m figures.table saves"""


def page(families: Mapping[str, Collection[str]], describe: Mapping[str, str]) -> str:
    """Return the help page: usage, the methods by family with a line each, the most used flags, and examples."""
    methods = [
        "\n".join([family, *(f"  {name:<14}{summary(describe[name])}" for name in members)])
        for family, members in families.items()
    ]
    return "\n\n".join([HEAD, "\n".join(methods), FLAGS, EXAMPLES]) + "\n"


def summary(description: str) -> str:
    """Return the first line of a description, without its full stop."""
    return description.partition("\n")[0].rstrip(".")


def names(table: Mapping[str, Callable | str]) -> str:
    """Return the names in a table, a line each, with the first line of each description or docstring."""
    width = max(map(len, table)) + 2
    lines = []
    for name, entry in table.items():
        text = entry if isinstance(entry, str) else entry.__doc__ or ""
        text = text.removeprefix("Return ")  # of a docstring
        sentence = re.split(r"(?<! al)\.(?: |$)", " ".join(text.split()), maxsplit=1)[0]
        lines.append(f"{name:<{width}}{textwrap.shorten(sentence, WIDTH - width, placeholder=' ...')}".rstrip())
    return "\n".join(lines)


def version() -> str:
    """Return the versions of Chorus (the commit of a checkout), Python and torch, in one line."""
    try:
        chorus = revision() or metadata.version("chorus-bench")
    except metadata.PackageNotFoundError:
        chorus = "(a copy without a version)"
    return f"Chorus {chorus}, Python {platform.python_version()}, torch {torch.__version__}"
