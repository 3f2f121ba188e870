"""What the tests share: a cut wire, a small data set, and federations of a few clients in float64 or float32."""

import codecs
import math
import os
import signal
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

# A thread that waits for another sleeps: one that spins keeps the core from the thread that it waits for where there are
# fewer free cores than threads, and a test of several threads takes ten times as long. OpenMP reads it as torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch

import algorithms
import experiment
import models
import plugins
import saves
from data import datasets
from data.datasets import Data, from_arrays
from errors import UserError
from federation import Federation
from federation.wire import Examples, Rows, Wire, mapped
from helpers import Batch
from launch import scheduling, single
from options import Options

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent
MNIST_FILES = ROOT / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
needs_mnist = pytest.mark.skipif(not MNIST_FILES.exists(), reason="real MNIST is not in data/MNIST/raw")


def pytest_addoption(parser):
    parser.addoption(
        "--method", metavar="FILE", help="hold the algorithm in this file to what all must keep to, and no other"
    )


def pytest_configure(config):
    if config.option.method:
        config.option.method = str(Path(config.option.method).resolve())  # for workers too, wherever they are
        try:
            plugins.algorithm(config.option.method)
            plugins._before.clear()  # tests put things of their own into Chorus
        except UserError as error:
            raise pytest.UsageError(f"--method {error}") from error


def pytest_collection_modifyitems(config, items):
    if config.option.method:
        name, every = Path(config.option.method).stem, list(items)
        items[:] = [item for item in every if name in _named(item)]
        config.hook.pytest_deselected(items=[item for item in every if name not in _named(item)])


def _named(item) -> list:
    """What a test is about: the values of its parameters."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else []
    return [part for value in values for part in (value if isinstance(value, tuple) else (value,))]


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """`--jobs auto` is one run after another in a test's own process, where it can be looked into; a test of runs side by
    side says how many."""
    monkeypatch.setattr(scheduling, "cores", lambda: 1)


@contextmanager
def default_signals():
    """Inside, a process that is begun hears of Ctrl-C and of a closed terminal, as in a terminal: what is ignored here
    (nohup, a shell's background) would be ignored there too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class CutWire(Wire):
    """Counts as ever, but zeros arrive in place of tensors, and no examples or rows of examples in place of such.

    With it a client can know its own data only: if its answer still moves when everybody else's data change, something
    has reached it without passing the wire.
    """

    def _carry(self, direction, kind, rows, edges):
        return [map_leaves(_nothing, row) for row in super()._carry(direction, kind, rows, edges)]


def _nothing(leaf):
    if isinstance(leaf, Rows):
        return Rows(leaf.tensor[:0])
    return Examples(leaf.indices[:0], 0) if isinstance(leaf, Examples) else torch.zeros_like(leaf)


def map_leaves(function, tree):
    """The same tree with `function` applied to its leaves; None and plain values stay as they are."""
    return mapped(lambda leaf: function(leaf) if isinstance(leaf, torch.Tensor | Rows | Examples) else leaf, tree)


def tiny_data(n_train: int = 60, n_test: int = 30, n_classes: int = 3, size: int = 12, seed: int = 0) -> Data:
    """Random images [1, size, size] whose brightness tells their class; labels in turn, so every class is there."""
    generator = np.random.default_rng(seed)
    y = np.arange(n_train + n_test) % n_classes
    x = generator.integers(0, 120, (len(y), 1, size, size)) + (y * 130 // n_classes)[:, None, None, None]
    x = x.astype(np.uint8)
    return from_arrays("tiny", (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:]), tuple("abcdefghij"[:n_classes]))


def with_public(data: Data) -> Data:
    """With twelve public examples of another tiny data set behind it."""
    size, n_classes = data.shape[1], len(data.classes)
    return datasets.with_public(data, tiny_data(n_train=12, n_test=3, n_classes=n_classes, size=size, seed=5))


def tiny_federation(
    data: Data | None = None,
    shares=None,
    model: str | tuple[str, ...] = "LeNet5",
    feature_dim: int = 6,
    dtype=torch.float64,
    wire: Wire | None = None,
    heads: bool = False,
    **others,
) -> Federation:
    """Three clients with 10, 20 and 30 examples of the tiny data, in float64 unless told otherwise."""
    data = data or tiny_data()
    shares = shares if shares is not None else [range(10), range(10, 30), range(30, 60)]
    names = (model,) if isinstance(model, str) else model
    build = [partial(models.build, name, data.shape, len(data.classes), feature_dim, heads) for name in names]
    shares = [np.array(share) for share in shares]
    return Federation.of(data, shares, build, dtype=dtype, wire=wire or Wire(), **others)


def public_federation(data: Data | None = None, **others) -> Federation:
    """The tiny federation with the public examples of `data`, by default those of `with_public`."""
    data = data or with_public(tiny_data())
    return tiny_federation(data, public=data.public, **{"model": "MLP", **others})


def options_for(name: str, **flags) -> Options:
    """Options of an algorithm on the tiny data: small batches, one epoch, one thread, one pass of feddf's server, the rest
    as declared."""
    defaults = {"algorithm": name, "batch_size": 8, "epoch_per_round": 1, "lr": 0.05, "optimizer": "sgd", "threads": 1}
    own = {"distill_steps": 0} if name == "feddf" else {}
    return algorithms.options_of(name)(**{**defaults, **own, **flags})


def play(federation: Federation, options: Options, rounds: int = 1):
    """start and `rounds` rounds of an algorithm -> (state, the last Round)."""
    module = algorithms.module_of(options)
    state, done = module.start(federation, options), None
    for r in range(1, rounds + 1):
        done = module.communicate(federation.at(r), state, options)
    return state, done


def weights_of(answer, client: int = 0) -> dict[str, torch.Tensor]:
    """Copies of the weights of an answer's model."""
    return {name: tensor.detach().clone() for name, tensor in answer(client).state_dict().items()}


def from_plain(cls, values):
    """The options of a run as `options.plain` has told them."""

    def value(v):
        if isinstance(v, list):
            return tuple(value(part) for part in v)
        return math.inf if v == "inf" else v

    return cls(**{name: value(v) for name, v in values.items()})


def carried_out(run_experiment, force, loggers, watch):
    """How a run ends that is carried out here, as any place does it."""
    with single.end_of(run_experiment) as ending:
        ending.end = experiment.run(run_experiment, force, watch, loggers)
    return ending.end


def same_run(item: tuple[str, dict], other: tuple[str, dict], model: str, rounds: int = 3) -> None:
    """Asserts that two algorithms, (name, flags) each, leave the same losses, answers and bytes to the last bit, in float32
    and with sampled clients."""
    here, there = (tiny_federation(model=model, participation=0.7, dtype=torch.float32) for _ in range(2))
    _, done = play(here, options_for(item[0], **item[1]), rounds)
    _, expected = play(there, options_for(other[0], **other[1]), rounds)
    assert list(done.models) == list(expected.models)
    assert torch.equal(done.loss, expected.loss)
    for name, answer in done.models.items():
        for k in here.clients:
            ours, theirs = weights_of(answer, k), weights_of(expected.models[name], k)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert here.wire.collect() == there.wire.collect()


def spied(monkeypatch, module):
    """What is given to the clients, in the order of the calls of the loss."""
    recorded, inner = [], module.loss

    def watchful(model, batch, context, options):
        recorded.append(context)
        return inner(model, batch, context, options)

    monkeypatch.setattr(module, "loss", watchful)
    return recorded


def uneven_shares(data: Data) -> list[list[int]]:
    """Shares of the tiny data: client 0 lacks class 2, client 1 has class 1 alone, client 2 has 0, 1 and 2."""
    by_class = [[i for i in range(60) if data.y[i] == c] for c in range(3)]
    return [by_class[0][:6] + by_class[1][:4], by_class[1][4:9], by_class[0][6:9] + by_class[1][9:11] + by_class[2][:7]]


def line_of(work, *args) -> str:
    """The one line with which work(*args) is refused."""
    with pytest.raises(UserError) as raised:
        work(*args)
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    return line


def drifting(**others) -> Federation:
    """Three clients with other mixes of the classes, and a softmax regression of four pixels: a convex problem, on which
    local steps drift apart."""
    data = tiny_data(size=2)
    shares = [np.array(share) for share in uneven_shares(data)]
    return Federation.of(data, shares, [lambda: models.Net(torch.nn.Flatten(), 4, 3)], dtype=torch.float64, **others)


def optimum(federation: Federation, decay: float, p=(1 / 3, 1 / 3, 1 / 3)) -> dict[str, torch.Tensor]:
    """Where sum_k p_k (cross-entropy of client k) + decay / 2 ||w||^2 of `drifting` is least: twenty steps of Newton."""
    parts = [
        (federation.data.images(share, torch.float64).flatten(1), federation.data.y[share]) for share in federation.shares
    ]

    def objective(w):
        matrix, bias = w[:12].view(3, 4), w[12:]
        losses = [torch.nn.functional.cross_entropy(x @ matrix.T + bias, y) for x, y in parts]
        return sum(p_k * value for p_k, value in zip(p, losses, strict=True)) + decay / 2 * w.square().sum()

    w = torch.zeros(15, dtype=torch.float64)
    for _ in range(20):
        slope = torch.autograd.functional.jacobian(objective, w)
        w = w - torch.linalg.solve(torch.autograd.functional.hessian(objective, w), slope)
    return {"classifier.weight": w[:12].view(3, 4), "classifier.bias": w[12:]}


WHOLE = 60  # a batch size that no share of the tiny data exceeds: one full batch an epoch


def two_of_three(**others) -> Federation:
    """Build the tiny federation of which two clients take part in a round."""
    return tiny_federation(participation=0.7, **{"model": "MLP", **others})


def only(row: dict[str, torch.Tensor], names) -> dict[str, torch.Tensor]:
    """Pick some tensors of a row."""
    return {name: tensor for name, tensor in row.items() if name in names}


def mean_of(rows, n) -> dict[str, torch.Tensor]:
    """Compute sum_k n_k w_k / sum_k n_k, tensor by tensor."""
    return {name: sum(n_k * row[name] for row, n_k in zip(rows, n, strict=True)) / sum(n) for name in rows[0]}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Say whether two rows of weights are equal to the bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 1e-10) -> None:
    """Assert that two rows of weights differ by no more than the tolerance."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance)


def batch_of(federation: Federation, indices) -> Batch:
    """Make one batch of these examples."""
    return Batch(federation.data.images(indices, torch.float64), federation.data.y[indices], indices)


def elsewhere(federation: Federation, seed: int = 1) -> dict[str, torch.Tensor]:
    """Draw a row of weights that is not the initial one in any number, running statistics included."""
    draw, row = torch.Generator().manual_seed(seed), federation.initial()
    return {
        name: w + torch.rand(w.shape, generator=draw, dtype=w.dtype) if w.is_floating_point() else w
        for name, w in row.items()
    }


def away(item: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two rows of weights."""
    assert item.keys() == other.keys()
    return max((item[name] - other[name]).abs().max().item() for name in item)


def gradient_of(federation: Federation, row: dict[str, torch.Tensor], indices) -> dict[str, torch.Tensor]:
    """The gradient of the mean cross-entropy on these examples, in training mode, at a row of weights: slow and obvious."""
    model = federation.architectures[0]().double().train()
    model.load_state_dict(row)
    logits = model(federation.data.images(indices, torch.float64))[1]
    torch.nn.functional.cross_entropy(logits, federation.data.y[indices]).backward()
    return {name: w.grad.clone() for name, w in model.named_parameters()}


NOBODY = 65534  # the user id of somebody who owns nothing


@pytest.fixture
def open_folder():
    """A folder in which every user may read and write; those above `tmp_path` are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@contextmanager
def closed(*paths: Path):
    """Inside, this process may not read these files and folders. Root may read everything, so root is another user inside,
    who may not read Python's own files: what is imported late has to be imported before."""
    for encoding in ("cp437", "latin1"):  # of archives and of pickled bytes
        codecs.lookup(encoding)
    modes, user = {path: path.stat().st_mode for path in paths}, os.geteuid()
    for path in paths:
        path.chmod(0)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)


def sealed(folder: Path) -> saves.Run:
    """The run of a folder whose files a test has made or changed, with the digests of what is in them now."""
    read = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".npz", ".pt")]
    saves.write_done(folder, {path.name: saves.digest_of(path) for path in read})
    return saves.load(folder)


def keeping(run: saves.Run, name: str, content) -> saves.Run:
    """A run whose folder has one file more, or another: named arrays of an `.npz`, or a tree of tensors of a `.pt`."""
    write = saves.write_arrays if name.endswith(".npz") else saves.write_tensors
    write(run.folder / name, content)
    run.digests[name] = saves.digest_of(run.folder / name)
    saves.write_done(run.folder, run.digests)
    return run


def one_by_one(own) -> dict[str, np.ndarray]:
    """What `confusion.npz` says of the clients' own test examples, of matrices [K, C, C] by true and predicted class."""
    pairs = [
        (k, true, result) for k, table in enumerate(own) for (true, result), n in np.ndenumerate(table) for _ in range(n)
    ]
    clients, true, actual = np.array(pairs).T
    return {"own_true": true, "own_predicted": actual, "own_offsets": np.searchsorted(clients, np.arange(len(own) + 1))}
