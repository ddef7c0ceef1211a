"""The interconnect as levels of links: what each carries, and between how many devices.

A fabric is a list of links, innermost first: a host's NVLink, its network's leaf switches,
the spine above them. Traffic crosses the innermost level whose span holds both ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

UNLIMITED = 2**31

ACHIEVED = 0.8
"""Share of a link's line rate that large collectives reach where the link does not say.

NCCL moves 370 GB/s over H100's 450 (0.82; S. Jeaugey in NVIDIA/nccl-tests issue 212) and 695
over B300's 900 (0.77; NVIDIA/nccl issue 2140): the rest is protocol.
"""

TOPOLOGIES = ("switch", "mesh")
"""How a level's devices are joined: through switches, or each to each by a link of its own."""


@dataclass(frozen=True)
class Link:
    """One level of the interconnect.

    Attributes:
        span: how many devices reach each other at this level (`UNLIMITED` for the outermost).
        bandwidth_bytes_per_s: per device, one direction: the port's line rate.
        latency_s: time of a message without payload (the alpha of alpha-beta).
        topology: `switch`: every group has the whole bandwidth; `mesh`: a link to each of the
            other `span - 1` devices, so that a group has only those between its members.
        reduces: switches add up what passes through them (NVLink SHARP, InfiniBand SHARP).
        oversubscription: devices that share one port's bandwidth beyond the level inside,
            when all of them send: the uplink of a PCIe switch, a leaf's links to its spine.
        achieved: share of the bandwidth that large messages reach.
    """

    name: str
    span: int
    bandwidth_bytes_per_s: float
    latency_s: float
    topology: str = "switch"
    reduces: bool = False
    oversubscription: float = 1.0
    achieved: float = ACHIEVED

    def group_bytes_per_s(self, members: Any) -> FloatArray:
        """What each of a group's members can send to the others in all, bytes/s.

        Every group of the fabric is taken to communicate at once, as the replicas of a
        layout do: an oversubscribed level gives each device its share.

        Args:
            members: devices, or whole inner domains, that the level joins.
        """
        share = np.ones_like(np.asarray(members, dtype=float))
        if self.topology == "mesh":
            share = np.clip((np.asarray(members) - 1.0) / max(self.span - 1, 1), 0.0, 1.0)
            # One member sends nothing; its bandwidth only must not be zero.
            share = np.where(np.asarray(members) > 1, share, 1.0)
        bandwidth: FloatArray = share * self.bandwidth_bytes_per_s / self.oversubscription
        return bandwidth

    def within(self, devices: int) -> Link:
        """The level of a smaller host: its domain ends with it, and so do a mesh's links."""
        if devices >= self.span:
            return self
        whole = replace(self, oversubscription=1.0)
        bandwidth = self.bandwidth_bytes_per_s
        if devices > 1:
            bandwidth = float(whole.group_bytes_per_s(float(devices)))
        return replace(self, span=devices, bandwidth_bytes_per_s=bandwidth)

    @property
    def pair_bytes_per_s(self) -> float:
        """What one device can send to one other, bytes/s."""
        return float(self.group_bytes_per_s(2.0))
