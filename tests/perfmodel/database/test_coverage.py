"""What tables hold, whether files are sound, and how a model's steps are known from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from perfmodel.architecture import load_model
from perfmodel.coverage import KINDS, model_coverage
from perfmodel.database import FAMILIES, PerfStore, TableError
from perfmodel.database.coverage import TableCheck, check_folder, family_coverage
from perfmodel.engine import engine_profile
from perfmodel.errors import InputError
from perfmodel.hardware import load_device
from perfmodel.layout import parse_layout
from perfmodel.operators import Operators
from perfmodel.precision import Precision


def put(folder: Path, rows: list[tuple[str, int, int, int]], family: str = "gemm") -> Path:
    path = folder / "toy" / "vllm" / f"{family}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = {"device": "toy", "engine": "vllm", "engine_version": "1.0"}
    provenance |= {"kernel": "f", "origin": "here", "licence": "CC0-1.0"}
    named = [dict(zip(("dtype", "n", "k", "m"), row, strict=True)) for row in rows]
    pl.DataFrame([{**row, "time_s": 1e-5, **provenance} for row in named]).write_parquet(path)
    return path


def checks(folder: Path) -> dict[str, TableCheck]:
    return {found.name: found for found in check_folder(folder)}


def test_spans_of_a_table(tmp_path: Path) -> None:
    put(tmp_path, [("bf16", 64, 32, 1), ("fp8", 64, 32, 1), ("fp8", 64, 32, 16)])
    (found,) = family_coverage(PerfStore([tmp_path], shipped=False), "toy", "vllm")
    assert (found.engine, found.family, found.rows) == ("vllm", "gemm", 3)
    assert found.formats == ("bf16", "fp8")
    assert [str(span) for span in found.spans] == ["n 64", "k 32", "m 1..16 (2)"]


def test_every_shipped_family_has_a_span_for_each_other_column() -> None:
    store = PerfStore()
    for found in family_coverage(store, "h100_sxm", "vllm"):
        columns = {span.name for span in found.spans}
        rest = set(FAMILIES[found.family].key_names) - columns
        assert rest <= {"dtype", "kv_dtype", "gemm_dtype"}
        assert found.rows > 0
        assert all(span.distinct > 0 and str(span) for span in found.spans)


def test_a_sound_folder(tmp_path: Path) -> None:
    path = put(tmp_path, [("bf16", 64, 32, 1), ("bf16", 64, 32, 2)])
    assert checks(tmp_path) == {"toy/vllm/gemm": TableCheck("toy/vllm/gemm", path, 2)}


def test_shapes_given_twice_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path, [("bf16", 64, 32, 1)] * 3 + [("bf16", 64, 32, 2)])
    found = checks(tmp_path)["toy/vllm/gemm"]
    assert (found.rows, found.duplicates) == (4, 2)
    assert found.problem == (
        f"{path}: 2 rows repeat the shape of another; expected one row per shape"
    )


def test_all_bad_files_are_found(tmp_path: Path) -> None:
    put(tmp_path, [("bf16", 64, 32, 0)])
    torn = put(tmp_path, [("bf16", 64, 32, 1)], "moe")
    torn.write_bytes(torn.read_bytes()[:200])
    stray = put(tmp_path, [("bf16", 64, 32, 1)], "gem")
    put(tmp_path, [("bf16", 64, 32, 1)], "mla_bmm")
    found = checks(tmp_path)
    assert "gemm.parquet: column m: row 1: expected at least 1" in found["toy/vllm/gemm"].problem
    assert f"{torn}: not a readable Parquet file" in found["toy/vllm/moe"].problem
    assert f"{stray}: no family of this name" in found["toy/vllm/gem"].problem
    assert "mla_bmm.parquet: column stage: missing" in found["toy/vllm/mla_bmm"].problem


def manifest(path: Path, *, file: str = "gemm.parquet", sha256: str | None = None) -> Path:
    stated = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    content = {"tables": {"gemm": {"file": file, "sha256": stated}}}
    written = path.with_name("MANIFEST.json")
    written.write_text(json.dumps(content))
    return written


def test_checksums_of_a_manifest(tmp_path: Path) -> None:
    path = put(tmp_path, [("bf16", 64, 32, 1)])
    manifest(path)
    found = checks(tmp_path)["toy/vllm/gemm"]
    assert found.manifest
    assert not found.problem
    manifest(path, sha256="0" * 64)
    assert (
        "its checksum is not the one in MANIFEST.json" in checks(tmp_path)["toy/vllm/gemm"].problem
    )
    manifest(path, file="moe.parquet")
    assert (
        "moe.parquet: no such file, but MANIFEST.json" in checks(tmp_path)["toy/vllm/moe"].problem
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"tables": 3}', '{"tables": {"gemm": {}}}'])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, [("bf16", 64, 32, 1)])
    path.with_name("MANIFEST.json").write_text(text)
    found = checks(tmp_path)
    assert "not a collector's manifest" in found["toy/vllm/MANIFEST"].problem
    assert not found["toy/vllm/gemm"].problem


def test_folders_without_tables(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no tables; expected DEVICE"):
        checks(tmp_path)
    with pytest.raises(TableError, match="no such folder"):
        checks(tmp_path / "none")


def covered(model: str, device: str, layout: str, precision: Precision, store: PerfStore):
    machine = load_device(device)
    operators = Operators(machine, "trtllm", store)
    return model_coverage(
        load_model(model),
        machine,
        engine_profile("trtllm"),
        precision.on(machine.peak_flops_per_s),
        operators,
        parse_layout(layout),
    )


def test_shares_add_up_and_shapes_are_the_models(store: PerfStore) -> None:
    found = covered("qwen3-8b", "h200_sxm", "attn:TP2 ffn:TP2", Precision(), store)
    by_name = {(one.phase, one.name): one for one in found.operators}
    assert by_name["decode", "qkv_proj"].points == 63
    assert by_name["prefill", "qkv_proj"].points == 8
    assert by_name["decode", "qkv_proj"].shares["measured"] == 1.0
    assert by_name["decode", "ffn_norm"].shares["analytic"] == 1.0
    assert ("prefill", "generation_attention") not in by_name
    for one in found.operators:
        assert tuple(one.shares) == KINDS
        assert sum(one.shares.values()) == pytest.approx(1.0)
    assert {p.family for p in found.points} == {
        "gemm",
        "attention_context",
        "attention_generation",
    }
    decode = [p.shape for p in found.points if p.family == "attention_generation"]
    assert len(decode) == 63
    assert {shape["q_heads"] for shape in decode} == {16.0}


def test_nothing_measured_is_all_analytic() -> None:
    found = covered("qwen3-8b", "mi300x", "attn:TP1 ffn:TP1", Precision(), PerfStore())
    assert all(one.shares["analytic"] == 1.0 for one in found.operators)
    assert not [one for one in found.operators if one.module == "communication"]
    assert {point.kind for point in found.points} == {"analytic"}


def test_latent_attention_and_experts(store: PerfStore) -> None:
    precision = Precision("fp8_block", "fp8_block", "fp8_block")
    found = covered("deepseek-v3", "h200_sxm", "attn:DP8 ffn:EP8", precision, store)
    assert "mla_generation" in {point.family for point in found.points}
    assert "routed_experts" in {one.name for one in found.operators}


@pytest.mark.parametrize(
    ("model", "layout", "said"),
    [
        ("qwen3-8b", "attn:TP3 ffn:TP3", "32 heads are not divisible by TP3"),
        ("qwen3-8b", "attn:TP2 ffn:EP2", "no experts to spread over EP2"),
        ("qwen3-30b-a3b", "attn:DP3 ffn:EP3", "128 experts are not divisible by EP3"),
        ("qwen3-8b", "attn:TP1 ffn:TP1 PP99", "has 36 layers"),
    ],
)
def test_layouts_that_do_not_suit(store: PerfStore, model: str, layout: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        covered(model, "h200_sxm", layout, Precision(), store)
