"""The batch benchmark's catalog: readable, and the same from the same seed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.catalog import Settings, load_catalog
from planner.catalog.batch import searched

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("bench_batch")


def test_a_catalog_of_cheap_queries_some_of_which_share_a_search(
    bench: Any, tmp_path: Path
) -> None:
    fields = bench.catalog(300, 0)
    assert fields == bench.catalog(300, 0) != bench.catalog(300, 1)
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(fields))
    catalog, errors = load_catalog(path)
    assert errors == []
    shared = {searched(s.query, Settings()).model_dump_json() for s in catalog.services}
    assert len(shared) == bench.searches(fields)
    assert 100 < len(shared) < 300
