"""Fields of a query by name, values in a user's spelling, and queries with other values.

A field is addressed as the query writes it, `slo.ttit` or `precision.weights`; a device by its
name, `devices.mi300x.usd_per_device_hour`. Values are what the query file would hold, or
`x0.5`: so many times what the query has.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from perfmodel.documents import message
from perfmodel.errors import InputError
from perfmodel.traffic import Lengths
from planner.problem import offer_of
from planner.query import Query
from planner.query_workload import Slo, Target
from planner.solve import query_data

_MULTIPLE = re.compile(r"x\s*(?:\d+\.?\d*|\.\d+)")
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ/]*)"
_RANGE = re.compile(rf"{_NUMBER}\.\.{_NUMBER}(?::(\d+))?")

MOST_STEPS = 1000
"""Values of one range, at most."""

NO_LIMIT = ("unlimited", "none")
"""How a user lifts an inventory."""


def read_values(text: str) -> list[Any]:
    """The values of `20ms,40ms`, `1..6:6` (from, to, how many) or `x0.5,x1,{p99: 1s}`.

    Raises:
        InputError: nothing, an empty item, or a range that is none.
    """
    values: list[Any] = []
    for item in _split(text):
        if not item:
            raise InputError(f"expected values between commas, got {text!r}")
        if (found := _RANGE.fullmatch(item)) is not None:
            values += _range(item, found)
        elif ".." in item:
            raise InputError(f"expected a range such as 1..6:6 (from, to, how many), got {item!r}")
        else:
            values.append(_plain(item))
    return values


def _split(text: str) -> list[str]:
    """Items between commas that are in no bracket."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items]


def _plain(item: str) -> Any:
    try:
        return yaml.safe_load(item)
    except yaml.YAMLError:
        raise InputError(f"expected a value as a query file has it, got {item!r}") from None


def _range(item: str, found: re.Match[str]) -> list[Any]:
    first, unit, last, other, count = found.groups()
    if count is None:
        raise InputError(f"{item}: expected how many values, as in {item}:6")
    if unit and unit != other:
        raise InputError(f"{item}: expected one unit, got {unit!r} and {other!r}")
    if not 2 <= int(count) <= MOST_STEPS:
        raise InputError(f"{item}: expected 2 to {MOST_STEPS} values, got {count}")
    low, high = float(first), float(last)
    if low == high:
        raise InputError(f"{item}: expected two ends that differ")
    step = (high - low) / (int(count) - 1)
    numbers = [float(f"{low + i * step:.12g}") for i in range(int(count))]
    return [f"{n:.12g}{other}" if other else int(n) if n.is_integer() else n for n in numbers]


def with_values(
    query: Query,
    changes: Sequence[tuple[str, Any]],
    folder: Path | None = None,
    search_path: Sequence[Path] = (),
) -> Query:
    """The query with other values in some fields; `x0.5` is of what the given query has.

    An inventory of 0 leaves the device out. A bare time keeps a target's statistic: 400ms for
    `{p99: 500ms}` is `{p99: 400ms}`. A price of an owned device stands in for its costs.

    Args:
        folder: to which paths among the values are relative; the working directory if not given.
        search_path: folders with further devices, of which a price may be a multiple.

    Raises:
        InputError: no such field or device, a value that the query does not take, or no device
            left; names the field.
    """
    data, left_out = query_data(query), set[int]()
    for field, value in changes:
        path = _path(query, field)
        known, inner = _look_up(query, path), data
        position = device_names(query).index(path[1]) if path[0] == "devices" else None
        is_price = path[2:] == ["usd_per_device_hour"]
        if is_price and position is not None and is_multiple(value):
            choice = query.devices[position]
            known = offer_of(choice, position, query.costs, search_path).usd_per_device_hour
        value = multiple_of(field, known, value)
        if position is not None:
            inner = data["devices"][position]
            if path[2:] == ["inventory"] and value == 0 and not isinstance(value, bool):
                left_out.add(position)
                continue
            if path[2:] == ["inventory"] and value in NO_LIMIT:
                value = None
            if is_price:
                inner.pop("cost", None)
        for name in path[:-1] if position is None else path[2:-1]:
            inner = inner.setdefault(name, {})
        if isinstance(known, Target) and isinstance(value, str) and known.percentile is not None:
            value = {known.statistic: value}
        inner[path[-1]] = value
    names = [name for i, name in enumerate(device_names(query)) if i not in left_out]
    data["devices"] = [device for i, device in enumerate(data["devices"]) if i not in left_out]
    if not data["devices"]:
        raise InputError("devices: an inventory of 0 leaves no device")
    return _validated(data, names, folder)


def value_of(query: Query, field: str) -> Any:
    """A field's value as the query gives it; None where it gives none, or lacks the device."""
    path = _path(query, field)
    if path[0] == "devices" and path[1] not in device_names(query):
        return None
    return _look_up(query, path)


def _path(query: Query, field: str) -> list[str]:
    """A field's names; those of device files may have dots in them."""
    for name in device_names(query):
        if field.startswith(f"devices.{name}."):
            return ["devices", name, *field.removeprefix(f"devices.{name}.").split(".")]
    return field.split(".")


def with_devices(query: Query, devices: Sequence[str]) -> Query:
    """The query with further candidate devices, by name or path.

    Raises:
        InputError: one that it has.
    """
    data = query_data(query)
    for device in devices:
        is_file = device.endswith((".yaml", ".yml"))
        data["devices"].append({"name": str(Path(device).resolve()) if is_file else device})
    return _validated(data, [*device_names(query), *map(short_name, devices)], None)


def device_names(query: Query) -> list[str]:
    """The candidates as changes name them: a device file by its stem."""
    return [short_name(device.name) for device in query.devices]


def short_name(name: str) -> str:
    """A device's name; of a file, its stem."""
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


def _look_up(query: Query, path: Sequence[str]) -> Any:
    """A field's value.

    Raises:
        InputError: there is none, or it holds further ones.
    """
    field, names = ".".join(path), list(path)
    value: Any = query
    if names[0] == "devices":
        candidates = device_names(query)
        if len(names) < 3:
            raise InputError(
                f"{field}: expected a device's field, such as "
                f"devices.{candidates[0]}.usd_per_device_hour"
            )
        if names[1] not in candidates:
            raise InputError(
                f"{field}: no device {names[1]!r} in the query; it has {', '.join(candidates)}"
            )
        value, names = query.devices[candidates.index(names[1])], names[2:]
    for i, name in enumerate(names):
        if value is None:
            raise InputError(f"{field}: the query has no {'.'.join(names[:i])}")
        inside = isinstance(value, BaseModel) and not isinstance(value, Target)
        known = list(type(value).model_fields) if inside else []
        if name not in known:
            where = ".".join(path[: len(path) - len(names) + i]) or "a query"
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"{field}: unknown field; {where} has {', '.join(known) or 'no fields'}{hint}"
            )
        value = getattr(value, name)
    if isinstance(value, BaseModel) and not isinstance(value, Target):
        first = next(iter(type(value).model_fields))
        raise InputError(f"{field}: expected one of its fields, such as {field}.{first}")
    return value


def is_multiple(value: Any) -> bool:
    """Whether it is one such as `x0.5`."""
    return isinstance(value, str) and _MULTIPLE.fullmatch(value.strip()) is not None


def multiple_of(field: str, known: Any, value: Any) -> Any:
    """So many times a field's value, if `value` is one such as `x0.5`; else `value`.

    In the form in which a query holds it.

    Raises:
        InputError: the field has no number, or a fraction of what is whole.
    """
    if not is_multiple(value):
        return value
    factor = float(value.strip()[1:])
    if factor <= 0:
        raise InputError(f"{field}: expected a factor above zero, got x{factor:g}")
    if isinstance(known, Target):
        return {"seconds": known.seconds * factor, "percentile": known.percentile}
    if isinstance(known, Lengths):
        tokens = [max(t * factor, 1.0) for t in known.tokens]
        return {"tokens": tokens, "weights": list(known.weights)}
    if isinstance(known, bool) or not isinstance(known, int | float):
        said = "none" if known is None else repr(known)
        raise InputError(f"{field}: x{factor:g} needs a number in the query, which has {said}")
    product = known * factor
    if isinstance(known, int):
        if abs(product - round(product)) > 1e-9:
            raise InputError(f"{field}: {factor:g} times {known} is no whole number")
        return round(product)
    return product


def _validated(data: dict[str, Any], names: Sequence[str], folder: Path | None) -> Query:
    """The query of these fields; `names` are its devices'."""
    try:
        return Query.model_validate(data, context={"folder": folder or Path.cwd()})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = [str(part) for part in problem["loc"]]
        if field[:1] == ["devices"] and len(field) > 1:
            field[1] = names[int(field[1])]
        where = ".".join(field)
        raise InputError(": ".join(part for part in (where, message(problem)) if part)) from None


def targets(slo: Slo) -> dict[str, Target]:
    """The latency targets that a query has, by name."""
    named = {"ttft": slo.ttft, "ttit": slo.ttit, "e2e": slo.e2e}
    return {name: target for name, target in named.items() if target is not None}
