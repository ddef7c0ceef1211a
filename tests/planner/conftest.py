"""Small queries, solved once: every test asks by the fields in which its query differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perfmodel.database import PerfStore
from planner import cli_progress
from planner.candidates import Candidates
from planner.plan import Plan
from planner.problem import Problem, resolve
from planner.query import Query
from planner.solve import solve
from planner.sweep import Space

STORE = PerfStore()
BASE: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": ["h100_sxm"],
    "search": {"max_replica_devices": 4},
}


def _fields(changes: dict[str, Any]) -> dict[str, Any]:
    """The base query's fields; a mapping given is laid over the base's."""
    fields = dict(BASE)
    for name, value in changes.items():
        over = name in ("workload", "search")
        fields[name] = {**fields.get(name, {}), **value} if over else value
    return fields


_spaces: dict[str, Space] = {}
_plans: dict[str, Plan] = {}
_pools: dict[str, list[Candidates]] = {}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lines of progress where a busy machine takes its time."""
    monkeypatch.setattr(cli_progress, "PATIENCE_S", 600.0)


@pytest.fixture(scope="session")
def make_query() -> Callable[..., Query]:
    """`make_query(slo={...})`: a small query, valid unless the changes are not."""
    return lambda **changes: Query.model_validate(_fields(changes))


@pytest.fixture(scope="session")
def space_of() -> Callable[..., Space]:
    """The space of a small query."""

    def build(**changes: Any) -> Space:
        key = repr(changes)
        if key not in _spaces:
            _spaces[key] = Space(resolve(Query.model_validate(_fields(changes))), STORE)
        return _spaces[key]

    return build


@pytest.fixture(scope="session")
def problem_of(space_of: Callable[..., Space]) -> Callable[..., Problem]:
    """The resolved problem of a small query."""
    return lambda **changes: space_of(**changes).problem


@pytest.fixture(scope="session")
def pools_of(space_of: Callable[..., Space]) -> Callable[..., list[Candidates]]:
    """Every feasible candidate of a small query, of every role and device."""

    def sweep(**changes: Any) -> list[Candidates]:
        key = repr(changes)
        if key not in _pools:
            space = space_of(**changes)
            _pools[key] = [
                space.sweep(role, *pair)[0] for pair in space.pairs() for role in space.roles
            ]
        return _pools[key]

    return sweep


@pytest.fixture(scope="session")
def solved() -> Callable[..., Plan]:
    """`solved(options={...}, **changes)`: the plan of a small query; raises if there is none."""

    def answer(options: dict[str, Any] | None = None, **changes: Any) -> Plan:
        key = repr((options, changes))
        if key not in _plans:
            query = Query.model_validate(_fields(changes))
            _plans[key] = solve(query, store=STORE, **(options or {}))
        return _plans[key]

    return answer
