"""Amounts of money for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.prices import format_usd


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0.0962, "0.0962"),
        (0.1, "0.100"),
        (1.1037, "1.10"),
        (31.4, "31.40"),
        (6400.6, "6,401"),
        (0.0, "0"),
    ],
)
def test_amounts(usd: float, shown: str) -> None:
    assert format_usd(usd) == shown


@given(st.floats(1e-4, 1e9))
def test_three_digits_are_kept_without_an_exponent(usd: float) -> None:
    shown = format_usd(usd)
    assert "e" not in shown
    assert float(shown.replace(",", "")) == pytest.approx(usd, rel=0.0051)
