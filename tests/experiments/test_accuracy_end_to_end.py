"""The accuracy experiment as a command: rows in, predictions out."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "experiments" / "accuracy_end_to_end.py"
ROWS = """\
id,model_path,system,backend,mode,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,tp_size
good,meta-llama/Llama-3.1-8B,h100_sxm,vllm,agg,512,64,bfloat16,bfloat16,4,1
unknown,nobody/nothing,h100_sxm,vllm,agg,512,64,bfloat16,bfloat16,4,1
bad,meta-llama/Llama-3.1-8B,h100_sxm,vllm,agg,many,64,bfloat16,bfloat16,4,1
"""


def run(rows: Path, out: Path | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--rows", str(rows)]
    command += [] if out is None else ["--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_unmeasured_rows_are_predicted_and_the_rest_explained(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "predictions.csv"
    rows.write_text(ROWS)
    done = run(rows, out)
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "good"
    # Weights of 16 GB at 3.35 TB/s bound a step; a prompt of 512 takes some 10 ms.
    assert 4.8 < float(row["predicted_tpot_ms"]) < 12
    assert 10 < float(row["predicted_ttft_ms"]) < 400
    assert "left out: unknown: " in done.stderr
    assert "rows.csv:4: bad: isl: expected a whole number, got 'many'" in done.stderr


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path / "none.csv", tmp_path / "out.csv")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_measured_rows_are_compared(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.csv", tmp_path / "predictions.csv"
    header, good, *_ = ROWS.splitlines()
    rows.write_text(f"{header},silicon_ttft_ms,silicon_tpot_ms\n{good},100,8\n{good},,\n")
    done = run(rows, out)
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        first, _ = csv.DictReader(file)
    ttft = abs(float(first["predicted_ttft_ms"]) / 100 - 1)
    tpot = abs(float(first["predicted_tpot_ms"]) / 8 - 1)
    expected = f"median error over 1 measured row: TTFT {ttft:.1%}, TPOT {tpot:.1%}"
    assert done.stdout.splitlines()[-1] == expected


def test_what_cannot_be_done_is_said_first(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(ROWS.splitlines()[0] + "\n")
    for out, said in (
        (None, "give --out FILE, --cross-validate, or both"),
        (tmp_path / "none" / "out.csv", "the folder does not exist"),
        (tmp_path / "out.csv", "no row that could be predicted"),
    ):
        done = run(rows, out)
        assert done.returncode == 2
        assert said in done.stderr
    assert not (tmp_path / "out.csv").exists()
