"""Hold each method to its slow version, to the methods that it becomes at its limits, and to what it may send.

A row of a table is a case. What is special about one algorithm is in a file of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import oracles
import pytest
import torch
from conftest import (
    WHOLE,
    CutWire,
    away,
    batch_of,
    close,
    drifting,
    elsewhere,
    line_of,
    mean_of,
    only,
    optimum,
    options_for,
    play,
    public_federation,
    same,
    spied,
    tiny_data,
    tiny_federation,
    uneven_shares,
    weights_of,
)

import algorithms
from algorithms import fml
from federation import Federation
from federation.wire import Wire


def table(rows):
    """Parametrise a test over the rows of a table; an id begins with the name of the algorithm."""
    return pytest.mark.parametrize("case", [pytest.param(row, id=row.id) for row in rows])


def compare(ours, theirs, within):
    """Assert that two trees have the same form and differ in no number by more than `within`; 0 is to the bit."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, branch in theirs.items():
            compare(ours[key], branch, within)
    elif isinstance(theirs, list | tuple):
        for left, right in zip(ours, theirs, strict=True):
            compare(left, right, within)
    elif theirs is None:
        assert ours is None
    elif isinstance(theirs, torch.Tensor) and (within == 0 or not theirs.is_floating_point()):
        assert torch.equal(ours, theirs)
    else:
        torch.testing.assert_close(ours, torch.as_tensor(theirs, dtype=ours.dtype), rtol=0, atol=within)


# --- slow versions of whole rounds ---


@dataclass
class Rounds:
    """Some rounds of a method and of its slow version."""

    name: str
    label: str
    flags: dict
    world: dict = field(default_factory=dict)  # of the federation
    rounds: int = 3
    build: Callable[..., Federation] = tiny_federation
    within: float = 1e-10

    @property
    def id(self):
        return f"{self.name}-{self.label}"


FULL, TWO_OF_THREE, MLP = {"batch_size": WHOLE}, {"participation": 0.7}, {"model": "MLP"}
SOME = {**MLP, **TWO_OF_THREE}
SERVERS = list(algorithms.ALGORITHMS["fedopt"].SERVER_STEPS)
SERVER = {"server_lr": 0.3, "server_momentum": 0.8, "beta1": 0.7, "beta2": 0.6, "tau": 0.02}
INNER = {"lam": 2.0, "inner_lr": 0.1, "inner_steps": 3}
MIXED = {"model": ("MLP", "LeNet5")}


def rounds_by_flag():
    """List cases with several values of a flag."""
    for server in SERVERS:
        yield Rounds("fedopt", server, {"server_optimizer": server, **FULL, **SERVER}, TWO_OF_THREE)
    for momentum in (0.0, 0.9):
        for straggler in (0.0, 1.0):
            flags = {
                "momentum": momentum,
                "straggler": straggler,
                "weight_decay": 0.1,
                "batch_size": 4,
                "epoch_per_round": 2,
            }
            yield Rounds("fednova", f"momentum={momentum}-straggler={straggler}", flags, SOME, rounds=2)
    for part in (1.0, 0.7):
        world, label = {**MLP, "participation": part}, f"participation={part}"
        flags = {"alpha_coef": 0.3, **FULL, "epoch_per_round": 4, "weight_decay": 0.0}
        yield Rounds("feddyn", label, flags, world)
        for variate in (1, 2):
            flags = {"variate": variate, "server_lr": 0.7, **FULL, "epoch_per_round": 3}
            yield Rounds("scaffold", f"variate={variate}-{label}", flags, world)
    for head, body, rounds in ((3, 2, 1), (3, 2, 2), (4, 1, 1)):
        flags = {"head_epochs": head, "epoch_per_round": body, **FULL, "momentum": 0.5, "weight_decay": 0.0}
        yield Rounds("fedrep", f"head_epochs={head}-rounds={rounds}", flags, MLP, rounds)
    for models, part in ((("MLP",), 1.0), (("MLP", "LeNet5"), 1.0), (("MLP", "LeNet5"), 0.7)):
        flags = {"distill_epochs": 3, "distill_lr": 0.01, "distill_batch_size": 12, **FULL}
        world, label = {"model": models, "participation": part, "seed": 2}, f"{'+'.join(models)}-participation={part}"
        yield Rounds("feddf", label, flags, world, rounds=1, build=public_federation)
    for size in (8, 100):
        flags = {"optimizer": "adam", "lr": 0.01, "epoch_per_round": 2, "batch_size": size}
        world = {**MLP, "shares": [[3, 30, 31], [50, 2], range(10, 30)]}
        yield Rounds("centralized", f"batch_size={size}", flags, world, rounds=2)


TWO_STEPS, THREE_STEPS = ({**FULL, "epoch_per_round": n} for n in (2, 3))
UNEVEN = {"shares": uneven_shares(tiny_data()), **TWO_OF_THREE}
MUTUAL = {"mutual_own": 0.3, "mutual_shared": 0.6, "feature_dim": 6}
METHODS = [
    Rounds("fedavg", "several_steps", THREE_STEPS, MLP),
    Rounds("fedprox", "one_client", {"mu": 2.0, **THREE_STEPS}, {**MLP, "shares": [range(30)]}, rounds=2),
    Rounds("fedprox", "two_of_three", {"mu": 2.0, **THREE_STEPS}, SOME),
    Rounds("ditto", "all", {"lam": 0.8, **TWO_STEPS}, MLP),
    Rounds("ditto", "two_of_three", {"lam": 0.8, **TWO_STEPS}, SOME),
    Rounds("pfedme", "all", {**TWO_STEPS, "lr": 0.05, **INNER}, MLP, rounds=2),
    Rounds("pfedme", "beta=0.5", {**FULL, "beta": 0.5, "lr": 0.05, **INNER}, SOME),
    Rounds("perfedavg", "alpha=0", {"adapt_lr": 0.0, **TWO_STEPS, "lr": 0.1}, MLP, rounds=1),
    Rounds("perfedavg", "alpha=0.3", {"adapt_lr": 0.3, **TWO_STEPS, "lr": 0.1}, SOME),
    Rounds("fedala", "two_of_three", {"ala_share": 1.0, "ala_lr": 1000.0, "ala_first": 3, **FULL}, SOME, rounds=5),
    Rounds("apfl", "two_steps", {"mixture": 0.3, "lr": 0.3, **TWO_STEPS}, MLP),
    Rounds("apfl", "two_of_three", {"mixture": 0.3, **FULL}, SOME),
    Rounds("fml", "two_of_three", {**MUTUAL, "momentum": 0.5, **TWO_STEPS, "model": ("MLP",)}, SOME),
    Rounds("fedproto", "two_of_three", {"lambda_proto": 0.7, **TWO_STEPS}, TWO_OF_THREE),
    Rounds("fedproto", "uneven", {"lambda_proto": 0.7, **FULL}, UNEVEN),
    Rounds("fedmd", "mixed", {"pretrain_epochs": 0, **FULL, "digest_batch_size": 12}, MIXED, 1, public_federation),
    Rounds("independent", "adam", {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1, "epoch_per_round": 2}, MLP),
    *rounds_by_flag(),
]


@table(METHODS)
def test_each_method_is_its_oracle(case):
    options, federation = options_for(case.name, **case.flags), case.build(**case.world)
    expected = getattr(oracles, case.name)(case.build(**case.world), options, case.rounds)
    state, done = play(federation, options, case.rounds)
    for name, rows in expected["models"].items():
        for k in federation.clients:
            compare(weights_of(done.models[name], k), rows[k] if isinstance(rows, list) else rows, case.within)
    for key, tree in expected.get("state", {}).items():
        compare(state[key], tree, case.within)
    if expected.get("loss") is not None:
        torch.testing.assert_close(done.loss, expected["loss"], rtol=0, atol=1e-10)


# --- slow versions of losses ---


@dataclass
class Loss:
    """A batch, and what the loss of a method is given besides."""

    name: str
    label: str
    flags: dict
    model: str
    batch: range = range(8)
    extra: Callable = lambda federation: None
    net: Callable = lambda federation, options: federation.model(0, federation.initial())
    within: float = 1e-8  # of a slope

    @property
    def id(self):
        return f"{self.name}-{self.label}"


def last_gradients(federation):
    """Draw what FedDyn's loss is given: what was received, and minus the gradient of last time."""
    draw = torch.Generator().manual_seed(2)
    g = {n: torch.rand(w.shape, generator=draw, dtype=w.dtype) for n, w in federation.skeletons[0].named_parameters()}
    return {"w": elsewhere(federation), "-g": {name: -value for name, value in g.items()}}


def prototypes(federation):
    draw = torch.Generator().manual_seed(3)
    return {"prototypes": torch.randn(3, 6, generator=draw, dtype=torch.float64), "held": torch.tensor([True, False, True])}


def pair(federation, options):
    """A pair of networks with different weights."""
    nets = federation.paired(fml.shared_of(federation, options)).skeletons[0]
    nets.own.load_state_dict(federation.initial(0))
    return nets


LOSSES = [
    Loss("fedprox", "CNN4", {"mu": 0.3}, "CNN4", extra=elsewhere),
    Loss("ditto", "CNN4", {"lam": 0.3}, "CNN4", extra=elsewhere),
    Loss("feddyn", "CNN4", {"alpha_coef": 0.3}, "CNN4", range(10), extra=last_gradients, within=1e-10),
    *(
        Loss("moon", model, {"mu": 3.0, "temperature": 0.2}, model, extra=lambda f: (elsewhere(f, 1), elsewhere(f, 2)))
        for model in ("LeNet5", "CNN4")
    ),
    Loss("pfedme", "MLP", INNER, "MLP", range(8, 20), within=1e-10),
    *(
        Loss("perfedavg", f"{n}_images", {"adapt_lr": 0.3}, "MLP", range(10, 10 + n), within=1e-12)
        for n in (8, 5, 4, 3, 2, 1)
    ),
    Loss("fedproto", "LeNet5", {"lambda_proto": 0.7}, "LeNet5", range(5), extra=prototypes, within=1e-12),
    Loss(
        "fml",
        "LeNet5",
        {"mutual_own": 0.3, "mutual_shared": 0.6, "feature_dim": 6},
        "LeNet5",
        range(5),
        net=pair,
        within=1e-12,
    ),
]


@table(LOSSES)
def test_each_loss_and_its_gradient_are_those_of_its_oracle(case):
    federation, options = tiny_federation(model=case.model), options_for(case.name, **case.flags)
    batch, extra = batch_of(federation, torch.tensor(case.batch)), case.extra(federation)
    model = case.net(federation, options).train()
    value, slopes = getattr(oracles, f"{case.name}_loss")(federation, model, batch, extra, options)
    if case.name == "moon":
        model.drop_from(federation.stream("dropout", 0))
    ours = algorithms.ALGORITHMS[case.name].loss(model, batch, extra, options)
    torch.testing.assert_close(ours.detach(), value, rtol=0, atol=min(case.within, 1e-10))
    ours.backward()
    assert away({name: w.grad for name, w in model.named_parameters()}, slopes) < case.within


# --- limits ---


@dataclass
class Limit:
    """A setting in which a method is another, round after round."""

    name: str
    label: str
    own: dict  # flags of it alone
    other: str
    setting: dict = field(default_factory=dict)  # flags of the other alone
    flags: dict = field(default_factory=dict)  # of both
    models: dict | None = None  # of ours, and which of theirs it is; None: all, of the same names
    equal: tuple = ()  # of "loss", "bytes", "trained", "names" (the answers are these alone), "keys" (of the states)
    state: tuple = ()  # entries of the states
    world: dict = field(default_factory=dict)  # of both federations
    wire: Callable[[], Wire] = Wire  # of ours
    build: Callable[..., Federation] = tiny_federation
    rounds: int = 3
    within: float = 0  # 0 is to the bit
    common_start: bool = False  # the clients of the other method begin with the same weights
    local_weights: str = ""  # an answer of ours that is what the clients of the other method trained
    without: str = ""  # the end of the names of tensors that differ
    patch: dict = field(default_factory=dict)  # functions of the module of ours that are replaced

    @property
    def id(self):
        return f"{self.name}-{self.label}-is-{self.other}"


def no_variates(federation, options, x, y, K, correction):
    return oracles.zeros(correction)


LONGER, SGD, HALF = {"epoch_per_round": 2}, {"momentum": 0.9}, {"momentum": 0.5}
ADAM, LOCAL, DECAY = {"optimizer": "adam", "lr": 0.01}, {"bn": "local"}, {"weight_decay": 0.1}
STEP = {**SGD, "lr_schedule": "step", "rounds": 4}
GLOBAL, PERSONAL = ({"models": {name: name}} for name in ("global", "personal"))
LOSS, BYTES, LOSS_AND_BYTES = ({"equal": parts} for parts in (("loss",), ("bytes",), ("loss", "bytes")))
ALONE = {**PERSONAL, **LOSS, "state": ("weights", "memory")}
PARTS = {"equal": ("loss", "bytes", "names", "keys"), "state": ("server", "frozen", "own")}
NO_NORMALISATION = {"equal": ("loss", "bytes", "names"), "state": ("server",)}


def sampled(model="LeNet5", **world):
    """Describe federations in float32, of which two of three clients take part."""
    return {"world": {**TWO_OF_THREE, "model": model, "dtype": torch.float32, **world}}


def limits_of_averages():
    """List methods that add something to averaging, on networks without and with BatchNorm."""
    for model in ("MLP", "CNN4"):
        bits, near = sampled(model), {**sampled(model, dtype=torch.float64), "within": 1e-10}
        for label, flags in {"momentum": SGD, "adam": ADAM, "bn": {**LOCAL, **DECAY}}.items():
            flags = {**LONGER, **flags}
            yield Limit("fedprox", f"mu=0-{model}-{label}", {"mu": 0.0}, "fedavg", {}, flags, **LOSS_AND_BYTES, **bits)
        for label, flags in {"sgd": {}, "adam": ADAM, "bn": LOCAL}.items():
            flags = {**LONGER, **SGD, **DECAY, **flags}
            yield Limit("moon", f"mu=0-{model}-{label}", {"mu": 0.0}, "fedavg", {}, flags, **LOSS_AND_BYTES, **bits)
        for label, flags in {"sgd": {}, "momentum": {**SGD, "clip_grad": 1.0}, "bn": {**SGD, **LOCAL}}.items():
            flags = {"momentum": 0.0, **FULL, **DECAY, "epoch_per_round": 3, **flags}  # all |a_k| are tau
            yield Limit("fednova", f"equal_steps-{model}-{label}", {}, "fedavg", {}, flags, **LOSS, **near)
        plain = {"server_optimizer": "sgd", "server_lr": 1.0, "server_momentum": 0.0}
        for label, flags in {"momentum": SGD, "adam": ADAM, "bn": LOCAL}.items():
            flags, case = {**LONGER, **flags}, f"plain_sgd-{model}-{label}"
            # Adam divides by roots of what is nearly 0: last bits grow
            far = {**near, "within": 1e-8} if label == "adam" else near
            yield Limit("fedopt", case, plain, "fedavg", {}, flags, **LOSS_AND_BYTES, **far)
        even = {"model": model, "shares": [range(k, 60, 4) for k in range(4)], "participation": 0.5}
        held = {"patch": {"renewed": no_variates}, "world": even, "within": 1e-10}
        yield Limit("scaffold", f"no_variates-{model}", {}, "fedavg", {}, {**LONGER, **DECAY}, **GLOBAL, **LOSS, **held)
        as_global = {"models": {"personal": "global"}, "state": ("server",), **LOSS_AND_BYTES}
        adam = {"optimizer": "adam", "momentum": 0.0, "weight_decay": 0.0}
        for label, flags in {"momentum": {**SGD, **DECAY}, "adam": adam}.items():
            flags, case = {**LONGER, **flags}, f"no_head_epochs-{model}-{label}"
            yield Limit("fedrep", case, {"head_epochs": 0}, "fedbabu", {}, flags, **as_global, **bits)
        for name, part in (("fedper", "body"), ("lg_fedavg", "head")):
            setting = {"local_upt_part": "full", "aggr_part": part}
            yield Limit(name, model, {}, "fedbabu", setting, STEP, **PERSONAL, **PARTS, **bits)


def limits_with_dropout():
    """List methods with personal models beside a common model, on networks with dropout and with BatchNorm."""
    for model in ("MLP_dropout", "CNN4"):
        bits = {**sampled(model), "rounds": 4}
        for label, flags in {"decay": DECAY, "momentum": STEP, "adam": {**ADAM, "straggler": 0.5}}.items():
            flags, case = {**LONGER, **flags}, f"{model}-{label}"
            alone = {**PERSONAL, **LOSS, **bits, "common_start": True}
            yield Limit("ditto", f"lambda=0-{case}", {"lam": 0.0}, "independent", {}, flags, **alone)
            yield Limit("ditto", f"lambda=0.7-{case}", {"lam": 0.7}, "fedavg", {}, flags, **GLOBAL, **BYTES, **bits)
        for flag, value in {"ala_lr": 0.0, "ala_layers": 0}.items():
            flags, also = {**SGD, **DECAY, **LONGER}, {**GLOBAL, **LOSS_AND_BYTES, "local_weights": "personal"}
            yield Limit("fedala", f"{flag}=0-{model}", {flag: value}, "fedavg", {}, flags, **also, **bits)


def limits_of_parts():
    """List methods that average a part of a network, or train it with several heads."""
    for model in ("LeNet5", "CNN4"):
        full, flags = {"local_upt_part": "full", "aggr_part": "full"}, {**STEP, **LONGER, "rounds": 3, "weight_decay": 1e-3}
        also = {**GLOBAL, "equal": ("loss", "bytes", "names", "trained"), "state": ("server",)}
        yield Limit("fedbabu", f"both_parts_full-{model}", full, "fedavg", {}, flags, **also, **sampled(model))
    for bn in ("average", "local"):
        for distill in ("none", "mutual"):
            flags, also = {"bn": bn, "model": ("CNN4",)}, {"models": {}, **LOSS, "state": PARTS["state"]}
            world = {"model": "CNN4"}
            yield Limit("mhmd", f"one_head-{bn}-{distill}", {"distill": distill}, "fedbabu", {}, flags, **also, world=world)
    for name, answer in (("fedbabu", GLOBAL), ("fedper", PERSONAL), ("lg_fedavg", PERSONAL)):
        yield Limit(name, "bn=local", LOCAL, name, **answer, **NO_NORMALISATION, world={**MLP, **TWO_OF_THREE})
    ways = {"plain": {}, "init=independent": {"init": "independent"}, "keep_optimizer": {"keep_optimizer": True, **ADAM}}
    for label, flags in ways.items():
        case = f"bn=local-{label}"
        yield Limit("fedavg", case, LOCAL, "fedavg", {}, flags, **GLOBAL, **NO_NORMALISATION, world=TWO_OF_THREE)


def limits_of_mixtures():
    """List methods whose clients have a model of their own beside one that travels."""
    labels = {"mutual_own": 1.0, "mutual_shared": 1.0, "weight_decay": 0.0, "feature_dim": 6}
    part = {"world": TWO_OF_THREE}
    yield Limit("fml", "labels_alone", labels, "fedavg", {}, HALF, **GLOBAL, state=("server",), **part)
    yield Limit("fml", "labels_alone", labels, "independent", {}, HALF, **PERSONAL, state=("weights",), **part)
    for mixture in (0.0, 0.4, 1.0):
        yield Limit("apfl", f"mixture={mixture}", {"mixture": mixture}, "fedavg", **GLOBAL, state=("server",), **part)
    none, alone = ({"mixture": mixture, "fixed_mixture": True} for mixture in (0.0, 1.0))
    normalised = {"world": {"model": "CNN4"}, "without": "num_batches_tracked", "within": 1e-12}
    as_global = {"models": {"personal": "global"}}
    yield Limit("apfl", "fixed_mixture=0-LeNet5", none, "fedavg", **as_global)
    yield Limit("apfl", "fixed_mixture=0-CNN4", none, "fedavg", **as_global, **normalised)
    yield Limit("apfl", "fixed_mixture=1-LeNet5", alone, "independent", **PERSONAL, common_start=True, within=1e-12)
    yield Limit("apfl", "fixed_mixture=1-CNN4", alone, "independent", **PERSONAL, common_start=True, **normalised)
    for lam, inner_lr in ((15.0, 0.02), (1.0, 0.1)):
        own = {"lam": lam, "inner_lr": inner_lr, "inner_steps": 1, "lr": 0.05 / (lam * inner_lr)}
        equal = {"world": {"shares": [range(20), range(20, 40), range(40, 60)], **TWO_OF_THREE}, "within": 1e-10}
        flags = {**LONGER, "rounds": 3}
        yield Limit("pfedme", f"one_inner_step-lambda={lam}", own, "fedavg", {"lr": 0.05}, flags, **GLOBAL, **equal)


def limits_of_outputs():
    """List methods that send outputs, or learn from them, and those of neighbours."""
    for model in ("LeNet5", "ResNet8"):  # without and with BatchNorm
        own, case = {"distill_epochs": 0, "batch_size": 8}, f"no_step_of_the_server-{model}"
        yield Limit("feddf", case, own, "fedavg", **LOSS_AND_BYTES, **sampled(model))
    own, flags = {"digest_epochs": 0, "pretrain_epochs": 0}, {"optimizer": "adam", "lr": 0.003}
    also = {**PERSONAL, **LOSS, "build": public_federation, **sampled("MLP")}
    yield Limit("fedmd", "no_digesting", own, "independent", {}, flags, **also)
    also = {**PERSONAL, **LOSS, "state": ("weights",)}
    yield Limit("fedproto", "lambda=0", {"lambda_proto": 0.0}, "independent", HALF, **also)
    for peers in ("local", "oracle"):
        own, case = {"fanout": 3, "peers": peers}, f"all_to_all-{peers}"
        also = {"state": ("weights",), "world": {**MLP, "shares": [range(3 * k, 3 * k + 3) for k in range(4)]}}
        yield Limit("epidemic", case, own, "dpsgd", {"topology": "full"}, HALF, **also, within=1e-10)
    none = {"lambda_kd": 0.0, "lambda_disc": 0.0}
    for optimizer in ("sgd", "adam"):
        flags = {"optimizer": optimizer}
        for label, own in {"paper": none, "as_published": {**none, "as_published": True}}.items():
            yield Limit("cfkd", f"no_weights-{label}-{optimizer}", own, "independent", {}, flags, **ALONE)
        yield Limit("fd", f"gamma=0-{optimizer}", {"fd_gamma": 0.0}, "independent", {}, flags, **ALONE)
    logits = {"fd_variant": "mse_logits"}
    yield Limit("fd", "mse_logits-lambda=0", {**logits, "lambda_kd": 0.0}, "independent", {}, flags, **ALONE)
    for name in ("cfkd", "fd"):
        yield Limit(name, "wire_cut", {}, "independent", {}, flags, **ALONE, wire=CutWire)
    yield Limit("fd", "one_client", {}, "independent", **ALONE, world={"shares": [range(20)]})
    yield Limit("fd", "as_published", {"as_published": True}, "fd", logits, **ALONE)


LIMITS = [*limits_of_averages(), *limits_with_dropout(), *limits_of_parts(), *limits_of_mixtures(), *limits_of_outputs()]


@table(LIMITS)
def test_limits(case, monkeypatch):
    for function, replacement in case.patch.items():
        monkeypatch.setattr(algorithms.ALGORITHMS[case.name], function, replacement)
    ours, theirs = case.build(**case.world, wire=case.wire()), case.build(**case.world)
    if case.common_start:
        theirs = replace(theirs, start=theirs.initial())
    options, other = options_for(case.name, **case.flags, **case.own), options_for(case.other, **case.flags, **case.setting)
    module, limit = algorithms.module_of(options), algorithms.module_of(other)
    state, expected = module.start(ours, options), limit.start(theirs, other)
    for r in range(1, case.rounds + 1):
        done = module.communicate(ours.at(r), state, options)
        as_expected = limit.communicate(theirs.at(r), expected, other)
        answers = {name: name for name in as_expected.models} if case.models is None else case.models
        assert list(done.clients) == list(as_expected.clients)
        if case.models is None or "names" in case.equal:
            assert list(done.models) == list(as_expected.models) == list(answers)
        for name, its in answers.items():
            for k in ours.clients:
                rows = weights_of(done.models[name], k), weights_of(as_expected.models[its], k)
                if case.without:
                    rows = [{n: w for n, w in row.items() if not n.endswith(case.without)} for row in rows]
                    assert sum("running" in n for n in rows[1]) == 8
                compare(*rows, case.within)
        for key in case.state:
            compare(state[key], expected[key], case.within)
        if "keys" in case.equal:
            assert state.keys() == expected.keys()
        if "loss" in case.equal:
            compare(done.loss, as_expected.loss, min(case.within, 1e-10))
        if "bytes" in case.equal:
            assert ours.wire.collect() == theirs.wire.collect()
        if "trained" in case.equal:
            compare(done.local_weights, as_expected.local_weights, case.within)
        if case.local_weights:
            for k, row in zip(as_expected.clients, as_expected.local_weights, strict=True):
                assert same(weights_of(done.models[case.local_weights], k), row), "the model after local training"


# --- what is sent ---


@dataclass
class Sent:
    """What passes in a round, and before the first, as (way, kind)."""

    name: str
    of_round: set
    label: str = ""
    before: set = field(default_factory=set)
    flags: dict = field(default_factory=dict)
    world: dict = field(default_factory=dict)
    build: Callable[..., Federation] = tiny_federation
    nbytes: dict = field(default_factory=dict)  # {(way, kind): a function of the federation -> {client: bytes}}

    @property
    def id(self):
        return f"{self.name}-{self.label}" if self.label else self.name


def of_parameters(federation):
    return dict.fromkeys(federation.clients, 4 * sum(w.numel() for w in federation.skeletons[0].parameters()))


def of_a_model(federation):
    return dict.fromkeys(federation.clients, sum(w.nbytes for w in federation.initial().values()))


def of_outputs(federation):
    return dict.fromkeys(federation.clients, 3 * 3 * 8 + 3 * 8)  # a mean a class, and its count


def of_examples(federation):
    return {k: len(share) * (12 * 12 + 8) for k, share in enumerate(federation.shares)}  # a byte a pixel, an int64 label


WEIGHTS = {("down", "weights"), ("up", "weights")}
AVERAGED = {*WEIGHTS, ("up", "n_k")}
VARIATES = {*WEIGHTS, ("down", "variates"), ("up", "variates")}
CHANGES = {("down", "weights"), ("up", "normalised changes"), ("up", "|a_k|"), ("up", "n_k")}
OUTPUTS, PROTOTYPES = ({("up", kind), ("down", kind)} for kind in ("mean outputs", "prototypes"))
EXAMPLES, UNTRAINED = {("up", "examples"): of_examples}, {("up", "mean outputs"): of_outputs}
FLOATS = {"model": "CNN4", "dtype": torch.float32}
AS_FEDAVG = ("fedavg", "fedprox", "fedopt", "moon", "ditto", "perfedavg", "fedala", "apfl", "fml")
AS_FEDAVG += ("fedbabu", "fedper", "lg_fedavg", "fedrep")
SENT = [
    *(Sent(name, AVERAGED) for name in AS_FEDAVG),
    Sent("feddyn", WEIGHTS),
    Sent("pfedme", WEIGHTS),
    Sent("fednova", CHANGES, world=FLOATS, nbytes=dict.fromkeys(CHANGES - {("up", "|a_k|"), ("up", "n_k")}, of_a_model)),
    Sent("scaffold", VARIATES, world=FLOATS, nbytes={("up", "variates"): of_parameters}),
    Sent("feddf", AVERAGED, build=public_federation),
    Sent("fedproto", PROTOTYPES),
    Sent("epidemic", {("between", "weights")}),
    Sent("independent", set()),
    Sent("centralized", set(), before={*EXAMPLES}, nbytes=EXAMPLES),
    Sent("fd", OUTPUTS),
    Sent("fd", OUTPUTS, "mse_logits", before={*UNTRAINED}, flags={"fd_variant": "mse_logits"}, nbytes=UNTRAINED),
]


@table(SENT)
def test_what_is_sent(case):
    options, federation = options_for(case.name, **case.flags), case.build(**case.world)
    module = algorithms.module_of(options)
    state = module.start(federation, options)
    for r in (0, 1, 2):
        if r:
            module.communicate(federation.at(r), state, options)
        crossed = federation.wire.collect()
        assert crossed.keys() == (case.of_round if r else case.before)
        for key in crossed.keys() & case.nbytes.keys():
            assert crossed[key] == case.nbytes[key](federation)


# --- states ---


@pytest.mark.parametrize("name", ["fedprox", "ditto"])
def test_clients_are_drawn_back_to_what_the_server_sent_in_that_round(name, monkeypatch):
    module = algorithms.ALGORITHMS[name]
    federation, recorded = tiny_federation(**TWO_OF_THREE), spied(monkeypatch, module)
    options = options_for(name, **FULL)
    state = module.start(federation, options)
    for r in (1, 2, 3):
        sent = state["server"]
        module.communicate(federation.at(r), state, options)
        assert len(recorded) == 2, "of ditto, the personal models; the other training has the cross-entropy"
        assert all(same(anchor, sent) for anchor in recorded)
        recorded.clear()


@pytest.mark.parametrize(
    ("name", "flags", "answers", "kept", "part"),
    [
        ("ditto", {}, ["personal", "global"], ("personal", "memory"), None),
        ("pfedme", {}, ["personal", "global"], ("personal",), None),
        ("fedrep", {"head_epochs": 1}, ["personal"], ("own",), oracles.HEAD),
    ],
    ids=["ditto", "pfedme", "fedrep"],
)
def test_what_is_personal_is_the_headline_and_is_kept_of_those_alone_that_took_part(name, flags, answers, kept, part):
    federation = tiny_federation(**TWO_OF_THREE)
    state, done = play(federation, options_for(name, **flags))
    assert list(done.models) == answers
    assert all(set(state[key]) == set(done.clients) for key in kept)
    (absent,) = set(federation.clients) - set(done.clients)
    row, initial = weights_of(done.models["personal"], absent), federation.initial()
    assert same(only(row, part or row), only(initial, part or initial))
    if part:
        assert all(row.keys() == part for row in state[kept[0]].values())


STATISTICS = [
    ("fednova", {}, 1, (10, 20, 30), ()),
    *(("fedopt", {"server_optimizer": name}, 2, (10, 20, 30), ("m", "v")) for name in SERVERS),
    *(("feddyn", {"bn": bn, "alpha_coef": 1.0}, 2, (1, 1, 1), ("h", "g")) for bn in ("average", "local")),
    *(("scaffold", {"bn": bn, "variate": i}, 2, (1, 1, 1), ("c", "c_i")) for bn in ("average", "local") for i in (1, 2)),
]


@pytest.mark.parametrize(
    ("name", "flags", "rounds", "n", "learnt"),
    STATISTICS,
    ids=["-".join([name, *map(str, flags.values())]) for name, flags, *_ in STATISTICS],
)
def test_the_server_steps_in_parameters_that_travel_and_averages_statistics(name, flags, rounds, n, learnt):
    federation = tiny_federation(model="CNN4")
    state, done = play(federation, options_for(name, **flags), rounds)
    names, local = {name for name, _ in federation.skeletons[0].named_parameters()}, flags.get("bn") == "local"
    for key in learnt:
        rows = [state[key]] if state[key].keys() - set(federation.clients) else state[key].values()
        assert all(row.keys() == names - (federation.names("bn") if local else set()) for row in rows)
    running = [name for name in state["server"] if "running" in name]
    assert len(running) == (0 if local else 8)
    close(only(state["server"], running), mean_of([only(row, running) for row in done.local_weights], n), 1e-12)


@pytest.mark.parametrize(
    ("name", "flags", "of_server", "of_clients"),
    [
        ("scaffold", {"epoch_per_round": 2}, "c", "c_i"),
        ("feddyn", {"alpha_coef": 0.5, "optimizer": "adam", "lr": 1e-3}, "h", "g"),  # whatever led there
    ],
    ids=["scaffold", "feddyn"],
)
def test_the_servers_correction_is_the_mean_of_all_clients_and_the_absent_keep_theirs(name, flags, of_server, of_clients):
    federation = tiny_federation(model="MLP", participation=0.4, shares=[range(k, 60, 5) for k in range(5)])
    module, options = algorithms.ALGORITHMS[name], options_for(name, **flags)
    state, recorded = module.start(federation, options), set()
    for r in range(1, 6):
        before = state[of_clients]
        done = module.communicate(federation.at(r), state, options)
        recorded |= set(done.clients)
        assert state[of_clients].keys() == recorded, "nobody has one who never took part"
        assert all(row is before[k] for k, row in state[of_clients].items() if k not in done.clients)
        everyone = [state[of_clients].get(k, oracles.zeros(state[of_server])) for k in federation.clients]
        assert away(state[of_server], oracles.even(everyone)) < 1e-12
    assert len(recorded) > 2


DRIFT = {"batch_size": WHOLE, "epoch_per_round": 5, "lr": 0.2, "weight_decay": 0.1}


@pytest.mark.parametrize("participation", [1.0, 0.7])
@pytest.mark.parametrize(
    ("name", "flags"),
    [("feddyn", {"alpha_coef": 1.0}), ("scaffold", {"variate": 1}), ("scaffold", {"variate": 2})],
    ids=["feddyn", "scaffold-variate=1", "scaffold-variate=2"],
)
def test_clients_that_drift_apart_reach_the_optimum(name, flags, participation):
    federation = drifting(participation=participation)
    _, done = play(federation, options_for(name, **flags, **DRIFT), rounds=200)
    assert away(weights_of(done.models["global"]), optimum(federation, 0.1)) < 1e-6


@pytest.mark.parametrize("rounds", [100, 200])
def test_clients_that_drift_apart_do_not_reach_it_with_fedavg(rounds):
    federation = drifting()
    _, done = play(federation, options_for("fedavg", **DRIFT), rounds)
    n = [len(share) / 27 for share in federation.shares]
    assert away(weights_of(done.models["global"]), optimum(federation, 0.1, n)) > 1e-2, "nor that of its own weights"


# --- flags ---

DEFAULTS = {
    "fedavg": {"optimizer": "sgd", "momentum": 0, "weight_decay": 0, "participation": 1},
    "fednova": {
        **{"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "batch_size": 32, "epoch_per_round": 2, "weight_decay": 1e-4}
    },
    "fedopt": {
        **{"beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "optimizer": "sgd"},
        **{"batch_size": 20, "epoch_per_round": 1, "momentum": 0, "rounds": 1500},
    },
    "feddyn": {
        **{"alpha_coef": 0.01, "lr": 0.1, "batch_size": 50, "epoch_per_round": 5, "weight_decay": 1e-3, "optimizer": "sgd"}
    },
    "moon": {
        **{"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-5, "batch_size": 64, "epoch_per_round": 10},
        **{"mu": 1.0, "temperature": 0.5},
    },
    "scaffold": {"optimizer": "sgd", "momentum": 0, "variate": 2, "server_lr": 1},
    "pfedme": {
        **{"lam": 15, "inner_steps": 5, "inner_lr": 0.1, "beta": 1},
        **{"lr": 0.005, "batch_size": 20, "rounds": 800, "optimizer": "sgd"},
    },
    "perfedavg": {
        **{"adapt_lr": 0.01, "batch_size": 40, "rounds": 1000, "optimizer": "sgd"},
        "lr": 0.1,  # chosen on validation: the docstring
    },
    "fedala": {
        **{"ala_layers": 1, "ala_share": 0.8, "ala_lr": 1.0},
        **{"lr": 0.005, "batch_size": 10, "epoch_per_round": 1, "optimizer": "sgd", "rounds": 2000},
    },
    "fedrep": {
        **{"head_epochs": 10, "epoch_per_round": 1, "batch_size": 10},
        **{"optimizer": "sgd", "lr": 0.01, "momentum": 0.5, "weight_decay": 1e-4},
    },
    "fml": {
        **{"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        **{"batch_size": 128, "epoch_per_round": 1, "rounds": 90, "shared_model": "LeNet5"},
    },
    "feddf": {"distill_steps": 1000},
    "cfkd": {"lambda_kd": 10.0, "lambda_disc": 1.0, "n_avg": 10},
    "fedgkt": {
        **{"temperature": 3.0, "kd_alpha": 1.0, "optimizer": "amsgrad", "weight_decay": 1e-4},
        **{"model": ("ResNet8",), "server_model": "ResNet55"},
    },
    "fd": {"fd_gamma": 1.0},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_those_of_the_paper_or_of_the_authors(name):
    options = algorithms.ALGORITHMS[name].Options(algorithm=name)
    assert {flag: getattr(options, flag) for flag in DEFAULTS[name]} == DEFAULTS[name]


PLAIN = "scaffold with --variate 2 requires plain SGD"


@pytest.mark.parametrize(
    ("name", "flags", "beginning", "end"),
    [
        ("fednova", {"optimizer": "adam"}, "--optimizer adam: fednova", "use --optimizer sgd --lr 0.02"),
        ("fednova", {"optimizer": "amsgrad"}, "--optimizer amsgrad: fednova", "use --optimizer sgd --lr 0.02"),
        ("scaffold", {"optimizer": "adam"}, f"--optimizer adam: {PLAIN}; use --optimizer sgd --lr 0.05, or", ""),
        ("scaffold", {"momentum": 0.9}, f"--momentum 0.9: {PLAIN}; use --momentum 0.0, or", ""),
        ("scaffold", {"clip_grad": 1.0}, f"--clip_grad 1.0: {PLAIN}; use --clip_grad 0.0, or", ""),
    ],
    ids=["fednova-adam", "fednova-amsgrad", "scaffold-adam", "scaffold-momentum", "scaffold-clip_grad"],
)
def test_an_optimizer_that_the_method_cannot_use_is_refused_by_name(name, flags, beginning, end):
    line = line_of(algorithms.ALGORITHMS[name].check, options_for(name, **flags), None, 60)
    assert line.startswith(beginning)
    assert line.endswith(end)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("fednova", {"momentum": 0.5}),
        ("scaffold", {}),
        *(("scaffold", {"variate": 1, **own}) for own in ({"optimizer": "adam"}, {"momentum": 0.9}, {"clip_grad": 1.0})),
    ],
    ids=["fednova-momentum", "scaffold", "scaffold-adam", "scaffold-momentum", "scaffold-clip_grad"],
)
def test_an_optimizer_that_the_method_can_use_is_not_refused(name, flags):
    module = algorithms.ALGORITHMS[name]
    for options in (options_for(name, **flags), module.Options(algorithm=name, **flags)):
        assert module.check(options, None, 60) == ""


# --- weights of terms ---


def from_the_start(federation, done):
    """Return how far each client's trained model is from the initial one, squared."""
    initial = federation.initial()
    return [sum((row[name] - initial[name]).square().sum() for name in row) for row in done.local_weights]


def between_two(federation, done):
    """Return how far the personal models of the first and the last client are from each other, squared."""
    first, last = (weights_of(done.models["personal"], k) for k in (0, 2))
    return [sum((first[name] - last[name]).square().sum() for name in first)]


@pytest.mark.parametrize(
    ("name", "flag", "rounds", "distances"),
    [("fedprox", "mu", 1, from_the_start), ("ditto", "lam", 3, between_two)],
    ids=["fedprox", "ditto"],
)
def test_a_larger_weight_of_the_term_keeps_models_nearer_to_each_other(name, flag, rounds, distances):
    measured = []
    for weight in (0.0, 1.0, 10.0):
        federation = tiny_federation(model="MLP")
        _, done = play(federation, options_for(name, **{flag: weight}, epoch_per_round=4), rounds)
        measured.append(distances(federation, done))
    assert all(free > near > nearer for free, near, nearer in zip(*measured, strict=True))
