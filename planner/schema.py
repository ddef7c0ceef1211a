"""The query's fields, documented from their one definition in `planner.query`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from planner.costs import defaults
from planner.query import Query
from planner.query_costs import AMOUNTS

_SPELLED = ("Target", "Lengths")
"""Read from spellings of their own, which their fields' descriptions tell."""


def json_schema() -> str:
    """The JSON Schema of a query file."""
    return json.dumps(Query.model_json_schema(), indent=2)


def fields() -> Iterator[tuple[str, str, str]]:
    """Every field as `(path, default, meaning)`, nested ones after their parent."""
    schema = Query.model_json_schema()
    yield from _fields(schema, schema["$defs"], "")


def _fields(
    node: dict[str, Any], definitions: dict[str, Any], prefix: str
) -> Iterator[tuple[str, str, str]]:
    required = set(node.get("required", ()))
    for name, field in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        nested = _nested(field, definitions)
        default = "required" if name in required else _default(field, nested)
        if node.get("title") == "CostChoice":
            default = AMOUNTS[name].format(defaults()[0][name][0])
        meaning = field.get("description") or (nested or {}).get("description", "")
        yield path, default, meaning
        if nested is not None and nested.get("title") not in _SPELLED:
            many = field.get("type") == "array"
            yield from _fields(nested, definitions, f"{path}[]." if many else f"{path}.")


def _nested(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    options = [field, field.get("items", {})]
    options += [option for of in ("anyOf", "allOf", "oneOf") for option in field.get(of, ())]
    for option in options:
        reference = option.get("$ref")
        if reference:
            found: dict[str, Any] = definitions[reference.rsplit("/", 1)[1]]
            return found
    return None


def _default(field: dict[str, Any], nested: dict[str, Any] | None) -> str:
    value = field.get("default")
    if value is None or (nested is not None and isinstance(value, dict)):
        return "-"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def print_schema(console: Console) -> None:
    """A table of the fields."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("field", no_wrap=True)
    table.add_column("default")
    table.add_column("meaning")
    for row in fields():
        table.add_row(*row)
    console.print(table)
