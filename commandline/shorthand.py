"""What stands for other flags: presets, saved configurations, and spellings of other systems that are more than another
name for a flag (plain other names stand with the flag, as `spelled`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import untrusted
from errors import UserError
from options import Choice, Number, Options, flag, flags_of, plain_value

# What the CFKD code runs by these names (without one it runs cfkd). It keeps Adam's memory where it averages models.
PRESETS: dict[str, dict[str, Any]] = {
    "fl": {
        "algorithm": "fedavg",
        **{"optimizer": "adam", "lr": 1e-3, "batch_size": 32, "epoch_per_round": 1, "keep_optimizer": True},
    },
    "fd": {"algorithm": "fd", "fd_variant": "mse_logits"},
    "il": {"algorithm": "independent"},
    "cl": {"algorithm": "centralized"},
}

# Published algorithms that are a setting of one here: what to type.
SETTINGS = {
    "fedbn": "fedavg --bn local",
    "fedadam": "fedopt --server_optimizer adam",
    "fedyogi": "fedopt --server_optimizer yogi",
    "fedadagrad": "fedopt --server_optimizer adagrad",
    "fedavgm": "fedopt --server_optimizer sgd",
}


@dataclass(frozen=True)
class Shorthand:
    """Flags that stand for others. They are replaced before a run is made, and are no part of it."""

    preset: str | None = flag(
        None, Choice(tuple(PRESETS)), "the CFKD code's word for an algorithm and its flags, where no algorithm is named"
    )
    config_file: Path | None = flag(
        None, Path, "config.json of a saved run: the very same run again; or any JSON object of flags"
    )


def preset(name: str, named: Sequence[str]) -> dict[str, Any]:
    """The algorithm and the flags of a preset. Raises UserError where algorithms are `named` beside it."""
    if named:
        raise UserError(f"stands for an algorithm, and {' '.join(named)} is named; leave out one of the two")
    return dict(PRESETS[name])


def config_file(path: Path, named: Sequence[str]) -> dict[str, Any]:
    """The flags of a file, and its "algorithm" where it has one. Raises UserError for a file that is none of flags, or of
    another algorithm than the one `named`."""
    expected = "must be the config.json of a saved run, or a JSON object of flags"
    try:
        held = untrusted.tree(path)
    except untrusted.RefusedError as error:
        raise UserError(f"{error.reason}; {expected}") from None
    held = held.get("options", held) if isinstance(held, dict) else held
    if not isinstance(held, dict):
        raise UserError(f"holds no flags; {expected}")
    for name in ("preset", "config_file"):
        if name in held:
            raise UserError(f"holds --{name}, which stands on a command line only")
    algorithm = held.get("algorithm")
    if algorithm and list(named) not in ([], [algorithm]):
        raise UserError(f"is of {algorithm}, and {' '.join(named)} is named; name {algorithm}, or none")
    return dict(held)


def is_of_a_run(held: Mapping[str, Any]) -> bool:
    """Whether these are all options of a run, as its `config.json` has them: it has those of the first version."""
    return all(name in held for name, flag in flags_of(Options).items() if "legacy_value" not in flag)


def before(declared: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{flag: the value that says what runs did that are older than the flag}."""
    return {name: plain_value(flag["legacy_value"]) for name, flag in declared.items() if "legacy_value" in flag}


def words_of(held: Mapping[str, Any], switches: Sequence[str]) -> list[str]:
    """Flags as JSON has them, as the words of a command line: null is not given, true is a switch alone."""
    words = []
    for name, value in held.items():
        if name in switches and isinstance(value, bool):
            words += [f"--{name}"] * value
        elif value is not None:
            words.append(f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return words


@dataclass(frozen=True)
class Translation:
    """A flag of another system that says what our flag `says` says, otherwise: `takes` None is a switch. `translate`: its
    value, and the number of clients, to our value; raises ValueError with the reason. `why`: where ours may
    surprise, words on the value of theirs."""

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
    return ", for no CUDA device is there" if number >= 0 and not torch.cuda.is_available() else ""


# {what may be meant: names that say less than a flag of ours, or something near it}: they are answered with a question
MEANT = {
    "the name of an algorithm alone, before all flags": ("algorithm", "algo", "method", "strategy"),
    "--epoch_per_round or --rounds": ("epochs", "epoch", "num_epochs", "n_epochs"),
    "--export_dir": ("output", "output_dir", "out", "out_dir", "save_dir", "save_path", "log_dir", "results"),
    "--dataset or --data_dir": ("data", "data_path", "data_root"),
    "--partition with --alpha": ("non_iid", "noniid", "niid", "split"),
    "--participation": ("clients_per_round", "fraction", "client_fraction", "sample_rate"),
    "--model": ("arch", "net", "network", "backbone"),
    "--lr_schedule": ("scheduler", "lr_scheduler", "lr_decay"),
    "--track_history": ("eval_every", "eval_gap", "test_every"),
    "--jobs or --workers": ("num_workers", "n_jobs", "parallel"),
    "--config_file": ("config",),
    "--force": ("overwrite", "rerun"),
    "--plan": ("dry_run",),
}

TRANSLATIONS = {
    "num_select_clients": Translation("participation", "a number of clients", Number(int, least=1), _fraction),
    "gpu": Translation("device", "a number, -1 is the CPU", Number(int, least=-1), _device, _no_cuda),
    "iid": Translation("partition", "iid", None, lambda _, n_clients: "iid"),
}
