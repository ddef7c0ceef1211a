"""Operator models in common: one set for each device, engine and store, a few at a time."""

from __future__ import annotations

from dataclasses import replace

from perfmodel.database import PerfStore
from perfmodel.hardware import load_device
from perfmodel.operators import MOST_SHARED, Operators


def test_models_are_shared_by_those_who_ask_for_the_same() -> None:
    device, store = load_device("h100_sxm"), PerfStore()
    found = Operators.shared(device, "trtllm", store)
    assert Operators.shared(load_device("h100_sxm"), "trtllm", store) is found
    assert Operators.shared(device, "vllm", store) is not found
    assert Operators.shared(device, "trtllm", PerfStore()) is not found
    # Of the same name, but another device.
    smaller = replace(device, memory_bytes=device.memory_bytes / 2)
    assert Operators.shared(smaller, "trtllm", store) is not found


def test_the_latest_are_kept() -> None:
    device, store = load_device("h100_sxm"), PerfStore()
    first = Operators.shared(device, "trtllm", store)
    for i in range(2 * MOST_SHARED):
        Operators.shared(replace(device, host_devices=100 + i), "trtllm", store)
        assert Operators.shared(device, "trtllm", store) is first
    for i in range(MOST_SHARED):
        Operators.shared(replace(device, host_devices=100 + i), "trtllm", store)
    assert Operators.shared(device, "trtllm", store) is not first
    assert len(store.models) == MOST_SHARED
