"""Operator models: the time of each kernel and collective on one device.

| name | what |
|---|---|
| `Operators` | all operator models of one device under one engine |
| `operators_of` | the same, shared by all that ask of one store of tables |
| `OperatorModel`, `OperatorTime` | the interface, and what it returns |
| `Kind`, `Bound` | how a time is known, and what it is spent on |
| `Group` | the devices of a collective |
| `Tokens` | what travels to experts on other devices, and back |
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perfmodel.operators.all_to_all import TokenExchange, Tokens
from perfmodel.operators.attention import ContextAttention, GenerationAttention
from perfmodel.operators.base import Bound, Kind, OperatorModel, OperatorTime
from perfmodel.operators.collective import Collectives, Group
from perfmodel.operators.dispatched import DispatchedExperts, SpreadExperts
from perfmodel.operators.elementwise import Elementwise
from perfmodel.operators.gemm import Gemm
from perfmodel.operators.mla import MlaAbsorb, MlaContext, MlaGeneration
from perfmodel.operators.mla_block import (
    MlaContextModule,
    MlaGenerationModule,
    WideMlaContext,
    WideMlaGeneration,
)
from perfmodel.operators.moe import RoutedExperts
from perfmodel.operators.recurrent import (
    DeltaNetConvolution,
    DeltaNetScan,
    MambaConvolution,
    MambaScan,
)
from perfmodel.operators.sparse_attention import SparseContextModule, SparseGenerationModule

if TYPE_CHECKING:
    from perfmodel.database import PerfStore
    from perfmodel.hardware import Device

__all__ = [
    "Bound",
    "Group",
    "Kind",
    "OperatorModel",
    "OperatorTime",
    "Operators",
    "Tokens",
    "operators_of",
]


def operators_of(device: Device, engine: str, store: PerfStore) -> Operators:
    """The operator models of a device under an engine, shared by all that ask of one store.

    Tables are gridded once, which takes longer than most sweeps. How far the device's times are
    off does not matter to its operators.
    """
    as_estimated = replace(device, time_factor=1.0)
    key = ("operators", engine, repr(as_estimated))
    return store.kept(key, lambda: Operators(as_estimated, engine, store))


class Operators:
    """All operator models of one device under one engine; tables load on first use."""

    def __init__(self, device: Device, engine: str, store: PerfStore) -> None:
        self.gemm = Gemm(device, engine, store)
        self.context = ContextAttention(device, engine, store)
        self.generation = GenerationAttention(device, engine, store)
        self.mla_context = MlaContext(device, engine, store)
        self.mla_generation = MlaGeneration(device, engine, store)
        self.mla_absorb = MlaAbsorb(device, engine, store)
        self.mla_context_block = MlaContextModule(device, engine, store)
        self.mla_generation_block = MlaGenerationModule(device, engine, store)
        self.wide_mla_context = WideMlaContext(device, engine, store)
        self.wide_mla_generation = WideMlaGeneration(device, engine, store)
        self.sparse_context = SparseContextModule(device, engine, store)
        self.sparse_generation = SparseGenerationModule(device, engine, store)
        self.delta_convolution = DeltaNetConvolution(device, engine, store)
        self.delta_scan = DeltaNetScan(device, engine, store)
        self.mamba_convolution = MambaConvolution(device, engine, store)
        self.mamba_scan = MambaScan(device, engine, store)
        self.experts = RoutedExperts(device, engine, store)
        self.dispatched_experts = DispatchedExperts(device, engine, store)
        self.spread_experts = SpreadExperts(device, engine, store)
        self.elementwise = Elementwise(device, engine, store)
        self.collectives = Collectives(device, engine, store)
        self.exchange = TokenExchange(device, engine, store, self.collectives)
        self.all_to_all = self.exchange.model
