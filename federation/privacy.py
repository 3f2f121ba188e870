"""Clip and noise what clients send, and the epsilon of differential privacy that the noise gives.

The unit is the client: the change of its weights in a round is clipped to an L2 norm of C, and every number gets Gaussian
noise of standard deviation S C. Two neighbouring runs differ in one client that trains, or sends the received weights back
unchanged (zero-out adjacency), so a message has sensitivity C. If one client's data are replaced by other data, the
sensitivity is 2 C, and epsilon is that of half the noise.

T such messages, each of which may depend on the earlier ones, are exactly as private as a single one with noise S / sqrt(T):
J. Dong, A. Roth, W. J. Su: Gaussian Differential Privacy, JRSS B 2022, Corollary 3.3. The exact epsilon of one Gaussian
message is that of B. Balle, Y.-X. Wang: Improving the Gaussian Mechanism for Differential Privacy, ICML 2018, Theorem 8. So
no accountant with numerical composition is necessary. Sampling of clients gives no credit: the server knows who takes part.
"""

import math

import torch
from torch import Tensor

import streams


class Noise:
    """Clipping to the norm `clip` (C) and noise of `noise` (S) times C per number, for the clients' weights.

    `seed` of the noise.
    """

    def __init__(self, clip: float, noise: float, seed: int) -> None:
        self._clip, self._noise, self._seed = clip, noise, seed

    def protected(self, row: dict[str, Tensor], received: dict[str, Tensor], round: int, client: int) -> dict[str, Tensor]:
        """Return the row that client sends in place of `row`; `received`: the weights that it received in this round.

        Integer tensors are sent unchanged.
        """
        names = [name for name, w in row.items() if w.is_floating_point()]
        change = {name: row[name].double() - received[name].double() for name in names}
        norm = math.sqrt(sum(w.square().sum().item() for w in change.values()))
        scale = self._clip / norm if norm > self._clip else 1.0
        if scale == 1 and not self._noise:
            return row  # the same bits as without a limit
        stream, sent = streams.generator(self._seed, "client", "dp noise", round, client), dict(row)
        for name in names:
            w = received[name].double() + scale * change[name]
            if self._noise:
                draw = torch.from_numpy(stream.standard_normal(tuple(w.shape)))
                w = w + self._noise * self._clip * streams.moved(draw, w.device)
            sent[name] = w.to(row[name].dtype)
        return sent


def epsilon(noise: float, rounds: int, delta: float) -> float:
    """Return the epsilon of `rounds` Gaussian messages at `delta`; `noise`: standard deviation over sensitivity.

    Without messages it is 0, without noise infinite.
    """
    from scipy.optimize import brentq

    if not rounds or not noise:
        return 0.0 if not rounds else math.inf
    mu = math.sqrt(rounds) / noise
    # the privacy loss is normal with mean mu^2 / 2 and standard deviation mu, so its tail bounds epsilon
    most = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))

    def excess(value: float) -> float:
        return math.log(max(gaussian_delta(value, mu), 1e-300)) - math.log(delta)

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, most, xtol=1e-12, rtol=1e-12))


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the delta of one Gaussian message with sensitivity / standard deviation `mu`, at epsilon."""
    from scipy.special import log_ndtr

    log_p, log_q = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(-math.expm1(min(log_q - log_p, 0.0)) * math.exp(log_p))
