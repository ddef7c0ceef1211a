"""A measured run as a row of the file that `planner calibrate` fits to."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.deployments import COLUMNS, FORMATS
from perfmodel.documents import read_text
from perfmodel.errors import ConfigError, InputError
from perfmodel.layout import parse_layout
from perfmodel.precision import Precision
from planner.files import atomic_write
from planner.problem import Problem
from planner.verify.results import Measured

PLAIN = {
    "bf16": "bfloat16",
    "int8_weight_only": "int8_wo",
    "int4": "int4_wo",
    "mxfp4": "w4a16_mxfp4",
}
"""Names of number formats in such files, where they are not ours."""

DEGREES = {
    "tp_size": "tp_a",
    "pp_size": "pp",
    "attention_dp_size": "dp_a",
    "moe_tp_size": "tp_f",
    "moe_ep_size": "ep_f",
}
"""Columns of a pool's layout, and the degree that each holds."""


def row_of(
    problem: Problem, fleet: Mapping[str, Any], measured: Measured, name: str
) -> dict[str, str]:
    """The run as one deployment; of several equal continuous replicas, one with its share.

    Raises:
        InputError: the file lacks what a row needs, or the layout or format has no column.
    """
    if "mean" not in measured.ttit:
        raise InputError("no row: the run has no time per output token")
    if measured.in_flight is None or not measured.input_tokens or not measured.output_tokens:
        raise InputError("no row: the run does not say its lengths and requests in flight")
    pools = {pool["role"]: pool for pool in fleet["pools"]}
    one = pools.get("continuous") or pools["decode"]
    precision = Precision(**one["precision"])
    replicas = int(one["replicas"]) if "continuous" in pools else 1
    clients = max(round(measured.in_flight / replicas), 1)
    row = {
        "id": name,
        "model_path": problem.model.name,
        "system": one["device"],
        "backend": problem.query.engine,
        "mode": "agg" if "continuous" in pools else "disagg",
        "isl": str(round(measured.input_tokens)),
        "osl": str(round(measured.output_tokens)),
        "gemm_quant_mode": _format(precision.attention),
        "moe_quant_mode": _format(precision.experts if problem.model.is_moe else precision.ffn),
        "draft_tokens": str(one.get("draft_tokens") or 0),
        "silicon_data_source": f"{measured.tool}, silicon_concurrency={clients}",
        "silicon_ttft_ms": f"{measured.ttft['mean'] * 1e3:.3f}",
        "silicon_tpot_ms": f"{measured.ttit['mean'] * 1e3:.4f}",
    }
    if "continuous" in pools:
        dp = int(parse_layout(one["layout"]).dp_a[0])
        row["batch_size"] = str(max(round(clients / dp), 1))
        return row | _degrees(one, "")
    for role in ("prefill", "decode"):
        row |= _degrees(pools[role], f"{role}_")
        row[f"{role}_num_workers"] = str(pools[role]["replicas"])
    return row


def _degrees(pool: Mapping[str, Any], prefix: str) -> dict[str, str]:
    layout = parse_layout(pool["layout"])
    if int(layout.cp_a[0]) > 1 or int(layout.dp_f[0]) > 1:
        raise InputError(
            f"no row: {pool['layout']} has degrees for which such files have no column"
        )
    return {prefix + c: str(int(getattr(layout, degree)[0])) for c, degree in DEGREES.items()}


def _format(name: str) -> str:
    spelled = PLAIN.get(name, name)
    if FORMATS.get(spelled) != name:
        raise InputError(f"no row: such files have no name for {name}")
    return spelled


def append_row(path: Path, row: Mapping[str, str]) -> None:
    """Add a row to a file of deployments, begun if there is none; whole or not at all.

    Raises:
        ConfigError: the file lacks a column of the row, holds its id, or cannot be written.
    """
    names = list(row)
    rows: list[Mapping[str, str]] = []
    if path.exists():
        try:
            reader = csv.DictReader(io.StringIO(read_text(path, "CSV")))
            names = list(reader.fieldnames or [])
            rows = list(reader)
        except csv.Error as error:
            raise ConfigError(f"not a readable CSV file ({error})", source=str(path)) from None
        if not {"id", "model_path", "mode"} <= set(names):
            raise ConfigError(
                f"not a file of deployments: these have columns {', '.join(COLUMNS)}",
                source=str(path),
            )
        if any(one["id"] == row["id"] for one in rows):
            raise ConfigError(f"has a row {row['id']!r} already", source=str(path), field="id")
        names += [name for name in row if name not in names]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows([*rows, row])
    atomic_write(path, text.getvalue())
