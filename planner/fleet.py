"""Whole hosts: packing replicas into the units that are bought, by CP-SAT."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ortools.sat.python import cp_model


def hosts_needed(replicas: Mapping[int, int], host_devices: int) -> int:
    """Fewest hosts that hold the replicas.

    Args:
        replicas: world size -> how many replicas of it.
        host_devices: devices of one host. Replicas of at most that size lie inside one host,
            larger ones on whole hosts of their own.

    Raises:
        ValueError: a replica larger than a host does not fill whole hosts.
    """
    small: dict[int, int] = {}
    whole = 0
    for world, count in replicas.items():
        if world <= host_devices:
            small[world] = small.get(world, 0) + count
        elif world % host_devices:
            raise ValueError(f"a replica of {world} does not fill whole hosts of {host_devices}")
        else:
            whole += world // host_devices * count
    return whole + _pack(tuple(sorted(small.items())), host_devices)


def pool_hosts(world: ArrayLike, replicas: ArrayLike, host_devices: int) -> NDArray[np.int64]:
    """Hosts that equal replicas alone need: `hosts_needed` of one size, over arrays."""
    world, replicas = np.asarray(world), np.asarray(replicas)
    per_host = np.maximum(host_devices // world, 1)
    small = -(-replicas // per_host)
    large = replicas * -(-world // host_devices)
    return np.asarray(np.where(world <= host_devices, small, large))


@lru_cache(maxsize=65536)
def _pack(items: tuple[tuple[int, int], ...], host_devices: int) -> int:
    """Fewest hosts for replicas of at most a host: how many hosts take which pattern."""
    items = tuple((world, count) for world, count in items if count)
    if not items:
        return 0
    total = sum(world * count for world, count in items)
    bound = -(-total // host_devices)
    # Sizes that divide one another and the host leave no gaps.
    if all(b % a == 0 for a, b in pairwise([*(world for world, _ in items), host_devices])):
        return bound
    if len(items) == 1:
        world, count = items[0]
        return -(-count // (host_devices // world))
    ranges = [range(min(host_devices // world, count) + 1) for world, count in items]
    patterns = [
        pattern
        for pattern in product(*ranges)
        if 0 < sum(n * world for n, (world, _) in zip(pattern, items, strict=True)) <= host_devices
    ]
    model = cp_model.CpModel()
    upper = sum(count for _, count in items)
    used = [model.new_int_var(0, upper, f"pattern{i}") for i in range(len(patterns))]
    for i, (_, count) in enumerate(items):
        model.add(sum(pattern[i] * u for pattern, u in zip(patterns, used, strict=True)) >= count)
    model.add(sum(used) >= bound)
    model.minimize(sum(used))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    assert status == cp_model.OPTIMAL, "packing always has a solution: one replica per host"
    return round(solver.objective_value)
