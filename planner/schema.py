"""The fields of files, documented from their one definition, such as `planner.query`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from planner.costs import defaults
from planner.query import Query
from planner.query_costs import AMOUNTS

KINDS = ("query", "catalog", "mix")
"""Files whose fields are documented; `mix` is Mélange's input."""

_SPELLED = ("Target", "Lengths")
"""Read from spellings of their own, which their fields' descriptions tell."""


def file_model(kind: str) -> type[BaseModel]:
    """The model of a kind of file, of `KINDS`."""
    if kind == "catalog":
        from planner.catalog.services import CatalogFile

        return CatalogFile
    if kind == "mix":
        from planner.melange import MelangeFile

        return MelangeFile
    return Query


def json_schema(model: type[BaseModel] = Query) -> str:
    """The JSON Schema of a query file, or of another."""
    return json.dumps(model.model_json_schema(), indent=2)


def fields(model: type[BaseModel] = Query) -> Iterator[tuple[str, str, str]]:
    """Every field as `(path, default, meaning)`, nested ones after their parent."""
    schema = model.model_json_schema()
    yield from _fields(schema, schema.get("$defs", {}), "")


def _fields(
    node: dict[str, Any], definitions: dict[str, Any], prefix: str
) -> Iterator[tuple[str, str, str]]:
    required = set(node.get("required", ()))
    for name, field in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        nested, infix = _nested(field, definitions)
        default = "required" if name in required else _default(field, nested)
        if node.get("title") == "CostChoice":
            default = AMOUNTS[name].format(defaults()[0][name][0])
        meaning = field.get("description") or (nested or {}).get("description", "")
        yield path, default, meaning
        if nested is not None and nested.get("title") not in _SPELLED:
            yield from _fields(nested, definitions, f"{path}{infix}.")
    if node.get("additionalProperties") is True:
        yield f"{prefix}*", "-", node.get("description", "")


def _nested(
    field: dict[str, Any], definitions: dict[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """What stands below a field, and how its path goes on: in a list, under names, or at once."""
    options = [field]
    options += [option for of in ("anyOf", "allOf", "oneOf") for option in field.get(of, ())]
    for option in options:
        for part, infix in (
            (option, ""),
            (option.get("items"), "[]"),
            (option.get("additionalProperties"), ".NAME"),
        ):
            if isinstance(part, dict) and "$ref" in part:
                return definitions[part["$ref"].rsplit("/", 1)[1]], infix
    return None, ""


def _default(field: dict[str, Any], nested: dict[str, Any] | None) -> str:
    value = field.get("default")
    if value in (None, "", [], {}) or (nested is not None and isinstance(value, dict)):
        return "-"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def print_schema(console: Console, model: type[BaseModel] = Query) -> None:
    """A table of the fields."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("field", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("meaning", overflow="fold")
    for row in fields(model):
        table.add_row(*row)
    console.print(table)
