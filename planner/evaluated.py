"""What a search found of a query's space, and questions that it answers without another search.

Estimating a space takes seconds, sizing fleets from its candidates a fraction of that. The
candidates depend on neither prices nor demand, and those that meet a latency target include
those that meet a tighter one: one evaluation answers a whole grid of such questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.database import PerfStore
from planner.candidates import Candidates
from planner.choice import KINDS, Choice, rank
from planner.encoder import apart, beside, fleets_with_encoder
from planner.pairing import cheapest_fleets
from planner.problem import Offer, Problem, alternatives, resolve
from planner.query import DeviceChoice, Query
from planner.query_workload import Slo, Target
from planner.search import SearchResult, combined, exhaustive, tpe
from planner.sweep import Space

BoolArray = NDArray[np.bool_]

LEAST_QPS = 1e-3
"""Where the search for the largest demand starts."""

FREE: dict[str, Any] = {
    "costs": True,
    "devices": True,
    "runtime": True,
    "search": {"max_utilization"},
    "slo": True,
    "workload": {"qps", "arrivals"},
}
"""Fields of a query in which two may differ and still share their candidates; of devices, SLO and
runtimes, `Evaluated.covers` says how."""

Progress = Callable[[str, float], None]
Served = tuple[float, Choice]
"""A demand in requests/s, and a fleet that serves it."""


@dataclass(frozen=True)
class Evaluated:
    """A query's candidates.

    Attributes:
        spaces: of each place in which cached prefixes may lie.
        runs: the search of each, with the vision encoder on the prompts' devices (True) and
            apart (False).
        method: `exhaustive` or `tpe`.
        fresh: searched for this query, not narrowed from another's.
        restricted: some of what the query allows was left out (`where`).
        seconds: that the search took.
    """

    query: Query
    search_path: tuple[Path, ...]
    spaces: Mapping[str, Space]
    runs: Mapping[str, Mapping[bool, SearchResult]]
    method: str
    fresh: bool
    seconds: float
    restricted: bool = False

    @property
    def problem(self) -> Problem:
        """The query, resolved; the first of its alternatives."""
        return next(iter(self.spaces.values())).problem

    @property
    def results(self) -> dict[str, SearchResult]:
        """All that was found, by where prefixes lie."""
        return {
            tier: combined(list(runs.values()), encoder_apart=False in runs)
            for tier, runs in self.runs.items()
        }

    @property
    def candidates(self) -> list[Candidates]:
        """All feasible configurations, one block for each role, device and precision."""
        return [found for result in self.results.values() for found in result.candidates]

    def fleets(self, qps: float, kinds: Sequence[str] = KINDS) -> list[Choice]:
        """The cheapest fleet of every kind and device combination that serves a demand."""
        found = []
        for tier, space in self.spaces.items():
            found += _fleets(space, self.runs[tier], qps, kinds)
        return rank(found)

    def served(self) -> list[Served]:
        """The best fleet of every kind and device combination, each with the demand it serves.

        Best first: for a given demand the cheapest; for as much as possible, the fleet that
        serves most, and beside it the most that each other kind serves.
        """
        found = []
        for tier, space in self.spaces.items():
            found += _served(space.problem, partial(_fleets, space, self.runs[tier]))
        return _best_first(self.problem, found)

    def space_of(self, choice: Choice) -> Space:
        """The space in which a fleet was found."""
        space = self.spaces[tier_of(choice)]
        return beside(apart(space), choice.encoder) if choice.encoder else space

    def covers(self, query: Query) -> bool:
        """Whether these candidates hold all of another query's.

        It may differ in prices and demand, ask for fewer runtimes or devices, have less
        inventory, and tighter targets of the same statistics. A sample holds none but its own.
        """
        own = self.query
        if query == own:
            return True
        return (
            self.method == "exhaustive"
            and _shared(own) == _shared(query)
            and set(query.runtime) <= set(own.runtime)
            and _devices_within(query, own)
            and all(
                _target_within(getattr(query.slo, name), getattr(own.slo, name))
                for name in Slo.model_fields
            )
        )

    def under(self, query: Query) -> Evaluated:
        """The same candidates for another query, without those that it excludes.

        Raises:
            ValueError: they do not cover it.
            ConfigError: the query names something unknown.
        """
        if query == self.query:
            return self
        if not self.covers(query):
            raise ValueError("the query asks for configurations that were not evaluated")
        started = time.perf_counter()
        problems = alternatives(resolve(query, self.search_path))
        spaces = {
            p.traffic.prefix_tier: self.spaces[p.traffic.prefix_tier].under(p) for p in problems
        }
        runs = {
            tier: {
                colocated: _narrowed(found, space) for colocated, found in self.runs[tier].items()
            }
            for tier, space in spaces.items()
        }
        seconds = time.perf_counter() - started
        return replace(self, query=query, spaces=spaces, runs=runs, fresh=False, seconds=seconds)

    def where(self, keep: Callable[[Candidates], BoolArray]) -> Evaluated:
        """Only the candidates that a rule keeps: what an engine, or a habit, allows.

        Args:
            keep: from a block of candidates to a mask, (N,).
        """
        runs = {
            tier: {
                colocated: replace(
                    result,
                    candidates=[c.take(keep(c)) for c in result.candidates],
                    statement=f"{result.statement}, of those that were kept",
                )
                for colocated, result in found.items()
            }
            for tier, found in self.runs.items()
        }
        return replace(self, runs=runs, fresh=False, restricted=True)


def evaluate(
    query: Query,
    *,
    search: str = "exhaustive",
    seed: int = 0,
    trials: int = 400,
    storage: str | None = None,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Search a query's space; arguments as those of `planner.solve`.

    Raises:
        InputError: the query names something unknown.
    """
    started = time.perf_counter()
    first, *others = alternatives(resolve(query, search_path))
    shared = Space(first, store)
    spaces = {p.traffic.prefix_tier: shared.under(p) for p in (first, *others)}
    report = progress or (lambda _what, _share: None)
    strategy = (
        partial(tpe, seed=seed, trials=trials, storage=storage) if search == "tpe" else exhaustive
    )
    runs = {}
    for done, (tier, space) in enumerate(spaces.items()):

        def within(what: str, share: float, done: int = done) -> None:
            report(what, (done + share) / len(spaces))

        runs[tier] = {
            colocated: strategy(space if colocated else apart(space), within)
            for colocated in encoders_colocated(space.problem)
        }
    return Evaluated(
        query=query,
        search_path=tuple(search_path),
        spaces=spaces,
        runs=runs,
        method=search,
        fresh=True,
        seconds=time.perf_counter() - started,
    )


def loosest(queries: Sequence[Query]) -> Query | None:
    """The query of the least demands on candidates that covers all of these; None: there is none.

    Its targets may be infinite. Its prices and demand are those of the first.
    """
    first = queries[0]
    if any(_shared(query) != _shared(first) for query in queries):
        return None
    devices: dict[str, DeviceChoice] = {}
    for query in queries:
        for device in query.devices:
            known = devices.setdefault(device.name, device)
            if _fixed(known) != _fixed(device):
                return None
            if known.inventory is not None and (
                device.inventory is None or device.inventory > known.inventory
            ):
                devices[device.name] = known.model_copy(update={"inventory": device.inventory})
    targets = {}
    for name in Slo.model_fields:
        asked: list[Target | None] = [getattr(query.slo, name) for query in queries]
        stated = [target for target in asked if target is not None]
        if len({target.percentile for target in stated}) > 1:
            return None
        if stated:
            most = max(target.seconds for target in stated)
            seconds = most if len(stated) == len(asked) else float("inf")
            targets[name] = stated[0].model_copy(update={"seconds": seconds})
    runtimes = dict.fromkeys(runtime for query in queries for runtime in query.runtime)
    return first.model_copy(
        update={
            "devices": tuple(devices.values()),
            "runtime": tuple(runtimes),
            "slo": Slo(**targets),
        }
    )


def _shared(query: Query) -> dict[str, Any]:
    """What two queries must have in common to share candidates."""
    return query.model_dump(mode="json", exclude=FREE)


def _fixed(device: DeviceChoice) -> dict[str, Any]:
    """What candidates on a device depend on."""
    return device.model_dump(exclude={"usd_per_device_hour", "cost", "inventory"})


def _devices_within(query: Query, own: Query) -> bool:
    known = {device.name: device for device in own.devices}
    for device in query.devices:
        evaluated = known.get(device.name)
        if evaluated is None or _fixed(evaluated) != _fixed(device):
            return False
        limit, asked = evaluated.inventory, device.inventory
        if limit is not None and (asked is None or asked > limit):
            return False
    return True


def _target_within(asked: Target | None, own: Target | None) -> bool:
    if own is None or asked is None:
        # An infinite target excludes nothing, and has been evaluated at its percentile.
        return asked is None and (own is None or own.seconds == float("inf"))
    return asked.percentile == own.percentile and asked.seconds <= own.seconds


def _narrowed(result: SearchResult, space: Space) -> SearchResult:
    """What of a search meets a narrower problem, at its prices."""
    offers = {offer.device.name: offer for offer in space.problem.offers}
    candidates = [
        _meeting(found, space, offers[found.offer.device.name])
        for found in result.candidates
        if found.offer.device.name in offers and found.role in space.roles
    ]
    funnels = [f for f in result.funnels if f.device in offers and f.role in space.roles]
    return replace(result, candidates=candidates, funnels=funnels)


def _meeting(found: Candidates, space: Space, offer: Offer) -> Candidates:
    found = replace(found, offer=offer)
    slo, traffic = space.problem.slo, space.problem.traffic
    keep = np.ones(len(found), dtype=bool)
    if slo.ttft is not None and found.role != "decode":
        keep &= space.first_token_in_time(found.latency_s[:, None])[:, 0]
    if slo.ttit is not None and found.role != "prefill":
        keep &= found.ttit_slo_s <= slo.ttit.seconds
    if slo.e2e is not None and found.role == "decode":
        keep &= traffic.outputs.mean * found.ttit_s <= slo.e2e.seconds
    if offer.most_devices is not None:
        keep &= found.world <= offer.most_devices
    return found if keep.all() else found.take(keep)


def tier_of(choice: Choice) -> str:
    """Where a fleet's cached prefixes lie."""
    return choice.pools[0].candidates.axes.traffic.prefix_tier


def encoders_colocated(problem: Problem) -> list[bool]:
    """Whether images are encoded by the devices that take the prompts; both, if both are tried."""
    where = problem.query.encoder if problem.traffic.vision else "colocated"
    return [c for c in (True, False) if where in ("auto", "colocated" if c else "disaggregated")]


Fleets = Callable[..., list[Choice]]
"""From a demand, and kinds of fleet, to the cheapest fleet of every device combination."""


def _fleets(
    space: Space, runs: Mapping[bool, SearchResult], qps: float, kinds: Sequence[str] = KINDS
) -> list[Choice]:
    """The cheapest fleets with encoders on the prompts' devices (True) and apart (False)."""
    found = []
    if True in runs:
        found += cheapest_fleets(space.problem, runs[True].candidates, qps, kinds)
    if False in runs:
        found += fleets_with_encoder(space, runs[False].candidates, qps, kinds)
    return found


def choose(problem: Problem, result: SearchResult) -> list[Served]:
    """What `Evaluated.served` finds, of one search."""
    return _served(problem, partial(cheapest_fleets, problem, result.candidates))


def _served(problem: Problem, fleets: Fleets) -> list[Served]:
    if problem.qps is not None:
        found = [(problem.qps, choice) for choice in fleets(problem.qps)]
    else:
        served = [_most(partial(fleets, kinds=(kind,))) for kind in KINDS]
        found = [(qps, choice) for qps, choices in served for choice in rank(choices)[:1]]
    return _best_first(problem, found)


def _best_first(problem: Problem, served: list[Served]) -> list[Served]:
    if problem.qps is not None:
        return [(problem.qps, choice) for choice in rank(choice for _, choice in served)]
    return sorted(served, key=lambda item: -item[0])


def _most(at: Callable[[float], list[Choice]]) -> tuple[float, list[Choice]]:
    """The largest demand that the inventory serves, to 0.1 %, and who serves it."""
    low, best = 0.0, list[Choice]()
    high = LEAST_QPS
    while choices := at(high):
        low, best, high = high, choices, high * 2.0
    while best and high - low > 1e-3 * low:
        middle = (low + high) / 2.0
        if choices := at(middle):
            low, best = middle, choices
        else:
            high = middle
    return low, best
