"""The planner: from a query to the cheapest fleet.

| name | what |
|---|---|
| `solve` | a `Query` in, a `Plan` out |
| `answers` | many queries in, their plans out; what can share a search shares it |
| `evaluate`, `answer` | a search's candidates, and the plan of one question to them |
| `front`, `configurations` | the price of every latency, and all configurations, as tables |
| `Query`, `load_query` | the question, and its YAML form |
| `Plan` | the answer |
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.evaluated import evaluate
    from planner.fronts import configurations, front
    from planner.plan import Plan
    from planner.query import Query, load_query
    from planner.solve import answer, answers, solve

__all__ = [
    "Plan",
    "Query",
    "answer",
    "answers",
    "configurations",
    "evaluate",
    "front",
    "load_query",
    "solve",
]

_HOMES = {
    "Plan": "plan",
    "Query": "query",
    "answer": "solve",
    "answers": "solve",
    "configurations": "fronts",
    "evaluate": "evaluated",
    "front": "fronts",
    "load_query": "query",
    "solve": "solve",
}


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `planner --help` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"planner.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Face(ModuleType):
    """The package, in which `solve` is the function also after something imported `planner.solve`.

    Importing a module binds it to its name in the package, over the function of that name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
