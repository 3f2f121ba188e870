"""Streams are found by their name, and by nothing else."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

import streams

NAME = (7, "client", "batches", 3, 2)  # seed, party, purpose, round, client


def first(*key):
    """The first draws of a stream, enough bits for two streams never to agree by chance."""
    return tuple(streams.generator(*key).integers(2**63, size=4).tolist())


def inside(*key):
    with streams.torch_seeded(*key):
        return torch.rand(8)


def test_a_stream_depends_on_its_name_only():
    expected = first(*NAME)
    np.random.default_rng(0).random(10)
    np.random.seed(1)
    torch.manual_seed(1)
    other = streams.generator(*NAME[:-1], 5)
    other.random(1000)
    assert first(*NAME) == expected


def test_every_call_gives_the_stream_at_its_beginning():
    once, again = streams.generator(*NAME), streams.generator(*NAME)
    once.random(100)
    assert tuple(again.integers(2**63, size=4).tolist()) == first(*NAME)


def test_a_stream_is_the_same_in_another_process():
    """Python's own hash of a text is salted anew in every process, so a stream must not be named by it."""
    code = f"import streams; print(streams.generator(*{NAME!r}).integers(2**63, size=4).tolist())"
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, check=True
    )
    assert completed.stdout.decode().strip() == str(list(first(*NAME)))


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, torch.tensor])
def test_whole_numbers_of_every_type_are_the_same_name(integer):
    plain = (7, "batches", 3)
    assert first(integer(7), "batches", integer(3)) == first(*plain)
    assert torch.equal(inside(integer(7), "batches", integer(3)), inside(*plain))


def test_other_seeds_parties_purposes_rounds_and_clients_are_other_streams():
    names = list(itertools.product((0, 1), ("client", "server"), ("batches", "teacher"), (0, 1), (-1, 0, 1)))
    assert len({first(*name) for name in names}) == len(names)
    assert len({tuple(inside(*name).tolist()) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("item", "other"),
    [
        (("round", 1, 23), ("round", 12, 3)),  # names are not run together
        (("split", 1), ("split", "1")),  # a number is not its text
        (("a", "b"), ("b", "a")),  # places count
        (("a",), ("a", 0)),  # and so does the length
        ((0,), (2**64,)),  # nor are seeds cut to 64 bits
        ((0,), (2**128,)),
    ],
)
def test_names_that_look_alike_are_different_streams(item, other):
    assert first(*item) != first(*other)


def test_torch_seeded_is_repeatable_whatever_happened_before():
    torch.manual_seed(1)
    expected = inside(*NAME)
    torch.manual_seed(2)
    torch.rand(5)
    assert torch.equal(inside(*NAME), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_torch_seeded_leaves_the_global_generator_as_it_was(fails):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    try:
        with streams.torch_seeded(*NAME):
            torch.rand(5)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), before)
