"""DP-SGD: local steps in which every example has a limited weight, with Gaussian noise.

M. Abadi et al.: Deep Learning with Differential Privacy, CCS 2016, Algorithm 1. A step takes each example of the client with
probability q = B / n_k, clips the gradient of each to an L2 norm of C, adds noise of standard deviation S C to their sum,
and divides by B, the expected size of a batch. The optimizer then updates the weights by this gradient.

The unit is one example: two neighbouring data sets differ in one example of a client, which is there or not.

Difference from the paper: an epoch has ceil(n_k / B) steps, as many as without DP-SGD, so q is at most 1.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

import streams
from errors import UserError

ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(11, 65)) + [80, 128, 256, 512, 1024]  # of Renyi divergences


def rate(n: int, batch_size: int) -> float:
    """Return q, the probability that a step takes an example of a client with n examples."""
    return min(1.0, batch_size / n)


def batches(n: int, batch_size: int, stream: np.random.Generator) -> Iterator[Tensor]:
    """Yield the positions of each batch of an epoch over n examples, int64; a batch may be empty."""
    for _ in range(math.ceil(n / batch_size)):
        yield torch.from_numpy(np.flatnonzero(stream.random(n) < rate(n, batch_size)))


def set_gradients(
    model: nn.Module,
    trained: dict[str, Tensor],
    loss: Callable[..., Tensor],
    batch: Any,
    options,
    stream: np.random.Generator,
) -> Tensor:
    """Set the gradient of each trained parameter; return the mean loss of the batch, 0 of an empty one.

    `loss(model, batch)` is the loss of a batch of one example, here of `batch`'s type (x, y, index).
    """
    total, mean_loss = {name: torch.zeros_like(p) for name, p in trained.items()}, torch.zeros((), device=batch.x.device)
    if len(batch.y):
        total, mean_loss = _clipped_sum(model, trained, loss, batch, options.dp_sgd_clip)
    deviation = options.dp_sgd * options.dp_sgd_clip
    for name, parameter in trained.items():
        draw = streams.moved(torch.from_numpy(stream.standard_normal(tuple(parameter.shape))), parameter.device)
        parameter.grad = (total[name] + (deviation * draw).to(parameter.dtype)) / options.batch_size
    return mean_loss


def _clipped_sum(model, trained, loss, batch, clip) -> tuple[dict[str, Tensor], Tensor]:
    of_model = _LossOf(model, loss, type(batch))
    fixed = {f"model.{name}": t for name, t in (*model.named_parameters(), *model.named_buffers()) if name not in trained}

    def of_example(weights: dict[str, Tensor], *example: Tensor) -> Tensor:
        named = {f"model.{name}": w for name, w in weights.items()}
        return functional_call(of_model, {**fixed, **named}, tuple(part.unsqueeze(0) for part in example))

    weights = {name: p.detach() for name, p in trained.items()}
    in_dims = (None, *[0] * len(batch))
    try:
        gradients, losses = vmap(grad_and_value(of_example), in_dims=in_dims, randomness="error")(weights, *batch)
    except RuntimeError as error:  # a user's network or loss may do anything
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise UserError(f"--dp_sgd: the network or the loss has no gradient of a single example: {reason}") from None
    norms = torch.stack([g.reshape(len(g), -1).double().square().sum(1) for g in gradients.values()]).sum(0).sqrt()  # [B]
    scales = clip / norms.clamp(min=clip)
    total = {name: torch.tensordot(scales.to(g.dtype), g, 1) for name, g in gradients.items()}
    return total, losses.detach().mean()


class _LossOf(nn.Module):
    """A loss as a module, so that torch can replace the weights of its model."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor], batch: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self._loss, self._batch = model, loss, batch

    def forward(self, *example: Tensor) -> Tensor:
        return self._loss(self.model, self._batch(*example))


@lru_cache(maxsize=4096)
def divergences(noise: float, q: float) -> np.ndarray:
    """Return the Renyi divergences of one step at `ORDERS`, by Opacus."""
    from opacus.accountants.analysis import rdp

    return np.asarray(rdp.compute_rdp(q=q, noise_multiplier=noise, steps=1, orders=ORDERS))


def epsilon(noise: float, q: float, steps: int, delta: float, mean_noise: float = math.inf, means: int = 0) -> float:
    """Return epsilon at `delta` of `steps` steps, and of `means` Gaussian messages with noise `mean_noise`.

    `noise`: standard deviation over C; q: the sampling rate. Without steps and messages it is 0, without noise infinite. The
    bound is that of Renyi differential privacy (I. Mironov: Renyi Differential Privacy, CSF 2017; Opacus).
    """
    from opacus.accountants.analysis import rdp

    if not steps and not means:
        return 0.0
    if (steps and not noise) or (means and not mean_noise):
        return math.inf
    total = steps * divergences(noise, q) if steps else np.zeros(len(ORDERS))
    if means:
        total = total + means * np.asarray(ORDERS) / (2 * mean_noise**2)
    value, _ = rdp.get_privacy_spent(orders=ORDERS, rdp=total, delta=delta)
    return max(float(value), 0.0)
