"""What this process does with memory that it frees: keeps it for the next arrays, if told so.

By default glibc gives large blocks back to the system, and fetches them anew page by page.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3)."""

ADAPTED = ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 64 << 20))
"""Where glibc itself ends up as large blocks are freed, unless the environment sets either."""

ALL = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1))


def keep_freed_memory(everything: bool = True) -> bool:
    """Let this process keep what it frees, as the allocators do that CPU services preload.

    Args:
        everything: blocks of any size; otherwise as much as glibc adapts to by itself.

    Returns:
        Whether the C library can be told so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(*option) for option in (ALL if everything else ADAPTED))
