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

    `names` may be a table, to which a plugin may add. `also`: {another system's word: the name}. `paths`: a description of
    the files that are allowed too; then text that is a path is taken unchanged.
    """

    names: Collection[str]
    also: Mapping[str, str] = field(default_factory=dict)
    paths: str = ""

    def __call__(self, text: str) -> str:
        if text in self.names:
            return text
        match = {**{name.lower(): name for name in self.names}, **self.also}.get(text.lower())
        if match:
            return match
        if self.paths and ("/" in text or text.endswith((*silos.FILES, ".json")) or is_there(text)):
            return text
        raise ValueError(nearest(text, list(self.names)))

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
        """The condition in words."""
        return self.text if isinstance(self.text, str) else self.text()


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
        lambda: f"--model {' or '.join(models.readers(parameter))} (the others have their own)",
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
    "a split, a graph or a feature shift that is drawn",
    lambda o: not o.partition_file or getattr(o, "topology", "") == "random" or SHIFTED.holds(o),
)
DRAWN = Requires("a split that is drawn, not --partition_file", lambda o: not o.partition_file)


ROUNDS = ("comm_round", "global_epoch", "global_rounds", "num_rounds")  # other names of --rounds


@dataclass(frozen=True)
class Problem:
    """The problem to solve: the data, the clients' shares of the data, the network.

    A study covers several problems, and chooses no problem for its accuracy.
    """

    dataset: str = flag(
        "digits",
        Choice(LOADERS, paths="a .npz file, a table (.csv, .parquet), or a folder of images, by path"),
        "data set; digits is embedded, others are downloaded if absent; a .npz has x_train y_train x_test y_test, a folder "
        "train/CLASS/*.png and test/CLASS/*.png, a table a row an example",
    )
    clients: str | None = flag(
        None,
        str,
        "data that come by client: a folder with a folder or a file a client, or a file that names the clients; it stands "
        "for --dataset, --partition silos and --n_clients",
        implies=_implied_by_clients,
        legacy_value=None,
    )
    label: str | None = flag(
        None,
        str,
        "column of the classes; default: label, or the last one",
        Requires("a table (.csv, .parquet), or a folder of them", lambda o: o.dataset not in LOADERS),
        legacy_value=None,
    )
    attribute: str = flag(
        "Smiling",
        str,
        "which of CelebA's 40 attributes is the label",
        Requires("--dataset CELEBA", lambda o: o.dataset == "CELEBA"),
    )
    image_size: int | None = flag(
        None,
        Number(int, least=1, most=1024),
        "side in pixels to which all images are resized; default: as they are (CELEBA: 32)",
    )
    reduced: float = flag(
        1.0, Number(float, above=0, most=1), "part of the training set that is kept; 1 is all of it", DRAWN
    )
    reduced_draw: str = flag(
        "first",
        Choice(("first", "random")),
        "which part --reduced keeps: the first images of the file or a random draw (from --split_seed)",
        Requires("--reduced below 1", lambda o: o.reduced < 1 and not o.partition_file),
    )
    n_clients: int = flag(
        2, Number(int, least=1), "number of clients K", aliases=("num_clients", "num_users", "client_number")
    )
    sizes: tuple[float, ...] | None = flag(
        None,
        Several(Number(float, above=0, most=1)),
        "fraction of the data for each client, one for each, adding up to at most 1 (0.7,0.2,0.1); default: equal parts",
        _requires_partition("counts"),
    )
    partition: str = flag(
        "dirichlet",
        Choice(PARTITIONS, also={"homo": "iid", "hetero": "lda"}),
        "who gets what: dirichlet draws each client's class mix, lda deals each class over the clients, iid shuffles, "
        "shards deals pieces of one class each, classes deals whole classes, digit_sets consecutive ones, reference_blocks "
        "the blocks of the data exchange's authors, writers deals people, silos is as --clients says",
        DRAWN,
        aliases=("partition_method",),
    )
    alpha: float = flag(
        math.inf,
        Number(float, above=0, infinite=True),
        "Dirichlet concentration: smaller is more heterogeneous; inf is every client with the class mix of the whole",
        _requires_partition("alpha"),
        aliases=("partition_alpha",),
    )
    shard_per_user: int = flag(
        2, Number(int, least=1), "shards a client, of one class each", _requires_partition("shard_per_user")
    )
    classes_per_client: int = flag(2, Number(int, least=1), "classes a client", _requires_partition("classes_per_client"))
    digit_num: int = flag(3, Number(int, least=1), "consecutive classes a client", _requires_partition("digit_num"))
    test_share: float = flag(
        0.2,
        Number(float, above=0, below=1),
        "part of each client's own images that is its personal test data, not trained on",
        _requires_partition("test_share"),
    )
    partition_file: str | None = flag(
        None, str, "split.npz of an earlier run, whose split is taken as it is; or a .csv with example, client and part"
    )
    validation: float = flag(
        0.0,
        Number(float, least=0, below=1),
        "part of each client's training data held out for validation; 0 is none",
        DRAWN,
    )
    public_share: float = flag(
        0.0,
        Number(float, least=0, most=1),
        "part of the training set that is set aside before it is dealt, as public examples, for methods that share what is "
        "said of them (fedmd, feddf); of --public_dataset, where one is given; 0 is none",
        DRAWN,
        legacy_value=0.0,
    )
    public_dataset: str | None = flag(
        None,
        Choice(LOADERS, paths="a .npz file, or a folder of images, by path"),
        "another data set, whose training examples are the public ones; its labels are used only where its classes are the "
        "same",
        Requires("--public_share above 0", lambda o: o.public_share > 0 or o.partition_file),
        legacy_value=None,
    )
    feature_shift: str = flag(
        "none",
        Choice(("none", *SHIFTS)),
        "a change of its own through which each client sees all its images, its test images too: they are turned "
        "(rotation), get Gaussian noise, or lose contrast; from no change to --shift_strength, in equal steps",
        legacy_value="none",
    )
    shift_strength: float = flag(
        0.5,
        Number(float, least=0, most=1),
        "the largest change of a client: rotation in half turns, noise in standard deviations of the pixels, contrast in "
        "parts of it that are taken away; 0 is no change",
        SHIFTED,
        legacy_value=0.5,
    )
    participation: float = flag(
        1.0,
        Number(float, above=0, most=1),
        "fraction of the clients that take part in a round, at least one; 1 is all",
        aliases=("frac", "join_ratio"),
    )
    straggler: float = flag(
        0.0,
        Number(float, least=0, most=1),
        "probability that a client stops its local epochs early in a round, after a random fraction of their steps, the "
        "same for each of its trainings in that round (head and body, digest and revisit); 0 is never",
        legacy_value=0.0,
    )
    client_failure: float = flag(
        0.0,
        Number(float, least=0, most=1),
        "how likely a client of a round fails at its end: its work and messages are counted, and nothing of them is used or "
        "kept, by itself or by others; a round in which all fail is passed over; 0 is never",
        legacy_value=0.0,
    )
    compress: str = flag(
        "none",
        Choice(("none", *COMPRESSIONS)),
        "how numbers are sent, in all directions: fp16 in half precision, int8 in 8 bits and a scale a tensor; what arrives "
        "is rounded so, and the bytes are those sent; images, labels, counts and single numbers are sent exactly; there is "
        "no error feedback, so that what scaffold and feddyn add up over the rounds (c, h) drifts",
        legacy_value="none",
    )
    model: tuple[str, ...] = flag(
        ("LeNet5",),
        Several(Choice(MODELS)),
        "architecture; LeNet5,ResNet9 is a mixed federation, dealt to the clients in turn",
    )
    feature_dim: int = flag(
        100,
        Number(int, least=1, most=65_536),
        "dimension of the features",
        _requires_model("feature_dim"),
    )


@dataclass(frozen=True)
class Execution:
    """How a run is computed and monitored."""

    track_history: int = flag(
        1, Number(int, least=0), "rounds from one evaluation to the next; 0 evaluates after the last round only"
    )
    track_features: int = flag(
        0, Number(int, least=0), "training examples of each client whose features are kept at every evaluation; 0 keeps none"
    )
    measure: tuple[str, ...] | None = flag(
        None,
        Several(Choice(MEASURES)),
        "what else is measured at every evaluation, on the whole test set and on each client's own examples: means over "
        "classes of what is right (balanced_accuracy), F1 and AUC; calibration is 1 less its expected error",
        legacy_value=None,
    )
    on_divergence: str = flag(
        "stop",
        Choice(("stop", "continue")),
        "where a loss or weights become NaN or infinite: stop ends the run and names round and client, continue warns and "
        "goes on, and the history counts who diverged",
        legacy_value="stop",
    )
    device: str = flag(
        "auto",
        Matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"),
        "where to compute; auto is cuda if there",
    )
    precision: str = flag(
        "float32",
        Choice(("float32", "bf16")),
        "in which networks are computed; bf16 is faster where the processor has it, weights and losses stay float32",
    )
    threads: int | str = flag(
        1,
        Number(int, least=1, most=1024, words=("auto",)),
        "processor threads to evaluate, and to train one model (centralized), which change the last bits of a result; a "
        "client trains with one; auto is 1, since cores are for runs side by side (--jobs)",
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
        None, str, "folder of a saved run, whose models after the last round are the initial ones; default: new ones"
    )
    rounds: int = flag(100, Number(int, least=1), "communication rounds", aliases=ROUNDS)
    epoch_per_round: int = flag(
        1, Number(int, least=1), "local epochs a round", aliases=("local_ep", "local_epoch", "local_epochs", "epochs_client")
    )
    batch_size: int = flag(32, Number(int, least=1), "examples in a batch", aliases=("local_bs",))
    augment: str = flag(
        "none",
        Choice(AUGMENTATIONS),
        "random changes of each training image: flip mirrors left and right, crop shifts by up to an eighth of the side, "
        "cutout blanks a square of half the side",
    )
    lr: float = flag(1e-3, Number(float, above=0), "learning rate", aliases=("init_lr", "learning_rate"), rate=True)
    lr_schedule: str = flag(
        "constant",
        Choice(SCHEDULES),
        "learning rate over the rounds: step divides it by 10 at half and again at three quarters, cosine lets it fall to 0",
    )
    optimizer: str = flag("adam", Choice(OPTIMIZERS), "local optimizer")
    momentum: float = flag(
        0.0,
        Number(float, least=0, below=1),
        "momentum; 0 is plain SGD",
        Requires("--optimizer sgd", lambda o: o.optimizer == "sgd"),
    )
    weight_decay: float = flag(0.0, Number(float, least=0), "L2 penalty, added to the gradient; 0 is none", aliases=("wd",))
    clip_grad: float = flag(
        0.0,
        Number(float, least=0),
        "largest norm of a step's gradient, of all that the step trains together (both networks of apfl and fml); longer "
        "ones are scaled down to it; 0 is no limit",
    )
    ft_epochs: int = flag(
        0,
        Number(int, least=0),
        "after the last round each client fine-tunes a copy of the last model for so many epochs, which is evaluated on its "
        "own distribution after each; the run's models stay as they are; 0 is none",
    )
    ft_part: str = flag("full", Choice(PARTS), "which part is fine-tuned; the rest computes as in evaluation", TUNED)
    ft_lr: float = flag(1e-3, Number(float, above=0), "learning rate of the fine-tuning, constant", TUNED, rate=True)
    seed: int = flag(
        0, Number(int, least=0), "seed of all but the split: initial weights, batches, sampling", aliases=("random_seed",)
    )
    split_seed: int | str = flag(
        0,
        Number(int, least=0, words=("seed",)),
        "seed of the split alone: of --reduced_draw, --partition, --validation, --feature_shift, --topology; a number keeps "
        "one split for all seeds, the word seed draws a new one with each --seed",
        SPLIT,
    )

    def __post_init__(self) -> None:
        """Replace implied and dependent values by the final values, so that a run's options say what the run does."""
        if self.split_seed == "seed":
            object.__setattr__(self, "split_seed", self.seed)
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
        "BatchNorm layers, statistics too: averaged like all weights, or local, which stay with the client (FedBN); in a "
        "part that is not trained, here and in fine-tuning, they normalise with their running statistics and leave them",
    )


SUBMITTED = Requires("--slurm", lambda launch_options: launch_options.slurm is not None)
UNSUBMITTED = Requires("no --slurm beside it", lambda launch_options: launch_options.slurm is None)
CLUSTER = Requires(
    "--slurm or --ray", lambda launch_options: launch_options.slurm is not None or launch_options.ray is not None
)


@dataclass(frozen=True)
class Launch:
    """Where runs are read and written, how they are started, and what is shown.

    These flags change no number, and are no part of a run's name.
    """

    data_dir: Path = flag(Path("data"), Path, "folder of the data sets")
    export_dir: Path = flag(Path("saves"), Path, "folder of the runs, one folder each")
    unverified_data: bool = flag(
        False, None, "take files that do not have their published checksum; a warning, recorded in the run, says which"
    )
    plugin: tuple[str, ...] | None = flag(
        None,
        Several(Matching(r".+\.py", "a Python file, NAME.py")),
        "files to import first: an algorithm, or what adds data sets, models, partitioners or optimizers to those there are",
    )
    jobs: int | str = flag(
        "auto",
        Number(int, least=1, most=1024, words=("auto",)),
        "cores for runs side by side, in a process each, of which a run takes --threads; 1 is one run after another in this "
        "process; auto is all cores that it may use, and one run at a time on a CUDA device",
    )
    workers: int | str = flag(
        "auto",
        Number(int, least=1, most=1024, words=("auto",)),
        "processes in which the clients of one run train side by side, a core each; auto is all cores that no other run "
        "takes, where a run is long enough; the results are the same",
    )
    ray: str | None = flag(
        None,
        str,
        "run on the nodes of this Ray cluster: its address, auto where this machine is part of it, or local for one of this "
        "machine alone; --jobs is then how many of its cores, auto all",
        UNSUBMITTED,
    )
    log: str | None = flag(
        None,
        Choice(("tensorboard",)),
        "where the numbers of each round go beside history.csv, which always grows; tensorboard has to be installed",
    )
    force: bool = flag(False, None, "run anew even where a finished run is saved")
    json: bool = flag(False, None, "one line of JSON a finished run on standard output, and nothing else there")
    quiet: bool = flag(False, None, "no progress bar, no split, only the table")
    plan: bool = flag(
        False,
        None,
        "tell what every run will cost, its bytes, FLOPs, state, memory and time, from a few timed steps; no training",
    )
    study: Path | None = flag(
        None,
        Path,
        "a study in a TOML file: methods by problems by seeds, each tuned on a grid of its own",
        Requires(
            "no --save_study and no --show_split beside it",
            lambda launch_options: not (launch_options.save_study or launch_options.show_split),
        ),
    )
    list: str | None = flag(
        None,
        Choice(("algorithms", "datasets", "models", "partitions")),
        "print the names of all algorithms, datasets, models or partitions, with a line each; no training",
    )
    save_study: Path | None = flag(None, Path, "write what this command line asks for as such a file; no training")
    show_split: bool = flag(
        False, None, "draw who gets what into --export_dir (PNG, and npz for --partition_file); no training"
    )
    slurm: str | None = flag(
        None,
        str,
        "submit this command as an array job of Slurm, whose elements share the unfinished runs; options of sbatch as one "
        'text, "--time=2:00:00 --array=1-8"',
    )
    any_node: bool = flag(
        False,
        None,
        "let nodes of another processor, device or library take part, whose results have "
        "other last bits; each run records what carried it out",
        CLUSTER,
    )
    named_by: Path | None = flag(
        None, Path, "given to the elements of a job: the file that says for what kind of node the runs are named", SUBMITTED
    )


def redeclare(default: Any, **changed: Any) -> Any:
    """Declare a shared flag again, in an algorithm's own Options: with another default, and another `type` or `aliases`."""
    return field(default=default, metadata=changed)


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
