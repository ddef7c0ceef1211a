"""Rows of measured deployments, read and predicted."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from perfmodel import public_runs
from perfmodel.architecture import load_model
from perfmodel.calibration import EXPECTED, fit, log_errors
from perfmodel.correction import NEUTRAL
from perfmodel.database import PerfStore
from perfmodel.deployments import DRIFT, Degrees, Deployment, read_deployments
from perfmodel.errors import ConfigError, InputError
from perfmodel.layout import format_layout
from perfmodel.readings import readings, split, unsaid
from perfmodel.serving import Server

ROW = {
    "id": "a",
    "silicon_data_source": "source_file=2026-04-06.csv; silicon_concurrency=16",
    "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h200_sxm",
    "backend": "trtllm",
    "mode": "agg",
    "isl": "1024",
    "osl": "1024",
    "gemm_quant_mode": "fp8",
    "moe_quant_mode": "fp8",
    "batch_size": "16",
    "tp_size": "8",
    "silicon_ttft_ms": "103.2",
    "silicon_tpot_ms": "7.69",
}
MORE = (
    "backend_version",
    "draft_tokens",
    "attention_dp_size",
    "moe_tp_size",
    "moe_ep_size",
    *(
        f"{phase}_{name}"
        for phase in ("prefill", "decode")
        for name in ("tp_size", "moe_tp_size", "moe_ep_size", "num_workers", "attention_dp_size")
    ),
)


def written(tmp_path: Path, *rows: dict[str, str]) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*ROW, *MORE])
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(tmp_path: Path, **changes: str) -> Deployment:
    (row,) = read_deployments(written(tmp_path, ROW | changes))
    assert isinstance(row, Deployment)
    return row


def test_row_is_read(tmp_path: Path) -> None:
    row = read(tmp_path)
    assert row.mode == "agg"
    assert row.load.clients == 16
    # The public benchmark draws lengths between 80 and 100 % of the nominal.
    assert row.load.isl == pytest.approx(0.9 * 1024)
    lengths = [isl for isl, _ in row.load.lengths()]
    assert 0.79 * 1024 < min(lengths) < max(lengths) <= 1.001 * 1024
    assert row.measured == (pytest.approx(0.1032), pytest.approx(0.00769))


def test_measured_columns_may_be_absent(tmp_path: Path) -> None:
    assert read(tmp_path, silicon_ttft_ms="", silicon_tpot_ms="").measured is None


def test_clients_are_the_named_concurrency_else_the_batches(tmp_path: Path) -> None:
    assert read(tmp_path, silicon_data_source="lab.csv").load.clients == 16
    ranked = read(tmp_path, silicon_data_source="lab.csv", attention_dp_size="4")
    assert ranked.load.clients == 64
    assert (ranked.load.isl, ranked.load.osl) == (1024, 1024)
    assert ranked.load.spread == DRIFT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "both"}, "mode: expected agg or disagg, got 'both'"),
        ({"isl": "many"}, "isl: expected a whole number, got 'many'"),
        ({"osl": "0"}, "isl, osl: expected at least one token each"),
        ({"gemm_quant_mode": "fp3"}, "gemm_quant_mode: unknown format 'fp3'"),
        ({"silicon_tpot_ms": "fast"}, "silicon_tpot_ms: expected a number, got 'fast'"),
        ({"silicon_tpot_ms": "0"}, "silicon_tpot_ms: expected a number above 0, got '0'"),
        ({"silicon_ttft_ms": "-3"}, "silicon_ttft_ms: expected a number above 0, got '-3'"),
        ({"silicon_ttft_ms": "nan"}, "silicon_ttft_ms: expected a number above 0, got 'nan'"),
        ({"silicon_ttft_ms": "inf"}, "silicon_ttft_ms: expected a number above 0, got 'inf'"),
    ],
)
def test_senseless_row_is_named_and_the_rest_read(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    bad, good = read_deployments(written(tmp_path, ROW | changes, ROW))
    assert isinstance(bad, InputError)
    assert f"rows.csv:2: a: {message}" in str(bad)
    assert isinstance(good, Deployment)


def test_file_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,isl\n1,2\n")
    with pytest.raises(ConfigError, match=r"rows\.csv: model_path: missing"):
        read_deployments(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_deployments(tmp_path / "none.csv")


def layouts(model: str, *degrees: int) -> list[list[str]]:
    tiers = readings(load_model(model), Degrees(*degrees))
    return [[format_layout(layout) for layout in tier] for tier in tiers]


def test_degrees_are_read_as_what_engines_run() -> None:
    deepseek = "deepseek-ai/DeepSeek-R1"
    assert layouts("meta-llama/Llama-3.1-70B", 4, 1, 1, 4, 1, 1) == [["attn:TP4 ffn:TP4 PP1"]]
    assert layouts(deepseek, 8, 1, 1, 1, 8, 1)[0] == ["attn:TP8 ffn:TP1EP8 PP1"]
    assert layouts(deepseek, 1, 1, 8, 1, 8, 1)[0] == ["attn:TP1DP8 ffn:TP1EP8 PP1"]
    # TP 8 and EP 8 over the same eight devices, multiplied.
    assert layouts(deepseek, 64, 1, 1, 8, 8, 1)[0] == ["attn:TP8 ffn:TP1EP8 PP1"]
    assert layouts(deepseek, 1, 1, 64, 8, 8, 1)[0] == ["attn:TP1DP8 ffn:TP1EP8 PP1"]
    # One device, where the model needs many: as few as hold it.
    first, second, *_ = layouts(deepseek, 1, 1, 1, 1, 1, 1)
    assert first == ["attn:TP1 ffn:TP1 PP1"]
    assert "attn:TP2 ffn:TP1EP2 PP1" in second


def test_whole_deployment_given_as_one_group_is_split() -> None:
    pools = split(Degrees(36, 1, 1, 36, 1, 0))
    assert (pools["prefill"].tp, pools["decode"].tp) == (4, 32)


def test_formats_follow_the_checkpoint(tmp_path: Path) -> None:
    row = read(tmp_path)
    assert str(row.precision("bf16", False)) == "weights:fp8 kv:fp8"
    assert row.precision("fp8_block", True).experts == "fp8_block"
    gpt = row.precision("mxfp4", True)
    assert (gpt.attention, gpt.experts) == ("bf16", "mxfp4")


def test_known_deployment_is_predicted(tmp_path: Path, store: PerfStore) -> None:
    """Llama-3.1-70B, fp8, TP8 on H200 under TensorRT-LLM at 16 clients, as published."""
    served = Server(store).serve(read(tmp_path))
    ttft, tpot = log_errors(served, served.profile.correction)
    assert abs(tpot) < 0.1
    assert abs(ttft) < 0.5


DEEPSEEK = {"model_path": "deepseek-ai/DeepSeek-R1", "gemm_quant_mode": "fp8_block"}


def test_builds_that_speculated_are_known_and_a_row_that_says_so_is_believed(
    tmp_path: Path, store: PerfStore
) -> None:
    server, whole = Server(store), DEEPSEEK | {"moe_tp_size": "8", "moe_ep_size": "1"}

    def drafts(**changes: str) -> int:
        return server.serve(read(tmp_path, **whole, **changes)).tables["agg"].drafts

    assert drafts() == 0
    assert drafts(backend_version="1.2.0rc6.post3") == 3
    assert drafts(backend_version="1.2.0rc6.post3", draft_tokens="0") == 0
    assert drafts(draft_tokens="2") == 2
    # Elsewhere a build says nothing of what ran.
    assert drafts(backend_version="1.2.0rc6.post3", silicon_data_source="lab.csv") == 0
    # A model without modules for it does not speculate.
    llama = server.serve(read(tmp_path, draft_tokens="2"))
    assert llama.tables["agg"].drafts == 0


def test_speculation_pays_for_its_drafts_and_for_what_it_verifies(
    tmp_path: Path, store: PerfStore
) -> None:
    server, whole = Server(store), DEEPSEEK | {"moe_tp_size": "8", "moe_ep_size": "1"}
    plain, drafted = (
        server.serve(read(tmp_path, draft_tokens=n, **whole)).tables["agg"] for n in ("0", "3")
    )
    one, four = (t.decode_surface(NEUTRAL)(4, 1000) for t in (plain, drafted))
    # Three passes of one layer of 61 and the LM head, and a step over four times the tokens.
    assert 1.05 * one < four < 4 * one


def test_pools_that_a_public_row_leaves_out(tmp_path: Path) -> None:
    pools = {"mode": "disagg", "prefill_tp_size": "4", "decode_tp_size": "8"}
    pools |= {"prefill_moe_tp_size": "1", "prefill_moe_ep_size": "4"}

    def of(clients: int, **changes: str) -> tuple[Degrees, Degrees]:
        source = f"source_file=2026-04-06.csv; silicon_concurrency={clients}"
        row = read(tmp_path, **(DEEPSEEK | pools | {"silicon_data_source": source} | changes))
        found = unsaid(row.pools, row)
        return found["prefill"], found["decode"]

    ahead, few = of(16)
    assert ahead == Degrees(1, 1, 4, 1, 4, 0)
    assert few == Degrees(8, 1, 1, 1, 8, 4)
    _, crowd = of(2048)
    assert crowd == Degrees(1, 1, 8, 1, 8, 2)
    _, wide = of(64, system="gb200", decode_tp_size="32")
    assert wide == Degrees(1, 1, 32, 1, 32, 1)


@pytest.mark.parametrize(
    ("clients", "slots"), [(64, 64), (1024, 1024), (1229, 1024), (1365, 1280), (4916, 4096)]
)
def test_capacity_behind_a_number_of_clients(clients: int, slots: int) -> None:
    assert public_runs.decode_slots("trtllm", clients) == slots
    assert public_runs.decode_slots("sglang", clients) == clients


def test_unknown_names_are_said(tmp_path: Path, store: PerfStore) -> None:
    server = Server(store)
    with pytest.raises(InputError, match="unknown engine 'mlc'"):
        server.serve(read(tmp_path, backend="mlc"))
    with pytest.raises(InputError, match="no-such"):
        server.serve(read(tmp_path, model_path="no-such-model"))
    with pytest.raises(InputError, match="does not fit"):
        server.serve(read(tmp_path, gemm_quant_mode="bfloat16", tp_size="1"))


def test_fit_recovers_constants_that_made_the_rows(tmp_path: Path, store: PerfStore) -> None:
    truth = replace(EXPECTED, request_overhead_s=0.08, first_token_steps=4.0)
    server = Server(store)
    made = []
    for clients in (2, 8, 32):
        for tp in ("4", "8"):
            source = f"silicon_concurrency={clients}"
            row = read(tmp_path, tp_size=tp, silicon_data_source=source)
            served = server.serve(replace(row, load=replace(row.load, waves=3)))
            seen = served.play(truth)
            deployment = replace(served.deployment, measured=(seen.ttft_s, seen.tpot_s))
            made.append(replace(served, deployment=deployment))
    found = fit(made)
    errors = [abs(error) for row in made for error in log_errors(row, found)]
    before = [abs(error) for row in made for error in log_errors(row, EXPECTED)]
    # Held near what is expected, the constants give way a little less than all the way.
    assert max(errors) < 0.15
    assert sum(errors) < 0.3 * sum(before)
    # What an engine adds to a step is no matter of the fit.
    assert found.iteration_overhead_s == EXPECTED.iteration_overhead_s


def test_who_polls_rarely() -> None:
    deepseek = "deepseek-ai/DeepSeek-R1"
    assert public_runs.poll_steps("sglang", "b200_sxm", deepseek, 64) == 30
    assert public_runs.poll_steps("sglang", "b200_sxm", deepseek, 8) == 10
    assert public_runs.poll_steps("sglang", "h200_sxm", deepseek, 64) == 1
    assert public_runs.poll_steps("sglang", "b200_sxm", "zai-org/GLM-5", 64) == 1
    assert public_runs.poll_steps("vllm", "b200_sxm", deepseek, 64) == 1


def test_short_device_names(tmp_path: Path) -> None:
    assert read(tmp_path, system="b200").device == "b200_sxm"
    assert read(tmp_path, system="gb300").device == "gb300_nvl72"


def test_caches_of_public_runs(tmp_path: Path) -> None:
    assert read(tmp_path, backend="vllm").precision("bf16", False).kv == "fp8"
    assert read(tmp_path, backend="vllm", system="h100_sxm").precision("bf16", False).kv == "bf16"
    blocks = {"system": "h100_sxm", "gemm_quant_mode": "fp8_block"}
    assert read(tmp_path, **blocks).precision("fp8_block", True).kv == "fp8"
    own = {"silicon_data_source": "lab.csv", "backend": "vllm", "system": "h100_sxm"}
    assert read(tmp_path, **own).precision("bf16", False).kv == "fp8"
