"""Where cached prompt prefixes lie, and what it takes to have them at hand.

| tier | prefixes are | cost |
|---|---|---|
| `device` | in device memory, shared by the sequences that begin with them | memory |
| `host` | in the host's memory, loaded over the host link for each prompt | time on that link |
| `none` | nowhere: computed for each prompt | computation |

Every device loads its own part of a prefix, over its own link, all at once. Layers are loaded
in the order in which they are computed, each while those before it are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import ModelArchitecture
from perfmodel.hardware import Device
from perfmodel.kv_transfer import stage_share, unhidden_s
from perfmodel.layout import Layouts
from perfmodel.memory import cache_bytes_on_device
from perfmodel.precision import Precision

FloatArray = NDArray[np.float64]

HOST_LINK_EFFICIENCY = 0.85
"""Share of a host link's bandwidth that copies of whole layers reach. Assumed: copies from
pinned memory run at about 55 of the 64 GB/s of a PCIe 5 x16 link."""

HOST_MEMORY_SHARE = 0.8
"""Share of the host's memory that a prefix cache may take. Assumed: the rest is left to the
system, the engine's processes and the loading of checkpoints."""


def load_s(
    model: ModelArchitecture,
    device: Device,
    precision: Precision,
    layouts: Layouts,
    tokens: FloatArray,
) -> FloatArray:
    """Time to load cached prefixes of `tokens` (J,) over the host link, (L, J), seconds.

    Raises:
        ValueError: the device has no host link.
    """
    return cache_bytes_on_device(model, precision, layouts, tokens) / host_rate(device)


def late_s(
    layers: int, layouts: Layouts, loading_s: FloatArray, computing_s: FloatArray
) -> FloatArray:
    """By how much loading delays a computation that begins with it, seconds.

    Each layer waits for its own part of the prefix: the first always, the others where the
    link is slower than the computation (see `kv_transfer.unhidden_s`, the same line of two
    machines). Later pipeline stages have loaded theirs before their turn comes.

    Args:
        loading_s: of `load_s` for what a step needs, (L, ...).
        computing_s: the step's computation through all stages, broadcastable to it.
    """
    pp = layouts.pp.astype(float).reshape(-1, *(1,) * (loading_s.ndim - 1))
    return unhidden_s(loading_s / stage_share(layers, pp), computing_s, pp, layers)


def fits_host(
    model: ModelArchitecture,
    device: Device,
    precision: Precision,
    layouts: Layouts,
    tokens: float,
) -> NDArray[np.bool_]:
    """Where the host's memory holds so many prefix tokens for each attention rank, (L,)."""
    held = cache_bytes_on_device(model, precision, layouts, np.array([tokens]))[:, 0]
    return np.asarray(held <= HOST_MEMORY_SHARE * (device.host_memory_bytes or 0.0))


def host_rate(device: Device) -> float:
    """What a device's host link carries, bytes/s, one direction.

    Raises:
        ValueError: the device's file does not say.
    """
    if device.host_bandwidth_bytes_per_s is None:
        raise ValueError(f"{device.name} has no host link")
    return device.host_bandwidth_bytes_per_s * HOST_LINK_EFFICIENCY
