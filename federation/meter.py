"""The costs of each party, counted where they occur: steps, examples, floating point operations, seconds."""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_flop_count

log = logging.getLogger("chorus")
Clients = int | tuple[int, ...]  # a client, or several whose work is done together


def several(client: Clients) -> tuple[int, ...]:
    """Return a client, or several, as a tuple."""
    return client if isinstance(client, tuple) else (client,)


class Meter:
    """Counters since the last call of `clear`.

    `spent`: {(quantity, party, client): count} of "steps", "samples" and "flops", which are the same when a run is repeated.
    The quantity "uncounted NAME" is the number of calls of an operation of torch that "flops" leave out.
    `seconds`: {(phase, party): seconds}, which differ. `diverged`: (party, client) of each training that ended with a loss
    or weights that are not finite.
    """

    def __init__(self) -> None:
        self.spent: Counter[tuple[str, str, int]] = Counter()
        self.diverged: set[tuple[str, int]] = set()
        self.seconds: Counter[tuple[str, str]] = Counter()
        self._flops: dict[Hashable, int] = {}
        self._calls = 0
        self._uncounted: dict[Hashable, Counter[str]] = {}  # calls of operations without a formula
        self.notes: dict[str, None] = {}  # messages to the user

    def now(self) -> float:
        """Return seconds on this meter's clock, of which only differences have a meaning."""
        return time.perf_counter()

    def work(self, do: Callable[[], Any], party: str, client: Clients, kind: Hashable) -> Any:
        """Return do(), and count its floating point operations, of a client, or in equal parts of several.

        Matrix products, convolutions and attention count, forward and backward; a multiply-add counts as two operations.
        What costs a few operations per element, such as activations, normalisation and pooling, does not count. The
        operations are counted the first time that work of this `kind` is done; later work of the kind adds the known number.
        So `kind` must contain everything that determines the number, such as the batch size.
        """
        is_new = kind not in self._flops
        result = self._done(do, kind)
        clients = several(client)
        for k in clients:
            self.spent["flops", party, k] += self._flops[kind] // len(clients)
        if is_new:
            self.spent.update({(f"{UNCOUNTED}{name}", party, clients[0]): n for name, n in self._uncounted[kind].items()})
        return result

    def remembered(self, memory: dict[str, Any], kind: Hashable) -> dict[str, Any]:
        """Return an optimizer's state after steps of a kind, which have changed it in place."""
        return memory

    def note(self, message: str) -> None:
        """Log a message to the user, once in a run."""
        if message not in self.notes:
            self.notes[message] = None
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
        self._flops[kind], self._uncounted[kind] = counter.total, counter.uncounted
        return result


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return whether all numbers in the tensors are finite: bool, on their device, without waiting for it."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    # aminmax is ten times faster than a test of all numbers, and is NaN if any number is NaN
    extremes = [extreme.double() for tensor in floating for extreme in tensor.aminmax()]
    return torch.stack(extremes).isfinite().all() if extremes else torch.tensor(True)


class _Counter(TorchDispatchMode):
    """Count in `total` the floating point operations of torch inside, and in `uncounted` the calls without a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.uncounted = 0, Counter()

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
        elif not _is_cheap(func):
            self.uncounted[str(func.overloadpacket)] += 1
        return result


@cache
def _is_cheap(func: torch._ops.OpOverload) -> bool:
    """Return whether an operation costs a few operations per element, forward or backward, so that it does not count."""
    name = func.overloadpacket.__name__
    forward = getattr(aten, re.sub("(_backward)?(_data)?_?$", "", name), func.overloadpacket)
    overloads = [func, *(getattr(forward, overload_name) for overload_name in forward.overloads())]
    return bool(CHEAP.search(name)) or any(overload.is_view or ELEMENTWISE & set(overload.tags) for overload in overloads)


def _convolution_backward(
    grad, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask, out_val
) -> int:
    """Return the operations of the gradients of input and weight, as requested by `output_mask`.

    Each gradient needs as many products as the forward pass, with the output's gradient as one of the two factors. torch's
    own formula counts the weight of a grouped convolution as a dense weight.
    """
    return sum(output_mask[:2]) * conv_flop_count(x.shape, weight.shape, grad.shape, transposed)


def _attention(query, key, value, width, n_heads, qkv, qkv_bias, output, *others, out_val, **by_name) -> int:
    """Return the operations of self-attention with its linear layers, weights `qkv` and `output`."""
    (n, n_queries, _), n_keys = query.shape, key.shape[1]
    heads = [(n, n_heads, length, width // n_heads) for length in (n_queries, n_keys, n_keys)]
    return 2 * n * width * width * (2 * n_queries + 2 * n_keys) + sdpa_flop_count(*heads)


def _encoder_layer(x, width, n_heads, *others, out_val, **by_name) -> int:
    """Return the operations of a layer of a transformer: attention, and the two linear layers of its MLP."""
    first, second = others[11], others[13]
    mlp = 2 * x.shape[0] * x.shape[1] * (first.numel() + second.numel())
    return _attention(x, x, x, width, n_heads, *others, out_val=out_val) + mlp


aten = torch.ops.aten
ELEMENTWISE = {torch.Tag.pointwise, torch.Tag.reduction}
CHEAP = re.compile(  # in the names of operations that cost little, where torch has no tag that says so
    "norm|soft|pool|loss|entropy|dropout|prelu|glu|hardswish|copy|clone|empty|zero|ones|full|fill|eye|range|space|rand|uniform|"
    "bernoulli|nomial|cat|stack|split|select|slice|index|gather|scatter|embedding|mask|pad|view|strided|resize|flip|roll|"
    "repeat|shuffle|fold|upsample|sort|topk|kthvalue|median|mode$|unique|cum|bincount|hist|diag|^tri[lu]|scalar|check|foreach|fused_"
)
UNCOUNTED = "uncounted "
_FORMULAS = {
    **flop_registry,
    aten.convolution_backward: _convolution_backward,
    # the kernels of a CPU, which the library lacks
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
    # the kernels of nn.MultiheadAttention and nn.TransformerEncoderLayer without gradients
    aten._native_multi_head_attention: _attention,
    aten._transformer_encoder_layer_fwd: _encoder_layer,
    aten.mv: lambda matrix, vector, out_val: 2 * matrix.numel(),
    aten.dot: lambda a, b, out_val: 2 * a.numel(),
}
