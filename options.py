"""The flags: their types, their declaration, and the flags that every algorithm reads.

`Options` holds the flags that every algorithm reads. An algorithm's own dataclass inherits from it, adds its own flags and
may set other defaults for shared flags. One frozen Options describes one run completely.

    @dataclass(frozen=True)
    class Options(options.Options):
        lr: float = 0.05                                                     # a shared flag with another default
        mu: float = flag(0.0, Number(float, least=0), "weight of the ... ; 0 is FedAvg")

A flag is declared where the code reads it, with its default, its type and a help text with unit, direction and limiting
case. `commandline` turns a command line into the runs that it requests.
"""

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import models
from data import partition, silos
from data.augment import AUGMENTATIONS
from data.datasets import LOADERS
from data.files import reason
from data.partition import PARTITIONS
from data.shift import SHIFTS
from errors import UserError
from federation.optimizers import OPTIMIZERS
from federation.wire import COMPRESSIONS
from helpers import SCHEDULES
from measures import MEASURES
from models import MODELS, PARTS
from untrusted import is_there

# --- types of flags: a function from text to a value, which raises ValueError; str() describes the allowed values -------

LARGEST = {int: 2**63 - 1, float: 3.4e38}  # limits of a tensor's index and of a single-precision number


@dataclass(frozen=True)
class Number:
    """A whole number (`type` int) or any number (float) within bounds; infinity only with `infinite`."""

    type: type
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    infinite: bool = False
    words: tuple[str, ...] = ()  # other allowed values, such as "auto"

    def __call__(self, text: str) -> int | float | str:
        if text in self.words:
            return text
        if re.fullmatch(r"-?\d+,\d+", text):
            raise ValueError("; write decimals with a point, and several values with spaces")
        value = self.type(text)
        if not math.isinf(value) and abs(value) > LARGEST[self.type]:
            raise ValueError("; too large")
        inside = self.least <= value <= self.most and self.above < value < self.below
        if not (inside or (self.infinite and value == math.inf)) or (math.isinf(value) and not self.infinite):
            raise ValueError
        return value

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", self.most),
                ("below", self.below),
            )
            if math.isfinite(bound)
        ]
        kind = "a whole number" if self.type is int else "a number"
        return " or ".join([" ".join([kind, " and ".join(bounds)]).strip(), *(["inf"] * self.infinite), *self.words])


@dataclass(frozen=True)
class Choice:
    """One of some names, in any case.

    `names` may be a table, to which a plugin may add. `also`: {another system's word: the name}. `suggestions`: {a word for
    several names: what to suggest}. `paths`: a description of the files that are allowed too; then text that is a path is
    taken unchanged.
    """

    names: Collection[str]
    also: Mapping[str, str] = field(default_factory=dict)
    suggestions: Mapping[str, str] = field(default_factory=dict)
    paths: str = ""

    def __call__(self, text: str) -> str:
        if text in self.names:
            return text
        match = {**{name.lower(): name for name in self.names}, **self.also}.get(text.lower())
        if match:
            return match
        if self.paths and ("/" in text or text.endswith((*silos.FILES, ".json")) or is_there(text)):
            return text
        suggestion = self.suggestions.get(re.sub("[-_ ]", "", text.lower()))
        raise ValueError(f"; did you mean {suggestion}?" if suggestion else nearest(text, list(self.names)))

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}{f', or {self.paths}' if self.paths else ''}"


@dataclass(frozen=True)
class Matching:
    """Text that matches a pattern; `words` describes the pattern."""

    pattern: str
    words: str

    def __call__(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Several:
    """Values joined by commas, kept together as one value: a tuple."""

    of: Callable[[str], Any]

    def __call__(self, text: str) -> tuple:
        return tuple(self.of(part) for part in text.split(","))

    def __str__(self) -> str:
        return f"{self.of}, or several joined by commas"


@dataclass(frozen=True)
class CountOrNames:
    """A whole number of things, a fraction of them, or their names, joined by commas: a tuple. Text of digits, signs and
    points is a number."""

    things: str

    def __call__(self, text: str) -> int | float | tuple[str, ...]:
        if not re.fullmatch(r"[\d.+-]+", text):
            return tuple(Several(_name)(text))
        is_fraction = "." in text and float(text) < 1
        return Number(float, above=0)(text) if is_fraction else Number(int, least=0)(text)

    def __str__(self) -> str:
        return f"a whole number of {self.things}, a fraction below 1, or names of {self.things} joined by commas"


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text.strip()


def nearest(text: str, names: Sequence[str]) -> str:
    """Return "; did you mean X?" for the name closest to `text`.

    Return "" where no name has two thirds of its letters in common with the text, in the same order.
    """
    lower = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(text.lower(), lower, n=1, cutoff=0.65)
    return f"; did you mean {lower[matches[0]]}?" if matches else ""


# --- how a flag is declared -------------------------------------------------------------------------------------------


NOT_LATER = object()  # the legacy value of a flag that is older than all saved runs


@dataclass(frozen=True)
class Requires:
    """The condition under which a flag is read.

    The flag's help shows the condition; setting the flag without it is an error. `text` may be a function, called when the
    text is needed: a plugin may add names to a table that the text lists.
    """

    text: str | Callable[[], str]
    holds: Callable[[Any], bool]

    @property
    def words(self) -> str:
        """Return the condition in words, after "only": "with ..." or "without ..."."""
        text = self.text if isinstance(self.text, str) else self.text()
        return text if text.startswith("without ") else f"with {text}"


def flag(
    default: Any,
    type: Callable[[str], Any] | None,
    help: str,
    requires: Requires | None = None,
    implies: Mapping | Callable[[Any], Mapping] | None = None,
    aliases: tuple[str, ...] = (),
    legacy_value: Any = NOT_LATER,
    rate: bool = False,
    follows: Callable[[Any], Any] | None = None,
) -> Any:
    """Declare a flag: a dataclass field with metadata.

    `type` parses the flag's text; None is a switch, off by default, without a value. `requires`: when the flag is read.
    `implies`: {flag: value} of other flags that this one sets, or a function of its value that returns them; a command may
    not contradict them. `aliases`: names of the same flag in other systems; the parser accepts all of them. `legacy_value`,
    for a flag that is newer than saved runs: the value that describes what older runs did; with this value the flag is no
    part of a run's identity. `rate`: whether the flag is a learning rate, which a dry run makes tiny so that nothing
    diverges. `follows`: computes the value from the other options where the default is None.
    """
    metadata = {"type": type, "help": help, "requires": requires, "implies": implies or {}, "aliases": aliases}
    metadata |= {"rate": rate, "follows": follows}
    return field(default=default, metadata=metadata | ({} if legacy_value is NOT_LATER else {"legacy_value": legacy_value}))


def stood_for(declared: Mapping[str, Any], value: Any) -> Mapping[str, Any]:
    """Return {flag: value} of the other flags that this flag implies at a value; {} where the flag is not set."""
    implied = declared["implies"] if value else {}
    return implied(value) if callable(implied) else implied


def _implied_by_clients(path: str) -> dict[str, Any]:
    """Return the flags that `--clients` implies. They replace `--clients` itself, and describe the run."""
    try:
        names = silos.clients(Path(path).expanduser())
    except Exception as error:  # a damaged file can break its reader in any way
        raise UserError(f"--clients {path}: {reason(error)}") from error
    dataset = f"./{path}" if path in LOADERS else path
    return {"dataset": dataset, "partition": "silos", "n_clients": len(names), "partition_file": None, "clients": None}


def _requires_model(parameter: str) -> Requires:
    """Return the condition that some model of --model has this parameter."""
    return Requires(
        lambda: f"--model {' or '.join(models.readers(parameter))} (other models have a fixed number)",
        lambda o: bool(set(o.model) & set(models.readers(parameter))),
    )


def _requires_partition(parameter: str) -> Requires:
    """Return the condition that the partitioner of --partition has this parameter."""
    return Requires(
        lambda: f"--partition {' or '.join(partition.readers(parameter))}",
        lambda o: o.partition in partition.readers(parameter) and not o.partition_file,
    )


TUNED = Requires("--ft_epochs above 0", lambda o: o.ft_epochs > 0)
SHIFTED = Requires("--feature_shift other than none", lambda o: o.feature_shift != "none")
SPLIT = Requires(
    "a random split, graph or feature shift",
    lambda o: not o.partition_file or getattr(o, "topology", "") == "random" or SHIFTED.holds(o),
)
DRAWN = Requires("without --partition_file", lambda o: not o.partition_file)


# other names of --rounds, --n_clients and --lr
ROUNDS = ("comm_round", "global_epoch", "global_rounds", "num_rounds", "n_rounds", "num_server_rounds")
CLIENTS = ("num_clients", "num_users", "client_number", "client_num", "num_supernodes", "num_partitions")
LRS = ("init_lr", "learning_rate", "local_learning_rate")
OTHER_DATASETS = dict.fromkeys(("fashionmnist", "fashion_mnist", "fashion-mnist"), "FMNIST")
OTHER_MODELS = {"cnn": "CNN_McMahan or CNN4", "dnn": "MLP", "mnist2nn": "2NN", "res18": "ResNet18"}
OTHER_MODELS |= dict.fromkeys(("avgcnn", "fedavgcnn"), "CNN_McMahan")
OTHER_SPLITS = {  # words of other systems, and what to use
    **dict.fromkeys(("noniid", "niid", "heterogeneous"), "lda --alpha 0.3, or shards"),
    **dict.fromkeys(("pat", "path", "pathological", "pathologicalpartitioner"), "classes --classes_per_client 2, or shards"),
    "dirichletpartitioner": "lda --alpha 0.3",
    "exdir": "lda --alpha 0.3, or classes",
    "lblqnt": "classes --classes_per_client 2",
    **dict.fromkeys(("qnt", "classqnt"), "iid --size_alpha 0.5"),
    "covshift": "iid --feature_shift rotation",
}


@dataclass(frozen=True)
class Problem:
    """The problem to solve: the data, the clients' shares of the data, the network.

    A study covers several problems, and chooses no problem for its accuracy.
    """

    dataset: str = flag(
        "digits",
        Choice(LOADERS, OTHER_DATASETS, paths="a .npz file, a table (.csv, .parquet), or a folder of images, by path"),
        "data set; digits is included, others are downloaded; a .npz has x_train y_train x_test y_test, a folder has "
        "train/CLASS/*.png and test/CLASS/*.png, a table has one row per example",
    )
    clients: str | None = flag(
        None,
        str,
        "data with given clients: a folder with one folder or file per client, or a file that names the clients; sets "
        "--dataset, --partition silos and --n_clients",
        implies=_implied_by_clients,
        legacy_value=None,
    )
    label: str | None = flag(
        None,
        str,
        "column of the class labels; default: the column label, else the last column",
        Requires("a table (.csv, .parquet), or a folder of them", lambda o: o.dataset not in LOADERS),
        legacy_value=None,
    )
    attribute: str = flag(
        "Smiling",
        str,
        "attribute of CelebA that is the label, one of 40",
        Requires("--dataset CELEBA", lambda o: o.dataset == "CELEBA"),
    )
    image_size: int | None = flag(
        None,
        Number(int, least=1, most=1024),
        "side in pixels to which images are resized; default: the original size (CELEBA: 32)",
    )
    reduced: float = flag(
        1.0, Number(float, above=0, most=1), "fraction of the training set that is used; 1 is all of it", DRAWN
    )
    reduced_draw: str = flag(
        "first",
        Choice(("first", "random")),
        "part of the training set that --reduced keeps: the first images of the file, or a random draw (--split_seed)",
        Requires("--reduced below 1", lambda o: o.reduced < 1 and not o.partition_file),
    )
    test_reduced: float = flag(
        1.0,
        Number(float, above=0),
        "part of the test set that is used, drawn at random (--split_seed): a fraction, or a number of images above 1; 1 is "
        "all of it",
        DRAWN,
        legacy_value=1.0,
    )
    n_clients: int = flag(2, Number(int, least=1), "number of clients K", aliases=CLIENTS)
    sizes: tuple[float, ...] | None = flag(
        None,
        Several(Number(float, above=0, most=1)),
        "fraction of the data of each client, such as 0.7,0.2,0.1; the sum is at most 1; default: equal parts",
        _requires_partition("counts"),
    )
    size_alpha: float = flag(
        math.inf,
        Number(float, above=0, infinite=True),
        "Dirichlet concentration of the clients' sizes (quantity skew); smaller is more unequal, inf is equal parts; every "
        "client gets an example",
        _requires_partition("counts"),
        legacy_value=math.inf,
    )
    new_clients: int | float | tuple[str, ...] = flag(
        0,
        CountOrNames("clients"),
        "clients besides --n_clients that take no part in training: a number, a fraction of --n_clients (with --clients: of "
        "all clients), or names; afterwards each receives the model and fine-tunes it (--ft_epochs); 0 is none",
        aliases=("num_new_clients",),
        legacy_value=0,
    )
    partition: str = flag(
        "dirichlet",
        Choice(
            PARTITIONS,
            also={"homo": "iid", "hetero": "lda", "dir": "lda"},
            suggestions=OTHER_SPLITS,
        ),
        "rule that splits the data over the clients",
        DRAWN,
        aliases=("partition_method",),
    )
    alpha: float = flag(
        math.inf,
        Number(float, above=0, infinite=True),
        "Dirichlet concentration; smaller is more heterogeneous, inf is IID (each client has the class mix of the whole "
        "data)",
        _requires_partition("alpha"),
        aliases=("partition_alpha", "dirichlet_alpha"),
    )
    shard_per_user: int = flag(
        2, Number(int, least=1), "number of shards per client, each of one class", _requires_partition("shard_per_user")
    )
    classes_per_client: int = flag(
        2, Number(int, least=1), "number of classes per client", _requires_partition("classes_per_client")
    )
    digit_num: int = flag(
        3, Number(int, least=1), "number of consecutive classes per client", _requires_partition("digit_num")
    )
    test_share: float = flag(
        0.2,
        Number(float, above=0, below=1),
        "fraction of each client's images that is held out as its test set",
        _requires_partition("test_share"),
    )
    partition_file: str | None = flag(
        None, str, "file with the split: split.npz of an earlier run, or a .csv with the columns example, client and part"
    )
    validation: float = flag(
        0.0,
        Number(float, least=0, below=1),
        "fraction of each client's training data held out for validation; 0 is none",
        DRAWN,
    )
    public_share: float = flag(
        0.0,
        Number(float, least=0, most=1),
        "fraction of the training set (or of --public_dataset) that becomes public examples instead of client data, for "
        "fedmd and feddf; 0 is none",
        DRAWN,
        legacy_value=0.0,
    )
    public_dataset: str | None = flag(
        None,
        Choice(LOADERS, paths="a .npz file, or a folder of images, by path"),
        "data set with the public examples; its labels are used only if its classes are those of --dataset",
        Requires("--public_share above 0", lambda o: o.public_share > 0 or o.partition_file),
        legacy_value=None,
    )
    feature_shift: str = flag(
        "none",
        Choice(("none", *SHIFTS)),
        "feature shift: each client changes all its images, test images too, by rotation, Gaussian noise or less contrast; "
        "in equal steps over the clients, from 0 to --shift_strength",
        legacy_value="none",
    )
    shift_strength: float = flag(
        0.5,
        Number(float, least=0, most=1),
        "largest feature shift of a client: rotation in half turns, noise in standard deviations of the pixels, contrast as "
        "the fraction removed; 0 is none",
        SHIFTED,
        legacy_value=0.5,
    )
    participation: float = flag(
        1.0,
        Number(float, above=0, most=1),
        "fraction of the clients that participate in a round, at least one client; 1 is all",
        aliases=("frac", "join_ratio", "fraction_fit", "fraction_train", "eligible_perc"),
    )
    straggler: float = flag(
        0.0,
        Number(float, least=0, most=1),
        "probability that a client stops early in a round, after a random fraction of its local steps (the same for all its "
        "phases of that round); 0 is never",
        legacy_value=0.0,
    )
    client_failure: float = flag(
        0.0,
        Number(float, least=0, most=1),
        "probability that a client fails at the end of a round: its cost counts, its results are lost; a round in which all "
        "clients fail changes nothing; 0 is never",
        legacy_value=0.0,
    )
    compress: str = flag(
        "none",
        Choice(("none", *COMPRESSIONS)),
        "compression of all messages: fp16 is half precision, int8 is 8 bits and a scale per tensor; images, labels and "
        "counts are sent exactly; without error feedback, so the sums of scaffold and feddyn drift",
        legacy_value="none",
    )
    model: tuple[str, ...] = flag(
        ("LeNet5",),
        Several(Choice(MODELS, suggestions=OTHER_MODELS)),
        "model architecture; several, such as LeNet5,ResNet9, are assigned to the clients in turn; FILE.py:NAME is your own "
        "network",
    )
    feature_dim: int = flag(
        100,
        Number(int, least=1, most=65_536),
        "number of features before the classifier",
        _requires_model("feature_dim"),
    )


@dataclass(frozen=True)
class Execution:
    """How a run is computed and monitored."""

    track_history: int = flag(1, Number(int, least=0), "rounds between evaluations; 0 evaluates after the last round only")
    track_features: int = flag(
        0,
        Number(int, least=0),
        "number of training examples per client whose features are saved at every evaluation; 0 is none",
    )
    record_wire: tuple[int | str, ...] | None = flag(
        None,
        Several(Number(int, least=0, words=("first", "last"))),
        "rounds whose messages are saved for attacks (python -m attacks), such as first,last; first is round 1 with the "
        "messages before it; default: none",
        legacy_value=None,
    )
    record_rows: int = flag(
        1000,
        Number(int, least=1),
        "most examples that --record_wire saves of a message with a row per example, such as feature maps or images",
        Requires("--record_wire", lambda o: bool(o.record_wire)),
        legacy_value=1000,
    )
    measure: tuple[str, ...] | None = flag(
        None,
        Several(Choice(MEASURES)),
        "measures besides accuracy, on the global test set and on each client's test set: balanced accuracy, F1 and AUC as "
        "means over classes; calibration is 1 minus the expected calibration error; recall is the accuracy of each class",
        legacy_value=None,
    )
    on_divergence: str = flag(
        "stop",
        Choice(("stop", "continue")),
        "action if a loss or weights become NaN or infinite: stop ends the run, continue warns once and counts the diverged "
        "clients in the history",
        legacy_value="stop",
    )
    device: str = flag(
        "auto",
        Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"),
        "device for all computation; auto is cuda if available",
    )
    precision: str = flag(
        "float32",
        Choice(("float32", "bf16")),
        "precision of the forward and backward passes; bf16 is faster on hardware with bf16; weights and losses stay "
        "float32",
    )
    threads: int | str = flag(
        1,
        Number(int, least=1, most=1024, words=("auto",)),
        "CPU threads for evaluation and centralized training (clients train with 1); changes the last bits of a result; "
        "auto is 1",
    )
    stacked: int = flag(
        1,
        Number(int, least=1, most=1024),
        "most clients of one architecture that train as one network, which changes the last bits of a result; faster for "
        "small networks on a processor; what cannot be stacked trains one client after another, and the run says so; 1 is "
        "every client by itself",
        legacy_value=1,
    )


@dataclass(frozen=True)
class Options(Execution, Problem):
    """One run: the algorithm and every flag that can change a number.

    Besides the problem and the execution these are the settings, which may be tuned on validation data, and the seeds. A
    hash of all these values is part of the run's name.
    """

    algorithm: str = ""

    init_from: str | None = flag(
        None, str, "folder of a saved run whose final models are the initial models; default: random initialization"
    )
    rounds: int = flag(100, Number(int, least=1), "number of communication rounds", aliases=ROUNDS)
    epoch_per_round: int = flag(
        1,
        Number(int, least=1),
        "number of local epochs per round",
        aliases=("local_ep", "local_epoch", "local_epochs", "epochs_client"),
    )
    local_steps: int = flag(
        0,
        Number(int, least=0),
        "number of local steps per round, in place of --epoch_per_round, the same for clients with few and with many "
        "examples; 0 is epochs",
        legacy_value=0,
    )
    batch_size: int = flag(32, Number(int, least=1), "number of examples per batch", aliases=("local_bs",))
    augment: str = flag(
        "none",
        Choice(AUGMENTATIONS),
        "data augmentation of training images: flip mirrors left and right, crop shifts by up to 1/8 of the side, cutout "
        "blanks a square of half the side",
    )
    lr: float = flag(1e-3, Number(float, above=0), "learning rate of the clients", aliases=LRS, rate=True)
    lr_schedule: str = flag(
        "constant",
        Choice(SCHEDULES),
        "learning rate schedule over the rounds: step divides by 10 after 1/2 and 3/4 of the rounds, cosine decays to 0",
    )
    optimizer: str = flag("adam", Choice(OPTIMIZERS), "optimizer of the clients")
    momentum: float = flag(
        0.0,
        Number(float, least=0, below=1),
        "momentum of SGD; 0 is plain SGD",
        Requires("--optimizer sgd", lambda o: o.optimizer == "sgd"),
    )
    weight_decay: float = flag(
        0.0, Number(float, least=0), "weight decay (L2 penalty, added to the gradient); 0 is none", aliases=("wd",)
    )
    clip_grad: float = flag(
        0.0,
        Number(float, least=0),
        "maximum gradient norm of a step, over all weights that the step trains; larger gradients are scaled down; 0 is no "
        "limit",
    )
    secure_aggregation: bool = flag(
        False,
        None,
        "the server sees only sums over the clients of a round: --record_wire saves no single client's message; results and "
        "counted bytes stay the same; only for methods whose server needs nothing but sums",
        legacy_value=False,
    )
    dp_clip: float = flag(
        0.0,
        Number(float, least=0),
        "largest L2 norm of the change of weights that a client sends in a round; larger changes are scaled down; 0 is no "
        "limit",
        legacy_value=0.0,
    )
    dp_noise: float = flag(
        0.0,
        Number(float, least=0),
        "Gaussian noise on every weight that a client sends: its standard deviation over --dp_clip; larger is more private "
        "(column epsilon of the history); 0 is none",
        Requires("--dp_clip above 0", lambda o: o.dp_clip > 0),
        legacy_value=0.0,
    )
    dp_delta: float = flag(
        1e-5,
        Number(float, above=0, below=1),
        "delta at which epsilon is reported: the probability that its bound fails",
        Requires("--dp_noise or --dp_sgd above 0", lambda o: o.dp_noise > 0 or o.dp_sgd > 0),
        legacy_value=1e-5,
    )
    dp_sgd: float = flag(
        0.0,
        Number(float, least=0),
        "DP-SGD in the clients' local epochs: Gaussian noise on every step, its standard deviation over --dp_sgd_clip; 0 is "
        "none",
        legacy_value=0.0,
    )
    dp_sgd_clip: float = flag(
        1.0,
        Number(float, above=0),
        "largest L2 norm of the gradient of one example; larger gradients are scaled down",
        Requires("--dp_sgd above 0", lambda o: o.dp_sgd > 0),
        legacy_value=1.0,
    )
    ft_epochs: int = flag(
        0,
        Number(int, least=0),
        "number of epochs in which each client fine-tunes a copy of the final model, evaluated on its own distribution "
        "after each epoch; 0 is none",
        aliases=("fine_tuning_epoch_new",),
    )
    ft_part: str = flag(
        "full", Choice(PARTS), "part of the model that is fine-tuned; the rest is frozen, in evaluation mode", TUNED
    )
    ft_lr: float = flag(1e-3, Number(float, above=0), "learning rate of fine-tuning (constant)", TUNED, rate=True)
    seed: int = flag(
        0,
        Number(int, least=0),
        "random seed of everything except the split: initial weights, batches, client sampling",
        aliases=("random_seed",),
    )
    split_seed: int | str = flag(
        0,
        Number(int, least=0, words=("seed",)),
        "random seed of the split (--partition, --reduced_draw, --test_reduced, --validation, --feature_shift, --topology, "
        "which clients take part); a number keeps one split for all seeds, the word seed draws a split per --seed",
        SPLIT,
    )

    def __post_init__(self) -> None:
        """Replace implied and dependent values by the final values, so that a run's options say what the run does."""
        if self.split_seed == "seed":
            object.__setattr__(self, "split_seed", self.seed)
        object.__setattr__(self, "new_clients", partition.whole_number(self.new_clients, self.n_clients))
        for name, declared in flags_of(type(self)).items():
            for other, value in stood_for(declared, getattr(self, name)).items():
                object.__setattr__(self, other, value)
            if getattr(self, name) is None and declared.get("follows"):
                object.__setattr__(self, name, declared["follows"](self))


@dataclass(frozen=True)
class Averaging(Options):
    """One run of an algorithm that averages weights."""

    bn: str = flag(
        "average",
        Choice(("average", "local")),
        "BatchNorm layers and their statistics: average them like all weights, or keep them local (FedBN); frozen layers "
        "use their running statistics",
    )


SUBMITTED = Requires("--slurm", lambda launch_options: launch_options.slurm is not None)
UNSUBMITTED = Requires("without --slurm", lambda launch_options: launch_options.slurm is None)
CLUSTER = Requires(
    "--slurm or --ray", lambda launch_options: launch_options.slurm is not None or launch_options.ray is not None
)


@dataclass(frozen=True)
class Launch:
    """Where runs are read and written, how they are started, and what is shown.

    These flags change no number, and are no part of a run's name.
    """

    data_dir: Path = flag(Path("data"), Path, "folder with the data sets")
    export_dir: Path = flag(Path("saves"), Path, "folder for the saved runs, one subfolder per run")
    unverified_data: bool = flag(
        False, None, "accept data files whose checksum differs from the published checksum; prints and records a warning"
    )
    plugin: tuple[str, ...] | None = flag(
        None,
        Several(Matching(r".+\.py(:\w+)?", "a Python file, NAME.py")),
        "Python files to import first, with your algorithms, data sets, models, partitions, optimizers or measures",
    )
    jobs: int | str = flag(
        "auto",
        Number(int, least=1, most=1024, words=("auto",)),
        "number of CPU cores for parallel runs, one process per run; 1 is one run after another in this process; auto is "
        "all available cores (on a CUDA device one run at a time)",
    )
    workers: int | str = flag(
        "auto",
        Number(int, least=1, most=1024, words=("auto",)),
        "number of processes that train the clients of one run in parallel; does not change results; auto is all cores that "
        "no other run uses, if the run is long enough",
    )
    ray: str | None = flag(
        None,
        str,
        "address of a Ray cluster to run on; auto if this machine is part of a cluster, local to start one on this machine; "
        "--jobs then limits the cores of the cluster",
        UNSUBMITTED,
    )
    log: str | None = flag(
        None,
        Choice(("tensorboard",)),
        "additional logger of each round, besides history.csv; tensorboard must be installed",
    )
    force: bool = flag(False, None, "repeat runs that are already finished and saved")
    json: bool = flag(False, None, "print one line of JSON per finished run on standard output, and nothing else")
    quiet: bool = flag(False, None, "print only the table: no progress bars, no split")
    plan: bool = flag(
        False,
        None,
        "estimate bytes, FLOPs, state, memory and time of every run from a few timed steps; no training",
    )
    study: Path | None = flag(
        None,
        Path,
        "TOML file of a study to run: methods, problems, seeds, and a tuning grid for each method",
        Requires(
            "without --save_study and --show_split",
            lambda launch_options: not (launch_options.save_study or launch_options.show_split),
        ),
    )
    list: str | None = flag(
        None,
        Choice(("algorithms", "datasets", "models", "partitions")),
        "print all algorithms, datasets, models or partitions with a description; no training",
    )
    save_study: Path | None = flag(None, Path, "file to which this command line is written as a study; no training")
    show_split: bool = flag(
        False, None, "print the split and save it in --export_dir (a picture, and .npz for --partition_file); no training"
    )
    slurm: str | None = flag(
        None,
        str,
        "options of sbatch, in quotes, to submit this command as a Slurm array job whose elements share the runs, such as "
        '"--time=2:00:00 --array=1-8"',
    )
    any_node: bool = flag(
        False,
        None,
        "continue runs on nodes with another CPU, device or library; the last bits of results may change; each run records "
        "its environment",
        CLUSTER,
    )
    named_by: Path | None = flag(
        None, Path, "internal: file with the kind of node, which --slurm passes to the elements of its job", SUBMITTED
    )


def redeclare(default: Any, **changed: Any) -> Any:
    """Declare a shared flag again, in an algorithm's own Options: with another default, and another `type` or `aliases`."""
    return field(default=default, metadata=changed)


@cache
def flags_of(cls: type) -> dict[str, dict]:
    """Return {flag: {"type", "help", "requires", "default", ...}} of an Options class.

    A field inherits the metadata of the field of the same name in a base class, except for the keys that it sets itself.
    """
    flags = {}
    for class_field in fields(cls):
        declared: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            declared |= getattr(base, "__dataclass_fields__", {}).get(class_field.name, class_field).metadata
        if declared:
            flags[class_field.name] = {**declared, "default": class_field.default}
    return flags


SEEDS = ("seed", "split_seed")


def role_of(name: str) -> str:
    """Return the role of a flag in a study: "problem", "execution", "seed", or "setting" for all other flags."""
    for role, cls in (("problem", Problem), ("execution", Execution)):
        if name in cls.__dataclass_fields__:
            return role
    return "seed" if name in SEEDS else "setting"


def plain(options: Any) -> dict[str, Any]:
    """Return every option as a value for JSON."""
    return {name: plain_value(getattr(options, name)) for name in ("algorithm", *(f.name for f in fields(options)))}


def plain_value(value: Any) -> Any:
    """Return an option's value as a value for JSON: tuples as lists, inf as "inf", paths as text."""
    if isinstance(value, tuple):
        return [plain_value(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return "inf" if value == math.inf else value
