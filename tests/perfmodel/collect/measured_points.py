"""Held against the operator models: what a collection stored."""

import pytest

from perfmodel.database import FAMILIES, PerfStore
from perfmodel.operators import Kind, OperatorModel


def check_measured_points(store: PerfStore, model: OperatorModel, tolerance: float = 1e-4) -> None:
    """Every stored row is found by the operator model that reads its family."""
    frame = store.table("own", "pytorch", model.family)
    assert frame is not None
    columns = FAMILIES[model.family].key
    for row in frame.iter_rows(named=True):
        texts = {c.name: row[c.name] for c in columns if c.kind == "text"}
        shape = {c.name: [[row[c.name]]] for c in columns if c.kind != "text"}
        time = model.time(texts, shape)
        assert time.kind[0, 0] == Kind.MEASURED, (model.family, row)
        assert time.seconds[0, 0] == pytest.approx(row["time_s"], rel=tolerance)
