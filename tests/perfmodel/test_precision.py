"""Number formats: storage, the rate they multiply at, and devices that lack one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import load_model
from perfmodel.breakdown import breakdown
from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from perfmodel.hardware import device_names, load_device
from perfmodel.layout import parse_layout
from perfmodel.memory import replica_memory
from perfmodel.operators import Operators
from perfmodel.precision import FORMATS, WEIGHT_ONLY, Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork

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


@settings(deadline=None)
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


def test_a_quantized_head_is_smaller_and_a_copy_of_its_own(
    step_model: Callable[..., StepModel],
) -> None:
    one = parse_layout("attn:TP1 ffn:TP1")

    def weights(name: str, head: str) -> float:
        step = step_model(name, "h100_sxm")
        sequences = np.ones((1, 1))
        memory = replica_memory(
            step.model,
            step.device,
            step.engine,
            Precision(lm_head=head),
            one,
            StepWork.of(),
            sequences,
            sequences[0],
        )
        return float(memory.weights[0, 0])

    apart = load_model("Qwen/Qwen3-8B")
    table = apart.vocab * apart.hidden
    assert not apart.tied_embeddings
    assert weights(apart.name, "bf16") - weights(apart.name, "fp8") == table
    tied = load_model("Qwen/Qwen3-0.6B")
    assert tied.tied_embeddings
    assert weights(tied.name, "fp8") - weights(tied.name, "bf16") == tied.vocab * tied.hidden


def test_a_quantized_head_is_read_faster(step_model: Callable[..., StepModel]) -> None:
    step = step_model("Qwen/Qwen3-8B", "h100_sxm")
    work = StepWork.of(decode_sequences=4, context_tokens=500)
    layout = parse_layout("attn:TP1 ffn:TP1")
    seconds = []
    for head in ("bf16", "fp8"):
        other = StepModel(
            step.model,
            step.device,
            step.engine,
            Precision(lm_head=head),
            Operators(step.device, "trtllm", PerfStore()),
        )
        calls = {o.name: o for o in breakdown(other, layout, work).operators}
        seconds.append(calls["lm_head"].seconds)
    assert 0.4 < seconds[1] / seconds[0] < 0.75
