"""A small query of two devices, evaluated once at loose targets for all tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from perfmodel.database import PerfStore
from planner.evaluated import Evaluated, evaluate
from planner.query import Query

STORE = PerfStore()


@pytest.fixture(scope="session")
def store() -> PerfStore:
    """Tables, read once."""
    return STORE


@pytest.fixture(scope="session")
def two(make_query: Callable[..., Query]) -> Query:
    """100 requests/s on H100 or L40S."""
    return make_query(devices=["h100_sxm", "l40s"], workload={"qps": 100})


@pytest.fixture(scope="session")
def loose(make_query: Callable[..., Query]) -> Evaluated:
    """The same at targets that are four times as loose."""
    query = make_query(
        devices=["h100_sxm", "l40s"], workload={"qps": 100}, slo={"ttft": "2s", "ttit": "120ms"}
    )
    return evaluate(query, store=STORE)


@pytest.fixture(scope="session")
def evaluated(loose: Evaluated, two: Query) -> Evaluated:
    """The small query, evaluated."""
    return loose.under(two)


def usd_of(loose: Evaluated, query: Query) -> float:
    """Price of the cheapest fleet of a query that the loose one covers; infinite: none serves."""
    found = loose.under(query).fleets(float(query.workload.qps))
    return found[0].usd_per_hour if found else float("inf")


@pytest.fixture(scope="session")
def cost(loose: Evaluated, two: Query) -> Callable[..., float]:
    """`cost({"slo.ttit": "20ms"})`: USD per hour of the small query with these changes."""
    from planner.whatif.fields import with_values

    def of(changes: Mapping[str, object]) -> float:
        return usd_of(loose, with_values(two, list(changes.items())))

    return of
