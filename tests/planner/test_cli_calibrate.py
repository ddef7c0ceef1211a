"""`planner calibrate`, end to end, and a query that uses what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perfmodel.correction import load_corrections
from planner.cli import app

HEADER = (
    "id,model_path,system,backend,mode,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,tp_size,"
    "silicon_ttft_ms,silicon_tpot_ms"
)
ROWS = [
    f"{model}{batch},{model},h100_sxm,vllm,agg,512,64,bfloat16,bfloat16,{batch},1,{ttft},{tpot}"
    for model in ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B")
    for batch, ttft, tpot in ((1, 330, 7.9), (4, 360, 8.4))
]
QUERY = """\
model: meta-llama/Llama-3.1-8B
workload: {qps: 5, input_tokens: 500, output_tokens: 100}
slo: {ttft: 2s, ttit: 50ms}
devices: [h100_sxm]
engine: ENGINE
runtime: continuous
corrections: fitted.yaml
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    (folder / "rows.csv").write_text("\n".join([HEADER, *ROWS]) + "\n")
    return folder


def test_constants_are_fitted_reported_and_used(folder: Path) -> None:
    out = folder / "fitted.yaml"
    done = CliRunner().invoke(app, ["calibrate", str(folder / "rows.csv"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "constants of vllm from 4 measured rows" in " ".join(done.output.split())
    assert "caution: 4 agg rows of vllm" in done.output
    assert "(vllm: other models' rows)" in " ".join(done.output.split())
    assert "model Qwen3-8B agg" in done.output
    found = load_corrections(out)["vllm"]
    # First tokens came a quarter of a second later than the operators explain.
    assert found.request_overhead_s > 0.1

    query, plan = folder / "query.yaml", folder / "plan.json"
    query.write_text(QUERY.replace("ENGINE", "vllm"))
    done = CliRunner().invoke(app, ["solve", str(query), "--json", str(plan), "-q"])
    assert done.exit_code == 0, done.output
    ttft = json.loads(plan.read_text())["best"]["ttft"]
    assert ttft["handling_s"] >= found.request_overhead_s

    query.write_text(QUERY.replace("ENGINE", "sglang"))
    done = CliRunner().invoke(app, ["solve", str(query)])
    assert done.exit_code == 2
    assert "has no constants of sglang" in " ".join(done.output.split())


def test_a_time_of_zero_is_left_out_by_line(folder: Path) -> None:
    rows, out = folder / "zero.csv", folder / "zero.yaml"
    zero = ROWS[0].rsplit(",", 1)[0] + ",0"
    rows.write_text("\n".join([HEADER, *ROWS[1:], zero]) + "\n")
    arguments = ["calibrate", str(rows), "--out", str(out), "--no-check"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert f"left out: {rows}:5: " in done.stderr
    assert "silicon_tpot_ms: expected a number above 0, got '0'" in done.stderr
    assert "from 3 measured rows" in " ".join(done.output.split())


def test_nothing_measured_nothing_written(folder: Path) -> None:
    rows, out = folder / "unmeasured.csv", folder / "none.yaml"
    rows.write_text("\n".join([HEADER, ROWS[0].rsplit(",", 2)[0] + ",,"]) + "\n")
    done = CliRunner().invoke(app, ["calibrate", str(rows), "--out", str(out)])
    assert done.exit_code == 2
    assert "no row has measured times to fit to" in done.output
    done = CliRunner().invoke(app, ["calibrate", str(folder / "no.csv"), "--out", str(out)])
    assert done.exit_code == 2
    assert "no such file" in done.output
    assert not out.exists()
