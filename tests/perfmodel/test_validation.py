"""Cross-validation: no row is predicted by constants that saw its model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perfmodel import validation
from perfmodel.correction import NEUTRAL, Correction
from perfmodel.deployments import Deployment, read_deployments
from perfmodel.serving import Served, Server
from perfmodel.validation import (
    by_group,
    cross_validate,
    errors,
    fitted_to,
    held_out,
    serve_all,
)

HEADER = (
    "id,model_path,system,backend,mode,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,tp_size"
)
LLAMA = "a,meta-llama/Llama-3.1-8B,h100_sxm,vllm,agg,512,64,bfloat16,bfloat16,1,1"
QWEN = "b,Qwen/Qwen3-8B,h100_sxm,vllm,agg,512,64,bfloat16,bfloat16,1,1"


def rows(path: Path, *lines: str) -> list[Deployment]:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    found = read_deployments(path)
    assert all(isinstance(row, Deployment) for row in found)
    return [row for row in found if isinstance(row, Deployment)]


def made_by(truth: Correction, deployments: list[Deployment]) -> list[Served]:
    """Rows as if measured on an engine with the given constants."""
    server, made = Server(), []
    for deployment in deployments:
        served = server.serve(replace(deployment, load=replace(deployment.load, waves=2)))
        seen = served.play(truth)
        known = replace(served.deployment, measured=(seen.ttft_s, seen.tpot_s))
        made.append(replace(served, deployment=known))
    return made


def test_rows_are_predicted_by_constants_of_other_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = made_by(NEUTRAL, rows(tmp_path / "rows.csv", LLAMA, QWEN))
    models: list[set[str]] = []

    def fit(members: list[Served]) -> Correction:
        models.append({row.deployment.model for row in members})
        return Correction(request_overhead_s=1.0)

    class Here:
        """Runs jobs at once, in this process, so that what they saw can be looked at."""

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, job, *arguments):  # type: ignore[no-untyped-def]
            value = job(*arguments)
            return type("Done", (), {"result": lambda self: value})()

    monkeypatch.setattr(validation, "fit", fit)
    monkeypatch.setattr(validation, "_executor", Here)
    seen = {row.id: row for row in cross_validate(served)}
    assert models == [{"meta-llama/Llama-3.1-8B"}, {"Qwen/Qwen3-8B"}]
    for row in seen.values():
        assert row.before == pytest.approx(row.measured)
        assert row.after[0] == pytest.approx(row.measured[0] + 1.0)
    assert next(iter(by_group(seen.values()))) == "all"
    assert len(by_group(seen.values())["model Qwen3-8B agg"]) == 1


def test_what_each_engine_is_tested_on_is_said(tmp_path: Path) -> None:
    others = [LLAMA.replace("a,", f"a{i},").replace("vllm", "sglang") for i in range(8)]
    lone = LLAMA.replace("vllm", "trtllm")
    served = [
        replace(row, deployment=replace(row.deployment, measured=(0.1, 0.01)))
        for row in map(Server().serve, rows(tmp_path / "rows.csv", LLAMA, QWEN, *others, lone))
    ]
    assert held_out(served) == {
        "sglang": "other rows of the same, its only model",
        "trtllm": "none: too few rows to leave some out",
        "vllm": "other models' rows",
    }
    assert fitted_to(served) == {"sglang": {"agg": 8}, "trtllm": {"agg": 1}, "vllm": {"agg": 2}}


def test_errors_are_relative_to_what_was_measured() -> None:
    assert errors([(1.1, 1.0), (0.5, 1.0), (3.0, 2.0)]) == pytest.approx(
        {"median": 0.5, "mean": (0.1 + 0.5 + 0.5) / 3}
    )
    assert errors([]) == {}


def test_rows_that_cannot_be_predicted_are_refused_by_name(tmp_path: Path) -> None:
    unknown = LLAMA.replace("a,meta-llama/Llama-3.1-8B", "c,nobody/nothing")
    senseless = LLAMA.replace("512,64", "512,few")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([HEADER, LLAMA, unknown, senseless]) + "\n")
    refused: list[str] = []
    served = serve_all(path, refused.append)
    assert [row.deployment.id for row in served] == ["a"]
    assert len(refused) == 2
    assert any(reason.startswith("c: ") for reason in refused)
    assert any("osl: expected a whole number, got 'few'" in reason for reason in refused)
