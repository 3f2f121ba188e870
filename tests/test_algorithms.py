"""What every algorithm must keep to, over the table of algorithms and of their published variants: a new one is tested by
being registered, and has only its closed form of the bytes to add (`BYTES`). One outside the house, `--method FILE`, is held
to all that takes no row in a table.
"""

import inspect
import io
import re
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import CutWire, options_for, play, tiny_data, tiny_federation, weights_of, with_public
from torch.utils._python_dispatch import TorchDispatchMode

import algorithms
import models
import options as shared
import plugins
from federation import Federation
from federation.pool import Pool
from federation.wire import Rows, Wire, leaves
from helpers import _parted, train

MODULES = {**algorithms.ALGORITHMS, **{f"{name} --as_published": module for name, module in algorithms.PUBLISHED.items()}}
SHARES = [range(10), range(10, 30), range(30, 60)]
every_case = pytest.mark.parametrize("case", MODULES)


SMALL = {  # flags that make an algorithm's own networks small
    "fedgkt": {"model": ("ResNet4",), "server_model": "ResNet5", "epochs_server": 2},
    "pfedme": {"inner_steps": 2},
    "fml": {"feature_dim": 6},  # of the model that all share
    "fedrep": {"head_epochs": 2},
    "fedmd": {"pretrain_epochs": 0, "digest_epochs": 3},  # a difference has its sign for a slope: it shows after steps
    **dict.fromkeys(("fedbabu", "fedper", "lg_fedavg", "data_exchange", "dpsgd"), {"model": ("LeNet5",)}),
}
TRAININGS = {  # the local epochs of each training of a round, where it has more than one
    "fedrep": lambda options: (options.head_epochs, options.epoch_per_round),
    "ditto": lambda options: (options.epoch_per_round, options.epoch_per_round),
}
ON_PUBLIC = {"fedmd": lambda options: options.digest_epochs}  # a client's epochs over the public examples in a round
OWN_LOSS = ("ditto",)  # those of whose trainings but one is with the module's loss
MADE_WHEN_ASKED = ("perfedavg", "apfl")  # of a model for all: personal models that nobody keeps
OWN_MODEL = ("fedgkt", "mhmd")  # those that cannot do with any architecture


def options_of(case, **flags):
    """Options of a case: an algorithm's name, with or without --as_published."""
    name, _, published = case.partition(" ")
    options = options_for(name, **({"as_published": True} if published else {}), **{**SMALL.get(name, {}), **flags})
    assert algorithms.module_of(options) is MODULES[case]
    return options


def trainings(case, options):
    """The local epochs of each training of a round; None where that is not known, outside the house."""
    if case in plugins.LOADED:
        return None
    return TRAININGS.get(case, lambda options: (options.epoch_per_round,))(options)


def federation_for(case, data=None, shares=None, model=None, participation=1.0, **others):
    """The tiny federation of the architecture that is the algorithm's own."""
    others["heads"] = getattr(algorithms.ALGORITHMS[case.split()[0]], "heads", False)
    if getattr(MODULES[case], "public", False):
        data = with_public(data or tiny_data())
        others["public"] = data.public
    return tiny_federation(data, shares, model or options_of(case).model, participation=participation, **others)


def tensors(tree):
    """The tensors in nested dicts and lists, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [tensor for branch in tree for tensor in tensors(branch)]
    return [tree] if isinstance(tree, torch.Tensor) else []


def equal(item, other):
    """Whether two trees are the same in structure, plain values and bits."""
    if isinstance(item, dict):
        return isinstance(other, dict) and list(item) == list(other) and all(equal(item[key], other[key]) for key in item)
    if isinstance(item, list | tuple):
        return type(item) is type(other) and len(item) == len(other) and all(map(equal, item, other))
    if isinstance(item, torch.Tensor):
        return isinstance(other, torch.Tensor) and item.dtype == other.dtype and torch.equal(item, other)
    return type(item) is type(other) and item == other


def answers_of(federation, done):
    """The weights of every answer for every client."""
    return {name: [weights_of(answer, k) for k in federation.clients] for name, answer in done.models.items()}


def headline(federation, done):
    return next(iter(answers_of(federation, done).values()))


# --- documented ---


@pytest.mark.parametrize("name", [name for family in algorithms.FAMILIES.values() for name in family])
def test_the_docstring_names_the_source_of_the_defaults(name):
    """A paragraph "Defaults: ...", which the help shows; its first sentence is for a run that ended at chance."""
    first = algorithms.defaults(name)
    assert re.search(r"\b(paper|authors|Chorus|fedavg|fedbabu)", first), (
        "whose they are: the paper's, its authors' code's, ours"
    )
    assert 20 < len(first) < 200
    assert first in " ".join(algorithms.describe(name).split())


@pytest.mark.parametrize("name", [name for family in list(algorithms.FAMILIES.values())[1:] for name in family])
def test_the_docstring_says_what_a_new_client_receives_where_there_is_more_than_one_global_model(name):
    (sentence,) = re.findall(r"\n\nA new client \(`--new_clients`\) (.*)\n", algorithms.ALGORITHMS[name].__doc__) or [""]
    nothing = getattr(algorithms.ALGORITHMS[name], "new_clients", "") is None
    assert (sentence == "receives no model.") == nothing or name == "centralized"
    assert sentence or name == "centralized"
    assert sentence in " ".join(algorithms.describe(name).split())


# --- repeatable ---


@every_case
def test_playing_twice_gives_the_same_bits(case):
    first = federation_for(case, participation=0.7)
    state, done = play(first, options_of(case), rounds=3)
    play(federation_for(case, seed=9), options_for("fedavg", optimizer="adam"))  # another run in between, in this process
    torch.rand(3)
    np.random.default_rng(0).random(3)
    second = federation_for(case, participation=0.7)
    again, redone = play(second, options_of(case), rounds=3)
    assert equal(again, state)
    assert list(redone.clients) == list(done.clients)
    assert torch.equal(redone.loss, done.loss)
    assert equal(answers_of(second, redone), answers_of(first, done))
    assert second.wire.collect() == first.wire.collect()
    assert second.meter.spent == first.meter.spent


@pytest.fixture(scope="module")
def pool():
    """Two workers, to whom all that a case's federation has is sent each time, as none of it is what they have."""
    created = Pool(tiny_federation(), tiny_federation, n=2)
    created.wait()
    yield created
    created.close()


@every_case
def test_clients_side_by_side_are_the_same_bits_and_the_same_counts(case, pool):
    """Weights, losses, bytes, steps and FLOPs, of two worker processes and of none."""
    alone, crowd = (federation_for(case, participation=0.7) for _ in range(2))
    crowd = replace(crowd, pool=pool)
    state, done = play(alone, options_of(case), rounds=2)
    again, redone = play(crowd, options_of(case), rounds=2)
    assert equal(again, state)
    assert torch.equal(redone.loss, done.loss)
    assert equal(answers_of(crowd, redone), answers_of(alone, done))
    assert crowd.wire.collect() == alone.wire.collect()
    assert crowd.meter.spent == alone.meter.spent


@every_case
def test_another_seed_is_another_result(case):
    first, second = (federation_for(case, seed=seed) for seed in (0, 1))
    assert not equal(headline(first, play(first, options_of(case))[1]), headline(second, play(second, options_of(case))[1]))


@every_case
def test_the_order_in_which_clients_are_visited_changes_no_bit(case, monkeypatch):
    federation = federation_for(case)
    state, done = play(federation, options_of(case), rounds=2)
    expected = answers_of(federation, done)
    visited, forwards = [], Federation.map_clients

    def backwards(self, work, clients, *rows):
        visited.extend(list(clients)[::-1])
        return forwards(self, work, list(clients)[::-1], *(list(row)[::-1] for row in rows))[::-1]

    monkeypatch.setattr(Federation, "map_clients", backwards)
    other = federation_for(case)
    again, redone = play(other, options_of(case), rounds=2)
    assert visited, "the clients' work goes through `map_clients`"
    assert equal(again, state)
    assert torch.equal(redone.loss, done.loss)
    assert equal(answers_of(other, redone), expected)


FAR = {  # flags with which weights go further than to an average of what clients have trained
    "pfedme": {"beta": 2.0, "inner_steps": 2},
    "scaffold": {"server_lr": 2.0},
    "fedopt": {"server_optimizer": "sgd", "server_lr": 2.0, "server_momentum": 0.5},
    "feddyn": {"alpha_coef": 0.1},
    "fednova": {"momentum": 0.9, "batch_size": 4},
    "apfl": {"mixture": 0.9, "lr": 0.3},
    "fedala": {"ala_lr": 5.0},
}


def variances(tree, name=""):
    """The running variances of BatchNorm in a state."""
    if isinstance(tree, dict):
        return [tensor for key, branch in tree.items() for tensor in variances(branch, str(key))]
    if isinstance(tree, list | tuple):
        return [tensor for branch in tree for tensor in variances(branch, name)]
    return [tree] if name.endswith("running_var") else []


@pytest.mark.parametrize("case", FAR)
def test_a_variance_is_never_extrapolated(case):
    """It stays what batches have, or their average, however far the server steps; below 0 its root is NaN."""
    federation = federation_for(case, model="CNN4")
    state, _ = play(federation, options_of(case, epoch_per_round=4, **FAR[case]), rounds=3)
    result = variances(state)
    assert result
    assert all((variance > 0).all() for variance in result)


@every_case
@pytest.mark.parametrize("n_classes", [3, 10])
def test_the_number_of_threads_of_the_process_changes_no_bit(case, n_classes):
    """A sum of many terms has other last bits with other threads, and how many a process has is not among the options."""
    result, before = [], torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            data = tiny_data(2000, n_classes=n_classes)  # large enough for torch to divide the work
            model = None if case.split()[0] in OWN_MODEL else "MLP"
            federation = federation_for(case, data, [range(1000), range(1000, 2000)], model, dtype=torch.float32)
            state, _ = play(federation, options_of(case, batch_size=250), rounds=1)
            result.append(state)
    finally:
        torch.set_num_threads(before)
    same = equal(*result)
    assert same, "sums over examples were computed with the threads of the process"


class SumsOfTheProcess(TorchDispatchMode):
    """Notes the operations that add up many terms while torch has the three threads that the process was given."""

    SUMS = ("mm", "addmm", "bmm", "convolution", "convolution_backward", "sum", "mean", "_softmax", "_log_softmax")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if torch.get_num_threads() == 3 and function.overloadpacket.__name__ in self.SUMS:
            self.seen.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@every_case
def test_nothing_is_added_up_but_with_the_threads_of_a_client_or_the_server(case):
    """The same whatever the size of the data and the machine: sums belong into the work that `each` carries out."""
    data, before = with_public(tiny_data()), torch.get_num_threads()
    heads = getattr(algorithms.ALGORITHMS[case.split()[0]], "heads", False)
    build = partial(models.make, options_of(case).model[0], data.shape, 3, 6, heads)  # `models.build` tries a new model out
    federation = Federation.of(data, SHARES, [build], dtype=torch.float64, threads=2, public=data.public)
    torch.set_num_threads(3)
    try:
        with SumsOfTheProcess() as watched:
            torch.ones(2, 2).sum()  # so that the watch is known to see
            play(federation, options_of(case), rounds=2)
    finally:
        torch.set_num_threads(before)
    assert watched.seen == ["sum"]


# --- nothing reaches a client but by the wire ---


class Replay(Wire):
    """Count as ever, and keep what arrives. With an `earlier` wire of the same run, messages in the `replayed` directions
    and between clients arrive as they arrived there, whatever is sent now.

    So everything that a party receives there is the same, counts included. Zeros in place of messages would hide a mistake:
    an average with all n_k = 0 is 0, whether the averaged weights were sent or not."""

    def __init__(self, earlier=None, replayed=""):
        super().__init__()
        self.arrived, self.earlier, self.replayed = [], earlier, (replayed, "between")

    def _carry(self, direction, kind, rows, edges):
        message = direction, kind, list(edges)
        arrived = super()._carry(direction, kind, rows, edges)
        if self.earlier and direction in self.replayed:
            earlier_message, arrived = self.earlier.arrived[len(self.arrived)]
            assert message == earlier_message, "the messages of a round do not depend on what is learned"
        self.arrived.append((message, arrived))
        return arrived


def with_negatives():
    """Return the tiny data with 60 further training examples, 60 to 119: example 60 + i has the negative image of example i
    and another label. Mean and standard deviation are constants of the data set."""
    data = tiny_data()
    x, x_test = data.x[: data.n_train], data.x[data.n_train :]
    y, y_test = data.y[: data.n_train], data.y[data.n_train :]
    x, y = torch.cat([x, 255 - x, x_test]), torch.cat([y, (y + 1) % len(data.classes), y_test])
    return replace(data, x=x, y=y, n_train=2 * data.n_train)


def changed_for_all_but(k, wire=None):
    """Return shares in which all clients but k have other examples, three fewer.

    Not fewer if a row for each example has arrived on the `wire`: such a message tells their number."""
    tells = any(isinstance(leaf, Rows) for _, arrived in (wire.arrived if wire else ()) for leaf in leaves(arrived))
    return [share if j == k else [60 + i for i in share[: None if tells else -3]] for j, share in enumerate(SHARES)]


def answers_and_losses(case, wire, shares=SHARES):
    """Every client's headline answer after three rounds, and its training loss in each.

    A "global" answer is the one model there is for everybody, so it is client k's too.
    """
    federation, options, losses = federation_for(case, with_negatives(), shares, wire=wire), options_of(case), []
    state = MODULES[case].start(federation, options)
    for r in (1, 2, 3):
        done = MODULES[case].communicate(federation.at(r), state, options)
        losses.append(dict(zip(done.clients, done.loss.tolist(), strict=False)))
    return headline(federation, done), [[of_round.get(k) for of_round in losses] for k in range(3)]


@every_case
def test_with_the_same_messages_a_clients_answer_does_not_depend_on_other_clients(case):
    """The server and the clients receive the uploads of a first run; then nothing else may tell other clients' rows apart:
    weights that are averaged and not sent, or a number of examples that the server does not know."""
    answers, losses = answers_and_losses(case, first := Replay())
    for k in range(3):
        changed, changed_losses = answers_and_losses(case, Replay(first, "up"), changed_for_all_but(k, first))
        assert equal(changed[k], answers[k]), f"client {k} or the server uses another client's row that was not sent"
        assert changed_losses[k] == losses[k], f"client {k} trains with another client's row that was not sent"


@every_case
def test_with_the_same_messages_from_the_server_a_clients_training_does_not_depend_on_other_clients(case):
    _, losses = answers_and_losses(case, first := Replay())
    for k in range(3):  # the server may know of the others, its model is another matter
        _, changed_losses = answers_and_losses(case, Replay(first, "down"), changed_for_all_but(k, first))
        assert changed_losses[k] == losses[k], f"client {k} trains with something of the server's that was not sent"


@every_case
def test_with_the_wire_it_does_where_anything_is_sent(case):
    answers, _ = answers_and_losses(case, wire := Wire())
    sent = bool(wire.collect())
    assert sent or case == "independent", "all but independent learning communicate"
    for k in range(3):
        changed, _ = answers_and_losses(case, Wire(), changed_for_all_but(k))
        assert equal(changed[k], answers[k]) != sent


@every_case
def test_a_client_learns_from_its_own_data_even_if_the_wire_is_cut(case):
    """So that the tests above compare answers that could have changed."""
    if case == "centralized":
        pytest.skip("its clients do not learn")
    federation, data = federation_for(case, wire=CutWire()), tiny_data()
    changed = federation_for(case, replace(data, y=torch.zeros_like(data.y)), wire=CutWire())
    assert not torch.equal(play(federation, options_of(case))[1].loss, play(changed, options_of(case))[1].loss)


@every_case
def test_what_is_compressed_is_learnt_from_as_it_arrives_and_counted_as_it_was_sent(case):
    """Halves of float32: everything but images, labels and counts takes half the bytes; and results are others."""
    plain_wire, half = (federation_for(case, wire=Wire(name), dtype=torch.float32) for name in ("none", "fp16"))
    _, done = play(plain_wire, options_of(case), rounds=2)
    _, halved = play(half, options_of(case), rounds=2)
    assert torch.isfinite(halved.loss).all()
    whole, sent = plain_wire.wire.collect(), half.wire.collect()
    assert whole.keys() == sent.keys()
    numbers = [key for key in whole if sent[key] != whole[key]]
    doubles = [("up", "|a_k|")] if case == "fednova" else []
    for key in numbers:
        part = 4 if key in doubles else 2
        assert all(whole[key][k] / part <= n < whole[key][k] for k, n in sent[key].items())
    if case != "fedmd":  # a difference has its sign for a slope, which rounding may leave as it is
        assert equal(answers_of(half, halved), answers_of(plain_wire, done)) == (not numbers)


# --- states ---


@every_case
def test_no_tensor_of_a_state_is_changed_in_place(case):
    federation, options = federation_for(case, participation=0.7), options_of(case, optimizer="adam")
    state, done = play(federation, options)
    before = tensors(state)
    kept = [tensor.clone() for tensor in before]
    done = MODULES[case].communicate(federation.at(2), state, options)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(before, kept, strict=True))
    after = tensors(state)
    kept = [tensor.clone() for tensor in after]
    for answer in done.models.values():
        for k in federation.clients:
            with torch.no_grad():
                for tensor in answer(k).state_dict().values():
                    tensor.zero_()  # as fine-tuning would, only worse
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(after, kept, strict=True))


def plain(tree):
    if isinstance(tree, dict):
        return type(tree) is dict and all(type(key) in (str, int) for key in tree) and all(map(plain, tree.values()))
    if isinstance(tree, list | tuple):
        return type(tree) in (list, tuple) and all(map(plain, tree))
    return type(tree) in (torch.Tensor, str, int, float, bool, type(None))


@every_case
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_goes_on_from_a_saved_state_as_if_it_had_not_stopped(case, optimizer):
    options, module = options_of(case, optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0), MODULES[case]
    saved = {}
    federation = federation_for(case, participation=0.7)
    state = module.start(federation, options)
    for r in range(4):
        if r:
            done = module.communicate(federation.at(r), state, options)
        assert plain(state), "plain containers and tensors"
        for tensor in tensors(state):
            assert not tensor.requires_grad
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, "no view of something larger is saved"
        saved[r] = io.BytesIO()
        torch.save(state, saved[r])
        assert equal(torch.load(io.BytesIO(saved[r].getvalue()), weights_only=True), state)
    for stop in (0, 2):
        resumed = federation_for(case, participation=0.7)  # a new process would have a new one
        loaded = torch.load(io.BytesIO(saved[stop].getvalue()), weights_only=True)
        for r in range(stop + 1, 4):
            redone = module.communicate(resumed.at(r), loaded, options)
        assert equal(loaded, state)
        assert torch.equal(redone.loss, done.loss)
        assert equal(answers_of(resumed, redone), answers_of(federation, done))


# --- rounds ---


@every_case
def test_a_round_names_its_clients_their_losses_and_the_answers(case):
    federation = federation_for(case, participation=0.7)  # two of three
    for r in (1, 2, 3):
        _, done = play(federation, options_of(case), rounds=r)
        assert list(done.clients) == sorted(set(done.clients))
        if case in algorithms.ALGORITHMS:
            assert list(done.clients) in ([], federation.at(r).sample())
        assert done.loss.shape == (len(done.clients) or 1,), "of the server, where it alone trained"
        assert torch.isfinite(done.loss).all()
        assert done.models
        for name, rows in answers_of(federation, done).items():
            assert all(equal(row, rows[0]) for row in rows) == (name == "global"), "one model for all, or one a client"


@every_case
def test_clients_that_do_not_take_part_keep_their_models_and_cost_nothing(case):
    federation, options = federation_for(case, participation=0.7), options_of(case, epoch_per_round=2)
    state = MODULES[case].start(federation, options)
    federation.wire.collect()
    previous, absent_at_all = None, set()
    for r in range(1, 6):
        federation.meter.spent.clear()
        done = MODULES[case].communicate(federation.at(r), state, options)
        clients, absent = set(done.clients), set(federation.clients) - set(done.clients)
        crossed = {k for by_client in federation.wire.collect().values() for k in by_client}
        assert crossed <= clients
        worked = {(what, k): n for (what, party, k), n in federation.meter.spent.items() if party == "client"}
        assert worked.keys() == {(what, k) for k in clients for what in ("steps", "samples", "flops")}
        shares = state.get("shares", federation.shares)
        if epochs := trainings(case, options):
            public = ON_PUBLIC.get(case, lambda options: 0)(options) * len(federation.public)
            assert all(worked["samples", k] == sum(epochs) * len(shares[k]) + public for k in clients)
        answers = {name: rows for name, rows in answers_of(federation, done).items() if name == "personal"}
        answers = {} if case in MADE_WHEN_ASKED else answers
        if state.get("kept"):  # the rest of a client's model is everybody's
            answers = {name: _parted(rows, state["kept"])[0] for name, rows in answers.items()}
        for name, rows in answers.items():
            if previous:
                assert all(equal(rows[k], previous[name][k]) for k in absent), "bit for bit"
                assert not any(equal(rows[k], previous[name][k]) for k in clients)
        previous = answers
        absent_at_all |= absent
    assert len(absent_at_all) > 1 or case not in algorithms.ALGORITHMS, "the sample changes from round to round"


@every_case
def test_local_steps_stand_for_the_local_epochs_and_for_no_other_epochs(case):
    one_batch = {"batch_size": 1000, "epoch_per_round": 1}  # so that an epoch is a step
    states = [
        play(federation_for(case), options_of(case, **one_batch, **flags), rounds=2)[0] for flags in ({}, {"local_steps": 1})
    ]
    assert equal(*states)


@every_case
def test_the_weights_that_a_round_names_as_trained_are_those_that_local_training_left(case, monkeypatch):
    left = []

    def noted(federation, *args, **others):
        trained = train(federation, *args, **others)
        left.extend([trained] if federation.party == "client" else [])
        return trained

    for kin in MODULES.values():  # its `communicate` may be that of a kindred algorithm
        if hasattr(kin, "train"):
            monkeypatch.setattr(kin, "train", noted)
    _, done = play(federation_for(case, participation=0.7), options_of(case), rounds=2)
    if done.local_weights is None:
        pytest.skip("its clients answer with what they trained, or do not train")
    if several := trainings(case, options_of(case)):
        assert len(left) == 2 * len(several)
    assert equal(list(done.local_weights), left[-1][0])


@pytest.mark.parametrize("case", [c for c in MODULES if getattr(algorithms.ALGORITHMS[c.split()[0]], "mixed", False)])
def test_clients_may_have_different_architectures_where_mixed_says_so(case):
    # a LeNet5 with the feature dimension of the MLP, so that features can be compared; two networks with a stem
    named = ("ResNet8", "ResNet4") if case.split()[0] in OWN_MODEL else ("LeNet5", "MLP")
    federation = federation_for(case, model=named, feature_dim=200)
    _, done = play(federation, options_of(case), rounds=2)
    assert torch.isfinite(done.loss).all()
    for name, rows in answers_of(federation, done).items():
        for k, row in enumerate(rows if name == "personal" else []):
            assert {n: t.shape for n, t in row.items()} == {n: t.shape for n, t in federation.initial(k).items()}


# --- the loss ---


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_a_finite_scalar_with_a_gradient_for_every_parameter_that_is_trained(case, dtype, monkeypatch):
    module, recorded = MODULES[case], []
    inner = module.loss

    def checked(model, batch, context, options):
        value = inner(model, batch, context, options)
        assert value.shape == ()
        assert value.dtype == dtype, "nothing is computed in another precision by the way"
        assert torch.isfinite(value)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(value, trained, retain_graph=True)  # raises where there is none
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)
        recorded.append(len(batch.y))
        return value

    for kin in MODULES.values():  # its `communicate` may be that of a kindred algorithm
        if kin.loss is inner:
            monkeypatch.setattr(kin, "loss", checked)
    state, _ = play(federation_for(case, dtype=dtype), options_of(case), rounds=2)
    epochs = (1,) if case in OWN_LOSS else trainings(case, options_of(case))
    assert recorded
    if epochs:
        assert sum(recorded) == 2 * sum(epochs) * sum(map(len, state.get("shares", SHARES)))
    assert {tensor.dtype for tensor in tensors(state) if tensor.is_floating_point()} == {dtype}


# --- the bytes, by hand ---


class Bytes(NamedTuple):
    """Of one client: up before round 1, then up and down in every round it takes part in; to each neighbour on the graph
    before round 1, and in every round in which the neighbour takes part too; and down before round 1."""

    start: int
    up: int
    down: int
    start_between: int = 0
    between: int = 0
    start_down: int = 0


NEIGHBOURS = {0: {1, 2}, 1: {0}, 2: {0}}  # of three clients, the first of the authors' tree
EVERYONE = {0: {1, 2}, 1: {0, 2}, 2: {0, 1}}  # to whom a client sends where two of three take part in a round


@dataclass(frozen=True)
class Sizes:
    """What the closed forms are made of: C classes, D features, n examples of the client, `model` numbers in a LeNet5
    (parameters and buffers), `item` bytes a number, `example` bytes an image and its label, `public` examples."""

    @property
    def head(self):
        """Numbers in a classifier."""
        return self.C * (self.D + 1)

    C: int
    D: int
    n: int
    model: int
    item: int
    example: int
    public: int


COUNT = 8  # an int64; a bool is 1


def _cfkd(s):
    up = 2 * s.C * s.D * s.item + s.C * COUNT  # class means and an observation; class counts
    return Bytes(up, up, 2 * s.C * s.D * s.item + 2 * s.C)  # both again; which classes of each are there


def _fd(s):
    both_ways = s.C * s.C * s.item + s.C  # mean outputs; which classes are there
    return Bytes(0, both_ways, both_ways)


def _mse_logits(s):
    up = s.C * s.C * s.item + s.C * COUNT  # mean logits; class counts
    return Bytes(up, up, s.C * s.C * s.item + s.C)


def _fedavg(s):
    return Bytes(0, s.model * s.item + COUNT, s.model * s.item)  # the model, and n_k


def _scaffold(s):
    both_ways = 2 * s.model * s.item  # the model, and a variate as large
    return Bytes(0, both_ways, both_ways)


def _fedgkt(s):
    up = s.n * (16 * 12 * 12 * 4 + s.C * s.item + COUNT)  # a map of 16 channels in float32, logits, and the label
    return Bytes(0, up, s.n * s.C * s.item)


def _fedbabu(s):
    body = (s.model - s.head) * s.item
    return Bytes(0, body + COUNT, body)


def _mhmd(s):
    # CNN4's body: four 3x3 convolutions of 64 channels, four BatchNorms of four numbers a channel and an int64 counter
    body = (64 * (9 + 1) + 3 * 64 * (64 * 9 + 1) + 4 * 4 * 64) * s.item + 4 * COUNT
    return Bytes(0, body + COUNT, body)


BYTES = {
    "cfkd": _cfkd,
    "cfkd --as_published": _cfkd,
    "fd": _fd,
    "fd --as_published": _mse_logits,
    "fedavg": _fedavg,
    "fedavg --as_published": lambda s: Bytes(0, s.model * s.item, s.model * s.item),  # unweighted: no n_k
    "fedprox": _fedavg,
    "scaffold": _scaffold,
    "fedopt": _fedavg,
    "fednova": lambda s: Bytes(0, s.model * s.item + 2 * COUNT, s.model * s.item),  # n_k, and |a_k| in float64
    "feddyn": lambda s: Bytes(0, s.model * s.item, s.model * s.item),  # an even mean: no n_k
    "moon": _fedavg,
    "fedgkt": _fedgkt,
    "fedgkt --as_published": _fedgkt,
    "fedbabu": _fedbabu,
    "fedper": _fedbabu,
    "fedrep": _fedbabu,
    "ditto": _fedavg,
    "perfedavg": _fedavg,
    "fedala": _fedavg,
    "pfedme": lambda s: Bytes(0, s.model * s.item, s.model * s.item),  # unweighted
    "lg_fedavg": lambda s: Bytes(0, s.head * s.item + COUNT, s.head * s.item),
    "mhmd": _mhmd,
    "data_exchange": lambda s: Bytes(0, 0, 0, s.n // 10 * s.example, s.model * s.item),
    "dpsgd": lambda s: Bytes(0, 0, 0, 0, s.model * s.item),
    "apfl": _fedavg,
    "fml": _fedavg,
    "fedmd": lambda s: Bytes(0, s.public * s.C * s.item, s.public * s.C * s.item, start_down=s.public * s.example),
    "feddf": _fedavg,
    "epidemic": lambda s: Bytes(0, 0, 0, 0, s.model * s.item),
    "fedproto": lambda s: Bytes(0, s.C * s.D * s.item + s.C * COUNT, s.C * s.D * s.item + s.C),
    "independent": lambda s: Bytes(0, 0, 0),
    "centralized": lambda s: Bytes(s.n * s.example, 0, 0),
}


def by_direction(wire):
    """{direction: {client: bytes}} of all kinds together."""
    total = {}
    for (direction, _), by_client in wire.collect().items():
        for k, nbytes in by_client.items():
            total.setdefault(direction, {}).setdefault(k, 0)
            total[direction][k] += nbytes
    return total


def without_zeros(**expected):
    present = {direction: {k: n for k, n in by_client.items() if n} for direction, by_client in expected.items()}
    return {direction: by_client for direction, by_client in present.items() if by_client}


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bytes_on_the_wire_are_those_worked_out_by_hand(case, dtype):
    if case in plugins.LOADED:
        pytest.skip("outside the house no closed form is known, a row of BYTES")
    if case not in BYTES:
        pytest.fail(f"no closed form for the bytes of {case}: add what a client sends and receives to BYTES")
    # LeNet5 of one channel with D = 6, C = 3: convolutions 1-6 and 6-16 of 5x5 and 16-120 of 3x3, linear 120-6 and 6-3
    model = 6 * (25 + 1) + 16 * (6 * 25 + 1) + 120 * (16 * 9 + 1) + 6 * (120 + 1) + 3 * (6 + 1)
    entry = {"C": 3, "D": 6, "model": model, "item": torch.finfo(dtype).bits // 8, "example": 12 * 12 + 8, "public": 12}
    expected = [BYTES[case](Sizes(n=len(share), **entry)) for share in SHARES]

    federation, options = federation_for(case, dtype=dtype, participation=0.7), options_of(case)
    state = MODULES[case].start(federation, options)
    near = EVERYONE if case == "epidemic" else NEIGHBOURS
    between = {k: expected[k].start_between * len(near[k]) for k in federation.clients}
    start = {k: expected[k].start for k in federation.clients}
    down = {k: expected[k].start_down for k in federation.clients}
    assert by_direction(federation.wire) == without_zeros(up=start, down=down, between=between)
    for r in (1, 2, 3):
        done = MODULES[case].communicate(federation.at(r), state, options)
        up, down = ({k: getattr(expected[k], way) for k in done.clients} for way in ("up", "down"))
        between = {k: expected[k].between * len(near[k] & set(done.clients)) for k in done.clients}
        assert by_direction(federation.wire) == without_zeros(up=up, down=down, between=between)


def test_no_closed_form_is_left_of_an_algorithm_that_is_gone():
    assert BYTES.keys() <= MODULES.keys()


# --- form ---


@every_case
def test_a_module_has_the_parts_of_an_algorithm_in_the_agreed_form(case):
    module = MODULES[case]
    assert list(inspect.signature(module.loss).parameters) == ["model", "batch", "context", "options"]
    assert list(inspect.signature(module.start).parameters) == ["federation", "options"]
    assert list(inspect.signature(module.communicate).parameters) == ["federation", "state", "options"]
    assert issubclass(module.Options, shared.Options)
    assert is_dataclass(module.Options)
    assert module.Options.__dataclass_params__.frozen
    assert issubclass(algorithms.options_of(case.split()[0]), algorithms.ALGORITHMS[case.split()[0]].Options)


@every_case
def test_the_first_line_of_the_docstring_says_what_is_sent_in_a_sentence_of_its_own(case):
    first, *rest = MODULES[case].__doc__.splitlines()
    assert first.strip() == first
    assert first.endswith(".")
    assert len(first) > len("Nothing.")
    assert rest[0] == "", "then the paper, after an empty line"
    if case in algorithms.ALGORITHMS:
        assert algorithms.describe(case).splitlines()[0] == first


@every_case
def test_an_algorithm_with_several_answers_says_which_is_the_headline_and_what_the_others_are(case):
    _, done = play(federation_for(case), options_of(case), rounds=1)
    first, *others = done.models
    message = " ".join(algorithms.ALGORITHMS[case.split()[0]].__doc__.split())
    if others:
        assert f'The headline answer is "{first}"' in message
        assert all(f'"{name}" is' in message for name in others)


@every_case
def test_an_algorithm_is_at_most_90_lines_of_code(case):
    if case in plugins.LOADED:
        pytest.skip("a rule of the house")
    text = Path(MODULES[case].__file__).read_text()
    assert len(text.splitlines()) >= 20
    assert len(text.removeprefix(f'"""{MODULES[case].__doc__}"""').strip().splitlines()) <= 90, "without its docstring"


@pytest.mark.parametrize(
    ("folder", "table"), [(".", algorithms.ALGORITHMS), ("published", algorithms.PUBLISHED)], ids=["algorithms", "published"]
)
def test_every_file_of_an_algorithm_is_registered_under_its_name(folder, table):
    place = Path(algorithms.__file__).parent / folder
    files = {path.stem for path in place.glob("*.py")} | {path.parent.name for path in place.glob("*/__init__.py")}
    assert files - {"__init__", "published"} == set(table)
    assert all(module.__name__.split(".")[-1] == name for name, module in table.items())


@pytest.mark.parametrize("name", algorithms.PUBLISHED)
def test_a_published_module_is_used_only_where_one_of_its_quirks_is_asked_for(name):
    assert algorithms.module_of(options_for(name)) is algorithms.ALGORITHMS[name]
    assert algorithms.module_of(options_for(name, as_published=True)) is algorithms.PUBLISHED[name]


def test_a_weight_that_is_not_read_asks_for_no_quirk():
    assert algorithms.module_of(options_for("fd", lambda_kd=3.0)) is algorithms.ALGORITHMS["fd"]
    assert algorithms.module_of(options_for("fd", lambda_kd=3.0, fd_variant="mse_logits")) is algorithms.PUBLISHED["fd"]
