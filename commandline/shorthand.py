"""Words that expand to other flags: presets, saved configurations, and flags of other systems that need a translation.

A plain other name for a flag is declared with the flag, as one of its `aliases`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import untrusted
from errors import UserError
from options import Choice, Number, Options, flag, flags_of, plain_value

# What the CFKD code runs under these names (without a name it runs cfkd). That code keeps Adam's state while it averages
# models.
PRESETS: dict[str, dict[str, Any]] = {
    "fl": {
        "algorithm": "fedavg",
        **{"optimizer": "adam", "lr": 1e-3, "batch_size": 32, "epoch_per_round": 1, "keep_optimizer": True},
    },
    "fd": {"algorithm": "fd", "fd_variant": "mse_logits"},
    "il": {"algorithm": "independent"},
    "cl": {"algorithm": "centralized"},
}

# Published algorithms that are a setting of another algorithm here, and the words to type.
SETTINGS = {
    "fedbn": "fedavg --bn local",
    "fedadam": "fedopt --server_optimizer adam",
    "fedyogi": "fedopt --server_optimizer yogi",
    "fedadagrad": "fedopt --server_optimizer adagrad",
    "fedavgm": "fedopt --server_optimizer sgd",
}


@dataclass(frozen=True)
class Shorthand:
    """Flags that expand to other flags before a run is created, and that are no part of a run."""

    preset: str | None = flag(
        None,
        Choice(tuple(PRESETS)),
        "algorithm and flags of a baseline in the code of the CFKD paper: fl is FedAvg, fd is FD, il is independent, cl is "
        "centralized; only without an algorithm on the command line",
    )
    config_file: Path | None = flag(None, Path, "JSON file with flags: config.json of a saved run repeats that run")


def preset(name: str, algorithm_names: Sequence[str]) -> dict[str, Any]:
    """Return the algorithm and the flags of a preset. Raises UserError where an algorithm is named too."""
    if algorithm_names:
        raise UserError(f"sets the algorithm, but {' '.join(algorithm_names)} is named; remove one of the two")
    return dict(PRESETS[name])


def config_file(path: Path, algorithm_names: Sequence[str]) -> dict[str, Any]:
    """Return the flags of a file, and its "algorithm" where it has one.

    Raises UserError for a file without flags, or with another algorithm than the named one.
    """
    expected = "must be the config.json of a saved run, or a JSON object of flags"
    try:
        flags = untrusted.tree(path)
    except untrusted.RefusedError as error:
        raise UserError(f"{error.reason}; {expected}") from None
    flags = flags.get("options", flags) if isinstance(flags, dict) else flags
    if not isinstance(flags, dict):
        raise UserError(f"contains no flags; {expected}")
    for name in ("preset", "config_file"):
        if name in flags:
            raise UserError(f"contains --{name}, which is allowed only on the command line; remove it")
    algorithm = flags.get("algorithm")
    if algorithm and list(algorithm_names) not in ([], [algorithm]):
        raise UserError(f"is for {algorithm}, but {' '.join(algorithm_names)} is named; name {algorithm} or no algorithm")
    return dict(flags)


def is_of_a_run(flags: Mapping[str, Any]) -> bool:
    """Return whether these flags are all options of a run, as in its `config.json`: all flags of the first version."""
    return all(name in flags for name, declaration in flags_of(Options).items() if "legacy_value" not in declaration)


def before(declared: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return {flag: the value that describes what runs did before the flag existed}."""
    return {
        name: plain_value(declaration["legacy_value"])
        for name, declaration in declared.items()
        if "legacy_value" in declaration
    }


def words_of(flags: Mapping[str, Any], switches: Sequence[str]) -> list[str]:
    """Return flags from JSON as the words of a command line: null leaves a flag out, true is a switch without a value."""
    words = []
    for name, value in flags.items():
        if name in switches and isinstance(value, bool):
            words += [f"--{name}"] * value
        elif value is not None:
            words.append(f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return words


@dataclass(frozen=True)
class Translation:
    """A flag of another system, which expresses our flag `says` differently.

    `takes`: the type of its value; None is a switch. `translate`: from its value and the number of clients to our value;
    raises ValueError with the reason. `why`: an explanation of the translated value, where our value may surprise.
    """

    says: str
    help: str
    takes: Callable[[str], Any] | None
    translate: Callable[[Any, int], Any]
    why: Callable[[Any], str] = lambda value: ""


def _fraction(n: int, n_clients: int) -> float:
    if n > n_clients:
        raise ValueError(f"must be at most --n_clients {n_clients}")
    return n / n_clients


def _device(number: int, n_clients: int) -> str:
    return f"cuda:{number}" if number >= 0 and torch.cuda.is_available() else "cpu"


def _no_cuda(number: int) -> str:
    return ", because no CUDA device is available" if number >= 0 and not torch.cuda.is_available() else ""


# short flags of PFLlib, and of FL-bench's data generator
SHORT = {
    "-gr": "--rounds",
    "-nc": "--n_clients",
    "-jr": "--participation",
    "-ls": "--epoch_per_round",
    "-lbs": "--batch_size",
    "-lr": "--lr",
    "-data": "--dataset",
    "-m": "--model",
    "-did": "--gpu",
    "-dev": "--device",
    "-nnc": "--new_clients",
    "-ften": "--ft_epochs",
    "-fte": "--ft_epochs",
    "-fd": "--feature_dim",
    "-mo": "--momentum",
    "-mu": "--mu",
    "-algo": "--algorithm",
    "-t": "--times",
    "-eg": "--eval_gap",
    "-ld": "--learning_rate_decay",
    "-cdr": "--client_drop_rate",
    "-tsr": "--train_slow_rate",
    "-d": "--dataset",
    "-cn": "--n_clients",
    "-a": "--alpha",
    "-s": "--shards",
    "-c": "--classes",
}


def spelled_out(word: str) -> str:
    """Return a word of the command line with its flag in full and with underscores: --rounds for -gr, --n_clients for
    --n-clients."""
    name, equals_sign, value = word.partition("=")
    name = SHORT.get(name, name)
    return f"{name.replace('-', '_').replace('__', '--', 1) if name.startswith('--') else name}{equals_sign}{value}"


ALGORITHM_FIRST = "an algorithm's name without a flag, before all flags"
# {suggestion: names that are less precise than a flag of Chorus, or close to it}; the error message asks "did you mean ...?"
MEANT = {
    ALGORITHM_FIRST: ("algorithm", "algo", "method", "strategy"),
    "--epoch_per_round or --rounds": ("epochs", "epoch", "num_epochs", "n_epochs"),
    "--export_dir": (
        "output",
        "output_dir",
        "out",
        "out_dir",
        "save_dir",
        "save_path",
        "log_dir",
        "results",
        "save_folder_name",
        "goal",
    ),
    "--dataset or --data_dir": ("data", "data_path", "data_root", "dataset_name"),
    "--partition with --alpha": ("non_iid", "noniid", "niid", "split", "distribution", "partitioner", "dir"),
    "--alpha": ("beta", "dir_alpha", "concentration"),
    "--classes_per_client with --partition classes": ("classes", "class_per_client", "num_classes_per_partition"),
    "--shard_per_user with --partition shards": ("shards", "shards_per_client", "num_shards_per_partition"),
    "--seed 0 1 2, a run per seed": ("times", "repeat", "repeats", "n_runs", "trials"),
    "the same command without the flag, which resumes": ("resume", "continue", "resume_from"),
    "--participation": ("clients_per_round", "fraction", "client_fraction", "sample_rate"),
    "--straggler": ("straggler_ratio", "train_slow_rate"),
    "--client_failure": ("client_drop_rate", "drop_rate"),
    "--validation": ("val_ratio", "valid_ratio"),
    "--model": ("arch", "net", "network", "backbone", "model_name"),
    "--lr_schedule": ("scheduler", "lr_scheduler", "lr_decay", "learning_rate_decay"),
    "--track_history": ("eval_every", "eval_gap", "test_every", "verbose_gap", "fraction_evaluate"),
    "--jobs or --workers": ("num_workers", "n_jobs", "parallel"),
    "--config_file": ("config", "config_name", "config_path"),
    "the settings as flags, such as --rounds 5 --lr 0.1": ("run_config", "override", "overrides"),
    "--device": ("use_cuda", "cuda", "num_gpus"),
    "--log": ("logger", "monitor", "wandb", "tensorboard"),
    "--force": ("overwrite", "rerun"),
    "--plan": ("dry_run",),
}

GPU = Translation("device", "device number; -1 is the CPU", Number(int, least=-1), _device, _no_cuda)
TRANSLATIONS = {
    "num_select_clients": Translation("participation", "number of clients", Number(int, least=1), _fraction),
    "gpu": GPU,
    "device_id": GPU,
    "iid": Translation("partition", "iid", None, lambda _, n_clients: "iid"),
}
