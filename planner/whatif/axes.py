"""Axes of a grid: what is varied, and the queries of its cells.

An axis has settings; each changes one field of the query, or (a scenario) several. Cells are
the product of all axes, and each is a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from perfmodel.documents import read_yaml, validate
from perfmodel.errors import ConfigError, InputError
from planner.query import Query
from planner.whatif.fields import read_values, with_values

MOST_CELLS = 1000
"""Queries of one grid, at most."""

SCENARIO = "scenario"
"""Name of the axis whose settings change several fields."""


@dataclass(frozen=True)
class Setting:
    """One point of an axis.

    Attributes:
        label: as the user wrote it.
        changes: fields and their values.
    """

    label: str
    changes: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Axis:
    """What is varied, and the points it takes."""

    name: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        labels: of its settings, by axis.
        query: or why these settings make none together.
    """

    labels: Mapping[str, str]
    query: Query | InputError


class ChangesFile(BaseModel):
    """Changes as a YAML file states them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    changes: dict[str, Any] = Field(
        default={},
        description="Fields by name (`slo.ttit`, `devices.mi300x.usd_per_device_hour`), each "
        "with the values it takes: a list, or a text such as `1..6:6` or `x0.5,x1`.",
    )
    scenarios: dict[str, dict[str, Any]] = Field(
        default={}, description="Sets of changes that go together, by name: one more axis."
    )
    add_devices: tuple[str, ...] = Field(
        default=(), description="Further candidate devices: names, or paths of their files."
    )


@dataclass(frozen=True)
class Changes:
    """What a user wants varied.

    Attributes:
        devices: further candidates.
        folder: to which paths in values are relative; None: the working directory.
    """

    axes: tuple[Axis, ...] = ()
    devices: tuple[str, ...] = ()
    folder: Path | None = None


def read_changes(path: Path) -> Changes:
    """Read a file of changes.

    Raises:
        ConfigError: file, line, field and what was expected.
    """
    document = read_yaml(path)
    file = validate(document, ChangesFile)
    axes = []
    for field, given in file.changes.items():
        try:
            axes.append(_axis(field, given))
        except InputError as error:
            raise ConfigError(f"{document.where(('changes', field))}: {error}") from None
    scenarios = []
    for name, fields in file.scenarios.items():
        if not fields:
            where = document.where(("scenarios", name))
            raise ConfigError(f"{where}: expected fields with values")
        scenarios.append(Setting(name, tuple(fields.items())))
    if scenarios:
        axes.append(Axis(SCENARIO, tuple(scenarios)))
    folder = path.absolute().parent
    files = (".yaml", ".yml")
    devices = tuple(str(folder / d) if d.endswith(files) else d for d in file.add_devices)
    return Changes(tuple(axes), devices, folder)


def read_options(
    vary: Sequence[str] = (),
    inventory: Sequence[str] = (),
    price: Sequence[str] = (),
    option: str = "--vary",
) -> tuple[Axis, ...]:
    """Axes of `--vary FIELD=VALUES`, `--inventory DEVICE=DEVICES` and `--price DEVICE=PRICES`.

    Args:
        option: how errors call the first.

    Raises:
        InputError: an option that is not of this form, or values that are none.
    """
    options = [(option, text, "{}") for text in vary]
    options += [("--inventory", text, "devices.{}.inventory") for text in inventory]
    options += [("--price", text, "devices.{}.usd_per_device_hour") for text in price]
    axes = []
    for name, text, field in options:
        what, equals, values = text.partition("=")
        if not equals or not what.strip():
            raise InputError(f"{name} {text}: expected {FORMS[name]}")
        try:
            axes.append(_axis(field.format(what.strip()), values))
        except InputError as error:
            raise InputError(f"{name} {text}: {error}") from None
    return tuple(axes)


FORMS = {
    "--vary": "FIELD=VALUES, such as slo.ttit=20ms,40ms",
    "--set": "FIELD=VALUE, such as workload.qps=100",
    "--price": "DEVICE=PRICES, such as h100_sxm=x0.5,x1",
    "--inventory": "DEVICE=DEVICES, such as h100_sxm=8,16",
}


def _axis(field: str, given: Any) -> Axis:
    """The axis of a field, by a text of values, a list of them, or a single one."""
    values = read_values(given) if isinstance(given, str) else given
    values = values if isinstance(values, list) else [values]
    if not values:
        raise InputError("expected at least one value")
    settings = tuple(Setting(_label(value), ((field, value),)) for value in values)
    labels = [setting.label for setting in settings]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"given twice: {', '.join(repeated)}")
    return Axis(field, settings)


def _label(value: Any) -> str:
    """A value as its user would write it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_label(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_label, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def cells(
    query: Query,
    axes: Sequence[Axis],
    folder: Path | None = None,
    search_path: Sequence[Path] = (),
) -> list[Cell]:
    """The product of the axes, the last varying fastest; further arguments as `with_values`.

    Raises:
        InputError: no axis, the same field on two, more than `MOST_CELLS` cells, or a setting
            with which no cell is a query.
    """

    def asked(changes: Sequence[tuple[str, Any]]) -> Query | InputError:
        try:
            return with_values(query, changes, folder, search_path)
        except InputError as error:
            return error

    found = [Cell(labels, asked(changes)) for labels, changes in settings_of(axes)]
    for axis in axes:
        for setting in axis.settings:
            with_it = [cell.query for cell in found if cell.labels[axis.name] == setting.label]
            errors = [one for one in with_it if isinstance(one, InputError)]
            if len(errors) == len(with_it):
                raise errors[0]
    return found


def settings_of(axes: Sequence[Axis]) -> list[tuple[dict[str, str], list[tuple[str, Any]]]]:
    """Labels by axis, and changes, of every combination of settings.

    Raises:
        InputError: no axis, the same field on two, more than `MOST_CELLS` combinations.
    """
    if not axes:
        raise InputError("nothing is varied: give --vary FIELD=VALUES, or --changes FILE")
    fields = [field for axis in axes for field in {f for s in axis.settings for f, _ in s.changes}]
    if repeated := sorted({field for field in fields if fields.count(field) > 1}):
        raise InputError(f"{', '.join(repeated)}: varied twice; give all values at once")
    count = prod(len(axis.settings) for axis in axes)
    if count > MOST_CELLS:
        sizes = " x ".join(str(len(axis.settings)) for axis in axes)
        raise InputError(
            f"{sizes} = {count:,} cells: expected at most {MOST_CELLS:,}; give fewer values"
        )
    found = []
    for settings in product(*(axis.settings for axis in axes)):
        changes = [change for setting in settings for change in setting.changes]
        labels = {axis.name: s.label for axis, s in zip(axes, settings, strict=True)}
        found.append((labels, changes))
    return found
