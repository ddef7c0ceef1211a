"""Rate matching: the reference's table, and that no other split of a budget is better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.rates import matched_qps, prefill_budget_share, usd_per_hour_per_qps

RATE = st.floats(min_value=1e-3, max_value=1e6)


@pytest.mark.parametrize(
    ("prefill", "decode", "stated"), [(88, 77, 41), (88, 276, 67), (85, 277, 65), (88, 277, 67)]
)
def test_the_reference_table_of_pairings(prefill: float, decode: float, stated: int) -> None:
    assert round(float(matched_qps(prefill, decode))) == stated


def test_the_reference_split() -> None:
    assert float(prefill_budget_share(88, 276)) == pytest.approx(0.758, abs=5e-4)


def test_whole_tables_at_once() -> None:
    found = matched_qps([88, 88, 85, 88], [77, 276, 277, 277])
    assert found == pytest.approx([41.07, 66.73, 65.04, 66.78], abs=0.01)


@given(RATE, RATE)
def test_no_split_serves_more(prefill: float, decode: float) -> None:
    best = float(matched_qps(prefill, decode))
    share = float(prefill_budget_share(prefill, decode))
    assert share * prefill == pytest.approx(best)
    assert (1.0 - share) * decode == pytest.approx(best, rel=1e-6, abs=1e-9 * decode)
    grid = np.linspace(0.0, 1.0, 2001)
    served = np.minimum(grid * prefill, (1.0 - grid) * decode)
    assert served.max() <= best * (1.0 + 1e-9)
    assert served.max() >= best * (1.0 - 1e-3) or min(share, 1.0 - share) < 1e-2


@given(RATE, RATE, RATE)
def test_more_of_either_rate_serves_more(prefill: float, decode: float, extra: float) -> None:
    base = float(matched_qps(prefill, decode))
    least = base * (1.0 - 1e-12)  # rounding
    assert float(matched_qps(prefill + extra, decode)) >= least
    assert float(matched_qps(prefill, decode + extra)) >= least
    assert least <= min(prefill, decode)


@given(RATE, RATE, RATE, RATE)
def test_the_price_of_a_request_rate_adds_up(
    prefill_usd: float, prefill: float, decode_usd: float, decode: float
) -> None:
    each = float(usd_per_hour_per_qps(prefill_usd, prefill, decode_usd, decode))
    assert each == pytest.approx(prefill_usd / prefill + decode_usd / decode)
    assert each >= max(prefill_usd / prefill, decode_usd / decode)


@given(RATE, RATE, RATE)
def test_in_money_of_one_price_the_two_forms_agree(
    prefill: float, decode: float, budget: float
) -> None:
    served = budget / float(usd_per_hour_per_qps(budget, prefill, budget, decode))
    assert served == pytest.approx(float(matched_qps(prefill, decode)))
