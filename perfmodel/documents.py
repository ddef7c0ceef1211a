"""YAML and JSON documents that remember their lines, and their validation into pydantic models.

Every file a user writes (query, device, price list) is read here, so that every
mistake is reported the same way: file, line, field, and what was expected.
"""

from __future__ import annotations

import json
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
    """A parsed file: plain data, and the line on which each field stands.

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
    return parse_yaml(read_text(path, "YAML"), path)


def parse_yaml(text: str, path: Path) -> Document:
    """The text of one YAML file, which `path` names.

    Raises:
        ConfigError: it is not YAML (with line and column), or gives the same key twice.
    """
    try:
        lines = _lines(text, path)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigError(f"{path}:{line}:{column}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        problem = f"not valid YAML: a character that is no text ({error.character:#04x})"
        raise ConfigError(problem, source=str(path)) from None
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    return Document(path, data, lines)


def read_json_document(path: Path) -> Document:
    """Read one JSON file, remembering its lines.

    Raises:
        ConfigError: the file is missing, not UTF-8, or not JSON (with line and column),
            or gives the same key twice.
    """
    text = read_text(path, "JSON")
    data = parse_json(text, path)
    try:
        # JSON is YAML as far as its structure goes, tabs between tokens apart.
        lines = _lines(text.replace("\t", " "), path)
    except yaml.YAMLError:
        lines = {}
    return Document(path, data, lines)


def parse_json(text: str, path: Path) -> Any:
    """The data of one JSON file, which `path` names.

    Raises:
        ConfigError: it is not JSON (with line and column).
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigError(f"not valid JSON: {error.msg}", source=where) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {error}", source=str(path)) from None


def read_text(path: Path, kind: str) -> str:
    """The text of one file, of a `kind` such as YAML, JSON or CSV.

    Raises:
        ConfigError: the file is missing, a folder, not to be read, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problem = "no such file"
    except IsADirectoryError:
        problem = f"is a folder; expected a {kind} file"
    except UnicodeDecodeError as error:
        problem = f"cannot be read as UTF-8 text (byte {error.start}); expected a {kind} file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigError(problem, source=str(path))


def _lines(text: str, path: Path) -> dict[FieldPath, int]:
    lines: dict[FieldPath, int] = {}
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is not None:
        _record_lines(node, (), lines, path)
    return lines


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
            f"({', '.join(model.model_fields)}), got {kind_of(document.data)}"
        )
    try:
        return model.model_validate(document.data, context={"folder": document.path.parent})
    except ValidationError as error:
        problems = [
            f"{document.where(_in_document(document, problem['loc']))}: {message(problem)}"
            for problem in _causes(error.errors(include_url=False))
        ]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def kind_of(data: Any) -> str:
    """What a document's data is, by name."""
    return "nothing" if data is None else type(data).__name__


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
    if kind in ("dict_type", "model_type"):
        return f"expected a mapping of fields (got {given!r})"
    if kind in ("tuple_type", "list_type"):
        return f"expected a list (got {given!r})"
    if kind == "too_short":
        return "expected at least one value"
    text = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error" or isinstance(given, dict | list):
        return text
    if isinstance(given, bool) and kind in _WORDS:
        return (
            f"{text} (got {given!r}: to YAML yes, no, on, off, true and false are no words; put "
            "one that is meant in quotes)"
        )
    return f"{text} (got {given!r})"


_WORDS = ("literal_error", "string_type")
"""Of pydantic's problems, those of fields in which words are expected."""
