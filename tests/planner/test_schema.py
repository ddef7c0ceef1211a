"""Documentation of files' fields: complete, and from the models that read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from planner.catalog.services import CatalogFile, ServiceEntry
from planner.cli import app
from planner.melange import DeviceEntry, MelangeFile
from planner.query import Query
from planner.schema import KINDS, fields, file_model


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_every_file_is_documented(kind: str) -> None:
    model = file_model(kind)
    documented = {path: meaning for path, _, meaning in fields(model)}
    assert set(model.model_fields) <= set(documented)
    assert [path for path, meaning in documented.items() if not meaning] == []


@pytest.mark.parametrize(
    ("model", "prefix", "nested"),
    [
        (CatalogFile, "services.NAME.", ServiceEntry),
        (MelangeFile, "gpu_info.NAME.", DeviceEntry),
    ],
)
def test_fields_under_names_are_documented_too(
    model: type[BaseModel], prefix: str, nested: type[BaseModel]
) -> None:
    paths = {path for path, _, _ in fields(model)}
    assert {f"{prefix}{name}" for name in nested.model_fields} <= paths
    # A service has a query's fields besides.
    assert (f"{prefix}*" in paths) == (nested is ServiceEntry)


def test_a_query_is_what_is_documented_unless_told() -> None:
    paths = {path for path, _, _ in fields()}
    assert set(Query.model_fields) <= paths
    assert "devices[].inventory" in paths


def schema(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["schema", *arguments], env={"COLUMNS": "80"})


def test_schemas_from_the_command_line() -> None:
    said = schema("catalog")
    assert said.exit_code == 0
    assert "spare_hosts" in said.stdout
    assert max(len(line) for line in said.stdout.splitlines()) <= 80
    assert json.loads(schema("catalog", "--json").stdout)["title"] == "CatalogFile"
    assert "gpu_info.NAME.tputs" in schema("mix").stdout
    bad = schema("plan")
    assert bad.exit_code == 2
    assert "expected one of query, catalog, mix, got 'plan'" in bad.stderr
