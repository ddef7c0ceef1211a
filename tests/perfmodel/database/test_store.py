"""The store: shipped tables hold what they promise, and broken ones are refused by name."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from perfmodel.database import FAMILIES, PerfStore, TableError
from perfmodel.database.store import SHIPPED
from perfmodel.errors import InputError

GEMM = {
    "dtype": ["bf16", "bf16"],
    "n": [1024, 1024],
    "k": [512, 512],
    "m": [1, 8],
    "time_s": [1e-5, 2e-5],
    "device": ["toy", "toy"],
    "engine": ["vllm", "vllm"],
    "engine_version": ["1.0", "1.0"],
    "kernel": ["f", "f"],
    "origin": ["here", "here"],
    "licence": ["CC0-1.0", "CC0-1.0"],
}


def put(
    folder: Path, columns: dict[str, list[object]], device: str = "toy", family: str = "gemm"
) -> Path:
    path = folder / device / "vllm" / f"{family}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns, strict=False).write_parquet(path)
    return path


def table(folder: Path) -> pl.DataFrame:
    found = PerfStore([folder], shipped=False).table("toy", "vllm", "gemm")
    assert found is not None
    return found


def shipped_tables() -> list[tuple[str, str, str]]:
    return [(p.parts[-3], p.parts[-2], p.stem) for p in sorted(SHIPPED.glob("*/*/*.parquet"))]


@pytest.mark.parametrize(("device", "engine", "family"), shipped_tables())
def test_shipped_table_has_its_schema_and_unique_shapes(device, engine, family):
    found = PerfStore().table(device, engine, family)
    columns = FAMILIES[family].columns
    assert found.columns == [c.name for c in columns]
    assert found.dtypes == [getattr(pl, c.storage) for c in columns]
    assert not found.select(FAMILIES[family].key_names).is_duplicated().any()
    assert set(found["licence"]) == {"Apache-2.0"}
    assert found["origin"].str.starts_with("aiconfigurator-core 0.12.0: ").all()
    # TensorRT-LLM attends to 256 x 32,768 tokens of MiniMax-M3 in 52 s on an L40S.
    longest = 60 if family == "sparse_attention_context_module" else 20
    assert 1e-7 < found["time_s"].min() <= found["time_s"].max() < longest


# Looked up in the producer's tables, which count milliseconds and elements.
KNOWN = [
    ("h200_sxm", "trtllm", "gemm", {"dtype": "fp8", "m": 4096, "n": 7168, "k": 2048}, 118.2037e-6),
    ("b200_sxm", "sglang", "gemm", {"dtype": "nvfp4", "m": 128, "n": 8192, "k": 8192}, 13.71289e-6),
    (
        "h200_sxm",
        "sglang",
        "attention_context",
        {
            "q_heads": 32,
            "kv_heads": 8,
            "head_dim": 128,
            "window_tokens": 0,
            "dtype": "bf16",
            "kv_dtype": "bf16",
            "batch": 1,
            "tokens": 4096,
            "prefix_tokens": 0,
        },
        265.528e-6,
    ),
    (  # step 8191 there: 8191 cached tokens and the new one
        "h100_sxm",
        "vllm",
        "attention_generation",
        {
            "q_heads": 32,
            "kv_heads": 8,
            "head_dim": 128,
            "window_tokens": 0,
            "dtype": "bf16",
            "kv_dtype": "bf16",
            "batch": 64,
            "context_tokens": 8192,
        },
        688.16e-6,
    ),
    (  # step 4096 there, in a table where it includes the new token
        "gb200_nvl72",
        "vllm",
        "mla_generation_module",
        {
            "gemm_dtype": "fp8_block",
            "heads": 16,
            "dtype": "bf16",
            "kv_dtype": "fp8",
            "batch": 32,
            "context_tokens": 4096,
        },
        138.9e-6,
    ),
    (  # only an older version has the table; two equal rows there
        "l40s",
        "trtllm",
        "mla_generation",
        {"heads": 16, "dtype": "bf16", "kv_dtype": "bf16", "batch": 8, "context_tokens": 1024},
        83.79734e-6,
    ),
    (
        "h200_sxm",
        "trtllm",
        "mla_bmm",
        {"stage": "pre", "dtype": "bf16", "heads": 128, "tokens": 64},
        7.5264e-6,
    ),
    (  # graph-launched; the eager row of 36.3 us is left out. 2^20 bf16 elements
        "h200_sxm",
        "vllm",
        "all_reduce",
        {"dtype": "bf16", "devices": 8, "message_bytes": 2 * 2**20},
        18.10592e-6,
    ),
    (  # 2^20 fp16 elements
        "a100_sxm",
        "nccl",
        "collective",
        {"operation": "all_gather", "dtype": "bf16", "devices": 8, "message_bytes": 2 * 2**20},
        33.45e-6,
    ),
]


@pytest.mark.parametrize(("device", "engine", "family", "shape", "time_s"), KNOWN)
def test_known_row(device, engine, family, shape, time_s):
    found = PerfStore().table(device, engine, family)
    rows = found.filter(*(pl.col(name) == value for name, value in shape.items()))
    assert rows["time_s"].to_list() == [pytest.approx(time_s, rel=1e-5)]


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "kernel", "time_s"),
    [
        ("h200_sxm", "fp8_block", 1024, "moe_torch_flow_cutlass", 556.9856e-6),
        ("b200_sxm", "nvfp4", 64, "moe_torch_flow_min_latency", 112.8e-6),
        ("b200_sxm", "nvfp4", 256, "moe_torch_flow_cutlass", 291.2384e-6),
    ],
)
def test_known_expert_row_is_of_the_kernel_that_would_run(device, dtype, tokens, kernel, time_s):
    shape = {"hidden": 7168, "intermediate": 2048, "top_k": 8, "experts": 256, "tp": 1, "ep": 8}
    shape |= {"dtype": dtype, "tokens": tokens, "routing": "power_law_1.01", "activation": "gated"}
    rows = (
        PerfStore()
        .table(device, "trtllm", "moe")
        .filter(*(pl.col(name) == value for name, value in shape.items()))
    )
    assert rows["kernel"].to_list() == [kernel]
    assert rows["time_s"].to_list() == [pytest.approx(time_s, rel=1e-5)]


def test_large_collectives_stay_below_the_link_rate():
    # One direction of NVLink; an all-gather can't use in-switch reduction.
    for device, link in (("h200_sxm", 450e9), ("b200_sxm", 900e9), ("a100_sxm", 300e9)):
        rows = PerfStore().table(device, "nccl", "collective")
        rows = rows.filter(operation="all_gather", devices=8, dtype="bf16")
        crossing = rows["message_bytes"].max() * 7 / 8
        assert 0.6 * link < crossing / rows["time_s"].max() < link


def test_shipped_size_is_bounded():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.parquet")) < 36e6


def test_readme_counts_are_those_of_the_files():
    text = (SHIPPED / "README.md").read_text(encoding="utf-8")
    listed = {
        (device, engine, family): (version, int(rows.replace(",", "")))
        for device, engine, family, version, rows in re.findall(
            r"^\| (\w+) \| (\w+) \| (\w+) \| ([\w.+, ]+) \| ([\d,]+) \|$", text, flags=re.MULTILINE
        )
    }
    found = {
        (t.device, t.engine, t.family): (", ".join(t.versions), t.rows)
        for t in PerfStore().describe()
    }
    assert listed == found


def test_nothing_measured_is_none():
    assert PerfStore().table("h200_sxm", "vllm", "mla_context") is None
    assert PerfStore().table("no_such_device", "vllm", "gemm") is None


def test_listing():
    store = PerfStore()
    assert store.devices() == [
        "a100_sxm",
        "b200_sxm",
        "b300_sxm",
        "gb200_nvl72",
        "gb300_nvl72",
        "h100_sxm",
        "h200_sxm",
        "l40s",
    ]
    assert store.engines("l40s") == ["nccl", "sglang", "trtllm", "vllm"]
    assert store.families("l40s", "nccl") == ["collective"]
    assert store.engines("no_such_device") == []


def test_a_table_is_read_once(tmp_path):
    path = put(tmp_path, GEMM)
    store = PerfStore([tmp_path], shipped=False)
    first = store.table("toy", "vllm", "gemm")
    path.unlink()
    assert store.table("toy", "vllm", "gemm") is first


def test_first_folder_wins_per_table(tmp_path):
    put(tmp_path / "a", GEMM)
    put(tmp_path / "b", {**GEMM, "time_s": [1.0, 1.0]})
    put(tmp_path / "b", {**GEMM, "device": ["other"] * 2}, device="other")
    put(tmp_path / "b", {**GEMM, "device": ["h200_sxm"] * 2}, device="h200_sxm")
    store = PerfStore([tmp_path / "a", tmp_path / "b"])
    assert store.table("toy", "vllm", "gemm")["time_s"].max() < 1
    assert store.table("other", "vllm", "gemm").height == 2
    assert store.table("h200_sxm", "vllm", "gemm").height == 2
    assert store.table("h200_sxm", "vllm", "moe").height > 1000
    assert {"other", "toy", "l40s"} <= set(store.devices())


def test_wider_types_are_accepted_and_narrowed(tmp_path):
    put(tmp_path, GEMM)
    assert dict(table(tmp_path).schema)["m"] == pl.Int32
    assert dict(table(tmp_path).schema)["time_s"] == pl.Float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_s": [1e-5, -2e-5]}, "column time_s: row 2: expected more than 0, got -2e-05"),
        ({"time_s": [0.0, 1e-5]}, "column time_s: row 1: expected more than 0"),
        ({"time_s": [1e-5, float("nan")]}, "column time_s: row 2: expected a finite number"),
        ({"time_s": [1e-5, None]}, "column time_s: row 2: is empty"),
        ({"time_s": ["fast", "slow"]}, "column time_s: expected real, got String"),
        ({"m": [1, 0]}, "column m: row 2: expected at least 1, got 0"),
        ({"m": [1, 2**40]}, "column m: row 2: expected at most"),
        ({"m": [1.0, 8.5]}, "column m: expected integer, got Float64"),
        ({"dtype": ["bf16", ""]}, "column dtype: row 2: is empty"),
        ({"device": ["toy", "h200_sxm"]}, "column device: row 2: expected 'toy' (as the folder)"),
        ({"size": [1, 2]}, "column size: unknown; gemm tables have dtype, n, k, m, time_s"),
    ],
)
def test_bad_value_is_named(tmp_path, change, message):
    path = put(tmp_path, {**GEMM, **change})
    with pytest.raises(TableError, match=re.escape(f"{path}: {message}")):
        table(tmp_path)


def test_missing_column_is_named(tmp_path):
    put(tmp_path, {name: values for name, values in GEMM.items() if name != "k"})
    with pytest.raises(TableError, match="column k: missing; gemm tables have"):
        table(tmp_path)


def test_closed_vocabulary(tmp_path):
    columns = {n: v for n, v in GEMM.items() if n not in ("n", "k", "m")}
    columns |= {"stage": ["pre", "before"], "heads": [1, 1], "tokens": [1, 2]}
    put(tmp_path, columns, family="mla_bmm")
    with pytest.raises(TableError, match="row 2: expected pre or post, got 'before'"):
        PerfStore([tmp_path]).table("toy", "vllm", "mla_bmm")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"dtype,n,k\n"])
def test_file_that_is_not_parquet(tmp_path, content):
    path = put(tmp_path, GEMM)
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: not a readable Parquet file")):
        table(tmp_path)


def test_truncated_file(tmp_path):
    path = put(tmp_path, GEMM)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TableError, match="not a readable Parquet file"):
        table(tmp_path)


def test_file_named_for_no_family(tmp_path):
    put(tmp_path, GEMM, family="gems")
    with pytest.raises(TableError, match=r"gems\.parquet: no family of this name; expected one of"):
        PerfStore([tmp_path]).devices()


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(TableError, match="no such folder"):
        PerfStore([tmp_path / "nowhere"])


def test_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(TableError("f.parquet", "is empty", "m", 3)))
    assert str(error) == "f.parquet: column m: row 3: is empty"
    assert (error.column, error.row) == ("m", 3)


def test_importing_the_package_does_not_import_polars():
    code = "import sys, perfmodel.database; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
