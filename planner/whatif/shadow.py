"""Shadow prices: what a looser latency target, or a further host, would save.

The least price is a step function of a target or of an inventory, as fleets have whole hosts: a
derivative would be zero nearly everywhere. So the arc is given: to the next cheaper fleet, and
where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.choice import Choice
from planner.evaluated import Evaluated, Progress, evaluate
from planner.problem import resolve
from planner.query import Query
from planner.query_workload import Slo, Target
from planner.whatif.fields import short_name, targets
from planner.whatif.market import TOLERANCE, demand, fleet_name

WITHIN = 2.0
"""Targets are loosened and tightened by up to this factor, if not said otherwise."""

RESOLUTION = 1e-3
"""To which share of its distance from today's a target is found."""

NEAREST = 1e-5
"""Share of a target below which distances from it are not told apart."""


@dataclass(frozen=True)
class Step:
    """The least price at one value of what is varied; None: no fleet serves there."""

    value: float
    choice: Choice | None

    @property
    def usd_per_hour(self) -> float:
        """Infinite where no fleet serves."""
        return float("inf") if self.choice is None else self.choice.usd_per_hour


@dataclass(frozen=True)
class TargetPrice:
    """What one latency target costs.

    Attributes:
        name: ttft, ttit or e2e.
        today: the target in seconds, and the best fleet.
        cheaper: the tightest of the looser targets at which a fleet costs less; None: none does
            within the range that was looked at.
        tightest: the tightest target at which the best fleet costs no more than today's.
        dearer: just beyond that.
        loosest_s: to where targets were looked at.
    """

    name: str
    statistic: str
    today: Step
    cheaper: Step | None
    tightest: Step
    dearer: Step | None
    loosest_s: float

    @property
    def usd_per_hour_per_ms(self) -> float | None:
        """Saved per millisecond of loosening, up to the next cheaper fleet."""
        if self.cheaper is None or self.today.choice is None:
            return None
        saved = self.today.usd_per_hour - self.cheaper.usd_per_hour
        return saved / ((self.cheaper.value - self.today.value) * 1e3)


@dataclass(frozen=True)
class HostPrice:
    """What the inventory of one device costs.

    Attributes:
        today: devices at hand, and the best fleet.
        cheaper: the fewest devices at hand with which a fleet costs less; None: more devices
            save nothing.
    """

    device: str
    host_devices: int
    today: Step
    cheaper: Step | None

    @property
    def further_hosts(self) -> int:
        """Up to the next cheaper fleet."""
        assert self.cheaper is not None
        return round((self.cheaper.value - self.today.value) / self.host_devices)

    @property
    def usd_per_hour_per_host(self) -> float | None:
        """Saved per further host: 0 where more save nothing; None where nothing serves today."""
        if self.cheaper is None:
            return 0.0
        if self.today.choice is None:
            return None
        return (self.today.usd_per_hour - self.cheaper.usd_per_hour) / self.further_hosts


@dataclass(frozen=True)
class ShadowPrices:
    """Of all latency targets and all inventories of a query."""

    today: Step
    targets: tuple[TargetPrice, ...]
    hosts: tuple[HostPrice, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: a row for each target and each inventory."""
        return {
            "usd_per_hour": _known(self.today),
            "targets": [
                {
                    "target": price.name,
                    "statistic": price.statistic,
                    "seconds": price.today.value,
                    "usd_per_hour_per_ms": price.usd_per_hour_per_ms,
                    "looked_at_to_s": price.loosest_s,
                    "cheaper": _step_data(price.cheaper),
                    "tightest": _step_data(price.tightest),
                    "dearer": _step_data(price.dearer),
                }
                for price in self.targets
            ],
            "inventories": [
                {
                    "device": price.device,
                    "devices": price.today.value,
                    "usd_per_hour_per_host": price.usd_per_hour_per_host,
                    "further_hosts": price.further_hosts if price.cheaper else None,
                    "cheaper": _step_data(price.cheaper),
                }
                for price in self.hosts
            ],
        }


def _known(step: Step) -> float | None:
    return None if step.choice is None else step.usd_per_hour


def _step_data(step: Step | None) -> dict[str, Any] | None:
    if step is None:
        return None
    fleet = None if step.choice is None else fleet_name(step.choice)
    return {"at": step.value, "usd_per_hour": _known(step), "fleet": fleet}


def shadow_prices(
    query: Query,
    *,
    within: float = WITHIN,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
) -> ShadowPrices:
    """What each latency target and each inventory of a query costs.

    The space is evaluated once, at the loosest targets and without inventories. Prices fall
    with both, so that bisection finds where.

    Args:
        within: factor by which targets are loosened, and tightened, at most.

    Raises:
        InputError: no demand, nothing to price, or the query names something unknown.
    """
    qps = demand(query)
    resolve(query, search_path)
    stated = targets(query.slo)
    capped = [i for i, device in enumerate(query.devices) if device.inventory is not None]
    if not stated and not capped:
        raise InputError("slo: expected a latency target, or an inventory of a device, to price")
    if not within > 1:
        raise InputError(f"--within: expected a factor above 1, got {within:g}")
    loosest = {name: _loosened(target, within) for name, target in stated.items()}
    free = _with_targets(query, loosest)
    for i in capped:
        free = _with_inventory(free, i, None)
    evaluated = evaluate(free, search_path=search_path, store=store, progress=progress)
    at = _Prices(evaluated, qps)
    today = Step(0.0, at(query))
    prices = [_target_price(at, query, name, within) for name in stated]
    return ShadowPrices(today, tuple(prices), tuple(_host_price(at, query, i) for i in capped))


class _Prices:
    """The cheapest fleet of any query that an evaluation covers."""

    def __init__(self, evaluated: Evaluated, qps: float) -> None:
        self.offers = evaluated.problem.offers
        self._evaluated = evaluated
        self._qps = qps

    def __call__(self, query: Query) -> Choice | None:
        try:
            found = self._evaluated.under(query).fleets(self._qps)
        except InputError:
            return None  # an inventory below one host
        return found[0] if found else None


def _target_price(at: _Prices, query: Query, name: str, within: float) -> TargetPrice:
    target: Target = getattr(query.slo, name)

    def step(seconds: float) -> Step:
        changed = target.model_copy(update={"seconds": seconds})
        return Step(seconds, at(_with_targets(query, {name: changed})))

    today = step(target.seconds)
    loosest, tightest = step(target.seconds * within), step(target.seconds / within)
    cheaper = None
    if _less(loosest, today):
        _, cheaper = _change(step, today, loosest, lambda s: not _less(s, today))
    holds, dearer = tightest, None
    if _less(today, tightest):
        holds, dearer = _change(step, today, tightest, lambda s: not _less(today, s))
    return TargetPrice(name, target.statistic, today, cheaper, holds, dearer, loosest.value)


def _host_price(at: _Prices, query: Query, position: int) -> HostPrice:
    device = query.devices[position]
    assert device.inventory is not None
    unlimited = at(_with_inventory(query, position, None))
    today = Step(float(device.inventory), at(query))
    offer = at.offers[position]
    host = offer.host_devices
    name = short_name(device.name)
    if not _less(Step(0.0, unlimited), today) or unlimited is None:
        return HostPrice(name, host, today, None)
    hosts = device.inventory // host

    def step(count: float) -> Step:
        devices = int(count) * host
        return Step(float(devices), at(_with_inventory(query, position, devices)))

    own = offer.device.name
    enough = sum(n for o, n in unlimited.hosts if o.device.name == own)
    bar = today.usd_per_hour * (1 - TOLERANCE)
    cheaper = step(first_cheaper(lambda n: step(n).usd_per_hour, hosts, enough, bar))
    # What is at hand may be no whole number of hosts.
    return HostPrice(name, host, Step(float(hosts * host), today.choice), cheaper)


def first_cheaper(at: Callable[[int], float], low: int, high: int, bar: float) -> int:
    """The least count at which a price, falling with counts, is below a bar.

    Args:
        low: a count at which it is not.
        high: one at which it is.
    """
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle) < bar else (middle, high)
    return high


def _change(
    step: Callable[[float], Step], start: Step, end: Step, like_start: Callable[[Step], bool]
) -> tuple[Step, Step]:
    """Neighbouring values between which the price changes: the last like the start, the first not.

    Apart by `RESOLUTION` of their distance from the start, or by `NEAREST` of its value.
    """
    origin = start.value
    least = NEAREST * origin
    while abs(end.value - start.value) > max(RESOLUTION * abs(end.value - origin), least):
        middle = step((start.value + end.value) / 2.0)
        start, end = (middle, end) if like_start(middle) else (start, middle)
    return start, end


def _less(one: Step, other: Step) -> bool:
    return one.usd_per_hour < other.usd_per_hour * (1 - TOLERANCE)


def _loosened(target: Target, factor: float) -> Target:
    return target.model_copy(update={"seconds": target.seconds * factor})


def _with_targets(query: Query, changed: dict[str, Target]) -> Query:
    slo = Slo(**{**targets(query.slo), **changed})
    return query.model_copy(update={"slo": slo})


def _with_inventory(query: Query, position: int, devices: int | None) -> Query:
    choices = list(query.devices)
    choices[position] = choices[position].model_copy(update={"inventory": devices})
    return query.model_copy(update={"devices": tuple(choices)})
