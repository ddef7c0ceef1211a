"""The peer's TTFT and TPOT of measured deployments; runs in the peer's own environment.

    python experiments/peer_end_to_end.py ROWS.csv experiments/results/peer_end_to_end.csv

Each row goes to `aiconfigurator`'s own `cli_estimate`, as its public scripts do. It gets
more than those give it: names of models that it knows under another name, and, where it
has no table of the row's runtime version, its default version, then tables that it fills
by its own empirical model; and, where a disaggregated row leaves batch sizes and workers
out, one prompt at a time, one worker of each kind, and the clients that the row's source
names spread over the decode ranks. What it answered with stands in `answered_by`; where nothing
answers, `reason` holds its last words. `accuracy_end_to_end.py --cross-validate` reads
the file.
"""

from __future__ import annotations

import csv
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ALIASES = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B": "meta-llama/Meta-Llama-3.1-405B",
    "meta-llama/Llama-3.1-8B": "meta-llama/Meta-Llama-3.1-8B",
}
DEGREES = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
CONTINUOUS = ("batch_size", *DEGREES)
DISAGGREGATED = tuple(
    f"{phase}_{name}"
    for phase in ("prefill", "decode")
    for name in ("batch_size", "num_workers", *DEGREES)
)
COLUMNS = ("id", "predicted_ttft_ms", "predicted_tpot_ms", "answered_by", "reason")


def arguments(row: dict[str, str]) -> dict[str, Any]:
    """What `cli_estimate` takes of a row."""
    counts = CONTINUOUS if row["mode"] == "agg" else DISAGGREGATED
    if row["mode"] == "disagg":
        row = completed(row)
    texts = {name: row[name] for name in ("gemm_quant_mode", "moe_quant_mode") if row[name]}
    numbers = {name: int(row[name]) for name in ("isl", "osl", *counts) if row.get(name)}
    return {
        "model_path": ALIASES.get(row["model_path"], row["model_path"]),
        "system_name": row["system"],
        "mode": row["mode"],
        "backend_name": row["backend"],
        **texts,
        **numbers,
    }


def completed(row: dict[str, str]) -> dict[str, str]:
    """A disaggregated row with the batch sizes and workers that it leaves out."""
    named = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    clients = int(named.group(1)) if named else int(row["decode_batch_size"] or 1)
    ranks = int(row["decode_attention_dp_size"] or 1)
    usual = {
        "prefill_batch_size": "1",
        "prefill_num_workers": "1",
        "decode_num_workers": "1",
        "decode_batch_size": str(-(-clients // ranks)),
    }
    said = {name: text for name, text in row.items() if text}
    if named and said.get("decode_batch_size") == "1":
        del said["decode_batch_size"]  # what the rows say whatever the load
    return row | usual | said


def ways(row: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The tables to ask, the row's own version first."""
    if row["backend_version"]:
        yield "own version", {"backend_version": row["backend_version"]}
    yield "default version", {}
    yield "hybrid tables", {"database_mode": "HYBRID"}


def predict(row: dict[str, str]) -> dict[str, str]:
    """A line of the answer."""
    from aiconfigurator.cli.api import cli_estimate

    reason = ""
    for name, choice in ways(row):
        try:
            result = cli_estimate(**arguments(row), **choice)
        except (Exception, SystemExit) as error:  # whatever it fails with is its answer
            lines = str(error).split(" at /")[0].splitlines()  # without this machine's paths
            reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]
            continue
        return {
            "id": row["id"],
            "predicted_ttft_ms": f"{result.ttft:.4f}",
            "predicted_tpot_ms": f"{result.tpot:.5f}",
            "answered_by": name,
            "reason": "",
        }
    return dict.fromkeys(COLUMNS, "") | {"id": row["id"], "reason": reason}


def quiet() -> None:
    """The peer logs and prints much; the answer is in the file."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.stdout = sys.stderr


def main() -> None:
    """Predict every row of a file."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with Path(sys.argv[1]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Neighbours share a database, which a process keeps.
    order = sorted(rows, key=lambda row: (row["system"], row["backend"], row["model_path"]))
    with ProcessPoolExecutor(initializer=quiet) as executor:
        answers = list(executor.map(predict, order, chunksize=16))
    with Path(sys.argv[2]).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(answers, key=lambda answer: answer["id"]))


if __name__ == "__main__":
    main()
