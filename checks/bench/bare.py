"""A bare PyTorch loop that does a job: what one would write by hand, with the data as tensors in memory.

    python -m checks.bench.bare WORK --threads 1 [--best]

With `--best`, the settings that are public and pay on a processor: channels_last for networks and images, and fused
optimizers; the allocator's are in the environment. (Not `torch.compile` or inference mode, which did not pay.) Whoever does
a job calls the network, the loss and the optimizer as often as Chorus does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checks.bench.work import TEST_BATCH, Examples, Work, read_options, tell

# what is asked after a round, functions of images to (anything, logits): several kinds of them, the headline first
Answers = list[list[Callable]]


@dataclass
class Loop:
    """How a loop computes, and what it has spent."""

    work: Work
    best: bool
    steps: int = 0

    def prepare(self, net: nn.Module) -> nn.Module:
        """A network in the layout of the settings."""
        return net.to(memory_format=torch.channels_last) if self.best else net

    def laid(self, x: Tensor) -> Tensor:
        """Images or maps, alike."""
        return x.contiguous(memory_format=torch.channels_last) if self.best else x

    def optimizer(self, parameters) -> torch.optim.Optimizer:
        """The one that the job asks for."""
        values = self.work.options
        named = {"lr": values["lr"], "weight_decay": values["weight_decay"], "fused": self.best or None}
        if values["optimizer"] == "sgd":
            return torch.optim.SGD(parameters, momentum=values["momentum"], **named)
        return torch.optim.Adam(parameters, amsgrad=values["optimizer"] == "amsgrad", **named)

    def batches(self, n: int, epochs: int) -> Iterator[Tensor]:
        """Positions in a new order every epoch, int64 [B] at a time."""
        for _ in range(epochs):
            yield from torch.randperm(n).split(self.work.options["batch_size"])

    def step(self, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
        """One step on a loss."""
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        self.steps += 1

    def epochs(self, net: nn.Module, optimizer: torch.optim.Optimizer, examples: Examples) -> None:
        """A client's local epochs with the cross-entropy."""
        x, y = examples
        for i in self.batches(len(y), self.work.options["epoch_per_round"]):
            self.step(optimizer, lambda i=i: F.cross_entropy(net(self.laid(x[i]))[1], y[i]))

    def outputs(self, net: Callable, x: Tensor) -> tuple[Tensor, ...]:
        """What a function says of examples, in batches, without gradients."""
        with torch.no_grad():
            return tuple(map(torch.cat, zip(*(net(self.laid(part)) for part in x.split(TEST_BATCH)), strict=True)))

    def accuracy(self, answers: Sequence[Callable]) -> float:
        """On all test examples, the mean over what answers, of functions of images whose second part are logits."""
        x, y = self.work.test
        return sum((self.outputs(answer, x)[1].argmax(1) == y).double().mean().item() for answer in answers) / len(answers)


def fedavg(loop: Loop) -> Iterator[Answers]:
    """Rounds of FedAvg; of FedBABU, where the head stays as it is."""
    work, net = loop.work, loop.prepare(loop.work.network())
    net.classifier.requires_grad_(work.options["algorithm"] != "fedbabu")
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    server = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    while True:
        average, sizes = {}, 0
        for k in torch.randperm(len(work.shares))[: work.per_round].tolist():
            net.load_state_dict(server)
            net.train()
            loop.epochs(net, loop.optimizer(trained), work.shares[k])
            n = len(work.shares[k][1])
            for name, tensor in net.state_dict().items():
                average[name] = average.get(name, 0) + n * tensor
            sizes += n
        server = {name: (tensor / sizes).to(server[name].dtype) for name, tensor in average.items()}
        net.load_state_dict(server)
        yield [[net.eval()]]


def cfkd(loop: Loop) -> Iterator[Answers]:
    """Rounds of CFKD."""
    from algorithms.cfkd import few_of_each, loss
    from helpers import Batch, class_means

    work, options = loop.work, SimpleNamespace(**loop.work.options)
    nets = [loop.prepare(work.network(weights)) for weights in work.own]
    optimizers = [loop.optimizer(net.parameters()) for net in nets]

    def represent(net: nn.Module, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
        x, y = examples
        features, _ = loop.outputs(net.eval(), x)
        few = few_of_each(y, options.n_avg, SimpleNamespace(permutation=lambda n: torch.randperm(n).cpu().numpy()))
        return *class_means(features, y, work.n_classes), class_means(features[few], y[few], work.n_classes)[0]

    sent = [represent(net, share) for net, share in zip(nets, work.shares, strict=True)]
    while True:
        counts = sum(count for _, count, _ in sent)
        means = sum(mean * count.unsqueeze(1) for mean, count, _ in sent) / counts.clamp(min=1).unsqueeze(1)
        for k, (net, optimizer, (x, y)) in enumerate(zip(nets, optimizers, work.shares, strict=True)):
            _, held, observation = sent[(k + 1 + int(torch.randint(len(sent) - 1, ()))) % len(sent)]
            teacher = {"means": means, "held": counts > 0, "observation": observation, "observed": held > 0}
            net.train()
            for i in loop.batches(len(y), options.epoch_per_round):
                batch = Batch(loop.laid(x[i]), y[i], i)
                loop.step(optimizer, lambda net=net, batch=batch, teacher=teacher: loss(net, batch, teacher, options))
        sent = [represent(net, share) for net, share in zip(nets, work.shares, strict=True)]
        yield [nets]


def fedgkt(loop: Loop) -> Iterator[Answers]:
    """Rounds of FedGKT: the clients' phase and the server's."""
    from algorithms.fedgkt import loss, server_loss
    from helpers import Batch
    from models import StemNet

    work, options = loop.work, SimpleNamespace(**loop.work.options)
    nets = [loop.prepare(work.network(weights)) for weights in work.own]
    server = loop.prepare(work.build(options.server_model, StemNet.map_shape(work.shape), work.server))
    optimizers = [loop.optimizer(net.parameters()) for net in nets]
    of_server = loop.optimizer(server.parameters())
    y = torch.cat([labels for _, labels in work.shares])
    sizes = [len(labels) for _, labels in work.shares]
    output, weight = torch.zeros(len(y), work.n_classes), 0.0  # nothing has been said before the first round

    def extract(net: StemNet, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = net.cut(x)
        return middle, net.tail(middle)[1]

    def behind(net: StemNet, x: Tensor) -> tuple[Tensor, Tensor]:
        return server(net.cut(x))

    while True:
        for net, optimizer, (x, labels), targets in zip(nets, optimizers, work.shares, output.split(sizes), strict=True):
            context = {"targets": targets, "weight": weight}
            net.train()
            for i in loop.batches(len(labels), options.epoch_per_round):
                batch = Batch(loop.laid(x[i]), labels[i], i)
                loop.step(optimizer, lambda net=net, batch=batch, inputs=context: loss(net, batch, inputs, options))

        sent = [loop.outputs(partial(extract, net.eval()), x) for net, (x, _) in zip(nets, work.shares, strict=True)]
        maps, targets = (torch.cat(part) for part in zip(*sent, strict=True))
        context = {"targets": targets, "said": torch.zeros_like(output)}
        server.train()
        for i in loop.batches(len(y), options.epochs_server):
            batch = Batch(loop.laid(maps[i]), y[i], i)
            loop.step(of_server, lambda batch=batch, inputs=context: server_loss(server, batch, inputs, options))
        output, weight = context["said"], options.kd_alpha
        server.eval()
        yield [[partial(behind, net) for net in nets], nets]


ROUNDS = {"fedavg": fedavg, "fedbabu": fedavg, "cfkd": cfkd, "fedgkt": fedgkt}


def finished(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    torch.set_default_device(options.device)
    torch.manual_seed(0)
    loop = Loop(Work.read(options.work, options.device), options.best)
    expected = loop.work.options
    rounds, tests, playing = [], [], ROUNDS[expected["algorithm"]](loop)
    for r in range(1, expected["rounds"] + 1):
        began = time.perf_counter()
        answers = next(playing)
        finished(options.device)
        rounds.append(time.perf_counter() - began)
        if r == expected["rounds"] or expected["track_history"]:
            began = time.perf_counter()
            accuracy, *_ = [loop.accuracy(kind) for kind in answers]
            tests.append(time.perf_counter() - began)
    tell(rounds=rounds, tests=tests, accuracy=accuracy, steps=loop.steps)


if __name__ == "__main__":
    main()
