"""The one page that `python run.py -h` prints. The help of an algorithm has every flag."""

from collections.abc import Collection, Mapping

HEAD = """\
usage: python run.py [ALGORITHM ...] [--flag VALUE ...]

Collaborative learning, compared on one split. No algorithm named: cfkd. All flags, their defaults,
and whose method it is: python run.py ALGORITHM -h"""

FLAGS = """\
the flags that are used most (several values are several runs)
  the problem   --dataset MNIST --n_clients 10 --model LeNet5 --participation 0.5
  who gets what --partition lda --alpha 0.3; --split_seed seed draws a split with each seed
  training      --rounds 100 --epoch_per_round 1 --batch_size 32 --lr 0.05 --optimizer sgd
  afterwards    --ft_epochs 5: each client fine-tunes a copy of the last model
  seeds         --seed 0 1 2: results are means over them
  choosing      --validation 0.1 holds data out, on which the best of several values is chosen
  before a run  --plan tells what it costs, --show_split draws who gets what
  its files     --export_dir saves --data_dir data; --force runs anew what is saved
  output        --json, --quiet, --log tensorboard
  many runs     --jobs 4 side by side; --study FILE; on a cluster --slurm OPTIONS or --ray ADDRESS
  other words   --preset fl, fd, il or cl, as in the CFKD code; --config_file FILE of a saved run"""

EXAMPLES = """\
examples
  python run.py cfkd fedavg independent --n_clients 10 --partition lda --alpha 0.3 --seed 0 1 2
  python run.py fedavg --lr 0.01 0.05 0.1 --validation 0.2
  python run.py fedavg --dataset MNIST --n_clients 10 --plan
  python -m figures.table saves"""


def page(families: Mapping[str, Collection[str]], describe: Mapping[str, str]) -> str:
    """Return the page: the algorithms by family, each with the first line of its description, and the common flags."""
    sections = [
        "\n".join([family, *(f"  {name:<14}{describe[name].partition(chr(10))[0].rstrip('.')}" for name in members)])
        for family, members in families.items()
    ]
    return "\n\n".join([HEAD, "\n".join(sections), FLAGS, EXAMPLES]) + "\n"
