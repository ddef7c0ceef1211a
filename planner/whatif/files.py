"""What a what-if is asked of, and the files that answers are written to."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.documents import read_yaml, validate
from planner.files import as_text, atomic_write
from planner.plan import incomplete, read_plan
from planner.query import Query


def read_question(path: Path) -> Query:
    """The query of a query file, or of a plan that `planner solve` wrote.

    Raises:
        ConfigError: file, line, field and what was expected.
    """
    if path.suffix == ".json":
        return query_of(read_plan(path), path)
    document = read_yaml(path)
    if isinstance(document.data, dict) and "schema" in document.data:
        return query_of(read_plan(path), path)
    return validate(document, Query)


def query_of(plan: Mapping[str, Any], path: Path) -> Query:
    """The query of a plan that was read from a file.

    Raises:
        ConfigError: it has none that is valid.
    """
    try:
        return Query.model_validate(plan["query"])
    except (KeyError, ValueError) as error:
        raise incomplete(str(path), error) from None


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV, whole or not at all; what is not known stays empty.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def write_data(kind: str, data: Mapping[str, Any], path: Path) -> None:
    """Write an answer as JSON, or as YAML if the name ends in .yaml or .yml, its schema first.

    Raises:
        ConfigError: the file cannot be written.
    """
    atomic_write(path, as_text({"schema": f"planner.whatif.{kind}/1", **data}, path))
