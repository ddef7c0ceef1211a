"""Rows that cannot well be true."""

from __future__ import annotations

import polars as pl
import pytest

from perfmodel.database import FAMILIES, PerfStore
from perfmodel.database.audit import physics
from perfmodel.hardware import load_device

DEVICE = load_device("h200_sxm")


def products(*times: float) -> pl.DataFrame:
    """Products of 4096 x 4096 with 1, 2, 4, ... rows."""
    return pl.DataFrame(
        {
            "dtype": "bf16",
            "n": 4096,
            "k": 4096,
            "m": [2**i for i in range(len(times))],
            "time_s": times,
        }
    )


def test_plausible_rows() -> None:
    assert physics(products(1e-5, 1.1e-5, 0.9e-5), FAMILIES["gemm"], DEVICE, "x").warnings == []


def test_a_row_faster_than_its_roofline() -> None:
    # 33.6 MB of weights take 7 us from a memory of 4.8 TB/s.
    found = physics(products(1e-5, 3.5e-6, 1e-5), FAMILIES["gemm"], DEVICE, "x")
    assert found.too_fast is not None
    assert found.too_fast.count == 1
    assert found.too_fast.worst == pytest.approx(2.0, rel=0.01)
    assert found.too_fast.row == "dtype=bf16 n=4096 k=4096 m=2"


def test_a_row_slower_than_the_next() -> None:
    found = physics(products(1e-5, 5e-5, 1e-5), FAMILIES["gemm"], DEVICE, "x")
    assert (found.uneven.count, found.uneven.row) == (1, "dtype=bf16 n=4096 k=4096 m=2")
    assert found.uneven.worst == pytest.approx(5.0)
    assert found.warnings == [
        "1 slower than the next larger call, worst 5 times (dtype=bf16 n=4096 k=4096 m=2)"
    ]


def test_without_figures_of_the_device_rooflines_are_not_held_against() -> None:
    assert physics(products(1e-9), FAMILIES["gemm"], None, "x").too_fast is None


def test_routed_experts_are_read_from_memory_but_on_the_l40s_from_cache() -> None:
    def too_fast(device: str) -> float:
        table = PerfStore().table(device, "trtllm", "moe")
        assert table is not None
        found = physics(table, FAMILIES["moe"], load_device(device), "trtllm").too_fast
        assert found is not None
        return found.count / len(table)

    assert too_fast("h200_sxm") == 0.0
    assert 0.05 < too_fast("l40s") < 0.15  # weights of up to its 96 MB of L2
