"""Collectives: limits of alpha-beta, hierarchies of links, groups of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.database import PerfStore
from perfmodel.hardware import UNLIMITED, Link, load_device
from perfmodel.links import ACHIEVED
from perfmodel.operators import Group
from perfmodel.operators.algorithms import ALL_REDUCE, fastest
from perfmodel.operators.base import OperatorTime
from perfmodel.operators.collective import NETWORK_START_S, Collectives

FAST, SLOW = Link("fast", 8, 400e9, 1e-6), Link("slow", UNLIMITED, 50e9, 5e-6)
TOY = replace(load_device("mi300x"), name="toy", links=(FAST, SLOW))
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "dispatch")
EACH = pytest.mark.parametrize("kind", KINDS)
power = st.integers(0, 8).map(lambda e: 2**e)


def group(size: int, stride: int = 1) -> Group:
    return Group(np.array([[float(size)]]), np.array([[float(stride)]]))


def run(kind: str, device: Collectives, members: Group, message: float) -> OperatorTime:
    if kind == "dispatch":
        return device.dispatch(members, 1024.0, message / 1024.0, 8)
    time: OperatorTime = getattr(device, kind)(members, message)
    return time


@pytest.fixture(scope="module")
def toy(store: PerfStore) -> Collectives:
    return Collectives(TOY, "trtllm", store)


@EACH
@pytest.mark.parametrize("device", ["toy", "h100_sxm", "l40s", "gb200_nvl72"])
@pytest.mark.parametrize("stride", [1, 8, 64])
def test_a_group_of_one_costs_nothing(
    store: PerfStore, kind: str, device: str, stride: int
) -> None:
    which = TOY if device == "toy" else load_device(device)
    time = run(kind, Collectives(which, "trtllm", store), group(1, stride), 2.0**24)
    assert time.seconds.item() == 0
    assert time.floor_s.item() == 0


@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [
        (4, 1, [(4, 1), (1, 4)]),
        (8, 1, [(8, 1), (1, 8)]),
        (16, 1, [(8, 1), (2, 8)]),
        (4, 4, [(2, 1), (2, 2)]),
        (4, 8, [(1, 1), (4, 1)]),
        (1, 1, [(1, 1), (1, 1)]),
        (256, 2, [(4, 1), (64, 4)]),
    ],
)
def test_groups_fill_the_innermost_domain_first(
    size: int, stride: int, expected: list[tuple[int, int]]
) -> None:
    levels = [
        (int(level.members.item()), int(level.inner.item()))
        for level in group(size, stride).levels(TOY.links)
    ]
    assert levels == expected


@settings(deadline=None)
@given(power, power)
def test_levels_multiply_up_to_the_group(size: int, stride: int) -> None:
    members = [level.members.item() for level in group(size, stride).levels(TOY.links)]
    assert np.prod(members) == size


def test_a_domain_of_72_holds_a_group_of_64() -> None:
    links = load_device("gb200_nvl72").links
    assert group(64).levels(links)[0].members.item() == 64


def test_large_all_reduce_is_bound_by_bandwidth(toy: Collectives) -> None:
    message = 2.0**34
    expected = 2 * 7 / 8 * message / (400e9 * ACHIEVED)
    assert toy.all_reduce(group(8), message).seconds.item() == pytest.approx(expected, rel=1e-3)


def test_an_empty_all_reduce_is_bound_by_latency(toy: Collectives) -> None:
    assert toy.all_reduce(group(8), 0.0).seconds.item() == pytest.approx(FAST.latency_s)


@EACH
def test_a_group_across_hosts_pays_the_slow_links_share(toy: Collectives, kind: str) -> None:
    message = 2.0**30
    inside, across = (run(kind, toy, group(n), message).seconds.item() for n in (8, 16))
    if kind == "dispatch":
        # Of 8 experts over two hosts nearly every token needs the other one.
        share = message * (1 - 0.5**8) * 2 / 2
    else:
        share = message / 8 * (2 if kind == "all_reduce" else 1) / 2
    assert across >= inside * (0.5 if kind == "dispatch" else 1.0)
    assert across >= share / SLOW.bandwidth_bytes_per_s


def test_outer_levels_carry_each_inner_groups_share(toy: Collectives) -> None:
    small = 2.0**16  # too small for a ring through all devices to pay
    inside, across = (toy.all_reduce(group(n), small).seconds.item() for n in (8, 32))
    levels = group(32).levels(TOY.links)
    outer = fastest(ALL_REDUCE, [levels[1].alone()], small / 8).item() + NETWORK_START_S
    assert across - inside == pytest.approx(outer)
    for kind in ("all_gather", "reduce_scatter"):
        inside, across = (run(kind, toy, group(n), small).seconds.item() for n in (8, 32))
        # Each device takes in three quarters of its eighth of the tensor, in two steps.
        outer = small / 8 * 3 / 4 / SLOW.bandwidth_bytes_per_s / ACHIEVED
        assert across - inside == pytest.approx(outer + 2 * SLOW.latency_s + NETWORK_START_S)


def test_large_messages_are_pipelined_through_the_levels(toy: Collectives) -> None:
    message = 2.0**34
    # Round a ring of 32, over a port for each of the 8 devices of a host.
    expected = 2 * 31 / 32 * message / 8 / (SLOW.bandwidth_bytes_per_s * ACHIEVED)
    time = toy.all_reduce(group(32), message)
    assert time.seconds.item() == pytest.approx(expected, rel=1e-2)


@EACH
def test_hierarchy_beats_a_flat_network_and_loses_to_a_flat_fast_domain(
    store: PerfStore, kind: str
) -> None:
    slow = replace(TOY, links=(replace(SLOW, span=8), SLOW))
    fast = replace(TOY, links=(FAST, replace(FAST, span=UNLIMITED)))
    message = 2.0**28
    times = [
        run(kind, Collectives(d, "trtllm", store), group(32), message).seconds.item()
        for d in (fast, TOY, slow)
    ]
    assert times == sorted(times)
    assert times[0] < times[2]


@EACH
def test_spread_over_hosts_costs_no_less_than_inside_one(toy: Collectives, kind: str) -> None:
    for size in (2, 4, 8):
        message = 2.0**26
        packed, spread = (
            run(kind, toy, group(size, stride), message).seconds.item() for stride in (1, 8)
        )
        assert spread > packed


@EACH
@pytest.mark.parametrize(
    "better",
    [
        lambda link: replace(link, bandwidth_bytes_per_s=2 * link.bandwidth_bytes_per_s),
        lambda link: replace(link, latency_s=link.latency_s / 2),
    ],
    ids=["bandwidth", "latency"],
)
def test_better_links_are_never_slower(
    store: PerfStore, kind: str, better: Callable[[Link], Link]
) -> None:
    improved = replace(TOY, links=tuple(map(better, TOY.links)))
    plain, other = (Collectives(d, "trtllm", store) for d in (TOY, improved))

    @settings(deadline=None)
    @given(power, power, st.floats(1.0, 2.0**34))
    def check(size: int, stride: int, message: float) -> None:
        before, after = (
            run(kind, c, group(size, stride), message).seconds.item() for c in (plain, other)
        )
        assert after <= before

    check()


@EACH
@settings(deadline=None)
@given(power, power, st.floats(1.0, 2.0**32), st.floats(1.0, 100.0))
def test_more_bytes_are_never_faster_nor_below_the_floor(
    kind: str, size: int, stride: int, message: float, factor: float
) -> None:
    collectives = Collectives(TOY, "trtllm", PerfStore(shipped=False))
    few = run(kind, collectives, group(size, stride), message)
    many = run(kind, collectives, group(size, stride), message * factor)
    assert many.seconds.item() >= few.seconds.item() * (1 - 1e-9)
    assert few.seconds.item() >= few.floor_s.item() * (1 - 1e-9)


@settings(deadline=None)
@given(st.integers(1, 8).map(lambda e: 2**e), st.integers(1, 8), st.floats(1.0, 1e4))
def test_dispatch_sends_a_token_to_each_domain_at_most_once(
    size: int, top_k: int, tokens: float
) -> None:
    collectives = Collectives(TOY, "trtllm", PerfStore(shipped=False))
    time = collectives.dispatch(group(size, 8), 2048.0, tokens, top_k)
    payload = tokens * 2048.0 / SLOW.bandwidth_bytes_per_s
    # One host per member: the traffic is the copies that leave for another host.
    copies = time.floor_s.item() / payload
    assert copies <= min(top_k, size - 1) + 1e-9
    assert copies == pytest.approx((size - 1) * (1 - (1 - 1 / size) ** top_k), rel=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 8])
@pytest.mark.parametrize("hosts", [2, 4, 16])
def test_dispatch_over_packed_hosts_leaves_each_once_per_host(top_k: int, hosts: int) -> None:
    free = replace(TOY, links=(replace(FAST, bandwidth_bytes_per_s=1e30), SLOW))
    collectives = Collectives(free, "trtllm", PerfStore(shipped=False))
    floor = collectives.dispatch(group(8 * hosts), 2048.0, 1000.0, top_k).floor_s.item()
    copies = floor * SLOW.bandwidth_bytes_per_s / (2048.0 * 1000.0)
    assert copies == pytest.approx((hosts - 1) * (1 - (1 - 1 / hosts) ** top_k))


@pytest.mark.parametrize(
    ("stride", "link"), [(1, FAST), (4, FAST), (7, FAST), (8, SLOW), (64, SLOW)]
)
def test_a_send_takes_the_link_that_joins_the_two(
    toy: Collectives, stride: int, link: Link
) -> None:
    message = 2.0**28
    time = toy.send(np.array([[float(stride)]]), message)
    expected = link.latency_s + message / link.bandwidth_bytes_per_s / ACHIEVED
    assert time.seconds.item() == pytest.approx(expected)
    assert time.floor_s.item() == pytest.approx(message / link.bandwidth_bytes_per_s)


@pytest.mark.parametrize("device", ["h100_sxm", "b200_sxm", "l40s"])
@EACH
def test_measured_collectives_respect_their_links(store: PerfStore, kind: str, device: str) -> None:
    collectives = Collectives(load_device(device), "trtllm", store)
    for size in (2, 4, 8, 16):
        message = np.array([[2.0**e for e in range(8, 30)]])
        time = run(kind, collectives, group(size), message)
        assert np.all(time.seconds >= time.floor_s)
        assert np.all(time.seconds > 0)
