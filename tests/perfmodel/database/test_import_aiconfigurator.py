"""The importer, on small tables in the producer's layout."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from perfmodel.database import PerfStore, TableError
from perfmodel.database.import_aiconfigurator import import_tables, version_order, write_table
from perfmodel.errors import ConfigError

VERSIONS = """
defaults:
  trtllm: {current: "1.3.0rc20", previous: null}
  vllm: {current: "0.24.0", previous: null}
  sglang: {current: "0.5.14", previous: null}
overrides:
  a100_sxm:
    trtllm: {current: "1.0.0", previous: null}
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    (root / "systems" / "data" / "h200_sxm").mkdir(parents=True)
    (root / "systems" / "query_versions.yaml").write_text(VERSIONS, encoding="utf-8")
    return root


def put(root: Path, place: str, rows: list[dict[str, object]], **common: object) -> Path:
    """`place` is system/group/framework/version/table."""
    path = root / "systems" / "data" / f"{place}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    shared = {"version": path.parent.name, "kernel_source": "k", **common}
    pl.DataFrame([{**shared, **row} for row in rows], strict=False).write_parquet(path)
    return path


def gemm(m: object = 8, latency: object = 0.25, **more: object) -> dict[str, object]:
    return {"gemm_dtype": "bfloat16", "m": m, "n": 64, "k": 32, "latency": latency, **more}


GEMM = "h200_sxm/gemm/trtllm/1.3.0rc20/gemm_perf"


def imported(root: Path, engine: str, family: str, device: str = "h200_sxm") -> pl.DataFrame:
    destination = root.parent / "tables"
    report = import_tables(root, destination, [device], [engine])
    (entry,) = (e for e in report if e.family == family)
    assert entry.status == "written", entry
    table = PerfStore([destination], shipped=False).table(device, engine, family)
    assert table is not None
    assert entry.rows == table.height
    return table


def test_units_names_and_provenance(package):
    put(package, GEMM, [gemm()])
    (row,) = imported(package, "trtllm", "gemm").rows(named=True)
    assert row == {
        "dtype": "bf16",
        "n": 64,
        "k": 32,
        "m": 8,
        "time_s": pytest.approx(0.25e-3),
        "device": "h200_sxm",
        "engine": "trtllm",
        "engine_version": "1.3.0rc20",
        "kernel": "k",
        "origin": "aiconfigurator-core 0.12.0: h200_sxm/gemm/trtllm/1.3.0rc20/gemm_perf.parquet",
        "licence": "Apache-2.0",
    }


def test_rows_are_sorted_and_repeats_are_their_median(package):
    rows = [gemm(m=m, latency=t) for m in (8, 1, 4) for t in (3.0, 1.0, 2.0)]
    random.Random(1).shuffle(rows)
    put(package, GEMM, rows)
    table = imported(package, "trtllm", "gemm")
    assert table["m"].to_list() == [1, 4, 8]
    assert table["time_s"].to_list() == pytest.approx([2e-3] * 3)


def test_of_several_kernels_the_first_in_the_file_stands(package):
    put(package, GEMM, [gemm(kernel_source="b"), gemm(latency=0.1, kernel_source="a")])
    assert imported(package, "trtllm", "gemm")["kernel"].to_list() == ["b"]


def test_current_version_is_taken_though_a_newer_one_lies_there(package):
    put(package, GEMM, [gemm()])
    put(package, "h200_sxm/gemm/trtllm/1.3.0rc23/gemm_perf", [gemm()])
    assert set(imported(package, "trtllm", "gemm")["engine_version"]) == {"1.3.0rc20"}


def test_without_the_current_version_the_newest_other_is_taken(package):
    for version in ("1.0.0", "1.3.0rc9", "1.3.0rc15"):
        put(package, f"h200_sxm/gemm/trtllm/{version}/gemm_perf", [gemm()])
    assert set(imported(package, "trtllm", "gemm")["engine_version"]) == {"1.3.0rc15"}


def test_a_device_may_have_another_current_version(package):
    for version in ("1.0.0", "1.3.0rc20"):
        put(package, f"a100_sxm/gemm/trtllm/{version}/gemm_perf", [gemm()])
    table = imported(package, "trtllm", "gemm", device="a100_sxm")
    assert set(table["engine_version"]) == {"1.0.0"}


def test_version_order():
    versions = ["0.1.dev19262", "0.5.6.post2", "0.5.9", "0.5.10", "1.3.0rc9", "1.3.0rc10", "1.3.0"]
    shuffled = random.Random(1).sample(versions, len(versions))
    assert sorted(shuffled, key=version_order) == versions


def test_systems_are_renamed(package):
    put(package, "gb200/gemm/trtllm/1.3.0rc20/gemm_perf", [gemm()])
    assert imported(package, "trtllm", "gemm", "gb200_nvl72").height == 1


def test_decode_context_counts_the_new_token(package):
    row = {
        "num_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attn_dtype": "bfloat16",
        "kv_cache_dtype": "fp8",
        "batch_size": 4,
        "isl": 1,
        "step": 1023,
        "latency": 0.01,
    }
    put(package, "h200_sxm/attention/vllm/0.24.0/generation_attention_perf", [row])
    (found,) = imported(package, "vllm", "attention_generation").rows(named=True)
    assert found["context_tokens"] == 1024
    assert (found["dtype"], found["kv_dtype"], found["window_tokens"]) == ("bf16", "fp8", 0)


def test_attention_kernel_that_serves(package):
    row = {
        "num_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "window_size": 0,
        "attn_dtype": "bfloat16",
        "kv_cache_dtype": "bfloat16",
        "batch_size": 1,
        "isl": 64,
        "step": 0,
        "latency": 0.01,
    }
    rows = [{**row, "kernel_source": k} for k in ("triton", "trtllm_mha")]
    put(package, "h200_sxm/attention/sglang/0.5.14/context_attention_perf", rows)
    assert imported(package, "sglang", "attention_context")["kernel"].to_list() == ["trtllm_mha"]


def test_messages_are_elements_and_eager_launches_are_left_out(package):
    row = {"allreduce_dtype": "bfloat16", "num_gpus": 8, "message_size": 512}
    rows = [
        {**row, "kernel_source": "x_eager", "latency": 0.02},
        {**row, "kernel_source": "x_graph", "latency": 0.01},
    ]
    put(package, "h200_sxm/comm/vllm/0.24.0/custom_allreduce_perf", rows)
    (found,) = imported(package, "vllm", "all_reduce").rows(named=True)
    assert (found["message_bytes"], found["kernel"]) == (1024, "x_graph")


def test_collectives_of_one_byte_elements(package):
    row = {"op_name": "all_gather", "num_gpus": 8, "message_size": 512, "latency": 0.01}
    rows = [{**row, "nccl_dtype": "half"}, {**row, "nccl_dtype": "int8"}]
    put(package, "h200_sxm/comm/nccl/2.29.2/nccl_perf", rows)
    found = imported(package, "nccl", "collective").select("dtype", "message_bytes").rows()
    assert found == [("bf16", 1024), ("int8", 512)]


def expert(tokens: int, kernel: str, **more: object) -> dict[str, object]:
    row = {"hidden_size": 4096, "inter_size": 1536, "topk": 8, "num_experts": 128}
    row |= {
        "moe_dtype": "nvfp4",
        "moe_tp_size": 1,
        "moe_ep_size": 4,
        "distribution": "power_law_1.2",
    }
    return {**row, "num_tokens": tokens, "kernel_source": kernel, "latency": 0.1, **more}


MOE = "h200_sxm/moe/trtllm/1.3.0rc20/moe_perf"


def test_low_latency_experts_only_where_they_are_used(package):
    kernels = ("moe_torch_flow_cutlass", "moe_torch_flow_min_latency")
    rows = [expert(tokens, kernel) for tokens in (64, 128, 192) for kernel in kernels]
    rows += [expert(64, kernel, num_experts=8, topk=2) for kernel in kernels]
    rows += [expert(64, kernel, distribution="balanced") for kernel in kernels]
    put(package, MOE, rows)
    found = imported(package, "trtllm", "moe").select("experts", "tokens", "kernel").rows()
    assert sorted(found) == [
        (8, 64, kernels[0]),
        (128, 64, kernels[0]),
        (128, 64, kernels[1]),
        (128, 128, kernels[1]),
        (128, 192, kernels[0]),
    ]


def test_balance_behind_a_group_limited_gate_is_left_out(package):
    deepseek = {"hidden_size": 7168, "inter_size": 2048, "topk": 8, "num_experts": 256}
    rows = [
        expert(1, "k", distribution=routing, **shape)
        for routing in ("balanced", "power_law_1.2")
        for shape in (deepseek, {})
    ]
    for place in ("sglang/0.5.14", "trtllm/1.3.0rc20"):
        put(package, f"h200_sxm/moe/{place}/moe_perf", rows)
    found = imported(package, "sglang", "moe").select("experts", "routing").rows()
    assert sorted(found) == [
        (128, "balanced"),
        (128, "power_law_1.2"),
        (256, "power_law_1.2"),
    ]
    assert imported(package, "trtllm", "moe").height == 4


def test_experts_without_a_gate_are_marked(package):
    plain = {"hidden_size": 2688, "inter_size": 1856, "topk": 6, "num_experts": 128}
    put(package, MOE, [expert(1, "k"), expert(1, "k", **plain)])
    found = imported(package, "trtllm", "moe").select("hidden", "activation").rows()
    assert sorted(found) == [(2688, "plain"), (4096, "gated")]


def test_impossible_table_is_withheld(package):
    put(package, "a100_sxm/attention/trtllm/1.0.0/generation_attention_perf", [gemm()])
    report = import_tables(package, package.parent / "tables", ["a100_sxm"], ["trtllm"])
    (entry,) = (e for e in report if e.status == "withheld")
    assert "3.4 TB/s" in entry.reason
    assert not list((package.parent / "tables").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([gemm(), gemm(m=1, latency=-1.0)], "column latency: row 2: expected more than 0"),
        ([gemm(), gemm(m=1, latency=None)], "column latency: row 2: is empty"),
        ([gemm(latency="fast")], "column latency: expected real, got String"),
        ([gemm(), gemm(m=0)], "column m: row 2: expected at least 1, got 0"),
        ([gemm(m="many")], "column m: expected integer, got String"),
        ([gemm(), gemm(gemm_dtype="fp3")], "column gemm_dtype: row 2: expected bfloat16 or"),
    ],
)
def test_malformed_table_is_refused_whole(package, rows, reason):
    destination = package.parent / "tables"
    put(package, GEMM, [gemm(latency=7.0)])
    import_tables(package, destination, ["h200_sxm"], ["trtllm"])
    old = (destination / "h200_sxm/trtllm/gemm.parquet").read_bytes()

    path = put(package, GEMM, rows)
    report = import_tables(package, destination, ["h200_sxm"], ["trtllm"])
    (entry,) = (e for e in report if e.status == "refused")
    assert entry.reason.startswith(f"{path}: {reason}")
    assert [p for p in destination.rglob("*") if p.is_file()] == [
        destination / "h200_sxm/trtllm/gemm.parquet"
    ]
    assert (destination / "h200_sxm/trtllm/gemm.parquet").read_bytes() == old


def test_missing_column_is_refused(package):
    path = put(package, GEMM, [{n: v for n, v in gemm().items() if n != "k"}])
    report = import_tables(package, package.parent / "tables", ["h200_sxm"], ["trtllm"])
    assert f"{path}: column k: missing" in [e.reason for e in report]


def test_truncated_file_is_refused_and_the_others_are_written(package):
    path = put(package, GEMM, [gemm()])
    path.write_bytes(path.read_bytes()[:-50])
    put(package, MOE, [expert(1, "k")])
    report = import_tables(package, package.parent / "tables", ["h200_sxm"], ["trtllm"])
    status = {e.family: e.status for e in report}
    assert (status["gemm"], status["moe"], status["mla_bmm"]) == ("refused", "written", "missing")


def test_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(self: Path, _content: bytes) -> None:
        self.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(pl.DataFrame({"a": [1]}), tmp_path / "d" / "t.parquet")
    assert list((tmp_path / "d").iterdir()) == []


def test_not_the_package(package, tmp_path):
    with pytest.raises(TableError, match="expected the package's folder"):
        import_tables(tmp_path, tmp_path / "out")
    with pytest.raises(TableError, match="no 'h300'; it has h200_sxm"):
        import_tables(package, tmp_path / "out", ["h300"])
    with pytest.raises(TableError, match="no 'tgi'; engines are trtllm"):
        import_tables(package, tmp_path / "out", ["h200_sxm"], ["tgi"])


def test_bad_version_list(package):
    path = package / "systems" / "query_versions.yaml"
    path.write_text("defaults: [1]\n", encoding="utf-8")
    with pytest.raises(TableError, match="expected defaults and overrides"):
        import_tables(package, package.parent / "out", ["h200_sxm"])
    path.write_text("defaults: [\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        import_tables(package, package.parent / "out", ["h200_sxm"])
