"""Packing replicas into whole hosts, against brute force."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.fleet import hosts_needed, pool_hosts


@cache
def _packed(sizes: tuple[int, ...], hosts: tuple[int, ...], host: int) -> int:
    """Fewest hosts, trying every place for the largest replica left."""
    if not sizes:
        return len(hosts)
    size, rest = sizes[0], sizes[1:]
    options = [_packed(rest, tuple(sorted((*hosts, host - size))), host)]
    for i, room in enumerate(hosts):
        if room >= size and room not in hosts[:i]:
            left = tuple(sorted((*hosts[:i], *hosts[i + 1 :], room - size)))
            options.append(_packed(rest, left, host))
    return min(options)


def brute_force(replicas: dict[int, int], host: int) -> int:
    small = [w for w, n in replicas.items() if w <= host for _ in range(n)]
    whole = sum(w // host * n for w, n in replicas.items() if w > host)
    return whole + _packed(tuple(sorted(small, reverse=True)), (), host)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from([1, 2, 4, 8]), st.integers(0, 3), max_size=3),
    st.integers(8, 12),
)
def test_powers_of_two_on_any_host(replicas: dict[int, int], host: int) -> None:
    assert hosts_needed(replicas, host) == brute_force(replicas, host)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.integers(1, 15), st.integers(0, 3), max_size=3), st.integers(15, 30))
def test_any_sizes_on_any_host(replicas: dict[int, int], host: int) -> None:
    assert hosts_needed(replicas, host) == brute_force(replicas, host)


@pytest.mark.parametrize(
    ("replicas", "host", "hosts"),
    [
        ({}, 8, 0),
        ({8: 0}, 8, 0),
        ({8: 3}, 8, 3),
        ({2: 4}, 8, 1),
        ({2: 5}, 8, 2),
        ({4: 1, 2: 1, 1: 2}, 8, 1),
        ({16: 2}, 8, 4),
        ({16: 1, 4: 1}, 8, 3),
        ({256: 1, 8: 1}, 8, 33),
        ({8: 9}, 72, 1),
        ({16: 4}, 72, 1),
        ({16: 5}, 72, 2),
        ({64: 1, 8: 1}, 72, 1),
        ({64: 1, 16: 1}, 72, 2),
        ({16: 4, 8: 1}, 72, 1),
        ({1: 1}, 72, 1),
        ({4: 1}, 4, 1),
        ({15: 1, 10: 2, 6: 4, 30: 1}, 30, 4),
    ],
)
def test_known_packings(replicas: dict[int, int], host: int, hosts: int) -> None:
    assert hosts_needed(replicas, host) == hosts


def test_a_replica_that_leaves_a_host_half_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="12 does not fill whole hosts of 8"):
        hosts_needed({12: 1}, 8)


@given(st.sampled_from([1, 2, 4, 8, 16, 64]), st.integers(0, 300), st.sampled_from([8, 72]))
def test_one_size_over_arrays(world: int, count: int, host: int) -> None:
    if world > host and world % host:
        return
    assert int(pool_hosts(world, count, host)) == hosts_needed({world: count}, host)
