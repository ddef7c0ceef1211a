"""Which device of an expert group holds which experts, and copies of them."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def contiguous_placement(load: FloatArray, devices: int) -> FloatArray:
    """Neighbours together, equally many on each device.

    Args:
        load: by row and expert, (rows, experts).

    Returns:
        Loads by row, device and place, (rows, devices, places); places left over hold none.
    """
    places = -(-load.shape[1] // devices)
    padded = np.zeros((len(load), devices * places))
    padded[:, : load.shape[1]] = load
    return padded.reshape(len(load), devices, places)


def balanced_placement(load: FloatArray, devices: int, copies: int = 0) -> FloatArray:
    """The busiest first, each on the device with least to do that has a place left.

    Copies are made first, one by one of the expert whose copies then have most to do each; an
    expert's copies share its load. Every device has as many places.

    Args:
        load: by row and expert, (rows, experts).
        copies: further copies beside the experts themselves.

    Returns:
        Loads by row, device and place, (rows, devices, places).
    """
    places = -(-(load.shape[1] + copies) // devices)
    placed = np.zeros((len(load), devices, places))
    for row, loads in enumerate(load):
        filled = [0] * devices
        least = [(0.0, device) for device in range(devices)]
        for share in sorted(_copied(loads, copies), reverse=True):
            total, device = heapq.heappop(least)
            placed[row, device, filled[device]] = share
            filled[device] += 1
            if filled[device] < places:
                heapq.heappush(least, (total + share, device))
    return placed


def _copied(loads: FloatArray, copies: int) -> list[float]:
    """The load of every expert's every copy."""
    number = np.ones(len(loads), dtype=np.int64)
    busiest = [(-float(value), expert) for expert, value in enumerate(loads)]
    heapq.heapify(busiest)
    for _ in range(copies):
        _, expert = busiest[0]
        number[expert] += 1
        heapq.heapreplace(busiest, (-float(loads[expert]) / int(number[expert]), expert))
    each = loads / number
    return [float(value) for value in np.repeat(each, number)]
