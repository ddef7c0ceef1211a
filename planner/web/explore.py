"""What the page of `planner ui` computes: one search, and the plan under every target asked.

A question's space is searched once with no targets at all; each position of the sliders is a
narrower question to the same candidates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from perfmodel.database import PerfStore
from perfmodel.documents import parse_yaml, validate
from perfmodel.errors import ConfigError, InputError
from perfmodel.hardware import device_names, load_device
from planner.evaluated import FREE, Evaluated, Progress, evaluate
from planner.fronts import front
from planner.large_fleet import Against
from planner.plan import Plan
from planner.query import Query, load_query
from planner.query_workload import Slo, Target
from planner.solve import answer, query_data
from planner.web import charts

AGAINST: tuple[Against, ...] = ("ttit", "ttft")

RUNNERS_UP = 4
"""Other fleets shown; each takes a few hundredths of a second."""

MOST_UPLOAD_BYTES = 2**20
"""Of a query or a config.json that is brought along."""


@dataclass(frozen=True)
class View:
    """What a position of the sliders shows.

    Attributes:
        plan: None where no fleet serves the query.
        problem: then, why.
        figures: fronts as Vega-Lite, by what they are drawn against.
    """

    plan: Plan | None
    problem: str
    figures: Mapping[str, dict[str, Any]]


def search(
    query: Query,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """All candidates of a query, whatever its targets' values (their statistics count).

    Raises:
        InputError: the query names something unknown.
    """
    return evaluate(untargeted(query), search_path=search_path, store=store, progress=progress)


def untargeted(query: Query) -> Query:
    """The query with infinite targets of the same statistics."""
    slo = {
        name: target.model_copy(update={"seconds": float("inf")})
        for name in Slo.model_fields
        if (target := getattr(query.slo, name)) is not None
    }
    return query.model_copy(update={"slo": query.slo.model_copy(update=slo)})


def search_key(query: Query) -> str:
    """What a search depends on: two queries of one key share their candidates."""
    statistics = {
        name: target.percentile
        for name in Slo.model_fields
        if (target := getattr(query.slo, name)) is not None
    }
    devices = sorted((d.name, d.host_devices, d.inventory) for d in query.devices)
    fields = query.model_dump(mode="json", exclude=FREE)
    return json.dumps([fields, statistics, devices, sorted(query.runtime)], sort_keys=True)


def view(found: Evaluated, query: Query) -> View:
    """The plan and the fronts of a query that the candidates cover."""
    plan, problem = None, ""
    try:
        plan = answer(found.under(query), runners_up=RUNNERS_UP, explain=False)
    except InputError as error:
        problem = str(error)
    chosen = None if plan is None else plan.to_dict()
    return View(plan, problem, {name: _figure(found, query, name, chosen) for name in AGAINST})


def _figure(
    found: Evaluated, query: Query, against: Against, plan: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The fronts against one latency, the other targets met, as Vega-Lite."""
    target: Target | None = getattr(query.slo, against)
    free = getattr(untargeted(query).slo, against)
    slo = query.slo.model_copy(update={against: free})
    rows = front(found.under(query.model_copy(update={"slo": slo})), against, by="kind")
    line = None if target is None else (target.seconds, target.statistic)
    place = plan and charts.place(plan, against)
    chart = charts.front_chart(rows, against, line, place)
    return charts.on_page(chart)


def queries_in(folder: Path) -> dict[str, Path]:
    """The folder's query files by their names: those that read as queries."""
    found = {}
    for path in sorted(folder.glob("*.y*ml")):
        try:
            load_query(path)
        except (InputError, OSError, ValueError):
            continue
        found[path.stem.replace("_", " ")] = path
    return found


def devices_in(folder: Path) -> list[str]:
    """Names of devices, shipped or of the folder: of its files those that read as devices."""
    found = []
    for name in device_names([folder]):
        try:
            load_device(name, [folder])
        except InputError:
            continue
        found.append(name)
    return found


def query_text(query: Query) -> str:
    """A query as a file."""
    data = query_data(query)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None)


def brought(text: bytes, folder: Path) -> Query:
    """A query that somebody brings along; the files that it names must lie in the folder.

    Raises:
        ConfigError: it is too large, no query, or names a file elsewhere.
    """
    if len(text) > MOST_UPLOAD_BYTES:
        raise ConfigError(f"the file is larger than {MOST_UPLOAD_BYTES // 2**20} MiB")
    try:
        document = parse_yaml(text.decode("utf-8"), folder / "brought.yaml")
    except UnicodeDecodeError:
        raise ConfigError("the file is not UTF-8 text") from None
    query = validate(document, Query)
    for named in _files(query):
        if not Path(named).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{named}: lies outside of the folder that is served")
    return query


def _files(query: Query) -> list[str]:
    """Files that a query names; reading it has made their paths absolute."""
    names = [query.corrections, *(device.name for device in query.devices)]
    if isinstance(query.model, str):
        names.append(query.model)
    if not isinstance(query.routing, str):
        names.append(query.routing.file)
    if query.speculation is not None:
        names.append(query.speculation.draft_model)
    return [name for name in names if name is not None and Path(name).is_absolute()]
