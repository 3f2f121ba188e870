"""The optimizers of local training: torch's functions `adam` and `sgd`, on weights and memory by name.

The classes of `torch.optim` call the same functions and compute the same bits. But creating the first of these classes makes
torch import its compiler, and each of their steps calls hooks and a profiler.

A step is a function (weights, memory, lr, options) that changes weights and memory in place. `weights`: {name: parameter};
parameters without a gradient do not change. `memory`: {name: the optimizer state of the parameter, {} before its first
step}.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Memory = dict[str, dict[str, Any]]


def recalled(memory: Memory | None, names: Collection[str]) -> Memory:
    """Return the memory of these weights as copies that a step may change; {} for a weight without memory."""
    states = {name: (memory or {}).get(name, {}) for name in names}
    return {
        name: {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
        for name, state in states.items()
    }


def stacked(memories: Sequence[Memory]) -> Memory | None:
    """Return the memories of several clients as one, for weights [C, ...].

    Return None if their numbers of steps differ: an optimizer counts steps once for all numbers of a weight.
    """
    steps = [{name: (*state, float(state.get("step", 0))) for name, state in memory.items()} for memory in memories]
    if any(other != steps[0] for other in steps):
        return None
    return {
        name: {
            key: v.clone() if key == "step" else torch.stack([m[name][key] for m in memories]) for key, v in state.items()
        }
        for name, state in memories[0].items()
    }


def row(memory: Memory, c: int) -> Memory:
    """Return the memory of the client at position c, of a stacked one, as copies."""
    return {
        name: {key: (value if key == "step" else value[c]).clone() for key, value in state.items()}
        for name, state in memory.items()
    }


@torch.no_grad()
def _adam(weights: dict[str, Tensor], memory: Memory, lr: float, options, amsgrad: bool = False) -> None:
    """Take a step of Adam (Kingma and Ba, 2015) or AMSGrad (Reddi et al., 2018); weight decay is added to the gradient."""
    trained = {name: p for name, p in weights.items() if p.grad is not None}
    moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if amsgrad else 2]
    for name, p in trained.items():
        if not memory[name]:
            memory[name] = {"step": torch.tensor(0.0), **{moment: torch.zeros_like(p) for moment in moments}}
    states = [memory[name] for name in trained]
    adam(
        list(trained.values()),
        [p.grad for p in trained.values()],
        *([state[moment] for state in states] for moment in moments),
        *([] for _ in range(3 - len(moments))),
        [state["step"] for state in states],
        amsgrad=amsgrad,
        beta1=0.9,
        beta2=0.999,
        lr=lr,
        weight_decay=options.weight_decay,
        eps=1e-8,
        maximize=False,
    )


@torch.no_grad()
def _sgd(weights: dict[str, Tensor], memory: Memory, lr: float, options) -> None:
    """Take a step of SGD with torch's `--momentum`: v <- momentum v + g, w <- w - lr v; weight decay is added to g."""
    trained = {name: p for name, p in weights.items() if p.grad is not None}
    velocities = [memory[name].get("momentum_buffer") for name in trained]
    sgd(
        list(trained.values()),
        [p.grad for p in trained.values()],
        velocities,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        lr=lr,
        dampening=0,
        nesterov=False,
        maximize=False,
    )
    if options.momentum:
        memory.update({name: {"momentum_buffer": v} for name, v in zip(trained, velocities, strict=True)})


OPTIMIZERS: dict[str, Callable[[dict[str, Tensor], Memory, float, Any], None]] = {
    "adam": _adam,
    "sgd": _sgd,
    "amsgrad": partial(_adam, amsgrad=True),
}
# whose step treats every number of a weight alike, so that a step on stacked weights is a step on each
ELEMENTWISE = tuple(OPTIMIZERS)
