"""Rooflines of the rows that are measured, and what their times are divided by.

Both are those of the operator models themselves, so that interpolation errors are those that
an estimate will make.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perfmodel.collect.measure import Key, Machine
from perfmodel.database import FAMILIES, PerfStore
from perfmodel.engine import PYTORCH
from perfmodel.hardware import UNLIMITED, Device, Link
from perfmodel.operators import Operators
from perfmodel.operators.base import OperatorModel, Roofline, largest
from perfmodel.operators.collective import NcclCollective

LINK_LATENCY_S = 1e-5
"""Assumed of every link: only their bandwidths are measured."""


def provisional_device(name: str, machine: Machine) -> Device:
    """The machine as a device, with the peaks found before the tables were measured."""
    host = machine.link_bytes_per_s or machine.memory_bandwidth_bytes_per_s
    links = [Link("host", UNLIMITED, host, LINK_LATENCY_S)]
    if machine.peer_bytes_per_s:
        links.insert(0, Link("peer", machine.peers, machine.peer_bytes_per_s, LINK_LATENCY_S))
    return Device(
        name=name,
        title=machine.title,
        memory_bytes=machine.memory_bytes,
        memory_bandwidth_bytes_per_s=machine.memory_bandwidth_bytes_per_s,
        peak_flops_per_s=dict(machine.peak_flops_per_s),
        tdp_w=machine.tdp_w or 1.0,
        host_devices=machine.devices,
        platform="weak-scale-out",
        links=tuple(links),
    )


class Rooflines:
    """Roofline times of rows on one machine."""

    def __init__(self, device: Device) -> None:
        self._link = device.network.bandwidth_bytes_per_s
        self.peer_bytes_per_s = device.fast_link.bandwidth_bytes_per_s
        store = PerfStore(shipped=False)
        operators = Operators(device, PYTORCH.name, store)
        self._models: dict[str, OperatorModel] = {
            "gemm": operators.gemm,
            "attention_context": operators.context,
            "attention_generation": operators.generation,
            "elementwise": operators.elementwise,
            "mla_context": operators.mla_context,
            "mla_generation": operators.mla_generation,
            "mla_bmm": operators.mla_absorb,
            "moe": operators.experts,
            "collective": NcclCollective(device, PYTORCH.name, store),
        }

    def floor_s(self, family: str, key: Key) -> float:
        """The binding resource's time of one row, seconds."""
        return float(largest(self.of(family, key)))

    def work_s(self, family: str, key: Key) -> float:
        """Time in proportion to which one row's is carried to other shapes, seconds."""
        if family not in self._models:
            return self.floor_s(family, key)
        return float(self._models[family].work(*_parts(family, key)))

    def exact(self, family: str) -> bool:
        """Whether no row can be faster than its roofline, so that it tells of the peaks."""
        return family in self._models and self._models[family].floor_is_exact

    def of(self, family: str, key: Key) -> Roofline:
        """Least times of one row by resource."""
        if family == "kv_transfer":
            # No operator model of its own yet: what the link would take.
            return Roofline(link_s=np.asarray(float(key["message_bytes"])) / self._link)
        return self._models[family].roofline(*_parts(family, key))


def _parts(family: str, key: Key) -> tuple[dict[str, str], dict[str, Any]]:
    """A row's categories and its shape."""
    kinds = {column.name: column.kind for column in FAMILIES[family].key}
    texts = {name: str(value) for name, value in key.items() if kinds[name] == "text"}
    shape = {name: np.asarray(float(v)) for name, v in key.items() if kinds[name] != "text"}
    return texts, shape
