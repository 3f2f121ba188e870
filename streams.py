"""Every random number in Chorus comes from here: a stream of its own for each purpose, named rather than ordered.

Because a stream is found by its name and not by how many numbers were drawn before, a result does not depend on how many
processes worked on it, in which order the clients were visited, which algorithm ran before, or whether the run was
killed and resumed.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _digest(key: tuple) -> int:
    plain = [name if isinstance(name, str) else int(name) for name in key]  # numpy's 3 and Python's 3 are one name
    return int.from_bytes(hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).digest(), "little")


def generator(*key: str | int) -> np.random.Generator:
    """The stream called `key`: a numpy Philox generator (128-bit key) at its beginning."""
    return np.random.Generator(np.random.Philox(key=_digest(key)))


@contextmanager
def torch_seeded(*key: str | int) -> Iterator[None]:
    """Inside, torch's own CPU generator starts from the name `key`; afterwards it is as it was before.

    For initialising modules only: torch's CPU generator keeps just 32 bits of a seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_digest(key) % 2**32)
        yield
