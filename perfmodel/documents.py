"""YAML documents that remember their lines, and their validation into pydantic models.

Every file a user writes (query, device, price list) is read here, so that every
mistake is reported the same way: file, line, field, and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from perfmodel.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    Model = TypeVar("Model", bound=BaseModel)

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: plain data, and the line on which each field stands.

    Attributes:
        files: of fields that stand in another file, which it is (`perfmodel.inheritance`).
    """

    path: Path
    data: Any
    lines: Mapping[FieldPath, int]
    files: Mapping[FieldPath, Path] = field(default_factory=dict)

    def where(self, field: Sequence[str | int]) -> str:
        """`file:line: field` of the nearest enclosing field that the file really has."""
        known = tuple(field)
        while known and known not in self.lines:
            known = known[:-1]
        line, path = self.lines.get(known, 1), self.files.get(known, self.path)
        name = ".".join(str(part) for part in field)
        return f"{path}:{line}: {name}" if name else f"{path}:{line}"


def read_yaml(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        ConfigError: the file is missing, not UTF-8, or not YAML (with line and column),
            or gives the same key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; expected a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> Document:
    """The text of one YAML file, which `path` names.

    Raises:
        ConfigError: it is not YAML (with line and column), or gives the same key twice.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[FieldPath, int] = {}
        if node is not None:
            _record_lines(node, (), lines, path)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigError(f"{path}:{line}:{column}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    return Document(path, data, lines)


def _record_lines(
    node: yaml.Node, field: FieldPath, lines: dict[FieldPath, int], path: Path
) -> None:
    lines[field] = min(lines.get(field, node.start_mark.line + 1), node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            child = (*field, key.value)
            line = key.start_mark.line + 1
            if child in lines:
                name = ".".join(str(part) for part in child)
                raise ConfigError(f"{path}:{line}: {name}: given twice (first on {lines[child]})")
            lines[child] = line
            _record_lines(value, child, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            _record_lines(value, (*field, position), lines, path)


def validate(document: Document, model: type[Model]) -> Model:
    """Validate a document's data into a pydantic model.

    Raises:
        ConfigError: one line per wrong field, each with file, line, field and expectation.
    """
    from pydantic import ValidationError

    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.path}:1: expected a mapping of fields "
            f"({', '.join(model.model_fields)}), got {type(document.data).__name__}"
        )
    try:
        return model.model_validate(document.data, context={"folder": document.path.parent})
    except ValidationError as error:
        problems = [
            f"{document.where(_in_document(document, problem['loc']))}: {message(problem)}"
            for problem in _causes(error.errors(include_url=False))
        ]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _causes(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without lists found too short because their items are wrong, which is said anyway."""

    def follows(problem: ErrorDetails) -> bool:
        field = problem["loc"]
        inside = (p["loc"] for p in problems if len(p["loc"]) > len(field))
        return problem["type"] == "too_short" and any(loc[: len(field)] == field for loc in inside)

    return [problem for problem in problems if not follows(problem)]


def _in_document(document: Document, location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Drop the parts that name pydantic's union branches rather than the file's fields."""
    field: list[str | int] = []
    for position, part in enumerate(location):
        candidate = (*field, part)
        last = position == len(location) - 1
        if (
            candidate in document.lines
            or (last and "[" not in str(part) and tuple(field) == ())
            or (last and isinstance(part, str) and part.isidentifier() and part not in _BRANCHES)
        ):
            field.append(part)
    return tuple(field)


_BRANCHES = {"int", "float", "str", "bool", "dict", "list", "constrained-str", "literal"}


def message(problem: Mapping[str, Any]) -> str:
    """One pydantic problem in the words of a person who wrote the file."""
    given = problem.get("input")
    kind = problem["type"]
    if kind == "missing":
        return "this field is required"
    if kind == "extra_forbidden":
        return "unknown field"
    if kind in ("tuple_type", "list_type"):
        return f"expected a list (got {given!r})"
    if kind == "too_short":
        return "expected at least one value"
    text = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error" or isinstance(given, dict | list):
        return text
    return f"{text} (got {given!r})"
