"""The rooflines that measured times are divided by: those of the operator models themselves.

Interpolation errors are then those that an estimate will make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel.collect.measure import Key, Machine
from perfmodel.database import FAMILIES, PerfStore
from perfmodel.engine import PYTORCH
from perfmodel.hardware import UNLIMITED, Device, Link
from perfmodel.operators import Operators
from perfmodel.operators.base import OperatorModel, Roofline, largest


def provisional_device(name: str, machine: Machine) -> Device:
    """The machine as a device, with the peaks found before the tables were measured."""
    link = machine.link_bytes_per_s or machine.memory_bandwidth_bytes_per_s
    return Device(
        name=name,
        title=machine.title,
        memory_bytes=machine.memory_bytes,
        memory_bandwidth_bytes_per_s=machine.memory_bandwidth_bytes_per_s,
        peak_flops_per_s=dict(machine.peak_flops_per_s),
        tdp_w=machine.tdp_w or 1.0,
        host_devices=machine.devices,
        platform="weak-scale-out",
        links=(Link("host", UNLIMITED, link, 1e-5),),
    )


class Rooflines:
    """Roofline times of rows on one machine."""

    def __init__(self, device: Device) -> None:
        self._link = device.network.bandwidth_bytes_per_s
        operators = Operators(device, PYTORCH.name, PerfStore(shipped=False))
        self._models: dict[str, OperatorModel] = {
            "gemm": operators.gemm,
            "attention_context": operators.context,
            "attention_generation": operators.generation,
            "elementwise": operators.elementwise,
        }

    def floor_s(self, family: str, key: Key) -> float:
        """The binding resource's time of one row, seconds."""
        return float(largest(self.of(family, key)))

    def of(self, family: str, columns: Mapping[str, Any]) -> Roofline:
        """Least times by resource; columns are scalars, or arrays for texts that agree."""
        if family == "kv_transfer":
            # No operator model of its own yet: what the link would take.
            return Roofline(link_s=np.asarray(columns["message_bytes"], dtype=float) / self._link)
        kinds = {column.name: column.kind for column in FAMILIES[family].key}
        texts = {n: str(v) for n, v in columns.items() if kinds[n] == "text"}
        shape = {n: np.asarray(v, dtype=float) for n, v in columns.items() if kinds[n] != "text"}
        return self._models[family].roofline(texts, shape)
