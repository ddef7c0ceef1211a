"""Mixtures of device types: the reference's devices, and that no other split costs less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import InputError
from planner.mixture import cheapest_mixture, pairing_saving
from planner.rates import matched_qps
from planner.whatif.pairing import Costs

PREFILL, DECODE = np.array([88.0, 88.0, 85.0]), np.array([77.0, 276.0, 277.0])
"""The reference's devices A, B and C."""
RATE = st.floats(min_value=0.1, max_value=1e3)
RATES = st.lists(RATE, min_size=2, max_size=2)


def saving(prices: list[float], kinds: slice = slice(None)) -> float:
    usd = np.array(prices)[kinds]
    return float(pairing_saving(usd / PREFILL[kinds], usd / DECODE[kinds]))


def test_pairing_a_with_b_at_the_reference_s_prices() -> None:
    # 2 / 88 + 3 / 276 against 3 / 88 + 3 / 276.
    assert saving([2, 3], slice(2)) == pytest.approx(0.253, abs=5e-4)
    assert saving([1, 1.3], slice(2)) == pytest.approx(0.175, abs=5e-4)


def test_the_cheapest_device_that_does_both_well_is_best_alone() -> None:
    assert saving([2, 3, 1]) < 0


def test_many_prices_at_once() -> None:
    ratios = np.array([1.0, 1.3, 1.5])
    usd = np.stack([np.ones(3), ratios], axis=1)
    found = pairing_saving(usd / PREFILL[:2], usd / DECODE[:2])
    assert found == pytest.approx([0.0, 0.175, 0.253], abs=5e-4)


def test_devices_that_cannot_serve_a_phase() -> None:
    inf = np.inf
    assert pairing_saving([1.0, inf], [inf, 1.0]) == 1.0
    assert pairing_saving([1.0, inf], [1.0, inf]) == -inf
    assert np.isnan(pairing_saving([inf, inf], [1.0, 1.0]))


@given(RATES, RATES, st.floats(min_value=0.05, max_value=20.0))
def test_it_saves_what_the_costs_of_two_devices_say(
    prefill: list[float], decode: list[float], ratio: float
) -> None:
    p, d = 1 / np.array(prefill), 1 / np.array(decode)
    costs = Costs(p[0] + d[0], p[1] + d[1], ((p[0], d[1], ""), (d[0], p[1], "")))
    usd = np.array([ratio, 1.0])
    assert float(pairing_saving(usd * p, usd * d)) == pytest.approx(float(costs.saving(ratio)))


def test_scarce_devices_decode_where_they_save_most() -> None:
    # Each C saves 3 * 277 / 276 - 1 dollars by decoding in a B's stead, 2 * 85 / 88 - 1 by
    # taking prompts in an A's.
    few = cheapest_mixture(67.0, PREFILL, DECODE, [2, 3, 1], [np.inf, np.inf, 67 / 277])
    assert few.prefill == pytest.approx([67 / 88, 0, 0])
    assert few.decode == pytest.approx([0, 0, 67 / 277])
    scarce = cheapest_mixture(670.0, PREFILL, DECODE, [2, 3, 1], [np.inf, np.inf, 1.0])
    assert scarce.decode == pytest.approx([0, (670 - 277) / 276, 1.0])
    assert scarce.prefill == pytest.approx([670 / 88, 0, 0])
    plenty = cheapest_mixture(67.0, PREFILL, DECODE, [2, 3, 1], [np.inf] * 3)
    assert plenty.devices == pytest.approx([0, 0, 67 / float(matched_qps(85, 277))])


def test_too_few_devices() -> None:
    with pytest.raises(InputError, match="do not serve 67 requests/s"):
        cheapest_mixture(67.0, PREFILL, DECODE, [2, 3, 1], [0.1, 0.1, 0.1])


@given(RATES, RATES, st.lists(RATE, min_size=2, max_size=2), st.floats(0.0, 1.0))
def test_no_split_of_two_devices_costs_less(
    prefill: list[float], decode: list[float], usd: list[float], share: float
) -> None:
    qps, p, d, c = 10.0, np.array(prefill), np.array(decode), np.array(usd)
    best = cheapest_mixture(qps, p, d, c, [np.inf, np.inf])
    assert (best.prefill @ p, best.decode @ d) == pytest.approx((qps, qps))
    split = np.array([share, 1.0 - share])
    assert best.usd_per_hour <= (split * qps / p + split[::-1] * qps / d) @ c * (1 + 1e-9)
