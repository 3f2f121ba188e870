"""Memory that stays with this process.

The GNU C library gives blocks above 32 MB back to the system as soon as they are free, and takes them again page by page,
each zeroed anew. The maps of a network are such blocks. Where they are kept, an evaluation of ResNet8 takes 586 us an image
instead of 1928, of ResNet19 1378 instead of 2883, of CNN4 383 instead of 813 (`python checks/costs.py memory`: batches
of 250 images of 32x32, one thread of a shared AMD EPYC with AVX512, glibc 2.36, torch 2.13, medians of 3). The peak of
memory grows by 5 to 28 %: what is free lies between what is not. The numbers are the same bits.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_blocks() -> bool:
    """From now on what this process has freed is used again, and never given back -> whether that could be had: nothing is
    done where the C library is another than GNU's (musl, macOS, Windows)."""
    with suppress(OSError, TypeError, AttributeError):
        library = ctypes.CDLL(None)  # what this process runs with; Windows has no such thing
        library.gnu_get_libc_version  # noqa: B018 - that others lack
        never = -1
        return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, never))
    return False
