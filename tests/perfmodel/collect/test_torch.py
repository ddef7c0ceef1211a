"""The real bench, where PyTorch is installed."""

import sys
from pathlib import Path

import pytest

from perfmodel.collect import collect
from perfmodel.database import PerfStore
from perfmodel.errors import InputError


def test_a_missing_pytorch_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="install the extra"):
        collect("cpu", tmp_path, name="own")


def test_every_operator_runs_and_is_timed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from perfmodel.collect.torch_bench import TorchBench

    bench = TorchBench("cpu", pool_bytes=1 << 26)
    heads = {"q_heads": 4, "kv_heads": 2, "head_dim": 64, "window_tokens": 0}
    heads |= {"dtype": "bf16", "kv_dtype": "bf16", "batch": 2}
    rows = [
        ("gemm", {"dtype": "bf16", "m": 4, "n": 256, "k": 256}),
        ("attention_context", {**heads, "tokens": 32, "prefix_tokens": 0}),
        ("attention_generation", {**heads, "context_tokens": 64}),
        *(
            ("elementwise", {"operation": name, "dtype": "bf16", "tokens": 4, "width": 256})
            for name in ("rms_norm", "silu_mul", "rope", "add")
        ),
    ]
    for family, key in rows:
        sample = bench.measure(family, key)
        assert sample is not None, family
        assert 0.0 < sample.time_s < 1.0
        assert sample.repeats >= 3
    assert bench.measure("gemm", {"dtype": "bf16", "m": 1, "n": 65536, "k": 65536}) is None


def test_a_short_collection_gives_a_readable_store(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from perfmodel.collect.torch_bench import TorchBench

    bench = TorchBench("cpu", pool_bytes=1 << 26)
    report = collect("cpu", tmp_path, name="own", families=("gemm",), budget_s=8.0, bench=bench)
    table = PerfStore([tmp_path], shipped=False).table("own", "pytorch", "gemm")
    assert table is not None
    assert len(table) == report.families["gemm"].rows
