"""The importer of Vidur's profiles, on excerpts in their layout."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from perfmodel.database import PerfStore, TableError
from perfmodel.database.import_vidur import ImportedTable, import_tables

STATISTICS = ("min", "max", "mean", "median", "std")
LLAMA = ("emb", "input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj")
LLAMA += ("post_attention_layernorm", "mlp_up_proj", "mlp_act", "mlp_down_proj", "add")
PHI = tuple(name for name in LLAMA if name != "post_attention_layernorm")
SHAPE = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "vocab_size", "use_gated_mlp")
SHAPE += ("num_tokens", "num_tensor_parallel_workers")
MODEL = "compute/a100/meta-llama/Llama-2-70b-hf/mlp.csv"


def times(operations: tuple[str, ...]) -> list[str]:
    return [f"time_stats.{name}.{what}" for name in operations for what in STATISTICS]


def layers(
    tokens: int = 128, devices: int = 2, operations: tuple[str, ...] = LLAMA
) -> dict[str, str]:
    row: dict[str, str] = {}
    for i, name in enumerate(operations, 1):
        values = (0.9 * i, 1.1 * i, 1.01 * i, 1.0 * i, 0.1)
        row |= dict(zip(times((name,)), map(str, values), strict=True))
    shape = (64, 8, 8192, 28672, 32768, True, tokens, devices)
    return row | dict(zip(SHAPE, map(str, shape), strict=True))


def message(size: int = 2048, devices: int = 8, here: int = 8, most: int = 8) -> dict[str, str]:
    return {
        "": "0",
        **dict(zip(times(("all_reduce",)), ("0.01", "0.03", "0.02", "0.02", "0.1"), strict=True)),
        "rank": "0",
        "num_workers": str(devices),
        "size": str(size),
        "collective": "all_reduce",
        "devices_per_node": str(here),
        "max_devices_per_node": str(most),
    }


def sent(here: int = 1) -> dict[str, str]:
    row = {k.replace("all_reduce", "send_recv"): v for k, v in message(4096, 2, here).items()}
    return {**row, "collective": "send_recv"}


def attention(prefill: bool, tokens: int, cached: int, batch: int = 1) -> dict[str, str]:
    empty = dict.fromkeys(times(("attn_prefill", "attn_decode")), "")
    timed = "attn_prefill" if prefill else "attn_decode"
    found = dict(zip(times((timed,)), ("0.1", "0.3", "0.2", "0.2", "0.1"), strict=True))
    shape = {
        "n_embd": 8192,
        "n_q_head": 64,
        "n_kv_head": 8,
        "block_size": 16,
        "num_tensor_parallel_workers": 2,
        "max_model_len": 4096,
        "batch_size": batch,
        "prefill_chunk_size": tokens,
        "kv_cache_size": cached,
        "is_prefill": prefill,
        "attention_backend": "AttentionBackend.FLASHINFER",
    }
    return empty | found | {name: str(value) for name, value in shape.items()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "vidur"
    put(root, MODEL, [layers()])
    return root


def put(root: Path, place: str, rows: list[dict[str, str]]) -> Path:
    path = root / "data" / "profiling" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def entry(root: Path, family: str, device: str = "a100_sxm") -> ImportedTable:
    report = import_tables(root, root.parent / "out", [device])
    (found,) = (e for e in report if e.family == family)
    return found


def imported(root: Path, family: str, device: str = "a100_sxm") -> pl.DataFrame:
    found = entry(root, family, device)
    assert found.status == "written", found
    stored = PerfStore([root.parent / "out"], shipped=False).table(device, "pytorch", family)
    assert stored is not None
    assert stored.height == found.rows
    return stored


def test_linear_layers_are_those_of_a_device(repository):
    found = imported(repository, "gemm")
    assert sorted(found.select("n", "k", "m", "time_s").rows()) == [
        (5120, 8192, 128, pytest.approx(3e-3)),
        (8192, 4096, 128, pytest.approx(5e-3)),
        (8192, 14336, 128, pytest.approx(9e-3)),
        (28672, 8192, 128, pytest.approx(7e-3)),
    ]
    assert set(found["dtype"]) == {"bf16"}
    assert found["spread"].to_list() == pytest.approx([0.1] * 4)
    row = found.row(0, named=True)
    assert (row["engine"], row["engine_version"], row["licence"]) == (
        "pytorch",
        "vidur-7d47513",
        "MIT",
    )
    assert row["origin"] == f"vidur 7d47513: data/profiling/{MODEL}"


def test_elementwise_widths(repository):
    found = imported(repository, "elementwise").select("operation", "width", "time_s").rows()
    assert found == [
        ("add", 8192, pytest.approx(10e-3)),
        ("rms_norm", 8192, pytest.approx(2e-3)),
        ("rope", 4608, pytest.approx(4e-3)),
        ("silu_mul", 14336, pytest.approx(8e-3)),
    ]


def test_a_model_without_a_second_norm_or_gate(repository):
    row = {**layers(devices=1, operations=PHI), "use_gated_mlp": "False"}
    put(repository, MODEL, [row])
    assert set(imported(repository, "elementwise")["operation"]) == {"layer_norm", "gelu", "rope"}
    assert 28672 in set(imported(repository, "gemm")["n"])


def test_models_and_repeats_make_one_table(repository):
    put(repository, "compute/a100/codellama/CodeLlama/mlp.csv", [layers(), layers(256)])
    found = entry(repository, "gemm")
    assert (found.rows, found.merged) == (8, 4)


def test_attention_phases(repository):
    rows = [attention(True, 64, 128), attention(False, 0, 1023, 4)]
    put(repository, MODEL.replace("mlp", "attention"), rows)
    context = imported(repository, "attention_context").row(0, named=True)
    assert (context["tokens"], context["prefix_tokens"], context["batch"]) == (64, 128, 1)
    assert (context["q_heads"], context["kv_heads"], context["head_dim"]) == (32, 4, 128)
    assert context["time_s"] == pytest.approx(2e-4)
    decode = imported(repository, "attention_generation").row(0, named=True)
    assert (decode["context_tokens"], decode["batch"]) == (1024, 4)
    assert decode["kernel"] == "AttentionBackend.FLASHINFER"


def test_absent_attention_is_missing(repository):
    assert entry(repository, "attention_context").status == "missing"


def test_attention_rows_are_named_as_the_file_counts_them(repository):
    rows = [attention(True, 64, 0), attention(False, 0, 1023), attention(False, 0, -1)]
    path = put(repository, MODEL.replace("mlp", "attention"), rows)
    assert entry(repository, "attention_generation").reason == (
        f"{path}: column kv_cache_size: row 3: expected at least 0, got -1"
    )


def test_all_reduce_within_one_host(repository):
    rows = [message(), message(devices=8, here=4), message(4096, 2, 2)]
    put(repository, "network/a100_dgx/all_reduce.csv", rows)
    found = imported(repository, "collective").select("operation", "devices", "message_bytes")
    assert found.rows() == [("all_reduce", 2, 4096), ("all_reduce", 8, 2048)]


def test_hosts_of_pairs_count_as_pairs(repository):
    rows = [message(2048, 2, 2, 4), message(2048, 4, 4, 4)]
    put(repository, "network/a100_pairwise_nvlink/all_reduce.csv", rows)
    assert imported(repository, "collective", "a100_pcie")["devices"].to_list() == [2]


def test_messages_between_two(repository):
    put(repository, "network/h100_dgx/send_recv.csv", [sent(1), sent(2)])
    found = imported(repository, "point_to_point", "h100_sxm")
    assert found.select("operation", "nodes", "message_bytes").rows() == [
        ("send_recv", 1, 4096),
        ("send_recv", 2, 4096),
    ]


def test_the_copied_file_is_withheld(repository):
    put(repository, "network/h100_pairwise_nvlink/send_recv.csv", [sent(2)])
    found = entry(repository, "point_to_point", "h100_nvl")
    assert found.status == "withheld"
    assert "byte for byte" in found.reason


UP = "time_stats.mlp_up_proj.median"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({UP: "fast"}, f"column {UP}: row 2: expected a number, got 'fast'"),
        ({UP: ""}, f"column {UP}: row 2: is empty"),
        ({UP: "0.0"}, f"column {UP}: row 2: expected more than 0, got 0.0"),
        ({UP: "nan"}, f"column {UP}: row 2: expected a finite number"),
        ({"num_tokens": "8.5"}, "column num_tokens: row 2: expected an integer, got '8.5'"),
        ({"num_tokens": "0"}, "column num_tokens: row 2: expected at least 1, got 0"),
        ({"use_gated_mlp": "yes"}, "column use_gated_mlp: row 2: expected True or False, got"),
        (
            {"num_tensor_parallel_workers": "16"},
            "column n_kv_head: row 2: 8 is not divided by 16 devices",
        ),
        ({"n_head": "60"}, "column n_embd: row 2: 8192 is not divided by 60 heads"),
        (
            {"time_stats.mlp_up_proj.min": "9"},
            "column time_stats.mlp_up_proj.min: row 2: above the max",
        ),
    ],
)
def test_malformed_profile_is_refused_whole(repository, change, reason):
    destination = repository.parent / "out"
    import_tables(repository, destination, ["a100_sxm"])
    target = destination / "a100_sxm" / "pytorch" / "gemm.parquet"
    old = target.read_bytes()

    path = put(repository, MODEL, [layers(256), {**layers(), **change}])
    found = entry(repository, "gemm")
    assert found.status == "refused"
    assert found.reason.startswith(f"{path}: {reason}")
    assert target.read_bytes() == old


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_truncated_profile_is_refused(repository, cut):
    path = put(repository, MODEL, [layers(), layers(256)])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert entry(repository, "gemm").reason == f"{path}: cut off: its last line has no end"
    path.write_bytes(content[:-30] + b"\n")
    assert "row 2: " in entry(repository, "gemm").reason


def test_one_bad_model_refuses_the_table_and_others_are_written(repository):
    bad = put(repository, "compute/a100/other/model/mlp.csv", [layers()])
    bad.write_bytes(b"")
    put(repository, "network/a100_dgx/all_reduce.csv", [message()])
    report = import_tables(repository, repository.parent / "out", ["a100_sxm"])
    status = {e.family: e.status for e in report}
    assert status["gemm"] == status["elementwise"] == "refused"
    assert status["collective"] == "written"


def test_missing_column_and_no_rows(repository):
    row = {name: value for name, value in layers().items() if name != "n_embd"}
    path = put(repository, MODEL, [row])
    assert entry(repository, "gemm").reason == f"{path}: column n_embd: missing"
    path.write_text(",".join(layers()) + "\n", encoding="utf-8")
    assert entry(repository, "gemm").reason == f"{path}: it holds no row"


def test_interrupted_write_leaves_the_old_table(repository, monkeypatch):
    destination = repository.parent / "out"
    import_tables(repository, destination, ["a100_sxm"])
    target = destination / "a100_sxm" / "pytorch" / "gemm.parquet"
    old = target.read_bytes()

    def fail(self: Path, _data: bytes) -> None:
        with self.open("wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    put(repository, MODEL, [layers(512)])
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        import_tables(repository, destination, ["a100_sxm"])
    assert target.read_bytes() == old
    assert sorted(p.name for p in target.parent.iterdir()) == ["elementwise.parquet", target.name]


def test_not_the_repository(repository, tmp_path):
    with pytest.raises(TableError, match="expected Vidur's repository"):
        import_tables(tmp_path, tmp_path / "out")
    with pytest.raises(TableError, match="no 'h300'; it has a100_sxm"):
        import_tables(repository, tmp_path / "out", ["h300"])
