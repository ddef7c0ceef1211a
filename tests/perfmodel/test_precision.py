"""Number formats: storage, the rate they multiply at, and devices that lack one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import InputError
from perfmodel.hardware import device_names, load_device
from perfmodel.precision import FORMATS, WEIGHT_ONLY, Precision

formats = st.sampled_from(sorted(FORMATS))


@pytest.mark.parametrize(
    ("name", "size"),
    [("bf16", 2.0), ("fp8", 1.0), ("int8", 1.0), ("nvfp4", 0.5 + 1 / 16), ("mxfp4", 0.5 + 1 / 32)],
)
def test_bytes_of_an_element_with_its_scales(name: str, size: float) -> None:
    assert FORMATS[name].bytes == pytest.approx(size)


def test_block_scales_cost_one_float_per_tile() -> None:
    assert FORMATS["fp8_block"].bytes * 128 * 128 == pytest.approx(128 * 128 + 4)


@pytest.mark.parametrize("module", ["attention", "ffn", "experts", "kv"])
def test_an_unknown_format_is_refused_by_module(module: str) -> None:
    with pytest.raises(InputError, match=rf"precision of {module}: unknown format 'fp7'.*bf16"):
        Precision(**{module: "fp7"})


@given(formats, formats, formats, st.sampled_from(["bf16", "fp8"]))
def test_a_device_that_cannot_multiply_a_format_still_stores_it(
    attention: str, ffn: str, experts: str, kv: str
) -> None:
    wanted = Precision(attention, ffn, experts, kv)
    for device in map(load_device, device_names()):
        adapted = wanted.on(device.peak_flops_per_s)
        for module, name in adapted.by_module().items():
            stored = FORMATS[wanted.by_module()[module]].bytes
            assert FORMATS[name].bytes == pytest.approx(stored, rel=1e-3)
            assert module == "kv" or FORMATS[name].peak in device.peak_flops_per_s
        assert adapted.on(device.peak_flops_per_s) == adapted


def test_weight_only_forms_multiply_in_bf16() -> None:
    assert {FORMATS[name].peak for name in WEIGHT_ONLY.values()} == {"bf16"}
    fp8 = Precision("fp8", "fp8", "fp8", "fp8")
    assert fp8.with_bf16_activations().attention == "fp8_weight_only"
    assert fp8.with_bf16_activations().kv == "fp8"


def test_mxfp4_meets_mxfp8_activations_where_tensor_cores_take_4_bits() -> None:
    stored = Precision(experts="mxfp4")
    assert stored.on(load_device("b200_sxm").peak_flops_per_s).experts == "mxfp4_mxfp8"
    assert stored.on(load_device("h100_sxm").peak_flops_per_s).experts == "mxfp4"
    bf16 = stored.with_bf16_activations()
    assert bf16.on(load_device("b200_sxm").peak_flops_per_s).experts == "mxfp4_weight_only"


def test_spelling() -> None:
    assert str(Precision("fp8", "fp8", "fp8", "bf16")) == "weights:fp8 kv:bf16"
    assert str(Precision(experts="mxfp4")) == "attention:bf16 ffn:bf16 experts:mxfp4 kv:bf16"
