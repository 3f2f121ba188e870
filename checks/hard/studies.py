"""Studies that nobody would write: sections, methods, flags and values drawn, most of them such as a study may have."""

from typing import Any

import tomli_w
from hypothesis import strategies as st

from checks.hard.commands import Command

METHODS = ("fedavg", "fedprox", "independent", "a", "b", "a b", "1", "é", "", "--lr", "Fedavg", "problem", "x" * 200)
LR = (
    0.01,
    0.02,
    "0.01",
    "1e-2",
    ".01",
    0.010,
    "0.01,0.02",
    "--export_dir=elsewhere",
    "",
    True,
    -1,
    "nan",
    0,
    [0.01],
    "auto",
)
SWITCH = (True, False, "true", "false", 0, 1, "", [True], "keep")
SEEDS = (0, 1, "0", "1", 0.0, True, -1, "seed", 10**30, "", [0])
FLAGS: dict[str, tuple] = {  # of a method: the values that are drawn, the first of which is good
    "lr": LR,
    "keep_optimizer": SWITCH,
    "mu": (0.1, "0.1", -1, ""),
    "momentum": (0.5, "0.5", 2),
    "rounds": (1, "1"),
    "no_such_flag": (1,),
    "seed": (0,),
    "algorithm": ("fedavg", "fedprox", "no_such_algorithm", 3, ["fedavg"]),
}
SHARED: dict[str, dict[str, tuple]] = {
    "problem": {
        "dataset": ("mine.npz", "digits", "nowhere.npz", 3),
        "n_clients": (2, 3, "2", 2.0, True, 0, "two"),
        "partition": ("iid", "lda", "IID", ""),
        "alpha": (0.5, "0.50", "inf", 0),
        "model": ("MLP", "mlp", ["MLP", "LeNet5"]),
    },
    "settings": {"rounds": (1, "1", 0), "lr": LR, "keep_optimizer": SWITCH},
    "tuning": {"validation": (0.2, "0.2", 0, 2), "seed": SEEDS, "unequal": (True, False, "yes"), "other": (1,)},
    "seeds": {"seed": SEEDS, "split_seed": ("seed", 0, "0", "sed")},
}
GOOD = {"problem": {"dataset": "mine.npz", "n_clients": 2, "model": "MLP"}, "settings": {"rounds": 1}}


@st.composite
def some(draw, values: tuple) -> Any:
    """A value, or a list in which one may stand twice; the good one as often as all others."""
    item = st.just(values[0]) | st.sampled_from(values)
    return draw(item | st.lists(item, max_size=2))


@st.composite
def section(draw, flags: dict[str, tuple], most: int = 2) -> dict[str, Any]:
    """Some of the flags, each with some of its values."""
    names = draw(st.lists(st.sampled_from(sorted(flags)), max_size=most, unique=True))
    return {name: draw(some(flags[name])) for name in names}


@st.composite
def drawn(draw) -> Command:
    """A command that carries a drawn study out."""
    held: dict[str, Any] = {name: dict(flags) for name, flags in GOOD.items()}
    for name in draw(st.lists(st.sampled_from(sorted(SHARED)), max_size=2, unique=True)):
        held[name] = {**held.get(name, {}), **draw(section(SHARED[name]))}
    for name in draw(st.lists(st.sampled_from(METHODS[:3]) | st.sampled_from(METHODS), min_size=1, max_size=2, unique=True)):
        own = {} if name in METHODS[:3] else {"algorithm": draw(st.sampled_from(METHODS[:3]))}
        held[name] = {**own, **draw(section(FLAGS))}
    more = draw(st.sampled_from(([], [], [], ["--seed", "1"], ["--lr", "0.1"], ["--plan"], ["--show_split"], ["--json"])))
    words = ["--study", "study.toml", "--jobs", "1", "--workers", "1", *more]
    return Command(tuple(words), {"study.toml": tomli_w.dumps(held).encode()})
