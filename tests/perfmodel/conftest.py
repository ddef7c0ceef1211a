"""Step models for the tests: measured devices, and one whose limits are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import pytest

from perfmodel.architecture import load_model
from perfmodel.correction import NEUTRAL
from perfmodel.database import PerfStore
from perfmodel.engine import EngineProfile, engine_profile
from perfmodel.hardware import Device, load_device
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.step import StepModel

STORE = PerfStore()

IDEAL = replace(
    load_device("mi300x"),
    name="ideal",
    links=tuple(
        replace(link, bandwidth_bytes_per_s=1e18, latency_s=1e-15)
        for link in load_device("mi300x").links
    ),
)
"""A device on which communication costs nothing, for what parallelism does to the rest."""

NO_OVERHEAD = EngineProfile("trtllm", "no fixed costs", NEUTRAL, 0.0, 0.0, 0.0)


@lru_cache
def _step(model: str, device: str | Device, engine: str | EngineProfile, fmt: str) -> StepModel:
    if isinstance(device, str):
        device = IDEAL if device == "ideal" else load_device(device)
    profile = engine if isinstance(engine, EngineProfile) else engine_profile(engine)
    precision = Precision(fmt, fmt, fmt, "bf16").on(device.peak_flops_per_s)
    operators = Operators(device, profile.name, STORE)
    return StepModel(load_model(model), device, profile, precision, operators)


@pytest.fixture(scope="session")
def store() -> PerfStore:
    """Measured tables, read once."""
    return STORE


@pytest.fixture(scope="session")
def step_model() -> Callable[..., StepModel]:
    """`step_model(model, device, engine="trtllm", fmt="bf16")`."""

    def build(
        model: str, device: str = "mi300x", engine: str = "trtllm", fmt: str = "bf16"
    ) -> StepModel:
        return _step(model, device, engine, fmt)

    return build


@pytest.fixture(scope="session")
def ideal_step() -> Callable[[str], StepModel]:
    """A model on the device of free communication, under an engine without fixed costs."""
    return lambda model: _step(model, "ideal", NO_OVERHEAD, "bf16")
