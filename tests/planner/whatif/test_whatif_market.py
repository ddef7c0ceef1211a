"""Lower envelopes of fleets' prices, against all lines at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import InputError
from planner.choice import Choice
from planner.evaluated import Evaluated
from planner.whatif.market import Line, Market, envelope

NO_CHOICE = Choice((), ())
LINES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=12, unique=True
)


def _lines(pairs: list[tuple[int, int]]) -> list[Line]:
    return [Line(NO_CHOICE, 8.0 * fixed, 8.0 * devices) for fixed, devices in pairs]


@given(LINES)
def test_the_envelope_is_the_least_of_all_lines(pairs: list[tuple[int, int]]) -> None:
    lines, sought = _lines(pairs), []

    def best(price: float) -> Line:
        sought.append(price)
        return min(lines, key=lambda line: (line.at(price), line.devices))

    found = envelope(best, 0.01, 50.0)
    assert (found[0].low, found[-1].high) == (0.01, 50.0)
    for left, right in itertools.pairwise(found):
        assert left.high == right.low
        assert left.line.devices > right.line.devices
        assert left.line.at(left.high) == pytest.approx(right.line.at(left.high))
    for price in np.linspace(0.01, 50.0, 101):
        here = next(s for s in found if price <= s.high)
        assert here.line.at(price) == pytest.approx(min(line.at(price) for line in lines))
    # Few fleets are sought: two at the ends, and at most two for each change.
    assert len(sought) <= 2 + 2 * len(found)


def test_prices_of_the_market_reach_the_fleets(evaluated: Evaluated) -> None:
    market = Market(evaluated)
    cheap, dear = market.best({"l40s": 0.1}), market.best({"l40s": 100.0})
    assert cheap is not None
    assert dear is not None
    assert {o.device.name for o, _ in cheap.hosts} == {"l40s"}
    assert {o.device.name for o, _ in dear.hosts} == {"h100_sxm"}
    line = market.line(cheap, "l40s")
    assert line.fixed == 0.0
    assert line.at(0.1) == pytest.approx(cheap.usd_per_hour)
    assert market.best(without=["l40s", "h100_sxm"]) is None
    alone = market.best(without=["h100_sxm"])
    assert alone is not None
    assert {o.device.name for o, _ in alone.hosts} == {"l40s"}
    with pytest.raises(InputError, match="no device 'b200_sxm' in the query; it has h100_sxm"):
        market.offer_name("b200_sxm")
