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
        return f"{self.name}-{self.label}" if self.label else self.name


FULL, TWO_OF_THREE = {"batch_size": WHOLE}, {"participation": 0.7}
MLP = {"model": "MLP"}
SERVER = {"server_lr": 0.3, "server_momentum": 0.8, "beta1": 0.7, "beta2": 0.6, "tau": 0.02}
INNER = {"lam": 2.0, "inner_lr": 0.1, "inner_steps": 3}
MIXED = {"model": ("MLP", "LeNet5")}
METHODS = [
    Rounds("fedavg", "several_steps", {**FULL, "epoch_per_round": 3}, MLP),
    Rounds("fedprox", "one_client", {"mu": 2.0, **FULL, "epoch_per_round": 3}, {**MLP, "shares": [range(30)]}, rounds=2),
    Rounds("fedprox", "two_of_three", {"mu": 2.0, **FULL, "epoch_per_round": 3}, {**MLP, **TWO_OF_THREE}),
    Rounds("ditto", "all", {"lam": 0.8, **FULL, "epoch_per_round": 2}, MLP),
    Rounds("ditto", "two_of_three", {"lam": 0.8, **FULL, "epoch_per_round": 2}, {**MLP, **TWO_OF_THREE}),
    *(
        Rounds(
            "fednova",
            f"momentum={momentum}-straggler={straggler}",
            {"momentum": momentum, "straggler": straggler, "weight_decay": 0.1, "batch_size": 4, "epoch_per_round": 2},
            {**MLP, **TWO_OF_THREE},
            rounds=2,
        )
        for momentum in (0.0, 0.9)
        for straggler in (0.0, 1.0)
    ),
    *(
        Rounds("fedopt", server, {"server_optimizer": server, **FULL, **SERVER}, TWO_OF_THREE)
        for server in algorithms.ALGORITHMS["fedopt"].SERVER_STEPS
    ),
    *(
        Rounds(
            "feddyn",
            f"participation={part}",
            {"alpha_coef": 0.3, **FULL, "epoch_per_round": 4, "weight_decay": 0.0},
            {**MLP, "participation": part},
        )
        for part in (1.0, 0.7)
    ),
    *(
        Rounds(
            "scaffold",
            f"variate={variate}-participation={part}",
            {"variate": variate, "server_lr": 0.7, **FULL, "epoch_per_round": 3},
            {**MLP, "participation": part},
        )
        for variate in (1, 2)
        for part in (1.0, 0.7)
    ),
    Rounds("pfedme", "", {**FULL, "epoch_per_round": 2, "lr": 0.05, **INNER}, MLP, rounds=2),
    Rounds("pfedme", "beta=0.5", {**FULL, "beta": 0.5, "lr": 0.05, **INNER}, {**MLP, **TWO_OF_THREE}),
    Rounds("perfedavg", "alpha=0", {"adapt_lr": 0.0, **FULL, "epoch_per_round": 2, "lr": 0.1}, MLP, rounds=1),
    Rounds("perfedavg", "alpha=0.3", {"adapt_lr": 0.3, **FULL, "epoch_per_round": 2, "lr": 0.1}, {**MLP, **TWO_OF_THREE}),
    *(
        Rounds(
            "fedrep",
            f"head_epochs={head}-rounds={rounds}",
            {"head_epochs": head, "epoch_per_round": body, **FULL, "momentum": 0.5, "weight_decay": 0.0},
            MLP,
            rounds,
        )
        for head, body, rounds in ((3, 2, 1), (3, 2, 2), (4, 1, 1))
    ),
    Rounds("fedala", "", {"ala_share": 1.0, "ala_lr": 1000.0, "ala_first": 3, **FULL}, {**MLP, **TWO_OF_THREE}, rounds=5),
    Rounds("apfl", "two_steps", {"mixture": 0.3, "lr": 0.3, **FULL, "epoch_per_round": 2}, MLP),
    Rounds("apfl", "two_of_three", {"mixture": 0.3, **FULL}, {**MLP, **TWO_OF_THREE}),
    Rounds(
        "fml",
        "",
        {
            "mutual_own": 0.3,
            "mutual_shared": 0.6,
            "momentum": 0.5,
            **FULL,
            "epoch_per_round": 2,
            "feature_dim": 6,
            "model": ("MLP",),
        },
        {**MLP, **TWO_OF_THREE},
    ),
    Rounds("fedproto", "", {"lambda_proto": 0.7, **FULL, "epoch_per_round": 2}, TWO_OF_THREE),
    Rounds("fedproto", "uneven", {"lambda_proto": 0.7, **FULL}, {"shares": uneven_shares(tiny_data()), **TWO_OF_THREE}),
    Rounds("fedmd", "", {"pretrain_epochs": 0, **FULL, "digest_batch_size": 12}, MIXED, rounds=1, build=public_federation),
    *(
        Rounds(
            "feddf",
            f"{'+'.join(models)}-participation={part}",
            {"distill_epochs": 3, "distill_lr": 0.01, "distill_batch_size": 12, **FULL},
            {"model": models, "participation": part, "seed": 2},
            rounds=1,
            build=public_federation,
        )
        for models, part in ((("MLP",), 1.0), (("MLP", "LeNet5"), 1.0), (("MLP", "LeNet5"), 0.7))
    ),
    Rounds("independent", "adam", {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1, "epoch_per_round": 2}, MLP),
    *(
        Rounds(
            "centralized",
            f"batch_size={size}",
            {"optimizer": "adam", "lr": 0.01, "epoch_per_round": 2, "batch_size": size},
            {**MLP, "shares": [[3, 30, 31], [50, 2], range(10, 30)]},
            rounds=2,
        )
        for size in (8, 100)
    ),
]


@table(METHODS)
def test_each_method_is_its_oracle(case):
    options, federation = options_for(case.name, **case.flags), case.build(**case.world)
    expected = getattr(oracles, case.name)(case.build(**case.world), options, case.rounds)
    state, done = play(federation, options, case.rounds)
    for name, rows in expected["answers"].items():
        for k in federation.clients:
            compare(weights_of(done.answers[name], k), rows[k] if isinstance(rows, list) else rows, case.within)
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
    """A setting in which a method is another one, round after round."""

    name: str
    label: str
    flags: dict
    other: str
    other_flags: dict
    answers: dict | None = None  # of ours, and which of theirs it is; None: all, of the same names
    equal: tuple = ()  # of "loss", "bytes", "trained", "names" (the answers are these alone), "keys" (of the states)
    state: tuple = ()  # entries of the states
    world: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)  # what is other in the federation of the other method
    build: Callable[..., Federation] = tiny_federation
    rounds: int = 3
    within: float = 0  # 0 is to the bit
    common_start: bool = False  # the clients of the other method begin with the same weights
    trained: str = ""  # an answer of ours that is what the clients of the other method trained
    without: str = ""  # the end of the names of tensors that differ
    patch: dict = field(default_factory=dict)  # functions of the module of ours that are replaced

    @property
    def id(self):
        return f"{self.name}-{self.label}-is-{self.other}"


def no_variates(federation, options, x, y, K, correction):
    return oracles.zeros(correction)


BITS = {"equal": ("loss", "bytes"), "world": {"participation": 0.7, "dtype": torch.float32}}
LONGER = {"epoch_per_round": 2}
SGD = {"momentum": 0.9}
ADAM = {"optimizer": "adam", "lr": 0.01}
LOCAL = {"bn": "local"}
EQUAL = [range(20), range(20, 40), range(40, 60)]
DITTO = {
    "weight_decay": {"weight_decay": 0.1},
    "momentum": {"momentum": 0.9, "lr_schedule": "step", "rounds": 4},
    "adam-straggler": {**ADAM, "straggler": 0.5},
}
BODY = {"momentum": 0.9, "lr_schedule": "step", "rounds": 4}
LABELS = {"mutual_own": 1.0, "mutual_shared": 1.0, "momentum": 0.5, "weight_decay": 0.0, "feature_dim": 6}
HALF = {"momentum": 0.5}
ALONE = {"equal": ("loss",), "state": ("weights", "memory"), "answers": {"personal": "personal"}}


def with_model(model, **world):
    return {"world": {**BITS["world"], **world, "model": model}}


def limits_of_averages():
    """List those that are FedAvg, or independent learning, on networks without and with BatchNorm."""
    for model in ("MLP", "CNN4"):
        bits = {**BITS, **with_model(model)}
        double = with_model(model, dtype=torch.float64)
        for label, own in {"momentum": SGD, "adam": ADAM, "bn": {**LOCAL, "weight_decay": 0.1}}.items():
            flags = {**LONGER, **own}
            yield Limit("fedprox", f"mu=0-{model}-{label}", {"mu": 0.0, **flags}, "fedavg", flags, **bits)
        for label, own in {"sgd": {}, "adam": ADAM, "bn": LOCAL}.items():
            flags = {**LONGER, "weight_decay": 0.1, **SGD, **own}
            yield Limit("moon", f"mu=0-{model}-{label}", {"mu": 0.0, **flags}, "fedavg", flags, **bits)
        clipped = {**SGD, "clip_grad": 1.0}
        for label, own in {"sgd": {"momentum": 0.0}, "momentum": clipped, "bn": {**SGD, **LOCAL}}.items():
            flags = {"epoch_per_round": 3, "batch_size": WHOLE, "weight_decay": 0.1, **own}  # all |a_k| are tau
            yield Limit(
                "fednova", f"equal_steps-{model}-{label}", flags, "fedavg", flags, equal=("loss",), within=1e-10, **double
            )
        server = {"server_optimizer": "sgd", "server_lr": 1.0, "server_momentum": 0.0}
        for label, own in {"momentum": SGD, "adam": ADAM, "bn": LOCAL}.items():
            flags = {**LONGER, **own}
            near = 1e-8 if label == "adam" else 1e-10  # Adam divides by roots of what is nearly 0: last bits grow
            yield Limit(
                "fedopt",
                f"plain_sgd-{model}-{label}",
                {**server, **flags},
                "fedavg",
                flags,
                equal=("loss", "bytes"),
                within=near,
                **double,
            )
        flags = {**LONGER, "weight_decay": 0.1}
        yield Limit(
            "scaffold",
            f"no_variates-{model}",
            flags,
            "fedavg",
            flags,
            {"global": "global"},
            ("loss",),
            world={"model": model, "shares": [range(k, 60, 4) for k in range(4)], "participation": 0.5},
            within=1e-10,
            patch={"renewed": no_variates},
        )
        flags = {"epoch_per_round": 2, "weight_decay": 0.0}
        for label, own in {"momentum": {**SGD, "weight_decay": 0.1}, "adam": {"optimizer": "adam", "momentum": 0.0}}.items():
            yield Limit(
                "fedrep",
                f"no_head_epochs-{model}-{label}",
                {"head_epochs": 0, **flags, **own},
                "fedbabu",
                {**flags, **own},
                {"personal": "global"},
                state=("server",),
                **bits,
            )
        for name, part in (("fedper", "body"), ("lg_fedavg", "head")):
            setting = {"local_upt_part": "full", "aggr_part": part, **BODY}
            yield Limit(
                name,
                model,
                BODY,
                "fedbabu",
                setting,
                {"personal": "personal"},
                ("loss", "bytes", "names", "keys"),
                ("server", "frozen", "own"),
                **with_model(model),
            )


def limits_with_dropout():
    for model in ("MLP_dropout", "CNN4"):
        for label, own in DITTO.items():
            flags, world = {**LONGER, **own}, with_model(model)
            yield Limit(
                "ditto",
                f"lambda=0-{model}-{label}",
                {"lam": 0.0, **flags},
                "independent",
                flags,
                {"personal": "personal"},
                ("loss",),
                rounds=4,
                common_start=True,
                **world,
            )
            yield Limit(
                "ditto",
                f"lambda=0.7-{model}-{label}",
                {"lam": 0.7, **flags},
                "fedavg",
                flags,
                {"global": "global"},
                ("bytes",),
                rounds=4,
                **world,
            )
        for label, fixed in {"ala_lr=0": {"ala_lr": 0.0}, "ala_layers=0": {"ala_layers": 0}}.items():
            flags = {**SGD, "weight_decay": 0.1, **LONGER}
            yield Limit(
                "fedala",
                f"{label}-{model}",
                {**fixed, **flags},
                "fedavg",
                flags,
                {"global": "global"},
                ("loss", "bytes"),
                rounds=4,
                trained="personal",
                **with_model(model),
            )


def limits_of_one_network():
    for model in ("LeNet5", "ResNet8"):  # without and with BatchNorm
        flags = {"distill_epochs": 0, "batch_size": 8}
        yield Limit("feddf", f"no_step_of_the_server-{model}", flags, "fedavg", {}, **{**BITS, **with_model(model)})
    for lam, inner_lr in ((15.0, 0.02), (1.0, 0.1)):
        flags = {**LONGER, "rounds": 3}
        own = {"lam": lam, "inner_lr": inner_lr, "inner_steps": 1, "lr": 0.05 / (lam * inner_lr)}
        world = {"shares": EQUAL, **TWO_OF_THREE}
        other = {"lr": 0.05, **flags}
        yield Limit(
            "pfedme",
            f"one_inner_step-lambda={lam}",
            {**own, **flags},
            "fedavg",
            other,
            {"global": "global"},
            world=world,
            within=1e-10,
        )
    no_digest = {"digest_epochs": 0, "pretrain_epochs": 0}
    adam = {"batch_size": 8, "optimizer": "adam", "lr": 0.003}
    world = BITS["world"]
    yield Limit(
        "fedmd",
        "no_digesting",
        {**no_digest, **adam},
        "independent",
        adam,
        {"personal": "personal"},
        ("loss",),
        world=world,
        build=public_federation,
    )
    yield Limit(
        "fedproto",
        "lambda=0",
        {"lambda_proto": 0.0},
        "independent",
        {**HALF, "batch_size": 8},
        {"personal": "personal"},
        ("loss",),
        ("weights",),
    )
    yield Limit("fml", "labels_alone", LABELS, "fedavg", HALF, {"global": "global"}, state=("server",), world=TWO_OF_THREE)
    yield Limit(
        "fml", "labels_alone", LABELS, "independent", HALF, {"personal": "personal"}, state=("weights",), world=TWO_OF_THREE
    )
    for mixture in (0.0, 0.4, 1.0):
        flags = {"mixture": mixture}
        yield Limit(
            "apfl", f"mixture={mixture}", flags, "fedavg", {}, {"global": "global"}, state=("server",), world=TWO_OF_THREE
        )
    own, alone = ({"mixture": part, "fixed_mixture": True} for part in (0.0, 1.0))
    yield Limit("apfl", "fixed_mixture=0", own, "fedavg", {}, {"personal": "global"})
    for label, world in (("LeNet5", {}), ("CNN4", {"model": "CNN4"})):
        counters = "num_batches_tracked" if world else ""
        near = {"world": world, "without": counters, "within": 1e-12}
        if world:
            yield Limit("apfl", f"fixed_mixture=0-{label}", own, "fedavg", {}, {"personal": "global"}, **near)
        yield Limit(
            "apfl", f"fixed_mixture=1-{label}", alone, "independent", {}, {"personal": "personal"}, common_start=True, **near
        )
    for peers in ("local", "oracle"):
        flags, graph = {"fanout": 3, "peers": peers, **HALF}, {"topology": "full", **HALF}
        world = {**MLP, "shares": [range(3 * k, 3 * k + 3) for k in range(4)]}
        yield Limit("epidemic", f"all_to_all-{peers}", flags, "dpsgd", graph, state=("weights",), world=world, within=1e-10)
    full = {"momentum": 0.9, "lr_schedule": "step", "rounds": 3, "weight_decay": 1e-3, "epoch_per_round": 2}
    for model in ("LeNet5", "CNN4"):
        yield Limit(
            "fedbabu",
            f"both_parts_full-{model}",
            {"local_upt_part": "full", "aggr_part": "full", **full},
            "fedavg",
            full,
            {"global": "global"},
            ("loss", "bytes", "names", "trained"),
            ("server",),
            **with_model(model),
        )
    for bn in ("average", "local"):
        for distill in ("none", "mutual"):
            flags = {"bn": bn, "model": ("CNN4",)}
            yield Limit(
                "mhmd",
                f"one_head-{bn}-{distill}",
                {**flags, "distill": distill},
                "fedbabu",
                flags,
                {},
                ("loss",),
                ("server", "frozen", "own"),
                world={"model": "CNN4"},
            )


def limits_of_what_a_model_lacks():
    """List --bn local of models without normalisation."""
    same_bytes = ("loss", "bytes", "names")
    for name, answer in (("fedbabu", "global"), ("fedper", "personal"), ("lg_fedavg", "personal")):
        answers = {answer: answer}
        yield Limit(name, "bn=local", LOCAL, name, {}, answers, same_bytes, ("server",), {**MLP, **TWO_OF_THREE})
    ways = {"plain": {}, "init=independent": {"init": "independent"}, "keep_optimizer": {"keep_optimizer": True, **ADAM}}
    for label, flags in ways.items():
        local, answers = {**LOCAL, **flags}, {"global": "global"}
        yield Limit("fedavg", f"bn=local-{label}", local, "fedavg", flags, answers, same_bytes, ("server",), TWO_OF_THREE)


def limits_of_distillation():
    """List those of CFKD and FD that are independent learning."""
    for optimizer in ("sgd", "adam"):
        flags = {"optimizer": optimizer}
        for label, quirks in {"paper": {}, "as_published": {"as_published": True}}.items():
            none = {"lambda_kd": 0.0, "lambda_disc": 0.0, **flags, **quirks}
            yield Limit("cfkd", f"no_weights-{label}-{optimizer}", none, "independent", flags, **ALONE)
        yield Limit("fd", f"gamma=0-{optimizer}", {"fd_gamma": 0.0, **flags}, "independent", flags, **ALONE)
    logits = {"fd_variant": "mse_logits"}
    none = {**logits, "lambda_kd": 0.0, **flags}
    yield Limit("fd", "mse_logits-lambda=0", none, "independent", flags, **ALONE)
    for name in ("cfkd", "fd"):
        yield Limit(name, "wire_cut", flags, "independent", flags, **ALONE, world={"wire": CutWire}, theirs={"wire": Wire})
    yield Limit("fd", "one_client", {}, "independent", {}, **ALONE, world={"shares": [range(20)]})
    yield Limit("fd", "as_published", {"as_published": True}, "fd", logits, **ALONE)


LIMITS = [
    *limits_of_averages(),
    *limits_with_dropout(),
    *limits_of_one_network(),
    *limits_of_what_a_model_lacks(),
    *limits_of_distillation(),
]


def world_of(build, world):
    """Build a federation; a wire is given by its class, so that each federation has its own."""
    return build(**{key: part() if key == "wire" else part for key, part in world.items()})


@table(LIMITS)
def test_limits(case, monkeypatch):
    for function, replacement in case.patch.items():
        monkeypatch.setattr(algorithms.ALGORITHMS[case.name], function, replacement)
    ours, theirs = world_of(case.build, case.world), world_of(case.build, {**case.world, **case.theirs})
    if case.common_start:
        theirs = replace(theirs, start=theirs.initial())
    options, other = options_for(case.name, **case.flags), options_for(case.other, **case.other_flags)
    module, limit = algorithms.module_of(options), algorithms.module_of(other)
    state, expected = module.start(ours, options), limit.start(theirs, other)
    for r in range(1, case.rounds + 1):
        done = module.communicate(ours.at(r), state, options)
        as_expected = limit.communicate(theirs.at(r), expected, other)
        answers = {name: name for name in as_expected.answers} if case.answers is None else case.answers
        assert list(done.clients) == list(as_expected.clients)
        if case.answers is None or "names" in case.equal:
            assert list(done.answers) == list(as_expected.answers) == list(answers)
        for name, its in answers.items():
            for k in ours.clients:
                rows = weights_of(done.answers[name], k), weights_of(as_expected.answers[its], k)
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
            compare(done.trained, as_expected.trained, case.within)
        if case.trained:
            for k, row in zip(as_expected.clients, as_expected.trained, strict=True):
                assert same(weights_of(done.answers[case.trained], k), row), "the model after local training"


# --- what is sent ---


@dataclass
class Sent:
    """What passes in a round, and before the first, as (way, kind)."""

    name: str
    label: str
    of_round: set
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


def of_examples(federation):
    return {k: len(share) * (12 * 12 + 8) for k, share in enumerate(federation.shares)}  # a byte a pixel, an int64 label


WEIGHTS = {("down", "weights"), ("up", "weights")}
AVERAGED = {*WEIGHTS, ("up", "n_k")}
FLOATS = {"model": "CNN4", "dtype": torch.float32}
MEAN_LOGITS = {("up", "mean outputs"): lambda federation: dict.fromkeys(federation.clients, 3 * 3 * 8 + 3 * 8)}
SENT = [
    *(
        Sent(name, "", AVERAGED)
        for name in (
            *("fedavg", "fedprox", "fedopt", "moon", "ditto", "perfedavg", "fedala", "apfl", "fml"),
            *("fedbabu", "fedper", "lg_fedavg", "fedrep"),
        )
    ),
    Sent("feddyn", "", WEIGHTS),
    Sent("pfedme", "", WEIGHTS),
    Sent(
        "fednova",
        "",
        {("down", "weights"), ("up", "normalised changes"), ("up", "|a_k|"), ("up", "n_k")},
        world=FLOATS,
        nbytes={("down", "weights"): of_a_model, ("up", "normalised changes"): of_a_model},
    ),
    Sent(
        "scaffold",
        "",
        {*WEIGHTS, ("down", "variates"), ("up", "variates")},
        world=FLOATS,
        nbytes={("up", "variates"): of_parameters},
    ),
    Sent("feddf", "", AVERAGED, build=public_federation),
    Sent("fedproto", "", {("up", "prototypes"), ("down", "prototypes")}),
    Sent("epidemic", "", {("between", "weights")}),
    Sent("independent", "", set()),
    Sent("centralized", "", set(), {("up", "examples")}, nbytes={("up", "examples"): of_examples}),
    Sent("fd", "paper", {("up", "mean outputs"), ("down", "mean outputs")}),
    Sent(
        "fd",
        "mse_logits",
        {("up", "mean outputs"), ("down", "mean outputs")},
        {("up", "mean outputs")},
        {"fd_variant": "mse_logits"},
        nbytes=MEAN_LOGITS,
    ),
]


@table(SENT)
def test_what_is_sent(case):
    options, federation = options_for(case.name, **case.flags), case.build(**case.world)
    module = algorithms.module_of(options)
    state = module.start(federation, options)
    crossed = federation.wire.collect()
    assert crossed.keys() == case.before
    for r in (1, 2):
        module.communicate(federation.at(r), state, options)
        of_round = federation.wire.collect()
        assert of_round.keys() == case.of_round
        for key, nbytes in case.nbytes.items():
            for sent in (crossed, of_round):
                assert sent.get(key) in (None, nbytes(federation))
        crossed = of_round


# --- states ---


@pytest.mark.parametrize("name", ["fedprox", "ditto"])
def test_clients_are_drawn_back_to_what_the_server_sent_in_that_round(name, monkeypatch):
    module = algorithms.ALGORITHMS[name]
    federation, seen = tiny_federation(**TWO_OF_THREE), spied(monkeypatch, module)
    options = options_for(name, **FULL)
    state = module.start(federation, options)
    for r in (1, 2, 3):
        sent = state["server"]
        module.communicate(federation.at(r), state, options)
        assert len(seen) == 2, "of ditto, the personal models; the other training has the cross-entropy"
        assert all(same(anchor, sent) for anchor in seen)
        seen.clear()


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
    assert list(done.answers) == answers
    assert all(set(state[key]) == set(done.clients) for key in kept)
    (absent,) = set(federation.clients) - set(done.clients)
    row, initial = weights_of(done.answers["personal"], absent), federation.initial()
    assert same(only(row, part or row), only(initial, part or initial))
    if part:
        assert all(row.keys() == part for row in state[kept[0]].values())


@pytest.mark.parametrize(
    ("name", "flags", "rounds", "n", "learnt"),
    [
        ("fednova", {}, 1, (10, 20, 30), ()),
        *(
            ("fedopt", {"server_optimizer": server}, 2, (10, 20, 30), ("m", "v"))
            for server in algorithms.ALGORITHMS["fedopt"].SERVER_STEPS
        ),
        *(("feddyn", {"bn": bn, "alpha_coef": 1.0}, 2, (1, 1, 1), ("h", "g")) for bn in ("average", "local")),
        *(
            ("scaffold", {"bn": bn, "variate": variate}, 2, (1, 1, 1), ("c", "c_i"))
            for bn in ("average", "local")
            for variate in (1, 2)
        ),
    ],
    ids=lambda value: (
        "-".join(map(str, value.values())) if isinstance(value, dict) else value if isinstance(value, str) else ""
    ),
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
    close(only(state["server"], running), only(mean_of([only(row, running) for row in done.trained], n), running), 1e-12)


@pytest.mark.parametrize(
    ("name", "flags", "of_server", "of_clients"),
    [
        ("scaffold", {"epoch_per_round": 2}, "c", "c_i"),
        ("feddyn", {"alpha_coef": 0.5, "optimizer": "adam", "lr": 1e-3}, "h", "g"),  # whatever led there
    ],
    ids=["scaffold", "feddyn"],
)
def test_the_servers_correction_is_the_mean_of_all_clients_of_whom_the_absent_keep_theirs(
    name, flags, of_server, of_clients
):
    federation = tiny_federation(model="MLP", participation=0.4, shares=[range(k, 60, 5) for k in range(5)])
    module, options = algorithms.ALGORITHMS[name], options_for(name, **flags)
    state, seen = module.start(federation, options), set()
    for r in range(1, 6):
        before = state[of_clients]
        done = module.communicate(federation.at(r), state, options)
        seen |= set(done.clients)
        assert state[of_clients].keys() == seen, "nobody has one who never took part"
        assert all(row is before[k] for k, row in state[of_clients].items() if k not in done.clients)
        everyone = [state[of_clients].get(k, oracles.zeros(state[of_server])) for k in federation.clients]
        assert away(state[of_server], oracles.even(everyone)) < 1e-12
    assert len(seen) > 2


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
    assert away(weights_of(done.answers["global"]), optimum(federation, 0.1)) < 1e-6


@pytest.mark.parametrize("rounds", [100, 200])
def test_clients_that_drift_apart_do_not_reach_it_with_fedavg(rounds):
    federation = drifting()
    _, done = play(federation, options_for("fedavg", **DRIFT), rounds)
    n = [len(share) / 27 for share in federation.shares]
    assert away(weights_of(done.answers["global"]), optimum(federation, 0.1, n)) > 1e-2, "nor that of its own weights"


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


@pytest.mark.parametrize(
    ("name", "flags", "beginning", "end"),
    [
        ("fednova", {"optimizer": "adam"}, "--optimizer adam: fednova", "must be sgd"),
        ("fednova", {"optimizer": "amsgrad"}, "--optimizer amsgrad: fednova", "must be sgd"),
        (
            *("scaffold", {"optimizer": "adam"}),
            *("--optimizer adam: --variate 2 of scaffold needs plain SGD; must be sgd", ""),
        ),
        ("scaffold", {"momentum": 0.9}, "--momentum 0.9: --variate 2 of scaffold needs plain SGD; must be 0", ""),
        ("scaffold", {"clip_grad": 1.0}, "--clip_grad 1.0: --variate 2 of scaffold needs plain SGD; must be 0", ""),
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
    return [sum((row[name] - initial[name]).square().sum() for name in row) for row in done.trained]


def between_two(federation, done):
    """Return how far the personal models of the first and the last client are from each other, squared."""
    first, last = (weights_of(done.answers["personal"], k) for k in (0, 2))
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
