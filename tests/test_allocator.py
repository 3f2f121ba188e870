"""Memory stays with a process where its C library is GNU's, and nothing is done where it is another."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from federation import allocator

BLOCK, TIMES = 64 * 2**20, 20  # bytes: above what the library would keep of itself
HUGE_PAGE = 2 * 2**20
AGAIN = f"""
import resource, torch
from federation import allocator
print(allocator.keep_blocks())
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def again():
    before = faults()
    for _ in range({TIMES}):
        torch.ones({BLOCK} // 4)
    return faults() - before
again()  # until small blocks that stay have found their places between the large ones
print(again())
"""


def test_a_block_that_was_freed_is_used_again_without_a_page_fault():
    done = subprocess.run([sys.executable, "-c", AGAIN], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library is not GNU's")
    assert int(faults) < TIMES * BLOCK / HUGE_PAGE / 2, "each time anew, there would be twice as many of the largest pages"


def nothing_to_load(name):
    raise TypeError("what Windows says to None")


@pytest.mark.parametrize(
    "library",
    [
        nothing_to_load,
        lambda name: SimpleNamespace(),  # macOS
        lambda name: SimpleNamespace(mallopt=lambda *args: pytest.fail("it is not GNU's")),  # Android
        lambda name: SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda *args: 0),  # refused
    ],
)
def test_elsewhere_nothing_is_done(monkeypatch, library):
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert allocator.keep_blocks() is False
