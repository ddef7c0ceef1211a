"""By how much estimated times are known to be off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from perfmodel.database import PerfStore
from perfmodel.documents import read_yaml
from perfmodel.hardware import Device
from planner.plan import FleetPlan
from planner.problem import Problem

ERRORS = Path(__file__).parent / "data" / "estimator_errors.yaml"

ANALYTIC_LIKE = "mi300x"
"""The one device without operator tables that was held against a measurement."""


@dataclass(frozen=True)
class TimeError:
    """What measured times may be, over estimated ones: as far off as they are in the median.

    Attributes:
        low, high: the factors to try.
        origin: where they come from, for a reader.
    """

    low: float
    high: float
    origin: str

    @classmethod
    def of(cls, error: float, origin: str) -> TimeError:
        """An error `e` of predicted over measured times: these are at `1 / (1 ± e)` of them."""
        return cls(1.0 / (1.0 + error), 1.0 / (1.0 - error), origin)


def time_error(device: Device, engine: str, mode: str, store: PerfStore) -> TimeError:
    """The known error of a device under an engine.

    Of the device's and the engine's the larger is taken.

    Args:
        mode: `continuous` or `disaggregated`: how the deployments served that tell.
    """
    data, tables = _data(), device.tables
    analytic = not store.engines(tables)
    corrected = device.time_factor != 1.0
    if not corrected and (tables in data["factors"] or analytic):
        known = data["factors"].get(tables)
        stands_in = known or data["factors"][ANALYTIC_LIKE]
        own = "" if known else f"no operator tables: as {ANALYTIC_LIKE}, "
        return TimeError(stands_in["low"], stands_in["high"], own + stands_in["origin"])
    places = {name: data["devices"][name][mode] for name in data["devices"]}
    if tables in places and not corrected:
        entries = {tables: places[tables]}
        if mode in data["engines"].get(engine, {}):
            entries[engine] = data["engines"][engine][mode]
        name = max(entries, key=lambda n: entries[n]["error"])
        error, rows = entries[name]["error"], entries[name]["rows"]
        origin = f"median error over {rows} measured {mode} deployments of {name}"
    else:
        if mode in data["engines"].get(engine, {}):
            places[engine] = data["engines"][engine][mode]
        name = max(places, key=lambda n: places[n]["error"])
        error = places[name]["error"]
        why = "its times are corrected" if corrected else "no deployment of it was measured"
        origin = f"{why}: the largest known median error, {name}'s {mode}"
    return TimeError.of(error, origin)


def token_error(problem: Problem, fleet: FleetPlan, store: PerfStore) -> TimeError:
    """The known error of a fleet's time per token: that of the pool that decodes."""
    name = fleet.pools[-1].device
    device = next(o.device for o in problem.offers if o.device.name == name)
    return time_error(device, problem.engine.name, _mode(fleet), store)


def first_token_error(fleet: FleetPlan) -> TimeError:
    """The known error of a fleet's mean time to first token."""
    mode = _mode(fleet)
    known = _data()["first_token"][mode]
    return TimeError.of(
        known["error"], f"median error of means over {known['rows']:,} measured {mode} deployments"
    )


def _mode(fleet: FleetPlan) -> str:
    return "continuous" if fleet.kind == "continuous" else "disaggregated"


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    data: dict[str, Any] = read_yaml(ERRORS).data
    return data
