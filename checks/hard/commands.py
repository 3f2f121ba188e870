"""Commands, drawn from what the flags themselves declare: such as must finish, such at the bounds of what is allowed, and
such as somebody mistyped. A draw returns a Command."""

import math
import string
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

import algorithms
import models
from checks.hard import material
from data.partition import readers
from options import Choice, CountOrNames, Launch, Matching, Number, Options, Several, flags_of, stood_for


@dataclass(frozen=True)
class Command:
    """Words behind `python run.py`, and {path: content} of files beside the common ones. `finishes`: whether its runs must
    all be there in the end; otherwise one may also diverge, or the command be refused."""

    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    finishes: bool = False


# of what is cheap and fits the material: the others take seconds
CHEAP = ("LeNet5", "MLP", "2NN", "MLP_dropout", "CNN4", "CNN_scratch", "LeNet5_classic", "ResNet4")
# ranges in which a few steps surely stay finite, or take no time; all other numbers are taken near their lower bounds
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("lr", "ft_lr", "adapt_lr", "inner_lr", "distill_lr", "server_lr", "ala_lr"), (0.0001, 0.02)),
    **{"rounds": (1, 2), "n_clients": (2, 5), "epoch_per_round": (1, 2), "batch_size": (4, 64), "seed": (0, 9)},
    **{"feature_dim": (1, 30), "image_size": (8, 12), "reduced": (0.8, 1.0), "validation": (0.1, 0.3), "clip_grad": (0, 5)},
    **{"public_share": (0.15, 0.3), "client_failure": (0, 0.1), "lam": (0.01, 1), "alignment": (1, 50), "alpha": (1, 100)},
    **{"shard_per_user": (2, 3), "classes_per_client": (1, 3), "digit_num": (1, 3), "track_features": (0, 3)},
    **{"digest_batch_size": (4, 64), "distill_batch_size": (4, 64), "threads": (1, 1), "split_seed": (0, 9)},
    **{"test_reduced": (0.8, 1.0), "size_alpha": (1, 100)},
    **{"shift_strength": (0, 1), "participation": (0.5, 1), "alpha_coef": (0.01, 1), "beta1": (0, 0.9), "beta2": (0, 0.9)},
}
# what is drawn by a rule of its own below, or reads what is not there
OWN = (
    "dataset",
    "clients",
    "label",
    "attribute",
    "partition_file",
    "public_dataset",
    "topology_file",
    "init_from",
    "sizes",
    "test_share",
)
SMALL = {"rounds": 1, "epoch_per_round": 1, "batch_size": 16}
OF_ALGORITHM = {  # what makes their defaults small
    "fedgkt": {"model": "ResNet4", "server_model": "ResNet5", "epochs_server": 1},
    "fml": {"shared_model": "MLP"},
    "fedmd": {"pretrain_epochs": 1, "digest_epochs": 1},
    "feddf": {"distill_steps": 1},
    "fedrep": {"head_epochs": 1},
    "data_exchange": {"partition": "iid"},
    "dpsgd": {"partition": "iid"},
}
OF_MODELS = {"fedgkt": "ResNet4", "mhmd": "CNN4"}  # one that they can do with: it says for which images they are
SHARED = {  # what they need, and is another algorithm's default
    **{name: {"optimizer": "sgd"} for name in ("scaffold", "fednova", "feddyn")},
    **{name: {"public_share": "0.2"} for name in ("fedmd", "feddf")},
}
# flags that an algorithm takes in some of their values alone
LEFT = {
    "scaffold": ("optimizer", "momentum", "weight_decay", "lr_schedule", "variate", "clip_grad"),
    "fednova": ("optimizer", "clip_grad"),
    "feddyn": ("optimizer", "momentum"),
    "fedbabu": ("local_upt_part", "aggr_part"),
    "mhmd": ("local_upt_part", "aggr_part"),
    "fedgkt": ("server_model", "model"),
    "fml": ("shared_model",),
}


# --- commands that must finish -----------------------------------------------------------------------------------------


def value(name: str, takes: Any) -> st.SearchStrategy:
    """A value of a flag, as its text."""
    if isinstance(takes, Number):
        return _number(name, takes)
    if isinstance(takes, Choice):
        return st.sampled_from(sorted(takes.names))
    if isinstance(takes, Several):
        return st.lists(value(name, takes.of), min_size=1, max_size=2, unique=True).map(",".join)
    if isinstance(takes, CountOrNames):
        return st.sampled_from(("0", "1", "2", "0.4"))
    if isinstance(takes, Matching):
        return st.sampled_from(("auto", "cpu"))  # of --device; --plugin is left out
    raise AssertionError(f"nothing is known of what --{name} takes: {takes}")


def _number(name: str, takes: Number) -> st.SearchStrategy:
    low = max(takes.least, takes.above if math.isfinite(takes.above) else -math.inf)
    low, high = (max(low, -1.0), min(takes.most, takes.below, max(low, 0) + 2)) if name not in RANGES else RANGES[name]
    if takes.type is int:
        result = st.integers(int(low), int(high)).map(str)
    else:
        steps = 20  # inside, where a bound is not allowed itself
        share = st.integers(1, steps - 1) if name not in RANGES else st.integers(0, steps)
        result = share.map(lambda i: f"{low + (high - low) * i / steps:.6g}")
    return result | st.sampled_from(takes.words) if takes.words else result


# which many methods refuse: tests/test_defences.py, tests/test_dp_sgd.py
DEFENCES = ("secure_aggregation", "dp_clip", "dp_noise", "dp_delta", "dp_sgd", "dp_sgd_clip")


@st.composite
def valid(draw) -> Command:
    """A command whose runs finish."""
    names = draw(st.lists(st.sampled_from(sorted(algorithms.ALGORITHMS)), min_size=1, max_size=2, unique=True))
    names = names[:1] if set(names) == set(OF_MODELS) else names  # no model is for both
    classes = {name: algorithms.options_of(name) for name in names}
    flags = {name: declared for cls in reversed(classes.values()) for name, declared in flags_of(cls).items()}
    flags |= flags_of(Options) if len(names) > 1 else {}
    where = draw(st.sampled_from([problem for problem in material.PROBLEMS if _fits(problem, names)]))
    chosen: dict[str, str | bool] = {**SMALL, **where.flags}
    for name in names:
        chosen |= {flag: text for flag, text in OF_ALGORITHM.get(name, {}).items() if flag not in where.left}
        chosen |= SHARED.get(name, {}) if len(names) > 1 else {}
    left = {*OWN, *DEFENCES, *where.left, *(flag for name in names for flag in LEFT.get(name, ()))}
    free = [name for name in flags if name not in left]
    for name in draw(st.lists(st.sampled_from(free), max_size=5, unique=True)):
        takes = flags[name]["type"]
        if name == "model":
            chosen[name] = draw(_models(names, where))
        elif name == "partition":
            chosen[name] = draw(st.sampled_from(("dirichlet", "lda", "iid", "shards", "classes", "digit_sets")))
        else:
            chosen[name] = True if takes is None else draw(value(name, takes))
    if "model" not in chosen:
        chosen["model"] = draw(_models(names, where, several=False))
    chosen = _agreeing(names, classes, flags, chosen, where.left)
    if chosen.get("partition") in readers("alpha") and "alpha" not in chosen:
        chosen["alpha"] = "1"
    if chosen.get("topology") == "file":
        of_three = chosen.get("n_clients", "3") == "3"
        chosen |= {"topology_file": "edges.txt"} if of_three else {"topology": "ring"}
    if chosen.get("bn") == "local" and not set(chosen["model"].split(",")) & set(models.with_batch_norm()):
        del chosen["bn"]
    rule = chosen.get("partition", flags["partition"]["default"])
    if draw(st.integers(0, 4)) == 0 and "n_clients" in chosen and rule in readers("counts"):
        n_dealt = int(chosen["n_clients"]) + {"1": 1, "2": 2, "0.4": 2}.get(chosen.get("new_clients"), 0)
        if "size_alpha" not in chosen and n_dealt <= 5:
            chosen["sizes"] = ",".join(["0.2"] * n_dealt)
    if len(names) == 1 and draw(st.integers(0, 3)) == 0:
        chosen |= draw(st.sampled_from(({"seed": ["0", "1"]}, {"lr": ["0.01", "0.02"]}, {"rounds": ["1", "2"]})))
    words = [words_of(name, text, flags[name], names, draw) for name, text in chosen.items()]
    words += draw(st.lists(st.sampled_from(LAUNCHED), max_size=3, unique_by=lambda group: group[0].partition("=")[0]))
    words = [*draw(st.permutations(words)), ["--jobs", "1"], ["--workers", "1"]]
    cased = [draw(st.sampled_from((name, name.upper(), name.replace("_", "-")))) for name in names]
    return Command((*cased, *(word for group in words for word in group)), where.files, finishes=True)


LAUNCHED = [
    *(["--json"], ["--quiet"], ["--plan"], ["--show_split"], ["--force"], ["--export_dir", "elsewhere/deep"]),
    *(["--export_dir=über saves"], ["--data_dir", "nowhere"], ["--unverified_data"]),
]


def _fits(problem: material.Problem, names) -> bool:
    small = problem.flags.get("dataset") == "./pets"  # there is nothing to set aside
    return all(
        OF_MODELS.get(name, "MLP") in problem.models and not (small and algorithms.says(name, "public")) for name in names
    )


def _models(names, where, several: bool = True) -> st.SearchStrategy:
    """What fits the problem and the algorithms; a mixed federation only where all can do with one."""
    heads = any(algorithms.says(name, "heads") for name in names)
    fits = [m for m in CHEAP if m in where.models and (not heads or m in models.readers("heads"))]
    mixed = several and all(algorithms.says(name, "mixed") for name in names)
    alike = any(algorithms.says(name, "same_features") for name in names)
    most = 2 if mixed and not alike else 1
    return st.lists(st.sampled_from(fits), min_size=1, max_size=most, unique=True).map(",".join)


def _agreeing(names, classes, flags, chosen: dict, left=()) -> dict:
    """The same flags, without those that contradict a switch, and with others for those that would not be read: what a
    flag needs is looked for among the values of one other."""
    for name in [name for name in chosen if name in flags]:
        if name in chosen and isinstance(flags[name]["implies"], dict) and chosen[name] is True:
            for other, result in stood_for(flags[name], True).items():
                if other != name and chosen.get(other, result) != result:
                    del chosen[other]
    for name in list(chosen):
        readers_of = [cls for cls in classes.values() if name in flags_of(cls)]
        if name in chosen and not any(_read(cls, name, chosen, len(names)) for cls in readers_of):
            chosen = _enabled(readers_of[0], name, chosen, len(names), left) if readers_of else chosen
    # what was added may have made others idle
    return {
        name: text
        for name, text in chosen.items()
        if any(name in flags_of(cls) and _read(cls, name, chosen, len(names)) for cls in classes.values())
    }


def _candidate(cls, chosen, n_named: int) -> Options:
    shared, own = flags_of(Options) if n_named > 1 else {}, flags_of(cls)
    own, start = own | shared, {name: declared["default"] for name, declared in shared.items()}
    held = {n: t if t is True else own[n]["type"](str(t)) for n, t in chosen.items() if n in own and n != "clients"}
    return cls(**{**start, **held})


def _read(cls, name: str, chosen, n_named: int) -> bool:
    needs = flags_of(cls)[name]["requires"]
    return needs is None or needs.holds(_candidate(cls, chosen, n_named))


def _enabled(cls, name: str, chosen: dict, n_named: int, left) -> dict:
    fixed = (*left, *OWN, "model", "n_clients", "as_published", *SMALL, *LEFT.get(cls.__module__.rpartition(".")[2], ()))
    for other, declared in flags_of(cls).items():
        if other in fixed or other in chosen:
            continue
        takes = declared["type"]
        texts = [True] if takes is None else sorted(takes.names) if isinstance(takes, Choice) else ["1", "0.9"]
        for text in texts:
            try:
                if _read(cls, name, {**chosen, other: text}, n_named):
                    return {**chosen, other: text}
            except (ValueError, AttributeError):
                continue
    return {other: text for other, text in chosen.items() if other != name}


def words_of(name: str, text: Any, declared, names, draw) -> list[str]:
    """A flag as it may be typed."""
    alone = len(names) == 1 and name not in flags_of(Launch)
    spelled = draw(st.sampled_from((name, *declared["aliases"]))) if alone else name
    if text is True:
        return [f"--{spelled}"]
    if isinstance(text, list):
        return [f"--{spelled}", *text]
    return [f"--{spelled}={text}"] if draw(st.booleans()) else [f"--{spelled}", str(text)]


# --- at the bounds -----------------------------------------------------------------------------------------------------

# how much there is to do: their largest values are allowed, and take for ever
COSTLY = (
    *("rounds", "epoch_per_round", "ft_epochs", "head_epochs", "pretrain_epochs", "digest_epochs", "distill_epochs"),
    *("distill_steps", "epochs_server", "inner_steps", "ala_first", "ala_layers", "feature_dim", "image_size"),
    *("threads", "n_clients", "local_steps"),
)
EXTREMES = {
    int: ("0", "1", "9223372036854775807", "2147483648"),
    float: ("0", "1", "5e-324", "1e-45", "1e30", "3.4e38", "inf"),
}


@st.composite
def extreme(draw) -> Command:
    """A command with a number at a bound of what is allowed: it finishes, or it tells why not."""
    name = draw(st.sampled_from(sorted(algorithms.ALGORITHMS)))
    flags = flags_of(algorithms.options_of(name))
    where = draw(st.sampled_from([problem for problem in material.PROBLEMS[:2] if _fits(problem, [name])]))
    chosen = {**SMALL, "rounds": 2, **where.flags, **OF_ALGORITHM.get(name, {})}
    chosen["model"] = draw(_models([name], where, several=False)) if name != "fedgkt" else "ResNet4"
    numbers = [f for f, d in flags.items() if isinstance(d["type"], Number) and f not in COSTLY]
    flag = draw(st.sampled_from(numbers))
    chosen[flag] = draw(st.sampled_from(EXTREMES[flags[flag]["type"].type]))
    try:
        flags[flag]["type"](chosen[flag])
        chosen = _agreeing([name], {name: algorithms.options_of(name)}, flags, chosen)
    except ValueError:
        pass  # and so it is refused
    words = [f"--{n}" if text is True else f"--{n}={text}" for n, text in chosen.items()]
    return Command((name, *words, "--jobs=1", "--workers=1"), where.files)


# --- commands that are mistyped ----------------------------------------------------------------------------------------

ODD = (
    *(
        "",
        " ",
        "-",
        "--",
        "=",
        "--=",
        "---",
        "nan",
        "inf",
        "-inf",
        "-1",
        "1e999",
        "1e39",
        "9" * 25,
        "0x10",
        "1e",
        "1,2",
        ",",
    ),
    *("None", "True", "null", "[]", "{}", "é", "数", "\u202e", "\udcff\udcfe", "a\nb", "a\tb", "%s%d", "{0}", "$HOME", "~"),
    *("~nobody/x", "nowhere/none.npz", "/dev/null", "/proc/self/mem", "/", ".", "..", "x" * 5000, "1" * 5000, "-x", "--no"),
    *("mine.npz", "table.csv", "\ufeff1", "1 ", " 1", "1;2", "\x1b[31m", "\x7f", "-0", "0", "-5e-324"),
)
TEXT = st.text(st.characters(exclude_characters="\0"), max_size=12) | st.sampled_from(ODD)
UNTRIED = ("slurm", "ray", "plugin", "jobs", "workers")  # begin other programs, or run a file
EVERY = sorted(
    {flag for cls in (Launch, *algorithms.all_options().values()) for flag in flags_of(cls) if flag not in UNTRIED}
)


@st.composite
def wrong(draw) -> Command:
    """A command with a mistake in it, or several; some happen to be none."""
    whole = draw(valid())
    words, named = list(whole.words), 1
    named = next(place for place, word in enumerate(words) if word.startswith("-"))
    for _ in range(draw(st.integers(1, 2))):
        mistake = draw(st.sampled_from(MISTAKES))
        place = draw(st.integers(named, len(words)))
        words = mistake(draw, words, place)
    return Command(tuple(words), whole.files)


def _stranger(draw, words, place):
    flag = "--" + draw(st.text(st.sampled_from(string.ascii_letters + "_-é0"), min_size=1, max_size=10))
    return [*words[:place], flag, *draw(st.lists(TEXT, max_size=1)), *words[place:]]


def _misspelled(draw, words, place):
    flag = draw(st.sampled_from(EVERY))
    i = draw(st.integers(0, len(flag) - 1))
    flag = flag[:i] + draw(st.sampled_from(("", "x", flag[i] * 2))) + flag[i + 1 :]
    return [*words, f"--{flag}", *draw(st.lists(TEXT, max_size=1))]


def _bad_value(draw, words, place):
    flag = draw(st.sampled_from(EVERY))
    text = draw(TEXT)
    rest = [word for word in words if not word.startswith(f"--{flag}")]
    return [*rest, f"--{flag}={text}"] if draw(st.booleans()) else [*rest, f"--{flag}", text]


def _twice(draw, words, place):
    flags = [word for word in words if word.startswith("--")]
    return [*words, *([draw(st.sampled_from(flags))] if flags else []), *draw(st.lists(TEXT, max_size=1))]


def _valueless(draw, words, place):
    return [*words[:place], f"--{draw(st.sampled_from(EVERY))}", *words[place:]]


def _stray(draw, words, place):
    return [*words[:place], draw(TEXT | st.sampled_from(sorted(algorithms.ALGORITHMS))), *words[place:]]


def _strange_name(draw, words, place):
    return [draw(TEXT), *words]


def _in_vain(draw, words, place):
    needy = [f for f, d in flags_of(Options).items() if d["requires"] and isinstance(d["type"], Number)]
    flag = draw(st.sampled_from(needy))
    return [*words, f"--{flag}", draw(value(flag, flags_of(Options)[flag]["type"]))]


def _shuffled(draw, words, place):
    return list(draw(st.permutations(words)))


MISTAKES = (
    *(_stranger, _misspelled, _bad_value, _bad_value, _bad_value, _twice, _valueless, _stray, _strange_name, _in_vain),
    _shuffled,
)


def odd() -> list[Command]:
    """Every flag, each of an algorithm that has it, with every odd word."""
    owner = {flag: name for name in reversed(algorithms.ALGORITHMS) for flag in flags_of(algorithms.options_of(name))}
    data = {flag: () if flag in ("dataset", "clients") else ("--dataset=mine.npz",) for flag in EVERY}
    return [Command((owner.get(flag, "fedavg"), *data[flag], f"--{flag}={text}")) for flag in EVERY for text in ODD]


# --- commands that ask for what cannot be had --------------------------------------------------------------------------

BASE = {"--dataset": "mine.npz", "--model": "MLP", "--rounds": "1", "--batch_size": "16", "--jobs": "1", "--workers": "1"}
EDGES = {"--topology": st.just("file"), "--topology_file": st.just("edges.txt")}
# flags of a command that no single word shows to be wrong: the data, the split or the models do
IMPOSSIBLE: tuple[tuple[str, dict[str, st.SearchStrategy]], ...] = (
    ("fedavg", {"--n_clients": st.integers(31, 10**12).map(str)}),
    ("fedavg", {"--reduced": st.floats(1e-9, 0.016).map(str)}),
    ("fedavg", {"--sizes": st.floats(1e-9, 0.01).map("0.9,{:.12f}".format)}),
    ("fedavg", {"--partition": st.just("shards"), "--shard_per_user": st.integers(16, 2**62).map(str)}),
    ("fedavg", {"--partition": st.just("classes"), "--classes_per_client": st.integers(4, 2**62).map(str)}),
    ("fedavg", {"--partition": st.just("digit_sets"), "--digit_num": st.integers(4, 2**62).map(str)}),
    ("fedavg", {"--partition": st.sampled_from(("silos", "writers"))}),
    ("fedavg", {"--partition": st.just("reference_blocks"), "--feature_shift": st.just("noise")}),
    ("fedavg", {"--dataset": st.just("table.csv"), "--model": st.sampled_from(("CNN4", "LeNet5", "ResNet9", "MobileNet"))}),
    ("fedavg", {"--dataset": st.just("table.csv"), "--augment": st.just("flip")}),
    ("fedavg", {"--dataset": st.just("table.csv"), "--label": TEXT.map("no {}".format)}),
    ("fedavg", {"--dataset": TEXT.map("nowhere/{}.npz".format)}),
    ("fedavg", {"--dataset": st.sampled_from(("MNIST", "SVHN", "CINIC10", "CELEBA")), "--data_dir": st.just("nowhere")}),
    ("fedavg", {"--dataset": st.sampled_from(("./split.csv", "edges.txt/", "people/", "./study.toml", "split.npz", "./"))}),
    ("fedavg", {"--export_dir": TEXT.map("mine.npz/{}".format)}),
    ("fedavg", {"--device": st.integers(90, 2**62).map("cuda:{}".format)}),
    ("fedavg", {"--partition_file": TEXT.map("nowhere/{}".format)}),
    ("fedavg", {"--init_from": TEXT.map("nowhere/{}".format)}),
    ("fedavg", {"--init_from": st.sampled_from((".", "pets", "mine.npz", "/"))}),
    ("fedavg", {"--bn": st.just("local")}),
    ("fedavg", {"--model": st.just("MLP,2NN")}),
    ("cfkd", {"--model": st.just("MLP,LeNet5")}),
    ("mhmd", {"--model": st.sampled_from(("MLP", "LeNet5"))}),
    ("fedgkt", {"--model": st.sampled_from(("MLP", "LeNet5"))}),
    ("fednova", {"--optimizer": st.just("adam")}),
    ("dpsgd", {"--partition": st.just("iid"), "--topology": st.just("file")}),
    ("dpsgd", {"--partition": st.just("iid"), **EDGES, "--n_clients": st.just("2")}),
    ("fedmd", {"--public_share": st.sampled_from(("0", "1"))}),
    ("fedmd", {"--public_dataset": st.sampled_from(("table.csv", "./pets", "split.npz", "nowhere.npz"))}),
    ("fedavg", {"--named_by": TEXT.map("nowhere/{}".format), "--slurm": st.just("--time=1")}),
)  # fmt: skip


@st.composite
def impossible(draw) -> Command:
    """A command of which each word is right, and that asks for what is not there."""
    name, expected = draw(st.sampled_from(IMPOSSIBLE))
    flags = {**BASE, **{flag: draw(texts) for flag, texts in expected.items()}}
    for flag in draw(st.lists(st.sampled_from(BESIDE), max_size=3, unique=True)):
        flags.setdefault(f"--{flag}", draw(value(flag, flags_of(Options)[flag]["type"])))
    words = [[f"{flag}={text}"] for flag, text in flags.items()]
    return Command((name, *(word for group in draw(st.permutations(words)) for word in group)))


BESIDE = (
    "lr",
    "seed",
    "epoch_per_round",
    "weight_decay",
    "clip_grad",
    "compress",
    "straggler",
    "measure",
    "ft_epochs",
    "track_history",
)
