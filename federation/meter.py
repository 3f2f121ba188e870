"""The costs of each party, counted where they occur: steps, examples, floating point operations, seconds."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

log = logging.getLogger("chorus")
Clients = int | tuple[int, ...]  # a client, or several whose work is done together


def several(client: Clients) -> tuple[int, ...]:
    """Return a client, or several, as a tuple."""
    return client if isinstance(client, tuple) else (client,)


class Meter:
    """Counters since the last call of `clear`.

    `spent`: {(quantity, party, client): count} of "steps", "samples" and "flops", which are the same when a run is repeated.
    `seconds`: {(phase, party): seconds}, which differ. `diverged`: (party, client) of each training that ended with a loss
    or weights that are not finite.
    """

    def __init__(self) -> None:
        self.spent: Counter[tuple[str, str, int]] = Counter()
        self.diverged: set[tuple[str, int]] = set()
        self.seconds: Counter[tuple[str, str]] = Counter()
        self._flops: dict[Hashable, int] = {}
        self._notes: set[str] = set()
        self._calls = 0

    def now(self) -> float:
        """Return seconds on this meter's clock, of which only differences have a meaning."""
        return time.perf_counter()

    def work(self, do: Callable[[], Any], party: str, client: Clients, kind: Hashable) -> Any:
        """Return do(), and count its floating point operations, of a client, or in equal parts of several.

        Matrix products and convolutions count, forward and backward; a multiply-add counts as two operations. The operations
        are counted the first time that work of this `kind` is done; later work of the kind adds the known number. So `kind`
        must contain everything that determines the number, such as the batch size.
        """
        result = self._done(do, kind)
        clients = several(client)
        for k in clients:
            self.spent["flops", party, k] += self._flops[kind] // len(clients)
        return result

    def remembered(self, memory: dict[str, Any], kind: Hashable) -> dict[str, Any]:
        """Return an optimizer's state after steps of a kind, which have changed it in place."""
        return memory

    def note(self, message: str) -> None:
        """Log a message to the user, once in a run."""
        if message not in self._notes:
            self._notes.add(message)
            log.warning("%s", message)

    def next_call(self) -> int:
        """Return the number of earlier calls since the last `clear`."""
        self._calls += 1
        return self._calls - 1

    def clear(self) -> None:
        """Reset all counts; the known numbers of operations stay."""
        self._calls = 0
        self.spent.clear()
        self.diverged.clear()
        self.seconds.clear()

    def _done(self, function: Callable[[], Any], kind: Hashable) -> Any:
        if kind in self._flops:
            return function()
        with _Counter() as counter:
            result = function()
        self._flops[kind] = counter.total
        return result


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return whether all numbers in the tensors are finite: bool, on their device, without waiting for it."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    # aminmax is ten times faster than a test of all numbers, and is NaN if any number is NaN
    extremes = [extreme.double() for tensor in floating for extreme in tensor.aminmax()]
    return torch.stack(extremes).isfinite().all() if extremes else torch.tensor(True)


class _Counter(TorchDispatchMode):
    """Count in `total` the floating point operations of torch inside."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler with the first operation, which takes a second or two

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            result = func.decompose(*args, **kwargs)  # in inference mode a layer arrives as one operation; count its parts
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if func.overloadpacket in _FORMULAS:
            self.total += _FORMULAS[func.overloadpacket](*args, **kwargs, out_val=result)
        return result


def _convolution_backward(
    grad, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask, out_val
) -> int:
    """Return the operations of the gradients of input and weight, as requested by `output_mask`.

    Each gradient needs as many products as the forward pass, with the output's gradient as one of the two factors. torch's
    own formula counts the weight of a grouped convolution as a dense weight.
    """
    return sum(output_mask[:2]) * conv_flop_count(x.shape, weight.shape, grad.shape, transposed)


_FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}
