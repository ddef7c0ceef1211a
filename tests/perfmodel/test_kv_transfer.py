"""KV caches between pools: bytes per link by hand, and what overlap can and cannot hide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import load_model
from perfmodel.hardware import Link
from perfmodel.kv_transfer import (
    Traffic,
    cache_heads,
    cache_parts,
    link_rate,
    link_traffic,
    receiver_columns,
    transfer_s,
)
from perfmodel.layout import Layouts, parse_layout

NIC = Link("nic", 2**31, 50e9, 5e-6)
DEGREE = st.sampled_from([1, 2, 4, 8, 16])


def layout(pp: int = 1, tp: int = 1, cp: int = 1) -> Layouts:
    return Layouts.from_rows([[pp, tp, cp, 1, tp * cp, 1, 1]])


def traffic(parts: dict[int, float], p: Layouts, d: Layouts, layers: int = 32) -> list[float]:
    found = link_traffic(parts, layers, p, d)
    return [float(v[0, 0]) for v in (found.sent_bytes, found.received_bytes, found.sources)]


def test_the_parts_of_a_cache() -> None:
    # Llama 3.1 70B: 80 layers of 8 heads x 128 x (key and value).
    llama = load_model("meta-llama/Llama-3.1-70B")
    assert cache_heads(llama) == (8,)
    assert cache_parts(llama, 1000, 2.0) == {8: 80 * 8 * 128 * 2 * 2 * 1000}
    # DeepSeek V3: 61 layers of a latent of 512 + 64, the same on every tensor-parallel device.
    assert cache_parts(load_model("deepseek-ai/DeepSeek-V3"), 10, 1.0) == {1: 61 * 576 * 10}
    # gpt-oss 120B: half of 36 layers see 128 tokens.
    oss = load_model("openai/gpt-oss-120b")
    assert cache_parts(oss, 1000, 2.0) == {8: 18 * 8 * 64 * 2 * 2 * (1000 + 128)}
    # Qwen3.5: attention beside recurrent layers, whose states do not grow with the prompt.
    mixed = load_model("Qwen/Qwen3.5-27B")
    short, long = (cache_parts(mixed, n, 2.0) for n in (1000, 2000))
    assert len(short) == 2
    assert sum(long.values()) - mixed.state_bytes == 2 * (sum(short.values()) - mixed.state_bytes)


@pytest.mark.parametrize(
    ("heads", "prefill", "decode", "sent", "received", "sources"),
    [
        # Alike: each device sends to its counterpart.
        (8, layout(), layout(), 64, 64, 1),
        (8, layout(tp=4), layout(tp=4), 16, 16, 1),
        # Fewer on the other side: it pulls from several; more: each sends to several.
        (8, layout(tp=8), layout(tp=2), 8, 32, 4),
        (8, layout(tp=2), layout(tp=8), 32, 8, 1),
        # Replicated KV heads: 16 devices each pull one head, every head leaves twice...
        (8, layout(tp=8), layout(tp=16), 16, 8, 1),
        # ...but not from the same device where the prefill side has replicas as well.
        (8, layout(tp=16), layout(tp=16), 8, 8, 1),
        # One reader of a head that two devices hold reads it from one of them.
        (8, layout(tp=16), layout(tp=8), 8, 8, 1),
        # A latent: whole on every device, pulled by every device.
        (1, layout(tp=4), layout(tp=4), 64, 64, 1),
        (1, layout(tp=1), layout(tp=4), 256, 64, 1),
        (1, layout(tp=4), layout(tp=1), 64, 64, 1),
        (1, layout(tp=4), layout(tp=2, pp=2), 32, 32, 1),
        # Stages and context-parallel ranks.
        (8, layout(pp=4), layout(), 16, 64, 4),
        (8, layout(), layout(pp=4), 64, 16, 1),
        (8, layout(pp=2, tp=2), layout(tp=2, cp=2), 16, 16, 2),
    ],
)
def test_bytes_on_the_busiest_links(
    heads: int, prefill: Layouts, decode: Layouts, sent: float, received: float, sources: int
) -> None:
    assert traffic({heads: 64.0}, prefill, decode) == [sent, received, sources]


def test_uneven_stages_count_by_their_fullest() -> None:
    # 61 layers on 4 stages: 16 on the first.
    sent, received, _ = traffic({1: 61.0}, layout(pp=4), layout(pp=2), layers=61)
    assert (sent, received) == (16.0, 31.0)


def seconds(
    moved: Traffic,
    layers: int = 40,
    link: Link = NIC,
    prompts: float = 1.0,
    hidden: float = 0.0,
    p: Layouts | None = None,
    d: Layouts | None = None,
) -> float:
    sides = ((p or layout()), link), ((d or layout()), link)
    return float(transfer_s(moved, layers, *sides, np.array([prompts]), np.array([hidden]))[0, 0])


def one(sent: float, received: float) -> Traffic:
    return Traffic(np.array([[sent]]), np.array([[received]]), np.ones((1, 1)))


def test_transfer_by_hand() -> None:
    rate = link_rate(NIC)
    assert seconds(one(rate, rate / 2)) == pytest.approx(1.0 + 5e-6)
    assert seconds(one(rate / 4, rate / 2)) == pytest.approx(0.5 + 5e-6)
    # The prompts of a step share the sender's link; each goes to a decode rank of its own.
    assert seconds(one(rate / 4, rate / 2), prompts=4) == pytest.approx(1.0 + 5e-6)
    # A fast link keeps up with 40 layers computed in 4 s: the last is left. A slow one, that
    # takes 5 s, begins with the first at 0.1 s: it is done at 5.1 s, 1.1 s late.
    assert seconds(one(rate, 0.0), hidden=4.0) == pytest.approx(1 / 40 + 5e-6)
    assert seconds(one(5 * rate, 0.0), hidden=4.0) == pytest.approx(1.1 + 5e-6)
    # Two stages of 20 layers compute one after the other, 2 s each; the second sends half of
    # the 5 s meanwhile, from its first layer at 0.1 s on.
    halved = one(5 * rate / 2, 0.0)
    assert seconds(halved, hidden=4.0, p=layout(pp=2)) == pytest.approx(0.1 + 2.5 - 2.0 + 5e-6)


@settings(deadline=None)
@given(DEGREE, DEGREE, st.floats(1e3, 1e11), st.floats(0.0, 100.0), st.integers(16, 100))
def test_overlap_is_never_slower_and_leaves_the_last_layer(
    p_pp: int, d_pp: int, size: float, hidden: float, layers: int
) -> None:
    p, d = layout(pp=p_pp), layout(pp=d_pp)
    moved = link_traffic({8: size}, layers, p, d)
    apart = seconds(moved, layers, p=p, d=d)
    overlapped = seconds(moved, layers, hidden=hidden, p=p, d=d)
    latency = float(moved.sources[0, 0]) * NIC.latency_s
    assert overlapped <= apart * (1 + 1e-12)
    assert overlapped >= (latency + size / layers / link_rate(NIC)) * (1 - 1e-12)
    more_hidden = seconds(moved, layers, hidden=hidden + 1.0, p=p, d=d)
    assert more_hidden <= overlapped * (1 + 1e-12)


@settings(deadline=None)
@given(DEGREE, DEGREE, DEGREE, DEGREE, st.floats(0.0, 1.0), st.floats(1.0, 10.0))
def test_more_bandwidth_is_never_slower(
    p_tp: int, d_tp: int, p_pp: int, d_pp: int, hidden: float, factor: float
) -> None:
    p, d = layout(pp=p_pp, tp=p_tp), layout(pp=d_pp, tp=d_tp)
    moved = link_traffic({8: 1e9, 1: 1e9}, 40, p, d)
    faster = replace(NIC, bandwidth_bytes_per_s=NIC.bandwidth_bytes_per_s * factor)
    slow, fast = (seconds(moved, 40, link, 1.0, hidden, p, d) for link in (NIC, faster))
    assert fast <= slow * (1 + 1e-12)


@settings(deadline=None)
@given(st.tuples(DEGREE, DEGREE, DEGREE), st.tuples(DEGREE, DEGREE, DEGREE))
def test_every_byte_that_arrives_was_sent(
    p_degrees: tuple[int, int, int], d_degrees: tuple[int, int, int]
) -> None:
    """The busiest device of a side moves at least that side's mean."""
    p, d = (layout(pp, tp, cp) for pp, tp, cp in (p_degrees, d_degrees))
    sent, received, _ = traffic({8: 1.0}, p, d, layers=16)
    whole = max(d_degrees[1] / 8, 1.0)  # copies of every head
    assert received * int(d.world[0]) >= whole * (1 - 1e-12)
    assert sent * int(p.world[0]) >= whole * (1 - 1e-12)


def test_a_receiver_with_no_column_above_is_never_slower() -> None:
    degrees = (1, 2, 4, 8)
    all_ = Layouts.from_rows(
        [[pp, tp, cp, 1, tp * cp, 1, 1] for pp in degrees for tp in (*degrees, 16) for cp in (1, 2)]
    )
    parts = {1: 3e9, 8: 1e9}
    moved = link_traffic(parts, 61, all_, all_)
    ones = np.ones(len(all_))
    columns = np.stack(receiver_columns((1, 8), all_), axis=1)
    for hidden in (0.0, 0.01, 0.1):
        times = transfer_s(moved, 61, (all_, NIC), (all_, NIC), ones, hidden * ones)
        for a in range(len(all_)):
            worse = np.all(columns >= columns[a], axis=1)
            assert np.all(times[:, worse] >= times[:, [a]] * (1 - 1e-12))


def test_pools_of_one_layout_have_no_columns() -> None:
    same = parse_layout("attn:TP2DP2 ffn:TP4 PP1")
    assert receiver_columns((8,), same) == []
