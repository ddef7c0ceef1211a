"""The real bench, where PyTorch is installed."""

import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from measured_points import check_measured_points

from perfmodel.collect import collect, grids
from perfmodel.collect.measure import Bench, Machine, UnavailableError
from perfmodel.collect.routing import bounds
from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from perfmodel.hardware import load_device
from perfmodel.operators import Group, Kind, Operators
from perfmodel.operators.collective import NcclCollective


def test_a_missing_pytorch_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="install the extra"):
        collect("cpu", tmp_path, name="own")


MOST = 0.5
"""Share of a real machine's rows, in a table of few, that no disturbance can well take away."""

EXPERTS: dict[str, int | str] = {
    "dtype": "bf16",
    "hidden": 64,
    "intermediate": 32,
    "top_k": 2,
    "experts": 4,
    "tp": 1,
    "ep": 1,
    "tokens": 8,
}


def test_every_operator_runs_and_is_timed(tmp_path: Path) -> None:
    pytest.importorskip("torch").set_num_threads(1)
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
        *(
            ("moe", {**EXPERTS, "activation": activation, "routing": routing, "ep": ep})
            for activation in ("gated", "plain")
            for routing, ep in (("balanced", 1), ("uniform", 1), ("power_law_1.01", 2))
        ),
    ]
    for family, key in rows:
        sample = bench.measure(family, key)
        assert sample is not None, family
        assert 0.0 < sample.time_s < 1.0
        assert sample.repeats >= 2
    assert bench.measure("gemm", {"dtype": "bf16", "m": 1, "n": 65536, "k": 65536}) is None


def small_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench that takes the machine's peaks as given, and few points to measure."""
    torch = pytest.importorskip("torch")
    from perfmodel.collect.torch_bench import TorchBench

    torch.set_num_threads(1)
    machine = Machine("test", 2.0**34, 1e11, {"bf16": 2e12})
    monkeypatch.setattr(TorchBench, "machine", lambda self: machine)
    monkeypatch.setattr(grids, "_powers", lambda low, high, factor: (low, 4 * low))
    monkeypatch.setattr(grids, "_CPU_MLA_HEADS", (4,))
    monkeypatch.setattr(grids, "_CPU_EXPERTS", ((64, 32, 2, 4),))
    return TorchBench("cpu", pool_bytes=1 << 26)


def test_a_small_collection_is_found_by_the_operator_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = small_bench(monkeypatch)
    families = ("elementwise", "mla_generation", "mla_bmm", "moe", "mla_context")
    # Any error is within this bound: the coarse grid and one held-out sample are all.
    report = collect("cpu", tmp_path, name="own", families=families, bench=bench, error_bound=100.0)
    assert set(report.families) == set(families)
    store = PerfStore([tmp_path], shipped=False)
    operators = Operators(load_device("own", [tmp_path]), "pytorch", store)
    for model in (
        operators.elementwise,
        operators.mla_generation,
        operators.mla_absorb,
        operators.experts,
        operators.mla_context,
    ):
        check_measured_points(store, model, MOST)


def test_experts_give_the_weighted_sum_of_their_networks() -> None:
    torch = pytest.importorskip("torch")
    from perfmodel.collect.torch_experts import routed_experts

    torch.manual_seed(0)
    tokens, hidden, inner, experts, top_k = 6, 16, 8, 4, 2
    x, scores = torch.randn(tokens, hidden), torch.randn(tokens, experts)
    up, down = torch.randn(experts, 2 * inner, hidden), torch.randn(experts, hidden, inner)
    shares, chosen = scores.softmax(-1).topk(top_k)
    expected = torch.zeros_like(x)
    for token in range(tokens):
        for share, e in zip(shares[token], chosen[token], strict=True):
            gate, wide = (up[e] @ x[token]).chunk(2)
            expected[token] += share * (down[e] @ (torch.nn.functional.silu(gate) * wide))
    rows = bounds(chosen.numpy(), experts)
    assert torch.allclose(
        routed_experts(torch, x, scores, up, down, top_k, rows), expected, atol=1e-4
    )
    # A device that holds the first two computes their part of the sum.
    halves = [bounds(chosen.numpy(), 2), bounds((chosen.numpy() - 2) % experts, 2)]
    first = routed_experts(torch, x, scores, up[:2], down[:2], top_k, halves[0], halves[0][-1][1])
    second = routed_experts(
        torch, x, scores.roll(-2, 1), up[2:], down[2:], top_k, halves[1], halves[1][-1][1]
    )
    assert torch.allclose(first + second, expected, atol=1e-4)


def test_absorbed_decode_attends_as_the_expanded_keys_do() -> None:
    """The last token of a prefill, and the same token decoded over the cached latents."""
    torch = pytest.importorskip("torch")
    from perfmodel.collect.torch_mla import attend_expanded, attend_latent, latents

    torch.manual_seed(0)
    batch, tokens, heads = 2, 5, 3
    q = torch.randn(batch, tokens, heads, 192)
    weight = torch.randn(heads, 256, 512) * 512**-0.5
    angles = torch.randn(tokens, 1, 32)
    cos, sin = angles.cos(), angles.sin()
    cached = latents(torch, torch.randn(batch, tokens, 576), torch.ones(512), cos, sin)
    expanded = torch.einsum("btl,hol->btho", cached[..., :512], weight)
    for pad in (False, True):
        mixed = attend_expanded(torch, q, cached, expanded, cos, sin, pad)
        absorbed = torch.einsum("bhd,hdl->hbl", q[:, -1, :, :128], weight[:, :128])
        last = attend_latent(torch, absorbed, q[:, -1, :, 128:], cached, cos[-1], sin[-1])
        values = torch.einsum("bhl,hdl->bhd", last, weight[:, 128:])
        assert torch.allclose(values, mixed[:, -1], atol=1e-4)


def test_collectives_between_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    small_bench(monkeypatch)
    from perfmodel.collect.torch_bench import TorchBench

    with closing(TorchBench("cpu", world=2, pool_bytes=1 << 22)) as bench:
        report = collect(
            "cpu",
            tmp_path,
            name="own",
            families=("collective",),
            bench=bench,
            error_bound=100.0,
            world=2,
        )
    assert report.machine.peers == 2
    store = PerfStore([tmp_path], shipped=False)
    device = load_device("own", [tmp_path])
    assert [link.span for link in device.links][:-1] == [2]
    frame = store.table("own", "pytorch", "collective")
    assert frame is not None
    assert set(frame["operation"]) >= {"all_reduce", "all_gather"}
    check_measured_points(store, NcclCollective(device, "pytorch", store), MOST)
    two = Group(np.array([[2.0]]), np.array([[1.0]]))
    reduced = Operators(device, "pytorch", store).collectives.all_reduce(two, 4096.0)
    assert reduced.kind[0, 0] == Kind.MEASURED


def test_a_group_of_which_a_member_is_gone_measures_nothing() -> None:
    pytest.importorskip("torch")
    from perfmodel.collect.torch_group import Group as Members

    key = {"operation": "all_reduce", "dtype": "bf16", "devices": 2, "message_bytes": 4096}
    with closing(Members("cpu", 2)) as members:
        members._members[1].kill()
        for _ in range(2):
            with pytest.raises(UnavailableError):
                members.measure(key)


def test_disturbed_threads_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    from perfmodel.collect import torch_bench
    from perfmodel.collect.torch_pool import Built

    lost = iter(range(10**9))
    monkeypatch.setattr(torch_bench, "_preemptions", lambda: next(lost))
    product = Built(lambda i: None, "nothing")
    with pytest.raises(UnavailableError, match="OMP_NUM_THREADS=1"):
        torch_bench._time_cpu(product, threads=2)
    # The time that one thread had a core is its own.
    assert torch_bench._time_cpu(product, threads=1).repeats > 1
    # Disturbed three times, and not the fourth: that one counts.
    turns = iter([0, 1, 1, 2, 2, 3, 3, 3] * 100)
    monkeypatch.setattr(torch_bench, "_preemptions", lambda: next(turns))
    assert torch_bench._time_cpu(product, threads=2).repeats > 1


@pytest.mark.parametrize(("load", "busy"), [(0.1, False), (0.9, True)])
def test_busy_cores_are_told_by_the_load(
    monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
) -> None:
    from perfmodel.collect import torch_bench

    cores = len(torch_bench.os.sched_getaffinity(0))
    monkeypatch.setattr(torch_bench.os, "getloadavg", lambda: (load * cores, 0.0, 0.0))
    assert torch_bench.busy_cores() is busy


def test_a_disturbance_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    bench = small_bench(monkeypatch)
    bench.close()  # type: ignore[attr-defined]
    from perfmodel.collect import torch_bench

    monkeypatch.setattr(torch_bench, "busy_cores", lambda: True)
    told: list[str] = []
    options = {"families": ("gemm",), "budget_s": 1e-3, "warn": told.append}
    collect("cpu", tmp_path / "one", name="own", **options)  # type: ignore[arg-type]
    assert told == []
    torch.set_num_threads(2)
    report = collect("cpu", tmp_path / "two", name="own", **options)  # type: ignore[arg-type]
    torch.set_num_threads(1)
    assert told == [torch_bench.BUSY]
    assert any(torch_bench.BUSY in note for note in report.notes)


def test_a_timing_covers_whole_cycles() -> None:
    from perfmodel.collect.torch_bench import _whole

    assert [_whole(calls, 5) for calls in (0, 1, 5, 6)] == [5, 5, 5, 10]
    assert [_whole(calls, 1) for calls in (0, 7)] == [1, 7]


def test_groups_are_of_powers_of_two() -> None:
    from perfmodel.collect.torch_group import sizes

    assert [sizes(world) for world in (1, 2, 6, 8)] == [(), (2,), (2, 4), (2, 4, 8)]
