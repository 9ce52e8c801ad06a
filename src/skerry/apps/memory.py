"""How the server's allocator behaves."""

from __future__ import annotations

import ctypes
from typing import Final

# mallopt(3)
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_KEPT_BYTES: Final = 32 << 20
_LARGEST_BYTES: Final = 8 << 20


def keep_freed_memory() -> bool:
    """Let glibc keep up to 32 MiB of freed memory; tell whether it was glibc.

    By default it gives the top of the heap back to the kernel with every frame that is freed, and gets it again, page
    by page, with the next: that was three quarters of the door's CPU time (benchmarks/door_throughput.py: 850 MB/s
    with the defaults, 3,800 with this).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES))
