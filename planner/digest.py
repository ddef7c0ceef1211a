"""Digests of values: the same in every process, different where anything differs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.problem import Problem


def question(problem: Problem) -> str:
    """What a problem asks, apart from the runtimes and the tables: a digest.

    The query with all that it names (model, devices, prices, engine constants, loads of
    experts) and the version of this package.
    """
    named = (problem.model, problem.offers, problem.engine, problem.traffic, problem.precisions)
    query = problem.query.model_dump_json(exclude={"runtime"})
    return digest(version("llm-fleet-planner"), query, named, problem.routing)


def digest(*parts: Any) -> str:
    """A short text that stands for values of dataclasses, containers, numbers and texts."""
    text = repr([_plain(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    """A value whose `repr` does not depend on the process: sets have no order of their own."""
    if is_dataclass(value):
        return [type(value).__name__, *(_plain(getattr(value, f.name)) for f in fields(value))]
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
