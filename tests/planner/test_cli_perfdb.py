"""The `planner perfdb` commands, end to end."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from perfmodel.collect import Report, collection
from perfmodel.collect.measure import Key, Machine, Sample
from perfmodel.database import PerfStore
from planner.cli import app
from planner.cli_shared import BAD_INPUT

SHOW = ("show", "h200_sxm", "trtllm", "gemm")


def perfdb(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["perfdb", *map(str, arguments)], env={"COLUMNS": "160"})


def printed(*arguments: object) -> str:
    result = perfdb(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object) -> str:
    """What standard error says of a run that must fail, and cleanly."""
    result = perfdb(*arguments)
    assert result.exit_code == BAD_INPUT, result.output
    assert isinstance(result.exception, SystemExit)
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_help_names_every_command() -> None:
    shown = printed("--help")
    for name in ("list", "import", "show", "check", "collect", "coverage"):
        assert name in shown


def test_list() -> None:
    assert "trtllm" in printed("list")
    assert "no such folder" in refused("list", "none")


# Importing.


def package(folder: Path, latency: float = 0.25) -> Path:
    """An aiconfigurator-core with one table."""
    root = folder / "package"
    path = root / "systems" / "data" / "h200_sxm" / "gemm" / "trtllm" / "1.0" / "gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    text = 'defaults:\n  trtllm: {current: "1.0", previous: null}\n'
    (root / "systems" / "query_versions.yaml").write_text(text)
    row = {"version": "1.0", "kernel_source": "k", "gemm_dtype": "bfloat16"}
    shape = {"m": 8, "n": 64, "k": 32, "latency": latency}
    pl.DataFrame([{**row, **shape}]).write_parquet(path)
    return root


def profiles(folder: Path, latency: float = 1.0) -> Path:
    """Vidur's repository with one file."""
    root = folder / "vidur"
    path = root / "data" / "profiling" / "compute" / "a100" / "org" / "model" / "mlp.csv"
    path.parent.mkdir(parents=True)
    names = ("emb", "input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj")
    names += ("post_attention_layernorm", "mlp_up_proj", "mlp_act", "mlp_down_proj", "add")
    row: dict[str, object] = {}
    for name in names:
        for what in ("min", "max", "mean", "median", "std"):
            row[f"time_stats.{name}.{what}"] = latency
    row |= {"n_head": 64, "n_kv_head": 8, "n_embd": 8192, "n_expanded_embd": 28672}
    row |= {"vocab_size": 32768, "use_gated_mlp": True, "num_tokens": 128}
    row |= {"num_tensor_parallel_workers": 2}
    path.write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    return root


def test_import_of_aiconfigurator_is_detected(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--device", "h200_sxm", "--engine", "trtllm")
    shown = printed("import", package(tmp_path), out, *options)
    line = next(line for line in shown.splitlines() if "h200_sxm/trtllm/gemm " in line)
    assert line.split() == ["h200_sxm/trtllm/gemm", "1.0", "written", "1"]
    assert "missing" in shown
    table = PerfStore([out], shipped=False).table("h200_sxm", "trtllm", "gemm")
    assert table is not None
    assert table.height == 1


def test_import_of_vidur_is_detected(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = printed("import", profiles(tmp_path), out, "--engine", "pytorch")
    assert "a100_sxm/pytorch/elementwise" in shown
    assert PerfStore([out], shipped=False).families("a100_sxm", "pytorch") == [
        "gemm",
        "elementwise",
    ]
    said = refused("import", tmp_path / "vidur", out, "--engine", "vllm")
    assert "Vidur's tables are all of engine pytorch" in said


def test_a_refused_table_fails_the_import(tmp_path: Path) -> None:
    root = package(tmp_path, latency=-1.0)
    result = perfdb("import", root, tmp_path / "out", "--device", "h200_sxm", "--engine", "trtllm")
    assert result.exit_code == BAD_INPUT
    assert "refused" in result.stdout
    assert "latency" in result.stdout
    assert "tables refused" in result.stderr


def test_imports_that_cannot_be(tmp_path: Path) -> None:
    assert "expected systems/data (aiconf" in refused("import", tmp_path, tmp_path / "out")
    root = package(tmp_path)
    out = tmp_path / "out"
    assert "expected aiconfigurator or vidur" in refused("import", root, out, "--format", "csv")
    assert "data/profiling" in refused("import", root, out, "--format", "vidur")
    assert "no 'tpu'" in refused("import", root, out, "--device", "tpu")
    (tmp_path / "file").write_text("")
    said = refused("import", root, tmp_path / "file", "--device", "h200_sxm")
    assert str(tmp_path / "file") in said


# Showing.


def test_show_rows() -> None:
    shown = printed(*SHOW, "--where", "dtype=fp8", "--where", "m=64", "--limit", 3)
    assert "3 of 483 rows" in shown
    assert shown.count("\nfp8 ") == 3
    assert "engine version: 1.3.0rc20" in shown
    assert "licence: Apache-2.0" in shown


def test_show_as_csv() -> None:
    shown = printed(*SHOW, "--where", "n=64", "--where", "k=32", "--csv")
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert len(rows) > 100
    assert {row["n"] for row in rows} == {"64"}
    assert all(float(row["time_s"]) > 0 for row in rows)
    assert len(printed(*SHOW, "--csv", "--limit", 2).splitlines()) == 3


def test_show_columns() -> None:
    shown = printed(*SHOW, "--columns")
    assert "rows: tokens in the call" in shown
    assert "time of one call on one device" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "h200", "trtllm", "gemm"), "device 'h200': unknown; expected one of a100_sxm"),
        (("show", "h200_sxm", "tgi", "gemm"), "engine of h200_sxm 'tgi': unknown; expected one of"),
        (("show", "h200_sxm", "nccl", "gem"), "family 'gem': unknown; expected one of collective"),
        (("show", "h200_sxm", "nccl", "gemm"), "family 'gemm': not measured; expected one of coll"),
        ((*SHOW, "--where", "x=1"), "unknown column 'x'; gemm has dtype, n, k, m, time_s"),
        ((*SHOW, "--where", "m"), "expected COLUMN=VALUE"),
        ((*SHOW, "--where", "m=few"), "m is an integer, got 'few'"),
        ((*SHOW, "--where", "m=99999999999"), "m is an integer, got"),
        ((*SHOW, "--where", "time_s=x"), "time_s is a number, got 'x'"),
        ((*SHOW, "--where", "n=63"), "no row has it; n is one of 32, 64"),
        ((*SHOW, "--where", "dtype=FP8"), "dtype is one of bf16, fp8, fp8_block"),
        ((*SHOW, "--perfdb", "none"), "none: no such folder"),
    ],
)
def test_show_what_there_is_not(arguments: tuple[object, ...], said: str) -> None:
    assert said in refused(*arguments)


# Checking and collecting.


class Bench:
    """Answers at once: a launch, and a time that grows with every number of the shape."""

    version = "0.0-formula"
    variant = "exact"

    def machine(self) -> Machine:
        return Machine("formula", 2.0**34, 2e10, {"bf16": 2e12})

    def measure(self, family: str, key: Key) -> Sample:
        product = 1.0
        for value in key.values():
            product *= 1.0 if isinstance(value, str) else max(float(value), 1.0)
        return Sample(5e-6 + product / 1e12, 0.0, 3, "formula")


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A folder that `perfdb collect` wrote, and what it printed."""
    original = collection.collect

    def collect(*arguments: object, **options: object) -> Report:
        return original(*arguments, **options, bench=Bench())  # type: ignore[arg-type]

    monkeypatch.setattr("perfmodel.collect.collect", collect)
    options = ("--device", "cpu", "--family", "gemm", "--budget-s", 60, "--error", 0.2)
    return tmp_path / "own", printed("collect", tmp_path / "own", *options)


def test_a_collection_is_used_and_checked(collected: tuple[Path, str]) -> None:
    folder, shown = collected
    assert "local_cpu: formula" in shown
    assert "gemm" in shown
    assert "rows measured in" in shown
    assert "local_cpu" not in printed("check", folder)
    checked = printed("check", folder, "--all")
    assert "ok  local_cpu/pytorch/gemm" in checked
    assert "0 duplicates, checksum" in checked
    assert "1 tables" in checked
    assert "1 sound, 0 problems" in checked
    options = ("--engine", "pytorch", "--perfdb", folder, "--model", "qwen3-0.6b")
    covered = printed("coverage", "local_cpu", *options)
    assert "qkv_proj" in covered


def test_a_query_uses_what_was_collected(collected: tuple[Path, str]) -> None:
    folder, _ = collected
    query, plan = folder.parent / "query.yaml", folder.parent / "plan.json"
    query.write_text(
        "model: qwen3-0.6b\n"
        "workload: {qps: 0.01, input_tokens: 200, output_tokens: 20}\n"
        "devices: [{name: local_cpu, usd_per_device_hour: 1.0}]\n"
        "slo: {ttit: 50ms}\n"
        "engine: pytorch\n"
        "search: {max_replica_devices: 1}\n"
    )
    options = ["solve", str(query), "--search-path", str(folder), "--json", str(plan)]
    solved = CliRunner().invoke(app, [*options, "--perfdb", str(folder)])
    assert solved.exit_code == 0, solved.output
    pool = json.loads(plan.read_text())["best"]["pools"][0]
    assert pool["device"] == "local_cpu"
    assert pool["time_by_kind"]["measured"] > 0.3
    without = CliRunner().invoke(app, options)
    assert without.exit_code == 0, without.output
    pool = json.loads(plan.read_text())["best"]["pools"][0]
    assert pool["time_by_kind"].get("measured", 0.0) == 0.0
    listed = CliRunner().invoke(app, ["devices", "--perfdb", str(folder)], env={"COLUMNS": "120"})
    (line,) = (line for line in listed.stdout.splitlines() if "local_cpu" in line)
    assert line.rstrip().endswith("pytorch")


def test_pytorch_borrows_no_engines_tables() -> None:
    shown = printed("coverage", "mi300x", "--engine", "pytorch", "--model", "qwen3-0.6b")
    assert "no gemm table" in shown
    from perfmodel.hardware import load_device
    from perfmodel.operators import Operators

    gemm = Operators(load_device("h200_sxm"), "pytorch", PerfStore()).gemm
    assert gemm.table_engines == ("pytorch",)


def test_a_collected_table_that_was_changed(collected: tuple[Path, str]) -> None:
    folder, _ = collected
    path = folder / "local_cpu" / "pytorch" / "gemm.parquet"
    pl.read_parquet(path).head(5).write_parquet(path)
    assert f"{path}: its checksum is not" in refused("check", folder)


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "toy" / "vllm" / "gemm.parquet"
    path.parent.mkdir(parents=True)
    path.write_text("no table")
    result = perfdb("check", tmp_path)
    assert result.exit_code == BAD_INPUT
    assert result.stdout.startswith("BAD toy/vllm/gemm")
    assert f"{path}: not a readable Parquet file" in result.stderr
    assert "none: no such folder" in refused("check", "none")


def test_collections_that_cannot_be(tmp_path: Path) -> None:
    options = ("collect", tmp_path / "own", "--device")
    assert "expected cpu or cuda" in refused(*options, "tpu")
    assert "unknown operator family 'gem'" in refused(*options, "cpu", "--family", "gem")
    assert "--error: expected more than 0" in refused(*options, "cpu", "--error", 0)
    assert "at least one device" in refused(*options, "cpu", "--world", 0)
    assert "unknown model 'x9'" in refused(*options, "cpu", "--model", "x9")
    assert "device name 'A b'" in refused(*options, "cpu", "--name", "A b")
    assert not (tmp_path / "own").exists()


# Coverage.


def test_coverage_of_a_device() -> None:
    shown = printed("coverage", "h200_sxm")
    assert "bf16, fp8, fp8_block" in shown
    assert "100,668" in shown
    assert "collective" in shown
    assert "decode" not in shown


@pytest.mark.parametrize("ending", ["svg", "png", "html"])
def test_coverage_of_a_model_is_drawn(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"coverage.{ending}"
    options = ("--model", "qwen3-8b", "--layout", "attn:TP2 ffn:TP2", "--format", "fp8")
    shown = printed("coverage", "h200_sxm", *options, "--out", out)
    for part in ("decode: batch", "prefill: one prompt", "generation_attention", "100%"):
        assert part in shown
    data = out.read_bytes()
    start = {"svg": b"<svg", "png": b"\x89PNG", "html": b"<!DOCTYPE html"}[ending]
    assert start.lower() in data[:200].lower()
    if ending == "svg":
        assert b"measured" in data
        assert b"attention_generation" in data
    if ending == "html":
        assert b"cdn.jsdelivr" not in data


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tpu",), "device 'tpu': unknown; expected one of"),
        (("h200_sxm", "--engine", "tgi"), "engine of h200_sxm 'tgi': unknown"),
        (("h200_sxm", "--layout", "attn:TP1 ffn:TP1"), "--layout: needs --model"),
        (("h200_sxm", "--out", "x.svg"), "--out: needs --model"),
        (("h200_sxm", "--model", "x9"), "unknown model 'x9'"),
        (("h200_sxm", "--model", "qwen3-8b", "--format", "fp7"), "--format: unknown format 'fp7'"),
        (("h200_sxm", "--model", "qwen3-8b", "--layout", "TP8"), "layout 'TP8'"),
        (("h200_sxm", "--model", "qwen3-8b", "--out", "x.gif"), "ends in .svg, .png, .html"),
        (("h200_sxm", "--model", "qwen3-8b", "--out", "no/x.svg"), "the folder does not exist"),
        (("h200_sxm", "--engine", "nccl", "--model", "qwen3-8b"), "unknown engine 'nccl'"),
    ],
)
def test_coverage_of_what_there_is_not(arguments: tuple[object, ...], said: str) -> None:
    assert said in refused("coverage", *arguments)


def test_coverage_says_why(tmp_path: Path) -> None:
    options = ("--model", "llama-3.1-70b", "--layout", "attn:TP8 ffn:TP8", "--format", "fp8")
    shown = printed("coverage", "h200_sxm", *options)
    assert "no elementwise table" in shown
    assert "outside this slice's measured points" in shown
    analytic = printed("coverage", "mi300x", *options)
    assert "no trtllm tables of mi300x" in analytic
    assert "time: analytic 100%" in analytic
    assert "no gemm table" in analytic


def test_an_implausible_row_is_a_warning(collected: tuple[Path, str]) -> None:
    folder, _ = collected
    path = folder / "local_cpu" / "pytorch" / "gemm.parquet"
    table = pl.read_parquet(path).with_columns(time_s=pl.lit(1e-12, pl.Float32))
    path.with_name("MANIFEST.json").unlink()
    table.write_parquet(path)
    checked = printed("check", folder)
    assert "warning: " in checked
    assert "faster than the roofline" in checked
    assert "0 problems, 1 warnings" in checked


def test_a_manifest_is_what_the_collector_writes(collected: tuple[Path, str]) -> None:
    folder, _ = collected
    manifest = json.loads((folder / "local_cpu" / "pytorch" / "MANIFEST.json").read_text())
    assert set(manifest["tables"]) == {"gemm"}
