"""Solve every service of a catalog, on as many processes or machines as there are.

A result is a file named after its service that also holds the digest of all that it depends
on. A batch that is interrupted, or repeated, finds the results that it would compute again
and leaves them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    Executor,
    Future,
    as_completed,
)
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from traceback import format_exc
from typing import Any

from perfmodel.database import PerfStore
from perfmodel.database.importing import write_table
from perfmodel.database.store import SHIPPED as SHIPPED_TABLES
from perfmodel.errors import ConfigError, InputError
from planner.catalog.families import families_of, sharing_fleets
from planner.catalog.services import Service
from planner.digest import digest, question
from planner.evaluated import Evaluated, evaluate
from planner.files import atomic_write
from planner.problem import resolve
from planner.query import Query
from planner.solve import answer

SCHEMA = "planner.result/2"

OVER_TIME = "over_time"
"""Where a result has its families, if the service's demand changes over time."""

SUMMARY = "results.parquet"
"""One row per service, beside the results."""

SUMMARIZED = (
    "kind",
    "qps",
    "usd_per_hour",
    "ttit_mean_s",
    "e2e_mean_s",
    "usd_per_million_input_tokens",
    "usd_per_million_output_tokens",
    "usd_per_thousand_requests",
)
"""What the summary has of a service's best fleet, by the names of `planner.plan.FleetPlan`."""

TOGETHER = 8
"""Services that one search answers, at most: their results are written when all are known."""

WAITING_PER_WORKER = 3
"""Shares of the work handed to the executor at a time, per worker: what is finished is written
soon."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Settings:
    """How every service is solved.

    Attributes:
        search_path: folders with further models and devices.
        perfdb_path: folders with further operator tables.
    """

    search: str = "exhaustive"
    seed: int = 0
    trials: int = 400
    search_path: tuple[Path, ...] = ()
    perfdb_path: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Result:
    """A service's plans, or why it has none.

    Attributes:
        plan: as `Plan.to_dict` writes it; its alternatives are all fleets that none of
            the others beats in the hosts and devices of every type. Of a demand over time it is
            the plan of the peak, with the families of `planner.catalog.families` at `OVER_TIME`.
        error: what is wrong with the query, or which limit no fleet meets.
        computed: in this run, not found.
        traceback: of an error that no input explains; such a result is computed again.
    """

    name: str
    digest: str
    plan: dict[str, Any] | None
    error: str
    computed: bool = True
    traceback: str = ""


def run_batch(
    services: Sequence[Service],
    folder: Path,
    settings: Settings,
    executor: Executor,
    workers: int,
    progress: Progress,
) -> list[Result]:
    """Results of all services, in their order; each is written as soon as it is known.

    Raises:
        ConfigError: a result cannot be written; those before it stay.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder; expected one for the results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from None
    results: dict[str, Result] = {}
    waiting: dict[str, list[Service]] = {}
    tables = tables_of(settings)
    for service in services:
        try:
            digest = digest_of(service, settings, tables)
        except InputError as error:
            results[service.name] = Result(service.name, "", None, f"{service.source}: {error}")
            continue
        known = read_result(folder, service.name, digest)
        if known is None:
            waiting.setdefault(digest, []).append(service)
        else:
            results[service.name] = known
    for digest, found in _solved(waiting, settings, executor, workers):
        for service in waiting[digest]:
            error_text = f"{service.source}: {found.error}" if found.error else ""
            result = Result(service.name, digest, found.plan, error_text, traceback=found.traceback)
            write_result(folder, result)
            results[result.name] = result
            progress(result.name, len(results) / len(services))
    ordered = [results[service.name] for service in services]
    write_summary(folder, services, ordered)
    return ordered


def write_summary(folder: Path, services: Sequence[Service], results: Sequence[Result]) -> None:
    """One table of all services: what each costs, and how well it is served.

    Raises:
        ConfigError: it cannot be written.
    """
    import polars as pl

    rows = []
    for service, result in zip(services, results, strict=True):
        row: dict[str, Any] = {"service": service.name, "region": service.region}
        row |= {"error": result.error, "digest": result.digest}
        best = result.plan["best"] if result.plan else {}
        hosts = best.get("hosts", ())
        row["devices"] = " + ".join(f"{h['used_devices']} {h['device']}" for h in hosts)
        row["hosts"] = sum(h["hosts"] for h in hosts) if hosts else None
        row["ttft_mean_s"] = best["ttft"]["mean_s"] if best else None
        row |= {name: best.get(name) for name in SUMMARIZED}
        rows.append(row)
    try:
        write_table(pl.DataFrame(rows, infer_schema_length=None), folder / SUMMARY)
    except OSError as error:
        raise ConfigError(f"{folder / SUMMARY}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True)
class Answer:
    """A plan as plain data, or what is wrong, and where in the program if no input explains it."""

    plan: dict[str, Any] | None
    error: str = ""
    traceback: str = ""


def _solved(
    waiting: Mapping[str, Sequence[Service]], settings: Settings, executor: Executor, workers: int
) -> Iterator[tuple[str, Answer]]:
    """Digests with their answers as they come; a few shares are with the executor."""
    queue = iter(_shares(waiting, settings))
    running: dict[Future[list[Answer]], list[str]] = {}

    def feed() -> None:
        for share in queue:
            asked = [waiting[one][0] for one in share]
            running[executor.submit(solve_services, asked, settings)] = share
            if len(running) >= WAITING_PER_WORKER * workers:
                return

    feed()
    while running:
        future = next(as_completed(running))
        yield from zip(running.pop(future), future.result(), strict=True)
        feed()


def _shares(waiting: Mapping[str, Sequence[Service]], settings: Settings) -> list[list[str]]:
    """Digests whose services one search answers, a few at a time."""
    alike: dict[str, list[str]] = {}
    for one, (service, *_) in waiting.items():
        key = searched(service.query, settings).model_dump_json()
        alike.setdefault(key, []).append(one)
    return [
        group[start : start + TOGETHER]
        for group in alike.values()
        for start in range(0, len(group), TOGETHER)
    ]


def searched(query: Query, settings: Settings) -> Query:
    """The query without what an exhaustive search does not depend on: demand and prices.

    All queries that come to the same have the same candidates, and the same counts of them: an
    answer does not depend on which of them were solved together.
    """
    if settings.search != "exhaustive":
        return query
    workload = query.workload.model_copy(update={"qps": 1.0})
    devices = tuple(d.model_copy(update={"usd_per_device_hour": 1.0}) for d in query.devices)
    return query.model_copy(update={"workload": workload, "devices": devices})


@lru_cache(maxsize=1)
def _store(folders: tuple[Path, ...]) -> PerfStore:
    """A worker's tables, read once for all the services that it solves."""
    return PerfStore(list(folders))


_latest: list[tuple[Query, Settings, Evaluated]] = []
"""A worker's latest search: the next share is often alike."""


def _evaluated(query: Query, settings: Settings) -> Evaluated:
    """The candidates of a query, or of one that comes to the same search."""
    key = searched(query, settings)
    for known, under, found in _latest:
        if (known, under) == (key, settings):
            return found.under(query)
    _latest.clear()  # before the next search takes its memory
    found = evaluate(
        query,
        search=settings.search,
        seed=settings.seed,
        trials=settings.trials,
        search_path=settings.search_path,
        store=_store(settings.perfdb_path),
    )
    _latest[:] = [(key, settings, found)]
    return found


def solve_services(services: Sequence[Service], settings: Settings) -> list[Answer]:
    """The plans of services as plain data, or what is wrong; runs in a worker."""
    return [_solve(service, settings) for service in services]


def _solve(service: Service, settings: Settings) -> Answer:
    try:
        found = _evaluated(service.query, settings)
        data = answer(found, all_fleets=True).to_dict()
        data["alternatives"] = [*data["alternatives"], *sharing_fleets(found)]
        if service.demand is not None:
            data[OVER_TIME] = families_of(found, service.demand)
    except InputError as error:
        return Answer(None, str(error))
    except Exception as error:  # a fault of the program, which stops no other service
        what = f"a fault of the planner, {type(error).__name__}: {error}"
        return Answer(None, f"{what} (its result has the traceback)", format_exc())
    # What differs from run to run is no part of the result.
    data["search"].pop("seconds")
    return Answer(data)


Tables = Sequence[tuple[str, int]]
"""Operator tables: files and their sizes."""


def tables_of(settings: Settings) -> Tables:
    """The operator tables that results depend on."""
    return [
        (str(file.relative_to(folder)), file.stat().st_size)
        for folder in (*settings.perfdb_path, SHIPPED_TABLES)
        for file in sorted(folder.rglob("*.parquet"))
    ]


def digest_of(service: Service, settings: Settings, tables: Tables | None = None) -> str:
    """What a service's result depends on, as a short text.

    The query with all that it names (model, devices, prices, engine constants), its demands, the
    search, the version of this package, and the operator tables by their sizes.

    Args:
        tables: of `tables_of`, which looks for them if not given.

    Raises:
        InputError: the query names something unknown.
    """
    problem = resolve(service.query, settings.search_path)
    search = (settings.search,)
    if settings.search == "tpe":
        search = (settings.search, settings.seed, settings.trials)  # type: ignore[assignment]
    tables = tables_of(settings) if tables is None else tables
    # When which demand comes does not matter to a service alone.
    demand = () if service.demand is None else (sorted(service.demand.qps),)
    return digest(SCHEMA, question(problem), service.query.runtime, search, tables, *demand)


def read_result(folder: Path, name: str, digest: str) -> Result | None:
    """A result computed before, if it is whole and of the same digest."""
    try:
        data = json.loads(_file(folder, name).read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA or data["digest"] != digest or not _whole(data):
            return None
        return Result(name, digest, data["plan"], data["error"], computed=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _whole(data: dict[str, Any]) -> bool:
    """Whether a result has a plan with its fleets, or else a reason that will not change."""
    if data.get("traceback"):
        return False
    if data["plan"] is None:
        return isinstance(data["error"], str) and data["error"] != ""
    fleets = [data["plan"]["best"], *data["plan"]["alternatives"]]
    return all(fleet["pools"] and fleet["hosts"] for fleet in fleets)


def write_result(folder: Path, result: Result) -> None:
    """Write a result whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    data = {
        "schema": SCHEMA,
        "name": result.name,
        "digest": result.digest,
        "error": result.error,
        "plan": result.plan,
    }
    if result.traceback:
        data["traceback"] = result.traceback
    atomic_write(_file(folder, result.name), json.dumps(data, indent=1) + "\n")


def _file(folder: Path, name: str) -> Path:
    """Any name is a file's name, one of its own."""
    safe = "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):x}" for c in name)
    return folder / f"{safe}.json"
