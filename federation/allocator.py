"""Keep freed memory in this process.

The GNU C library returns blocks above 32 MB to the system as soon as they are free, and obtains them again page by page,
each zeroed. The maps of a network are such blocks. If the process keeps them, an evaluation of ResNet8 takes 586 us per
image instead of 1928, of ResNet19 1378 instead of 2883, of CNN4 383 instead of 813 (`python checks/costs.py memory`:
batches of 250 images of 32x32, one thread of a shared AMD EPYC with AVX512, glibc 2.36, torch 2.13, medians of 3). The
peak of memory grows by 5 to 28 %, since free blocks lie between used ones. The results are the same bits.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_blocks() -> bool:
    """Reuse freed memory from now on instead of returning it to the system; return whether this is possible.

    The function does nothing if the C library is not GNU's (musl, macOS, Windows).
    """
    with suppress(OSError, TypeError, AttributeError):
        library = ctypes.CDLL(None)  # the process's own C library; fails on Windows
        library.gnu_get_libc_version  # noqa: B018 - other C libraries lack this function
        never = -1
        return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, never))
    return False
