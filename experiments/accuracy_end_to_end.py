"""How far predicted TTFT and TPOT are from measured deployments.

    python experiments/accuracy_end_to_end.py --rows ROWS.csv --out PREDICTIONS.csv
    python experiments/accuracy_end_to_end.py --rows ROWS.csv --cross-validate

The first form predicts a file of deployments under the shipped corrections; its measured
columns may be absent, and where they are not, the median errors are printed. The second
needs them: it fits the corrections on some models and tests them on the others, in turn, so
that no row is predicted by constants that saw its model; it prints errors before and after
beside the peer's on the same rows (`results/peer_end_to_end.csv`, made by
`peer_end_to_end.py`), and draws the figure. `planner calibrate` fits the constants to all rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NoReturn

import agreement
from rich.console import Console
from rich.progress import track
from rich.table import Table

from perfmodel.errors import InputError
from perfmodel.serving import Served
from perfmodel.validation import Seen, by_group, cross_validate, errors, serve_all

RESULTS = Path(__file__).parent / "results"
BAD_INPUT = 2
PEER = RESULTS / "peer_end_to_end.csv"


def predict(served: Served) -> tuple[str, float, float]:
    """Row, TTFT and TPOT in milliseconds under the shipped correction."""
    seen = served.play()
    return served.deployment.id, seen.ttft_s * 1e3, seen.tpot_s * 1e3


def write_predictions(rows: list[Served], path: Path) -> str:
    """Predict all rows and write the file at once; says how far they are from the measured."""
    with ProcessPoolExecutor() as executor:
        predictions = list(executor.map(predict, rows, chunksize=32))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "predicted_ttft_ms", "predicted_tpot_ms"])
        writer.writerows([name, f"{ttft:.4f}", f"{tpot:.5f}"] for name, ttft, tpot in predictions)
    pairs = [
        ((ttft / 1e3, tpot / 1e3), row.deployment.measured)
        for row, (_, ttft, tpot) in zip(rows, predictions, strict=True)
        if row.deployment.measured is not None
    ]
    if not pairs:
        return ""
    medians = [errors((seen[i], measured[i]) for seen, measured in pairs) for i in (0, 1)]
    count = f"{len(pairs):,} measured row{'s' * (len(pairs) != 1)}"
    ttft, tpot = (f"{values['median']:.1%}" for values in medians)
    return f"median error over {count}: TTFT {ttft}, TPOT {tpot}"


def peer_predictions() -> dict[str, tuple[float, float]]:
    """The peer's TTFT and TPOT in seconds by row, where it has a prediction."""
    if not PEER.is_file():
        return {}
    found = {}
    with PEER.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["predicted_ttft_ms"] and row["predicted_tpot_ms"]:
                values = (
                    float(row["predicted_ttft_ms"]) / 1e3,
                    float(row["predicted_tpot_ms"]) / 1e3,
                )
                if min(values) > 0:
                    found[row["id"]] = values
    return found


def summarize(seen: list[Seen]) -> dict[str, dict[str, object]]:
    """By group: rows, and errors before, after and of the peer, for TTFT and TPOT."""
    peer = peer_predictions()
    summary: dict[str, dict[str, object]] = {}
    for key, rows in by_group(seen).items():
        entry: dict[str, object] = {"rows": len(rows)}
        shared = [row for row in rows if row.id in peer]
        entry["peer_rows"] = len(shared)
        for i, name in enumerate(("ttft", "tpot")):
            entry[name] = {
                "before": errors([(r.before[i], r.measured[i]) for r in rows]),
                "after": errors([(r.after[i], r.measured[i]) for r in rows]),
                "after_on_peer_rows": errors([(r.after[i], r.measured[i]) for r in shared]),
                "peer": errors([(peer[r.id][i], r.measured[i]) for r in shared]),
            }
        summary[key] = entry
    return summary


def show(summary: dict[str, dict[str, object]]) -> None:
    """Print medians by group."""
    table = Table("group", "rows", box=None)
    for name in ("TPOT raw", "fitted", "(mean)", "TTFT raw", "fitted", "(mean)"):
        table.add_column(name, justify="right")
    for name in ("peer's rows", "TPOT ours", "peer", "TTFT ours", "peer"):
        table.add_column(name, justify="right")

    def percent(values: dict[str, float], kind: str = "median") -> str:
        return f"{values[kind]:.1%}" if values else "-"

    for key, entry in summary.items():
        cells = [key, str(entry["rows"])]
        for name in ("tpot", "ttft"):
            part = entry[name]
            assert isinstance(part, dict)
            cells += [
                percent(part["before"]),
                percent(part["after"]),
                percent(part["after"], "mean"),
            ]
        cells.append(str(entry["peer_rows"]))
        for name in ("tpot", "ttft"):
            part = entry[name]
            assert isinstance(part, dict)
            cells += [percent(part["after_on_peer_rows"]), percent(part["peer"])]
        table.add_row(*cells)
    Console(width=170).print(table)


def draw(seen: list[Seen], path: Path) -> None:
    """Simulated against measured, log axes, with the 5 % band."""
    import altair as alt

    rows = [
        {
            "device": row.groups[2].split()[1],
            "mode": row.groups[1].split()[1],
            "metric": name,
            "measured": row.measured[i] * 1e3,
            "simulated": row.after[i] * 1e3,
        }
        for row in seen
        for i, name in enumerate(("TTFT", "TPOT"))
    ]
    charts = [
        agreement.chart([row for row in rows if row["metric"] == name], name, "device", "mode")
        for name in ("TTFT", "TPOT")
    ]
    alt.hconcat(*charts).save(str(path))


def fail(message: str) -> NoReturn:
    """Print an error and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, help="CSV of deployments")
    parser.add_argument("--out", type=Path, help="write predictions here")
    parser.add_argument(
        "--cross-validate", action="store_true", help="fit on some models, test on others"
    )
    options = parser.parse_args()
    if options.out is None and not options.cross_validate:
        parser.error("nothing to do: give --out FILE, --cross-validate, or both")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        fail(f"{options.out}: the folder does not exist")
    try:
        served = serve_all(
            options.rows,
            lambda reason: print(f"left out: {reason}", file=sys.stderr),
            lambda rows: track(rows, "reading", console=Console(stderr=True)),
        )
    except InputError as error:
        fail(str(error))
    if not served:
        fail(f"{options.rows}: no row that could be predicted")
    if options.cross_validate and all(row.deployment.measured is None for row in served):
        fail(f"{options.rows}: no row has measured times to test against")
    if options.out and (line := write_predictions(served, options.out)):
        print(line)
    if options.cross_validate:
        seen = cross_validate(served)
        summary = summarize(seen)
        show(summary)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "accuracy_end_to_end.json").write_text(json.dumps(summary, indent=1) + "\n")
        draw(seen, RESULTS / "accuracy_end_to_end.png")


if __name__ == "__main__":
    main()
