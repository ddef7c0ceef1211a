"""Algorithms of collectives: times by hand, bounds, and what better links do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.database import PerfStore
from perfmodel.hardware import UNLIMITED, Device, Link, load_device
from perfmodel.operators import Group
from perfmodel.operators.algorithms import (
    ALGORITHMS,
    IN_NETWORK_SHARE,
    Algorithm,
    DirectExchange,
    DirectPass,
    InNetwork,
    Level,
    OneShot,
    Ring,
    RingPass,
    Tree,
    TreesPass,
    TwoShot,
    fastest,
)
from perfmodel.operators.collective import Collectives

A, B = 1e-6, 100e9
LINK = Link("link", 64, B, A, achieved=1.0)
NOTHING_MEASURED = PerfStore(shipped=False)
OPERATIONS = pytest.mark.parametrize("operation", list(ALGORITHMS))
sizes = st.integers(1, 6).map(lambda e: 2**e)
messages = st.floats(1.0, 2.0**34)


def level(members: int, link: Link = LINK, inner: int = 1, innermost: bool = True) -> Level:
    array = np.array([[float(members)]])
    return Level(link, array, np.full_like(array, inner), innermost)


def group(size: int, stride: int = 1) -> Group:
    return Group(np.array([[float(size)]]), np.array([[float(stride)]]))


M = 1e9


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (Ring(), 14 * A + 2 * 7 / 8 * M / B),
        (Tree(), 6 * A + 2 * M / B),
        (OneShot(), A + 7 * M / B),
        (TwoShot(), 2 * A + 2 * 7 / 8 * M / B),
        (RingPass(), 7 * A + 7 / 8 * M / B),
        (DirectPass(), A + 7 / 8 * M / B),
        (TreesPass(), 3 * A + 7 / 8 * M / B),
        (DirectExchange(), A + 7 / 8 * M / B),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_eight_devices_by_hand(algorithm: Algorithm, expected: float) -> None:
    assert algorithm.seconds([level(8)], M).item() == pytest.approx(expected, rel=1e-12)


def test_two_devices_send_the_tensor_once_through_trees() -> None:
    assert Tree().seconds([level(2)], M).item() == pytest.approx(2 * A + M / B)


def test_in_network_reduction_by_hand() -> None:
    sharp = replace(LINK, reduces=True)
    inside = InNetwork().seconds([level(8, sharp)], M).item()
    assert inside == pytest.approx(2 * A + (1 + 1 / 8) * M / (B * IN_NETWORK_SHARE))
    outside = InNetwork().seconds([level(8, sharp, innermost=False)], M).item()
    assert outside == pytest.approx(2 * A + M / (B * IN_NETWORK_SHARE))
    assert not InNetwork().valid([level(8)])


def test_a_ring_over_hosts_by_hand() -> None:
    slow = Link("slow", UNLIMITED, B / 10, 10 * A, achieved=1.0)
    levels = [level(8), level(4, slow, inner=8, innermost=False)]
    # 62 steps, of which 6 between hosts; each NIC carries an eighth of the tensor.
    expected = 56 * A + 6 * 10 * A + 2 * 31 / 32 * (M / 8) / (B / 10)
    assert Ring().seconds(levels, M).item() == pytest.approx(expected)


def test_small_messages_go_at_once_and_large_ones_in_parts() -> None:
    levels = [level(8)]
    least = [fastest(ALGORITHMS["all_reduce"], levels, m).item() for m in (1e3, 1e9)]
    assert least[0] == OneShot().seconds(levels, 1e3).item()
    assert least[1] == TwoShot().seconds(levels, 1e9).item()


@OPERATIONS
@settings(deadline=None)
@given(size=sizes, message=messages, factor=st.floats(1.0, 16.0))
def test_time_follows_link_and_message(
    operation: str, size: int, message: float, factor: float
) -> None:
    algorithms = ALGORITHMS[operation]

    def time(link: Link, sent: float = message) -> float:
        return fastest(algorithms, [level(size, link)], sent).item()

    base = time(LINK)
    assert time(replace(LINK, bandwidth_bytes_per_s=B * factor)) <= base
    assert time(replace(LINK, reduces=True)) <= base
    assert time(replace(LINK, latency_s=A * factor)) >= base
    assert time(replace(LINK, oversubscription=factor)) >= base
    assert time(LINK, message * factor) >= base
    assert time(replace(LINK, topology="mesh")) >= base


@OPERATIONS
@settings(deadline=None)
@given(size=sizes, message=messages, reduces=st.booleans())
def test_no_algorithm_beats_the_bytes_that_must_move(
    operation: str, size: int, message: float, reduces: bool
) -> None:
    at = level(size, replace(LINK, reduces=reduces))
    floor = at.all_reduce_floor_s if operation == "all_reduce" else at.one_way_floor_s
    for algorithm in ALGORITHMS[operation]:
        if np.all(algorithm.valid([at])):
            assert algorithm.seconds([at], message).item() >= floor(message).item() * (1 - 1e-12)


@OPERATIONS
@settings(deadline=None)
@given(message=messages)
def test_one_device_waits_for_no_one(operation: str, message: float) -> None:
    assert fastest(ALGORITHMS[operation], [level(1)], message).item() == 0


def fabric(*links: Link) -> Device:
    return replace(load_device("mi300x"), name="toy", links=links)


OUT = Link("out", UNLIMITED, 50e9, 5e-6)
KINDS = ("all_reduce", "all_gather", "reduce_scatter")


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(size=sizes, message=messages)
def test_one_level_of_hierarchy_is_the_flat_collective(
    kind: str, size: int, message: float
) -> None:
    collectives = Collectives(fabric(LINK, OUT), "trtllm", NOTHING_MEASURED)
    flat = fastest(ALGORITHMS[kind], [level(size)], message).item()
    assert getattr(collectives, kind)(group(size), message).seconds.item() == pytest.approx(flat)


@pytest.mark.parametrize("kind", [*KINDS, "dispatch"])
@settings(deadline=None)
@given(size=st.integers(1, 8).map(lambda e: 2**e), message=messages, factor=st.floats(1.0, 8.0))
def test_more_levels_cost_what_their_links_do(
    kind: str, size: int, message: float, factor: float
) -> None:
    leaf, spine = replace(OUT, name="leaf", span=32), replace(OUT, name="spine")
    host = replace(LINK, span=8)

    def time(*links: Link) -> float:
        collectives = Collectives(fabric(*links), "trtllm", NOTHING_MEASURED)
        if kind == "dispatch":
            return collectives.dispatch(group(size), 1024.0, message / 1024, 8).seconds.item()
        return float(getattr(collectives, kind)(group(size), message).seconds.item())

    base = time(host, leaf, spine)
    scarce = time(host, leaf, replace(spine, oversubscription=factor))
    assert scarce >= base
    assert size > 32 or scarce == base
    assert time(host, replace(leaf, reduces=True), replace(spine, reduces=True)) <= base
    if kind != "dispatch":  # which may send less by way of a host than straight inside a rack
        assert time(replace(host, span=32), spine) <= base * (1 + 1e-9)


@pytest.mark.parametrize(("members", "share"), [(2, 1 / 7), (4, 3 / 7), (8, 1.0)])
def test_a_mesh_gives_a_group_its_own_links_only(members: int, share: float) -> None:
    xgmi = load_device("mi300x").fast_link
    assert xgmi.topology == "mesh"
    assert float(xgmi.group_bytes_per_s(members)) == pytest.approx(share * 448e9)
    assert xgmi.pair_bytes_per_s == pytest.approx(64e9)
    half = xgmi.within(4)
    assert float(half.group_bytes_per_s(4)) == pytest.approx(3 * 64e9)
    assert half.pair_bytes_per_s == pytest.approx(64e9)


@pytest.mark.parametrize("device", ["gb200_nvl72", "h100_sxm", "l40s"])
def test_beyond_the_measurements_time_continues(store: PerfStore, device: str) -> None:
    for engine in ("trtllm", "vllm"):
        collectives = Collectives(load_device(device), engine, store)
        low, high = collectives._measured_messages()
        for edge in (low, high):
            at = edge * np.array([[1 - 1e-7, 1.0, 1 + 1e-7]])
            seconds = collectives.all_reduce(group(2), at).seconds[0]
            assert seconds[0] == pytest.approx(seconds[1], rel=1e-4)
            assert seconds[2] == pytest.approx(seconds[1], rel=1e-4)


# Published figures, none of which a constant here was fitted to but the two in `algorithms`
# and `links`, the protocol's share and in-network reduction's.


def bus_bandwidth(device: Device, devices: int) -> float:
    """As nccl-tests report it, GB/s."""
    message = 2.0**33
    collectives = Collectives(device, "trtllm", NOTHING_MEASURED)
    seconds = collectives.all_reduce(group(devices), message).seconds.item()
    return float(2 * (devices - 1) / devices * message / seconds / 1e9)


@pytest.mark.parametrize(
    ("name", "devices", "in_network", "published"),
    [
        ("h100_sxm", 8, False, 370),  # NVIDIA/nccl-tests issue 212, NVIDIA/nccl issue 1455
        ("h100_sxm", 4, True, 370),  # NVIDIA/nccl issue 1455: no gain up to four
        ("h100_sxm", 8, True, 480),  # NVIDIA/nccl-tests issue 212
        ("h100_sxm", 16, False, 330),  # NVIDIA/nccl issue 1221, two hosts
        ("h100_sxm", 16, True, 430),
        ("h100_sxm", 32, True, 320),  # four hosts
        ("b300_sxm", 8, False, 695),  # NVIDIA/nccl issue 2140
        ("b300_sxm", 8, True, 845),
    ],
)
def test_published_all_reduce(name: str, devices: int, in_network: bool, published: float) -> None:
    device = load_device(name)
    inner = replace(device.fast_link, reduces=in_network)
    estimate = bus_bandwidth(replace(device, links=(inner, *device.links[1:])), devices)
    assert estimate == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize(
    ("devices", "published"),
    [(8, 153), (16, 43), (32, 58)],  # deepseek-ai/DeepEP, README: normal kernels, dispatch
)
def test_published_dispatch(devices: int, published: float) -> None:
    h100 = load_device("h100_sxm")
    nvlink = replace(h100.fast_link, bandwidth_bytes_per_s=200e9)  # H800: 400 GB/s both ways
    h800 = Collectives(replace(h100, links=(nvlink, *h100.links[1:])), "sglang", NOTHING_MEASURED)
    token_bytes, tokens, top_k = 7168.0, 4096.0, 8
    seconds = h800.dispatch(group(devices), token_bytes, tokens, top_k).seconds.item()
    # The bandwidth counts every copy for a device (inside a host) or a host, its own included.
    parts = devices if devices == 8 else devices // 8
    copies = parts * (1 - (1 - 1 / parts) ** top_k)
    assert copies * tokens * token_bytes / seconds / 1e9 == pytest.approx(published, rel=0.3)
