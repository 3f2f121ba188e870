"""The optimizers of local training: torch's own functions `adam` and `sgd`, on weights and memory by name.

The classes of `torch.optim` call the same functions, and compute the same bits. But the first of them that is made has torch
import its compiler, and each of their steps passes hooks and a profiler.

A step is a function (weights, memory, lr, options), which changes both in place: `weights` {name: parameter}, of which those
without a gradient stay as they are; `memory` {name: what is remembered of it, {} before its first step}.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Memory = dict[str, dict[str, Any]]


def recalled(memory: Memory | None, names: Collection[str]) -> Memory:
    """The memory of these weights, as copies that a step may change; {} of one that has none."""
    kept = {name: (memory or {}).get(name, {}) for name in names}
    return {
        name: {key: value.clone() if isinstance(value, Tensor) else value for key, value in of_one.items()}
        for name, of_one in kept.items()
    }


@torch.no_grad()
def _adam(weights: dict[str, Tensor], memory: Memory, lr: float, options, amsgrad: bool = False) -> None:
    """Adam (Kingma and Ba, 2015), or AMSGrad (Reddi et al., 2018), with weight decay added to the gradient."""
    moving = {name: p for name, p in weights.items() if p.grad is not None}
    moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if amsgrad else 2]
    for name, p in moving.items():
        if not memory[name]:
            memory[name] = {"step": torch.tensor(0.0), **{moment: torch.zeros_like(p) for moment in moments}}
    of_each = [memory[name] for name in moving]
    adam(
        list(moving.values()),
        [p.grad for p in moving.values()],
        *([of_one[moment] for of_one in of_each] for moment in moments),
        *([] for _ in range(3 - len(moments))),
        [of_one["step"] for of_one in of_each],
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
    """SGD, with `--momentum` as torch has it: v <- momentum v + g, w <- w - lr v; weight decay is added to g."""
    moving = {name: p for name, p in weights.items() if p.grad is not None}
    velocities = [memory[name].get("momentum_buffer") for name in moving]
    sgd(
        list(moving.values()),
        [p.grad for p in moving.values()],
        velocities,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        lr=lr,
        dampening=0,
        nesterov=False,
        maximize=False,
    )
    if options.momentum:
        memory.update({name: {"momentum_buffer": v} for name, v in zip(moving, velocities, strict=True)})


OPTIMIZERS: dict[str, Callable[[dict[str, Tensor], Memory, float, Any], None]] = {
    "adam": _adam,
    "sgd": _sgd,
    "amsgrad": partial(_adam, amsgrad=True),
}
