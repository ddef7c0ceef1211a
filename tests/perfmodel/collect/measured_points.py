"""Held against the operator models: what a collection stored."""

from perfmodel.database import FAMILIES, PerfStore
from perfmodel.operators import Kind, OperatorModel


def check_measured_points(store: PerfStore, model: OperatorModel, share: float = 1.0) -> None:
    """Stored rows are found by the operator model that reads their family.

    Args:
        share: of the rows, whose time is met as well. Of a machine's own times not all can be:
            one that takes several times as long as its neighbours counts as disturbed.
    """
    frame = store.table("own", "pytorch", model.family)
    assert frame is not None
    columns = FAMILIES[model.family].key
    met = 0
    for row in frame.iter_rows(named=True):
        texts = {c.name: row[c.name] for c in columns if c.kind == "text"}
        shape = {c.name: [[row[c.name]]] for c in columns if c.kind != "text"}
        time = model.time(texts, shape)
        assert time.kind[0, 0] == Kind.MEASURED, (model.family, row)
        met += abs(float(time.seconds[0, 0]) / row["time_s"] - 1.0) < 1e-4
    assert met >= share * len(frame), (model.family, met, len(frame))
