"""Local training: a client's plan, drawn from its streams; its steps; and its finish.

Every way to train a round's clients uses these three: one after another, in worker processes, on several machines (`pool`,
`ranks`), and stacked, where several clients take their steps as one network (`stacked`).
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import streams
from data import augment
from federation import Federation, Weights, dp_sgd, optimizers
from federation.meter import finite
from federation.optimizers import ELEMENTWISE, OPTIMIZERS, recalled
from federation.stacked import Member, NotStackedError, Stack
from models import Net


class Batch(NamedTuple):
    """One training batch.

    `x`: images [B, channels, height, width], normalised and changed by `--augment`. `y`: labels int64 [B]. `index`: int64
    [B], positions in the client's own share; select a teacher's values per example by these positions.
    """

    x: Tensor
    y: Tensor
    index: Tensor


Loss = Callable[[Net, Batch, Any, Any], Tensor]


class Common(NamedTuple):
    """The arguments of `helpers.train` that all clients share.

    `remembers`: whether the optimizers' states are kept. `call`: the number of earlier calls in this round.
    """

    loss: Loss
    options: Any
    only: Collection[str] | None
    remembers: bool
    call: int = 0


# (weights, the optimizer's state, the loss, steps, samples, whether weights and loss are finite) of a client
Result = tuple[Weights, Any, Tensor, int, int, Tensor]


def epochs(federation: Federation, clients: Sequence[int], rows: Sequence[Sequence], common: Common) -> list[Result]:
    """Train every client for the local epochs.

    `rows`: weights, contexts, optimizers' states and image changes, each aligned with `clients`. Stacks of `--stacked`
    clients train first; then those that cannot be stacked, one after another.
    """
    results: dict[int, Result] = {}

    def run(work: Callable[..., Any], positions: Sequence) -> list[Any]:
        """Return work(federation, client, its rows) for each position, or the same of several, for a tuple of positions."""
        parts = [
            [tuple(row[p] for p in at) if isinstance(at, tuple) else row[at] for at in positions] for row in (clients, *rows)
        ]
        return federation.map_clients(partial(work, common=common), *parts) if positions else []

    stacks = _stacks(federation, clients, common.options)
    for stack, outcome in zip(stacks, run(_stacked_epochs, stacks), strict=True):
        if isinstance(outcome, str):
            federation.meter.note(f"--stacked {common.options.stacked}: clients train one after another: {outcome}")
        else:
            results.update(zip(stack, outcome, strict=True))
    single = [p for p in range(len(clients)) if p not in results]
    results.update(zip(single, run(_local_epochs, single), strict=True))
    return [results[p] for p in range(len(clients))]


class LocalEpochs:
    """The local epochs of one client: a plan, drawn from its streams, what its steps have left, and a finish.

    `upcoming` is the next batch of the plan: positions in the client's share, int64 [B], and the image changes of the share;
    None after the last batch.
    """

    def __init__(
        self, federation: Federation, k: int, weights: Weights, context, memory, augmentation, common: Common
    ) -> None:
        self.common, self.federation, self.k, self.share = common, federation, k, federation.shares[k]
        self.weights, self.context, self._memory = weights, context, memory
        skeleton, only = federation.skeletons[k % len(federation.skeletons)], common.only
        names = [name for name, _ in skeleton.named_parameters() if only is None or name in only]
        self.optimizer_state, self.dropout = recalled(memory, names), federation.stream("dropout", k)
        self.kind = "train", common.loss, frozenset(names), federation.data.shape
        self.is_private = bool(common.options.dp_sgd) and federation.party == "client"
        self._batches = islice(self._plan(augmentation), last_step(federation, k, common.options))
        self.upcoming = next(self._batches, None)
        self.total = torch.zeros((), device=federation.device, dtype=torch.float64)
        self.steps = self.samples = 0

    def _plan(self, augmentation: augment.Draw | None) -> Iterator[tuple[Tensor, augment.Draw]]:
        federation, options, n = self.federation, self.common.options, len(self.share)
        order_stream, augment_stream = federation.stream("batches", self.k), federation.stream("augment", self.k)
        if self.is_private:  # fresh draws in every call, which the accounting assumes
            order_stream = federation.stream(f"dp_sgd batches {self.common.call}", self.k)
        epochs = itertools.count() if options.local_steps and n else range(options.epoch_per_round)
        for _ in epochs:
            if self.is_private:
                batches = [streams.moved(i, federation.device) for i in dp_sgd.batches(n, options.batch_size, order_stream)]
            else:
                positions = streams.moved(torch.from_numpy(order_stream.permutation(n)), federation.device)
                batches = cut_batches(positions, options.batch_size)
            draw = augmentation
            if draw is None:
                draw = augment.draw(options.augment, n, federation.data.shape, augment_stream, federation.device)
            yield from ((i, draw) for i in batches)

    def add(self, batch_loss: Tensor) -> None:
        """Count the step on the upcoming batch."""
        n = len(self.upcoming[0])
        self.total += batch_loss * n  # stays on the device, so that an epoch never waits for the value
        self.steps, self.samples, self.upcoming = self.steps + 1, self.samples + n, next(self._batches, None)

    def finish(self) -> Result:
        """Return the client's result."""
        federation, state = self.federation, self.optimizer_state
        if self.steps:
            key = (federation.party, self.k % len(federation.skeletons), *self.kind)
            state = federation.meter.remembered(state, key)
        memory = {**(self._memory or {}), **state} if self.common.remembers else None
        is_finite = finite([self.total, *self.weights.values()])
        return self.weights, memory, self.total / max(self.samples, 1), self.steps, self.samples, is_finite


def last_step(federation: Federation, k: int, options) -> int | None:
    """Return the number of local steps after which client k stops in this round; None is after `--epoch_per_round`.

    A client straggles with the probability `--straggler`. A straggler stops after a fraction of its steps, which is drawn
    uniformly from (0, 1].
    """
    last = options.local_steps or None
    if federation.party != "client" or not options.straggler:
        return last
    straggles, fraction = federation.stream("straggler", k).random(2)
    steps_per_epoch = len(cut_batches(torch.empty(len(federation.shares[k])), options.batch_size))
    steps = last or options.epoch_per_round * steps_per_epoch
    return math.ceil((1 - fraction) * steps) if straggles < options.straggler else last


def cut_batches(positions: Tensor, batch_size: int) -> list[Tensor]:
    """Cut int64 [n] into batches.

    A left-over batch of one joins the batch before it, since BatchNorm cannot normalise one example.
    """
    batches = list(positions.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches if len(positions) else []


def joint_batch(clients: Sequence[LocalEpochs]) -> Batch:
    """Return the upcoming batches of n clients, all of B examples, as one batch of n * B."""
    data, dtype = clients[0].federation.data, clients[0].federation.dtype
    positions, draws = zip(*(client.upcoming for client in clients), strict=True)
    indices = torch.cat([client.share[i] for client, i in zip(clients, positions, strict=True)])
    parts = [augment.part(draw, i) for draw, i in zip(draws, positions, strict=True)]
    draw = {step: torch.cat([part[step] for part in parts]) for step in parts[0]}
    return Batch(data.images(indices, dtype, draw), data.y[indices], torch.cat(positions))


def trainable(model: Net, only: Collection[str] | None) -> Weights:
    """Return the parameters to train, by name. A body or head without such a parameter computes as in evaluation."""
    trained = {name: p for name, p in model.named_parameters() if only is None or name in only}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for module in model.children():
        module.train(any(parameter.requires_grad for parameter in module.parameters()))
    return trained


def updater(trained: Weights, options, round: int, bounds=MappingProxyType({})) -> Callable[[Any], None]:
    """Return a function of the optimizer's state that updates parameters by their gradients."""
    lr, step = learning_rate(options, round), OPTIMIZERS[options.optimizer]
    free, bounded = ({name: p for name, p in trained.items() if (name in bounds) == inside} for inside in (False, True))
    undecayed = replace(options, weight_decay=0.0) if bounded else options

    def update(optimizer_state) -> None:
        if options.clip_grad:
            torch.nn.utils.clip_grad_norm_(trained.values(), options.clip_grad)
        step(free, optimizer_state, lr, options)
        if bounded:
            step(bounded, optimizer_state, lr, undecayed)
            for name, parameter in bounded.items():
                parameter.data.clamp_(*bounds[name])

    return update


# factor of the learning rate in a round, by the fraction of rounds that are finished: 0 in the first round
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "step": lambda progress: 0.1 ** ((progress >= 0.5) + (progress >= 0.75)),
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


def learning_rate(options, round: int) -> float:
    """Return `--lr` in a round, following `--lr_schedule`."""
    return options.lr * SCHEDULES[options.lr_schedule]((round - 1) / options.rounds)


# --- one client by itself -------------------------------------------------------------------------------------------------


def _local_epochs(federation: Federation, k: int, *rows, common: Common) -> Result:
    with streams.torch_seeded(federation.seed, federation.party, "torch", federation.round, k):  # for users' networks
        return _steps(LocalEpochs(federation, k, *rows, common))


def _steps(client: LocalEpochs) -> Result:
    federation, k, common = client.federation, client.k, client.common
    model = federation.model(k, client.weights).train()
    model.drop_from(client.dropout)  # set for each client: clients share their skeletons
    trained = trainable(model, common.only)
    update = updater(trained, common.options, federation.round, getattr(model, "bounds", {}))

    noise_stream = federation.stream(f"dp_sgd noise {common.call}", k)

    def loss(model: Net, batch: Batch) -> Tensor:
        return common.loss(model, batch, client.context, common.options)

    def step() -> Tensor:
        batch = joint_batch([client])
        if client.is_private:
            batch_loss = dp_sgd.set_gradients(model, trained, loss, batch, common.options, noise_stream)
        else:
            for parameter in trained.values():
                parameter.grad = None
            batch_loss = loss(model, batch)
            batch_loss.backward()
        update(client.optimizer_state)
        return batch_loss.detach()

    while client.upcoming:
        client.add(federation.count_flops(step, k, *client.kind, len(client.upcoming[0])))
    client.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return client.finish()


# --- clients as one network -----------------------------------------------------------------------------------------------


def _stacks(federation: Federation, clients: Sequence[int], options) -> list[tuple[int, ...]]:
    """Return the positions of the clients of each stack; clients in no stack train by themselves.

    A stack has clients of one architecture, with shares of similar sizes, so that few steps are of a part of the stack. It
    depends on the clients of the round, and not on the number of workers.
    """
    if options.stacked == 1 or federation.party == "server":
        return []
    stacks, n_architectures = [], len(federation.skeletons)
    for architecture in range(n_architectures):
        positions = [p for p, k in enumerate(clients) if k % n_architectures == architecture]
        positions.sort(key=lambda p: -len(federation.shares[clients[p]]))
        n_stacks = math.ceil(len(positions) / options.stacked)
        ends = [i * len(positions) // max(n_stacks, 1) for i in range(n_stacks + 1)]
        stacks += [tuple(positions[begin:end]) for begin, end in pairwise(ends) if end - begin > 1]
    return stacks


def _stacked_epochs(federation: Federation, clients: Sequence[int], *rows, common: Common) -> list[Result] | str:
    """Return the result of each client of a stack, or the reason why they cannot be stacked."""
    members = [LocalEpochs(federation, *row, common) for row in zip(clients, *rows, strict=True)]
    skeleton, spent = federation.skeletons[clients[0] % len(federation.skeletons)], federation.meter.spent.copy()
    stacks: dict[int, Stack] = {}  # by number of clients
    together = None
    try:
        while group := _next_group(members):
            if together is None or group != together.clients:
                if together:
                    together.leave()
                if len(group) not in stacks:
                    stacks[len(group)] = Stack(skeleton, len(group))
                together = _Together(group, stacks[len(group)])
            kind = (*group[0].kind, len(group[0].upcoming[0]), len(group))
            losses = federation.count_flops(together.step, tuple(client.k for client in group), *kind)
            for client, batch_loss in zip(group, losses, strict=True):
                client.add(batch_loss)
    except NotStackedError as error:
        federation.meter.spent.clear()
        federation.meter.spent.update(spent)
        return str(error)
    if together:
        together.leave()
    return [client.finish() for client in members]


def _next_group(clients: list[LocalEpochs]) -> list[LocalEpochs]:
    """Return the clients of the next step: of those in the earliest epoch, the most with batches of one size."""
    epochs = [(client.samples // len(client.share), client) for client in clients if client.upcoming]
    first = min((epoch for epoch, _ in epochs), default=0)
    by_size: dict[int, list[LocalEpochs]] = {}
    for epoch, client in epochs:
        if epoch == first:
            by_size.setdefault(len(client.upcoming[0]), []).append(client)
    return max(by_size.values(), key=len, default=[])


class _Together:
    """Clients that take their next steps as one network, of a stack, until they `leave` it."""

    def __init__(self, clients: list[LocalEpochs], stack: Stack) -> None:
        self.clients, self._stack, self._common = clients, stack, clients[0].common
        stack.fill([client.weights for client in clients], [client.dropout for client in clients])
        self._trained, self._state, options = trainable(stack.net.train(), self._common.only), None, self._common.options
        if options.optimizer in ELEMENTWISE and not options.clip_grad:
            self._state = optimizers.stacked([client.optimizer_state for client in clients])
        round = clients[0].federation.round
        if self._state is not None:
            self._update = partial(updater(self._trained, options, round), self._state)
        else:  # a norm is of one client, as is a number of steps, and a plugin's optimizer may do anything
            views = [{name: p.detach()[c] for name, p in self._trained.items()} for c in range(len(clients))]
            updates = [updater(of_client, options, round) for of_client in views]
            self._update = partial(self._update_clients, views, updates)

    def step(self) -> Tensor:
        """Take a step of every client on its upcoming batch; return the losses [n]."""
        n, loss, options = len(self.clients), self._common.loss, self._common.options
        images, y, index = (part.unflatten(0, (n, -1)) for part in joint_batch(self.clients))
        for parameter in self._trained.values():
            parameter.grad = None

        def loss_of(model: Member, x: Tensor, c: int) -> Tensor:
            return loss(model, Batch(x, y[c], index[c]), self.clients[c].context, options)

        losses = self._stack.losses(images, loss_of)
        losses.sum().backward()
        self._update()
        return losses.detach()

    def _update_clients(self, views: Sequence[Weights], updates: Sequence[Callable[[Any], None]]) -> None:
        """Take the optimizer's step of each client, on views of its weights."""
        for c, (client, of_client, update) in enumerate(zip(self.clients, views, updates, strict=True)):
            for name, view in of_client.items():
                view.grad = None if (grad := self._trained[name].grad) is None else grad[c]
            update(client.optimizer_state)

    def leave(self) -> None:
        """Give each client its weights and its optimizer's state."""
        for c, client in enumerate(self.clients):
            client.weights = self._stack.row(c)
            if self._state is not None:
                client.optimizer_state = optimizers.row(self._state, c)
