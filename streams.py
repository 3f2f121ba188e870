"""The source of every random number in Chorus: one stream for each purpose, identified by a name and not by an order.

Since a stream depends on its name and not on the number of earlier draws, a result does not depend on the number of
processes, the order of the clients, the algorithms that ran before, or whether the run was killed and resumed.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _digest(key: tuple) -> int:
    plain_key = [name if isinstance(name, str) else int(name) for name in key]  # numpy's 3 and Python's 3 are the same name
    return int.from_bytes(hashlib.blake2b(json.dumps(plain_key).encode(), digest_size=16).digest(), "little")


def generator(*key: str | int) -> np.random.Generator:
    """Return the stream called `key`: a numpy Philox generator (128-bit key) at its beginning."""
    return np.random.Generator(np.random.Philox(key=_digest(key)))


@contextmanager
def torch_seeded(*key: str | int) -> Iterator[None]:
    """Seed torch's own CPU generator with the name `key` inside; restore its state afterwards.

    Use this only to initialise modules: torch's CPU generator keeps just 32 bits of a seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_digest(key) % 2**32)
        yield


def moved(drawn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor drawn on the CPU on the device. A GPU copies it from pinned memory, so that the CPU does not wait."""
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)
