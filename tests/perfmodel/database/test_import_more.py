"""The importer's families that several of the producer's tables make, on small tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from perfmodel.database import PerfStore, TableError
from perfmodel.database.import_aiconfigurator import ImportedTable, import_tables

VERSIONS = """
defaults:
  trtllm: {current: "1.3.0rc20", previous: null}
  vllm: {current: "0.24.0", previous: null}
  sglang: {current: "0.5.14", previous: null}
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    (root / "systems" / "data" / "h200_sxm").mkdir(parents=True)
    (root / "systems" / "query_versions.yaml").write_text(VERSIONS, encoding="utf-8")
    return root


def put(root: Path, place: str, rows: list[dict[str, object]], framework: str = "vLLM") -> Path:
    path = root / "systems" / "data" / f"{place}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    shared = {"framework": framework, "version": path.parent.name, "kernel_source": "k"}
    pl.DataFrame([{**shared, **row} for row in rows], strict=False).write_parquet(path)
    return path


def report(root: Path, engine: str, family: str, device: str = "h200_sxm") -> ImportedTable:
    (entry,) = import_tables(root, root.parent / "out", [device], [engine], families=[family])
    return entry


def imported(root: Path, engine: str, family: str, device: str = "h200_sxm") -> pl.DataFrame:
    entry = report(root, engine, family, device)
    assert entry.status == "written", entry
    found = PerfStore([root.parent / "out"], shipped=False).table(device, engine, family)
    assert found is not None
    return found


def scaled(latency: float, m: int = 8) -> dict[str, object]:
    return {"quant_dtype": "fp8", "m": m, "k": 32, "latency": latency}


QUANTIZE = "h200_sxm/quantize/vllm/0.24.0"


def test_quantization_is_of_two_tables_and_drops_differences_of_nothing(package):
    put(package, f"{QUANTIZE}/scale_matrix", [scaled(0.002)])
    put(package, f"{QUANTIZE}/computescale", [scaled(0.0), scaled(2e-6, 16), scaled(0.001, 32)])
    found = imported(package, "vllm", "quantize").select("operation", "m", "time_s").rows()
    assert found == [("apply", 8, pytest.approx(2e-6)), ("find", 32, pytest.approx(1e-6))]
    entry = report(package, "vllm", "quantize")
    assert (entry.rows, entry.dropped) == (2, 2)
    assert entry.reason.startswith("2 rows left out: finding the scales took no more time")


def test_zero_times_are_refused_where_they_are_no_difference(package):
    path = put(package, f"{QUANTIZE}/scale_matrix", [scaled(0.002), scaled(0.0, 16)])
    entry = report(package, "vllm", "quantize")
    assert entry.status == "refused"
    assert entry.reason == f"{path}: column latency: row 2: expected more than 0, got 0.0"


def test_negative_differences_are_refused(package):
    path = put(package, f"{QUANTIZE}/computescale", [scaled(0.0), scaled(-0.1, 16)])
    entry = report(package, "vllm", "quantize")
    assert entry.reason == f"{path}: column latency: row 2: expected at least 0, got -0.1"


def test_one_bad_part_refuses_the_whole_table(package):
    put(package, f"{QUANTIZE}/scale_matrix", [scaled(0.002)])
    old = imported(package, "vllm", "quantize")
    path = put(package, f"{QUANTIZE}/computescale", [scaled(0.001)])
    path.write_bytes(path.read_bytes()[:-20])
    put(package, f"{QUANTIZE}/scale_matrix", [scaled(0.004)])
    entry = report(package, "vllm", "quantize")
    assert entry.status == "refused"
    assert entry.reason.startswith(f"{path}: not a readable Parquet file")
    store = PerfStore([package.parent / "out"], shipped=False)
    assert store.table("h200_sxm", "vllm", "quantize").equals(old)


def test_rows_are_named_as_the_file_counts_them(package):
    rows = [scaled(0.0), scaled(0.001), scaled(0.001, 0)]
    path = put(package, f"{QUANTIZE}/computescale", rows)
    entry = report(package, "vllm", "quantize")
    assert entry.reason == f"{path}: column m: row 3: expected at least 1, got 0"


def delta(kernel: str, heads: int, phase: str = "context", **more: object) -> dict[str, object]:
    row = {"phase": phase, "batch_size": 2, "seq_len": 64, "d_model": 1024, "d_conv": 4}
    row |= {"num_k_heads": 16, "head_k_dim": 128, "num_v_heads": heads, "head_v_dim": 128}
    return {**row, "kernel_source": kernel, "latency": 0.1, **more}


def test_scans_and_convolutions_are_told_apart_and_model_widths_dropped(package):
    rows = [
        delta("causal_conv1d_fn", 16),
        delta("causal_conv1d_fn", 16, d_model=2048, latency=0.3),
        delta("chunk_gated_delta_rule", 16),
    ]
    put(package, "h200_sxm/linear_attention/vllm/0.24.0/gdn", rows)
    found = imported(package, "vllm", "gated_delta_net").select("operation", "time_s", "dtype")
    assert found.rows() == [
        ("conv", pytest.approx(2e-4), "bf16"),
        ("scan", pytest.approx(1e-4), "bf16"),
    ]


def test_partial_convolutions_are_left_out(package):
    rows = [delta("causal_conv1d_fn", 16), delta("chunk_gated_delta_rule", 16)]
    put(package, "h200_sxm/linear_attention/trtllm/1.3.0rc20/gdn", rows, "TRTLLM")
    assert imported(package, "trtllm", "gated_delta_net")["operation"].to_list() == ["scan"]
    assert report(package, "trtllm", "gated_delta_net").dropped == 1


def test_a_table_of_which_nothing_is_left_is_withheld(package):
    put(
        package,
        "h200_sxm/linear_attention/trtllm/1.3.0rc20/gdn",
        [delta("causal_conv1d_fn", 16)],
        "TRTLLM",
    )
    entry = report(package, "trtllm", "gated_delta_net")
    assert entry.status == "withheld"
    assert "a part of the channels" in entry.reason
    assert not list((package.parent / "out").rglob("*.parquet"))


def deepep(tokens: int = 8, nodes: int = 1, **more: object) -> dict[str, object]:
    row = {"node_num": nodes, "hidden_size": 7168, "num_topk": 8, "num_experts": 256}
    return {
        **row,
        "num_token": tokens,
        "dispatch_sms": 20,
        "dispatch_transmit_us": 30.0,
        "dispatch_notify_us": 1.0,
        "combine_sms": 24,
        "combine_transmit_us": 50.0,
        "combine_notify_us": 0.0,
        **more,
    }


def test_deepep_is_in_microseconds_both_ways(package):
    put(package, "h200_sxm/comm/sglang/0.5.12/wideep_deepep_normal", [deepep()])
    found = imported(package, "sglang", "all_to_all")
    columns = ("operation", "dtype", "devices", "nodes", "sms", "time_s")
    assert found.select(columns).rows() == [
        ("combine", "bf16", 8, 1, 24, pytest.approx(50e-6)),
        ("dispatch", "fp8", 8, 1, 20, pytest.approx(31e-6)),
    ]


def test_several_nodes_come_from_the_older_version(package):
    put(package, "h200_sxm/comm/sglang/0.5.12/wideep_deepep_normal", [deepep()])
    older = [deepep(dispatch_transmit_us=99.0), deepep(nodes=2)]
    put(package, "h200_sxm/comm/sglang/0.5.6.post2/wideep_deepep_normal", older)
    found = imported(package, "sglang", "all_to_all").filter(pl.col("operation") == "dispatch")
    assert found.select("nodes", "devices", "engine_version").rows() == [
        (1, 8, "0.5.12"),
        (2, 16, "0.5.6.post2"),
    ]
    assert report(package, "sglang", "all_to_all").version == "0.5.6.post2, 0.5.12"


def test_gb200_has_four_devices_to_a_node(package):
    put(package, "gb200/comm/sglang/0.5.12/wideep_deepep_normal", [deepep()])
    assert set(imported(package, "sglang", "all_to_all", "gb200_nvl72")["devices"]) == {4}


def sparse(model: str, step: int, op: str = "dsa", **more: object) -> dict[str, object]:
    row = {"model": model, "op_name": op, "gemm_type": "fp8_block", "num_heads": 16}
    row |= {"mla_dtype": "bfloat16", "kv_cache_dtype": "fp8", "batch_size": 2, "isl": 1}
    return {**row, "step": step, "latency": 0.1, **more}


def test_sparse_modules_are_one_family(package):
    place = "h200_sxm/sparse_attention/{}/dsa_generation_module"
    rows = [
        sparse("zai-org/GLM-5.2", 2, "dsa_generation_module_skip_indexer"),
        sparse("deepseek-ai/DeepSeek-V3.2", 1023),
    ]
    put(package, place.format("sglang/0.5.14"), rows)
    put(package, place.format("vllm/0.24.0"), [sparse("deepseek-ai/DeepSeek-V3.2", 1024)])
    put(
        package,
        "h200_sxm/msa/vllm/0.24.0/msa_generation_module",
        [sparse("MiniMaxAI/MiniMax-M3", 7)],
    )
    columns = ("variant", "model", "context_tokens")
    family = "sparse_attention_generation_module"
    assert imported(package, "sglang", family).select(columns).rows() == [
        ("dsa", "deepseek-v3.2", 1024),
        ("dsa_reuse", "glm-5", 3),
    ]
    assert imported(package, "vllm", family).select(columns).rows() == [
        ("dsa", "deepseek-v3.2", 1024),
        ("msa", "minimax-m3", 8),
    ]


def test_unknown_models_are_refused(package):
    put(
        package,
        "h200_sxm/msa/vllm/0.24.0/msa_generation_module",
        [sparse("else/M9", 7)],
    )
    entry = report(package, "vllm", "sparse_attention_generation_module")
    assert "column model: row 1: expected deepseek-ai/DeepSeek-V3.2 or" in entry.reason


def test_power_is_carried_over_where_known(package):
    rows = [{**scaled(0.002), "power": 300.0}, {**scaled(0.002, 16), "power": 0.0}]
    put(package, f"{QUANTIZE}/scale_matrix", rows)
    put(package, f"{QUANTIZE}/computescale", [scaled(0.001)])
    found = imported(package, "vllm", "quantize").sort("operation", "m")
    assert found["power_w"].to_list() == [300.0, None, None]


def test_unknown_family(package):
    with pytest.raises(TableError, match="no 'conv3d'; families are gemm, "):
        import_tables(package, package.parent / "out", families=["conv3d"])
