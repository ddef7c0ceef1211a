"""Cached prefixes on devices and hosts: bytes, times and break-even by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import load_model
from perfmodel.database import PerfStore
from perfmodel.hardware import Device, load_device
from perfmodel.layout import Layouts, parse_layout
from perfmodel.memory import cache_bytes_on_device
from perfmodel.operators import Operators
from perfmodel.phases import continuous, decode, prefill
from perfmodel.precision import Precision
from perfmodel.prefix_cache import fits_host, host_rate, late_s, load_s
from perfmodel.step import StepModel
from perfmodel.traffic import Lengths, Traffic

StepOf = Callable[..., StepModel]
H100 = load_device("h100_sxm")
BF16 = Precision()
LLAMA = load_model("meta-llama/Llama-3.1-70B")
TOKEN = 80 * 8 * 128 * 2 * 2
"""Cache bytes of a token: 80 layers x 8 KV heads x 128 x (key and value) x 2 bytes."""

TEXTS = ["attn:TP8 ffn:TP8", "attn:TP4 ffn:TP4 PP2", "attn:TP4DP2 ffn:TP8", "attn:TP8 ffn:TP8 PP4"]
LAYOUTS = Layouts.from_rows(np.concatenate([parse_layout(text).rows() for text in TEXTS]))
PLAIN = Traffic(Lengths.from_histogram([4000, 16000], [0.5, 0.5]), Lengths.fixed(200), 0.75)
HOST = replace(PLAIN, prefix_tier="host")
BATCH = np.array([1, 4, 16], dtype=np.int64)


@pytest.fixture(scope="module")
def step(step_model: StepOf) -> StepModel:
    return step_model("meta-llama/Llama-3.1-70B", "h100_sxm", fmt="fp8")


def on(step: StepModel, device: Device) -> StepModel:
    """The same operators on a device with another host."""
    operators = Operators(step.device, "trtllm", PerfStore())
    return StepModel(step.model, device, step.engine, step.precision, operators)


def test_each_device_loads_its_own_part() -> None:
    held = cache_bytes_on_device(LLAMA, BF16, LAYOUTS, np.array([1000.0]))[:, 0]
    assert held.tolist() == [1000 * TOKEN / shards for shards in (8, 8, 4, 32)]
    wide = parse_layout("attn:TP16 ffn:TP16")  # 8 KV heads on 16 devices: replicated
    assert cache_bytes_on_device(LLAMA, BF16, wide, np.array([8.0]))[0, 0] == TOKEN
    loading = load_s(LLAMA, H100, BF16, LAYOUTS, np.array([1000.0]))[:, 0]
    assert loading == pytest.approx(held / (64e9 * 0.85))
    # A latent is whole on every device.
    latent = load_model("deepseek-ai/DeepSeek-V3")
    split = parse_layout("attn:TP8 ffn:TP1EP8")
    assert cache_bytes_on_device(latent, BF16, split, np.array([10.0]))[0, 0] == 61 * 576 * 2 * 10


def test_waiting_for_a_prefix_by_hand() -> None:
    one = parse_layout("attn:TP1 ffn:TP1")
    # 40 layers loaded in 2 s, computed in 4 s: the first is waited for.
    assert late_s(40, one, np.array([2.0]), np.array([4.0])) == pytest.approx([0.05])
    # Loaded in 4 s, computed in 2 s: the last arrives at 4 s and is computed in 0.05 s.
    assert late_s(40, one, np.array([4.0]), np.array([2.0])) == pytest.approx([4.0 + 0.05 - 2.0])
    # Nothing to load.
    assert late_s(40, one, np.array([0.0]), np.array([2.0])) == pytest.approx([0.0])


@settings(deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.floats(0.0, 50.0), st.floats(1e-3, 50.0))
def test_waiting_is_between_a_layer_and_all_of_them(
    pp: int, loading: float, computing: float
) -> None:
    layouts = Layouts.from_rows([[pp, 1, 1, 1, 1, 1, 1]])
    late = float(late_s(80, layouts, np.array([loading]), np.array([computing]))[0])
    assert loading / (80 / pp) * (1 - 1e-9) <= late <= loading * (1 + 1e-9)


def test_prefill_waits_for_the_host_but_not_for_the_device(step: StepModel) -> None:
    near, far = (prefill(step, LAYOUTS, traffic, BATCH) for traffic in (PLAIN, HOST))
    loading = load_s(step.model, H100, step.precision, LAYOUTS, PLAIN.cached_tokens)
    loading = loading[:, None] * BATCH[:, None]
    expected = near.latency_s + late_s(80, LAYOUTS, loading, near.latency_s)
    assert far.latency_s == pytest.approx(expected)
    assert np.all(far.latency_s > near.latency_s)
    assert np.all(far.qps <= near.qps)


def test_continuous_batching_waits_for_its_own_prefix_only(step: StepModel) -> None:
    chunk = np.full_like(BATCH, 1024)
    near, far = (continuous(step, LAYOUTS, traffic, BATCH, chunk) for traffic in (PLAIN, HOST))
    assert np.all(far.prefill_s > near.prefill_s)
    assert far.prefill_s - far.load_s == pytest.approx(near.prefill_s)
    assert far.ttit_s == pytest.approx(near.ttit_s)  # the link keeps up
    thin = on(step, replace(H100, host_bandwidth_bytes_per_s=0.5e9))
    slow = continuous(thin, LAYOUTS, HOST, BATCH, chunk)
    # A saturated link: requests come no faster than their prefixes.
    loading = load_s(step.model, thin.device, step.precision, LAYOUTS, PLAIN.cached_tokens)
    limit = LAYOUTS.dp_a / (loading @ np.array(PLAIN.inputs.weights))
    assert np.all(slow.qps <= limit[:, None] * (1 + 1e-9))
    assert slow.qps.max(axis=1) == pytest.approx(limit)


def test_break_even(step: StepModel) -> None:
    """Loading beats computing where bytes over bandwidth is below the computation's time."""
    fixed = Traffic(Lengths.fixed(16000), Lengths.fixed(200), 0.75)
    one, batch = parse_layout("attn:TP8 ffn:TP8"), BATCH[:1]
    anew = float(prefill(step, one, replace(fixed, prefix_hit=0.0), batch).latency_s[0, 0, 0])
    near = float(prefill(step, one, fixed, batch).latency_s[0, 0, 0])
    held = float(cache_bytes_on_device(step.model, step.precision, one, np.array([12000.0]))[0, 0])
    for share, loads in ((0.9, False), (1.1, True)):
        # At `share` of this bandwidth, 79 of 80 layers outlast what is computed meanwhile.
        late = anew - near
        loading = (80 * late + 79 * near) / 80
        device = replace(H100, host_bandwidth_bytes_per_s=share * held / loading / 0.85)
        host = replace(fixed, prefix_tier="host")
        far = float(prefill(on(step, device), one, host, batch).latency_s[0, 0, 0])
        assert (far < anew) == loads


@settings(deadline=None)
@given(st.floats(1.0, 100.0))
def test_a_faster_link_is_never_slower(factor: float) -> None:
    fast = replace(H100, host_bandwidth_bytes_per_s=1e9 * factor)
    slow = replace(H100, host_bandwidth_bytes_per_s=1e9)
    tokens = np.array([100.0, 10000.0])
    computing = np.ones((len(LAYOUTS), 2))
    late = [
        late_s(80, LAYOUTS, load_s(LLAMA, d, BF16, LAYOUTS, tokens), computing)
        for d in (slow, fast)
    ]
    assert np.all(late[1] <= late[0] * (1 + 1e-12))


def test_memory_by_tier(step: StepModel) -> None:
    kept = 200_000.0
    held = cache_bytes_on_device(step.model, step.precision, LAYOUTS, np.array([kept]))
    near, far = (replace(t, prefix_tokens=kept) for t in (PLAIN, HOST))
    uncounted = decode(step, LAYOUTS, PLAIN, BATCH).memory.kv_cache
    assert np.all(decode(step, LAYOUTS, far, BATCH).memory.kv_cache == uncounted)
    # On the device the cache is held once, and sequences share what they have in it.
    shared = cache_bytes_on_device(step.model, step.precision, LAYOUTS, np.array([7500.0]))
    sequences = BATCH * LAYOUTS.pp[:, None]
    counted = decode(step, LAYOUTS, near, BATCH).memory.kv_cache
    assert counted == pytest.approx(uncounted + held - sequences * shared)
    prompts = prefill(step, LAYOUTS, near, BATCH).memory.kv_cache
    own = cache_bytes_on_device(step.model, step.precision, LAYOUTS, np.array([4000.0]))
    assert prompts == pytest.approx(held + BATCH * (LAYOUTS.pp[:, None] + 1) * own)


def test_a_host_holds_what_its_memory_does() -> None:
    # 250 GB for each device, of which four fifths, and an eighth of 327,680 bytes per token.
    most = 0.8 * 250e9 / (TOKEN / 8)
    one = parse_layout("attn:TP8 ffn:TP8")
    assert fits_host(LLAMA, H100, BF16, one, most * 0.999).all()
    assert not fits_host(LLAMA, H100, BF16, one, most * 1.001).any()


def test_a_device_without_a_host_link() -> None:
    alone = replace(H100, host_memory_bytes=None, host_bandwidth_bytes_per_s=None)
    with pytest.raises(ValueError, match="h100_sxm has no host link"):
        host_rate(alone)
    assert not fits_host(LLAMA, alone, BF16, LAYOUTS, 1000.0).any()
