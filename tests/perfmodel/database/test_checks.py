"""Optional columns of a table."""

from __future__ import annotations

import polars as pl
import pytest

from perfmodel.database import FAMILIES, TableError
from perfmodel.database.checks import checked

ROWS = pl.DataFrame(
    {
        "dtype": ["bf16", "bf16"],
        "n": [1024, 1024],
        "k": [512, 512],
        "m": [1, 8],
        "time_s": [1e-5, 2e-5],
        "device": "toy",
        "engine": "vllm",
        "engine_version": "1.0",
        "kernel": "f",
        "origin": "here",
        "licence": "CC0-1.0",
    }
)


def test_optional_columns_may_be_absent():
    assert "power_w" not in checked(ROWS, FAMILIES["gemm"], "t").columns


def test_optional_columns_may_be_empty_and_come_last():
    given = ROWS.select(
        pl.Series("spread", [0.0, None]), pl.Series("power_w", [None, 250.5]), pl.all()
    )
    found = checked(given, FAMILIES["gemm"], "t")
    assert found.columns == [*ROWS.columns, "power_w", "spread"]
    assert found.select("power_w", "spread").rows() == [(None, 0.0), (250.5, None)]
    assert set(found.select("power_w", "spread").dtypes) == {pl.Float32}


def test_optional_column_without_any_value():
    found = checked(ROWS.with_columns(power_w=pl.lit(None)), FAMILIES["gemm"], "t")
    assert found["power_w"].to_list() == [None, None]
    assert found["power_w"].dtype == pl.Float32


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("power_w", [None, 0.0], "t: column power_w: row 2: expected more than 0, got 0.0"),
        ("spread", [-0.1, None], "t: column spread: row 1: expected at least 0, got -0.1"),
        ("spread", [None, float("nan")], "t: column spread: row 2: expected a finite number"),
        ("power_w", ["high", None], "t: column power_w: expected real, got String"),
    ],
)
def test_bad_optional_values_are_refused(name, values, reason):
    with pytest.raises(TableError) as caught:
        checked(ROWS.with_columns(pl.Series(name, values)), FAMILIES["gemm"], "t")
    assert str(caught.value).startswith(reason)


def test_required_columns_must_not_be_empty():
    given = ROWS.with_columns(pl.Series("time_s", [1e-5, None]))
    with pytest.raises(TableError, match="column time_s: row 2: is empty"):
        checked(given, FAMILIES["gemm"], "t")
