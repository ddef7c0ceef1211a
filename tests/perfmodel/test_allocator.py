"""What is freed stays with the process, counted in pages that it fetches anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PAGES_FETCHED = """
import resource
import sys
import numpy as np
from perfmodel.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory(everything=sys.argv[2] == "all")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(1 << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no threshold")
@pytest.mark.parametrize("how_much", ["all", "adapted"])
def test_freed_arrays_are_not_paged_in_anew(how_much: str) -> None:
    def pages(how: str) -> int:
        found = subprocess.run(
            [sys.executable, "-c", PAGES_FETCHED, how, how_much],
            env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},  # what Dask sets
            capture_output=True,
            text=True,
            check=True,
        )
        return int(found.stdout)

    assert pages("kept") < pages("given back") / 10
