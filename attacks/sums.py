"""What a server with secure aggregation can attack: the average of the clients, in place of each client's message."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from federation.recording import Message
from federation.wire import ALL, SERVER, Tree, mapped


def averages(messages: Sequence[Message], uploads: Mapping[str, str | None]) -> list[Message]:
    """Return the messages, with each sum over the clients of a round as an average that every one of them has sent.

    `uploads`: {kind: what each message of the sum was multiplied by}, as in `federation.recording.sums`. The clients of a
    round are those to which the server sends something.
    """
    sums = {(message.round, message.kind): message.content for message in messages if message.sender == ALL}
    receivers: dict[int, dict[int, None]] = {}
    for message in messages:
        if message.sender == SERVER:
            receivers.setdefault(message.round, {})[message.receiver] = None
    results = []
    for message in messages:
        if message.sender != ALL:
            results.append(message)
            continue
        clients, weight = receivers.get(message.round, {}), uploads[message.kind]
        content = _average(message.content, weight, sums.get((message.round, weight)), max(len(clients), 1))
        results += [message._replace(sender=k, content=content) for k in clients]
    return results


def _average(total: Tree, weight: str | None, weights: Tensor | None, n: int) -> Tree:
    if isinstance(total, dict) and weight in total:
        rest = {name: part for name, part in total.items() if name != weight}
        return {**_average(rest, None, total[weight], n), weight: total[weight] // n}
    return mapped(lambda leaf: _over(leaf, n if weights is None else weights), total)


def _over(total: Tensor, weights: Tensor | int) -> Tensor:
    """Return total / weights; integers, such as counts, are rounded down."""
    if isinstance(weights, Tensor):
        weights = weights.clamp(min=1).reshape(weights.shape + (1,) * (total.ndim - weights.ndim))
    return total / weights if total.is_floating_point() else total // weights
