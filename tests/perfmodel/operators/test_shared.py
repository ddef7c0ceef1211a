"""Operator models are made once for each device, engine and store."""

from __future__ import annotations

from dataclasses import replace

from perfmodel.database import PerfStore
from perfmodel.database.store import MOST_KEPT
from perfmodel.hardware import load_device
from perfmodel.operators import operators_of


def test_one_store_has_one_set_of_models() -> None:
    store, device = PerfStore(), load_device("h100_sxm")
    found = operators_of(device, "trtllm", store)
    assert operators_of(device, "trtllm", store) is found
    assert operators_of(replace(device, time_factor=1.5), "trtllm", store) is found
    assert found.gemm.device.time_factor == 1.0


def test_what_matters_to_an_operator_is_not_shared() -> None:
    store, device = PerfStore(), load_device("h100_sxm")
    found = operators_of(device, "trtllm", store)
    assert operators_of(device, "vllm", store) is not found
    assert operators_of(device, "trtllm", PerfStore()) is not found
    inner = device.fast_link.within(4)
    smaller = replace(device, links=(inner, *device.links[1:]))
    assert operators_of(smaller, "trtllm", store) is not found


def test_the_latest_are_kept() -> None:
    device, store = load_device("h100_sxm"), PerfStore()
    first = operators_of(device, "trtllm", store)
    for i in range(2 * MOST_KEPT):
        operators_of(replace(device, host_devices=100 + i), "trtllm", store)
        assert operators_of(device, "trtllm", store) is first
    for i in range(MOST_KEPT):
        operators_of(replace(device, host_devices=100 + i), "trtllm", store)
    assert operators_of(device, "trtllm", store) is not first
