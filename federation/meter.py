"""What the parties spend, counted where they spend it: steps, examples, floating point operations, seconds."""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry


class Meter:
    """Counts since `clear` was last called. `spent`: {(what, party, client): how many} of "steps", "samples" and "flops",
    which repeat when a run is repeated; `seconds`: {(phase, party): seconds}, which do not; `diverged`: (party, client) of
    each whose training ended with a loss or weights that are not finite."""

    def __init__(self) -> None:
        self.spent: Counter[tuple[str, str, int]] = Counter()
        self.diverged: set[tuple[str, int]] = set()
        self.seconds: Counter[tuple[str, str]] = Counter()
        self._flops: dict[Hashable, int] = {}

    def now(self) -> float:
        """Seconds on this meter's clock, of which only differences mean anything."""
        return time.perf_counter()

    def work(self, do: Callable[[], Any], party: str, client: int, kind: Hashable) -> Any:
        """do(), whose floating point operations are counted: those of matrix products and convolutions, forward and
        backward, a multiply-add being two.

        They are counted where work of this `kind` is done for the first time; the kind says all that their number depends
        on, such as the size of the batch. What is known is added, and not watched again.
        """
        done = self._done(do, kind)
        self.spent["flops", party, client] += self._flops[kind]
        return done

    def remembered(self, memory: dict[str, Any], kind: Hashable) -> dict[str, Any]:
        """What the memory of an optimizer is after steps of a kind, whose work has changed it in place."""
        return memory

    def clear(self) -> None:
        """Begin anew with all counts; what is known of a kind of work stays known."""
        self.spent.clear()
        self.diverged.clear()
        self.seconds.clear()

    def _done(self, do: Callable[[], Any], kind: Hashable) -> Any:
        if kind in self._flops:
            return do()
        with _Counter() as counter:
            done = do()
        self._flops[kind] = counter.total
        return done


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no number in them is NaN or infinite: bool, on their device, which is not waited for."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    # the least and the largest number of each are ten times faster than a look at all, and NaN where there is any
    ends = [end.double() for tensor in floating for end in tensor.aminmax()]
    return torch.stack(ends).isfinite().all() if ends else torch.tensor(True)


class _Counter(TorchDispatchMode):
    """`total`: the floating point operations of what torch does inside."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler with the first operation, for a second or two

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            done = func.decompose(*args, **kwargs)  # in inference mode a layer arrives whole; its parts are counted
        if done is not NotImplemented:
            return done
        done = func(*args, **kwargs)
        if func.overloadpacket in _FORMULAS:
            self.total += _FORMULAS[func.overloadpacket](*args, **kwargs, out_val=done)
        return done


def _convolution_backward(
    grad, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, wanted, out_val
) -> int:
    """The gradients of the input and of the weight, as `wanted`: either takes as many products as the way forward, the slope
    in place of one of the two factors. torch's own formula counts the weight of a grouped convolution as a dense one."""
    return sum(wanted[:2]) * conv_flop_count(x.shape, weight.shape, grad.shape, transposed)


_FORMULAS = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}
