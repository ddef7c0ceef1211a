"""Vision encoders: weights against published ones, tokens of images, time and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import VisionEncoder, catalog, from_config, load_model
from perfmodel.errors import ConfigError, InputError
from perfmodel.layout import parse_layout
from perfmodel.memory import replica_memory
from perfmodel.modules import EMBEDDING, VISION
from perfmodel.modules.base import ModuleKit
from perfmodel.modules.vision import encode
from perfmodel.operators.attention import causal_area
from perfmodel.phases import mixed_work, prefill
from perfmodel.step import StepModel
from perfmodel.traffic import Lengths, Traffic, VisionLoad
from perfmodel.work import StepWork

Steps = Callable[..., StepModel]

VISUAL = ["llama-4-scout", "qwen2.5-vl-7b", "qwen3-vl-8b", "Qwen/Qwen3.5-27B", "kimi-k2.5"]


def encoder(name: str) -> VisionEncoder:
    vision = load_model(name).vision
    assert vision is not None
    return vision


@pytest.mark.parametrize(
    ("name", "total"),
    [
        # Totals of the checkpoints' tensors, language model included.
        ("qwen2.5-vl-7b", 8_292_166_656),
        ("qwen3-vl-8b", 8_767_123_696),
        ("llama-4-scout", 108_641_793_536),
    ],
)
def test_weights_are_exact(name: str, total: int) -> None:
    model = load_model(name)
    assert model.parameters() + encoder(name).parameters() == total


def test_llama_4_encoders_are_alike() -> None:
    # Both published totals exceed their language models by one encoder.
    both = [entry for entry in catalog().values() if "Llama-4" in entry.name]
    extra = {e.published_parameters - load_model(e.name).parameters() for e in both}
    assert extra == {encoder("llama-4-maverick").parameters()} == {871_932_416}


@pytest.mark.parametrize(
    ("name", "size", "sequences", "patches", "tokens"),
    [
        # Qwen: sides to the nearest 28 (32) pixels, and a token before and after.
        ("qwen2.5-vl-7b", (1024, 1024), 1, 74 * 74, 37 * 37 + 2),
        ("qwen2.5-vl-7b", (28, 28), 1, 4 * 4, 2 * 2 + 2),  # enlarged to 56 x 56
        ("qwen3-vl-8b", (1920, 1080), 1, 120 * 68, 60 * 34 + 2),
        ("qwen3-vl-8b", (8192, 8192), 1, 256 * 256, 128 * 128 + 2),  # shrunk to 4,096 x 4,096
        ("Qwen/Qwen3.5-27B", (640, 480), 1, 40 * 30, 20 * 15 + 2),
        # Kimi: padded up to 28 pixels, at most 16,384 patches.
        ("kimi-k2.5", (1000, 500), 1, 72 * 36, 36 * 18 + 4),
        ("kimi-k2.5", (3584, 3584), 1, 128 * 128, 64 * 64 + 4),
        # Llama 4: tiles of 336 pixels, and one of the whole.
        ("llama-4-scout", (336, 336), 1, 577, 144 + 3),
        ("llama-4-scout", (672, 336), 3, 577, 3 * 144 + 2 + 3),
        ("llama-4-scout", (1024, 768), 13, 577, 13 * 144 + 12 + 3),
        ("llama-4-scout", (5000, 5000), 17, 577, 17 * 144 + 16 + 3),
    ],
)
def test_tokens_of_an_image(
    name: str, size: tuple[int, int], sequences: int, patches: int, tokens: int
) -> None:
    load = encoder(name).images.of_size(*size)
    assert (load.sequences, load.patches, load.tokens) == (sequences, patches, tokens)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(VISUAL), width=st.integers(64, 6000), ratio=st.floats(0.2, 5))
def test_any_image_has_tokens_for_its_patches(name: str, width: int, ratio: float) -> None:
    vision = encoder(name)
    load = vision.images.of_size(width, max(round(width * ratio), 1))
    merged = load.sequences * load.patches / vision.patches_per_token
    # Beside delimiters and separators: at most one per tile, and four.
    assert merged - load.sequences <= load.tokens <= merged + load.sequences + 4
    again = vision.images.of_tokens(load.tokens)
    assert again.tokens == load.tokens
    if "llama" not in name:
        assert again == load


def test_extreme_images_are_refused() -> None:
    with pytest.raises(InputError, match="within a factor of 200"):
        encoder("qwen3-vl-8b").images.of_size(10_000, 10)


def test_text_models_and_unknown_encoders_have_none() -> None:
    assert load_model("llama-3.1-8b").vision is None
    config: dict[str, Any] = json.loads(catalog()["Qwen/Qwen3-VL-8B-Instruct"].path.read_text())
    stranger = from_config({**config, "model_type": "unheard_of"})
    assert stranger.vision is None
    assert "vision encoder is not counted" in stranger.notes[0]
    del config["vision_config"]["depth"]
    with pytest.raises(ConfigError, match=r"vision_config\.depth: this field is required"):
        from_config(config)


def images(sequences: object, patches: object) -> StepWork:
    return StepWork.of(
        prefill_sequences=1, prefill_tokens=2000, vision_sequences=sequences, vision_patches=patches
    )


def encoder_s(step: StepModel, layout: str, work: StepWork) -> np.ndarray[Any, Any]:
    calls = [c for c in step.measured_calls(parse_layout(layout), work) if VISION in c.name]
    assert all(call.part == EMBEDDING for call in calls)
    return np.asarray(sum(call.time.seconds[call.index[0]] for call in calls))


LAYOUT = "attn:TP{0} ffn:TP{0} PP1"


def test_attention_goes_both_ways() -> None:
    n = np.array([1.0, 577.0, 4096.0])
    assert causal_area(n, (n - 1) / 2) == pytest.approx(n * n)


def test_time_is_not_below_the_products(step_model: Steps) -> None:
    step = step_model("Qwen/Qwen3-VL-8B-Instruct", "h100_sxm")
    vision = encoder("qwen3-vl-8b")
    patches = np.array([1024.0, 4096.0, 16384.0])
    seconds = encoder_s(step, LAYOUT.format(1), images(1, patches))
    pairs = 4.0 * vision.layers * vision.hidden * patches**2
    least = 2.0 * vision.layers * vision.layer_parameters * patches + pairs
    floor = least / step.device.peak_flops_per_s["bf16"]
    assert (seconds > floor).all()
    assert (seconds[1:] < 12 * floor[1:]).all()


def test_time_grows_with_images_and_shrinks_with_devices(step_model: Steps) -> None:
    step = step_model("llama-4-scout", "mi300x")
    alone = encoder_s(step, LAYOUT.format(1), images([1, 2, 8, 64], 577))
    assert (np.diff(alone) > 0).all()
    split = encoder_s(step, LAYOUT.format(8), images([1, 2, 8, 64], 577))
    assert split[-1] < alone[-1]
    dealt = encoder_s(step, "attn:TP1CP4 ffn:TP4 PP1", images([4, 64], 577))
    assert dealt == pytest.approx(encoder_s(step, LAYOUT.format(1), images([1, 16], 577)))


def test_part_of_a_prompt_has_that_part_of_the_time(step_model: Steps) -> None:
    step = step_model("Qwen/Qwen3-VL-8B-Instruct", "h100_sxm")
    seconds = encoder_s(step, LAYOUT.format(1), images([0.0, 0.25, 1.0], 4096))
    assert seconds[0] == 0.0
    assert seconds[1] == pytest.approx(0.25 * seconds[2])


def test_windows_spare_attention(step_model: Steps) -> None:
    from dataclasses import replace

    step = step_model("Qwen/Qwen2.5-VL-7B-Instruct", "mi300x")
    vision = encoder("qwen2.5-vl-7b")
    assert (vision.windowed_layers, vision.window_patches) == (28, 64)
    layout, work = parse_layout(LAYOUT.format(1)), images(1, 16384)

    def attention_s(encoder: VisionEncoder) -> float:
        kit: ModuleKit = step._kit
        kit = replace(kit, model=replace(kit.model, vision=encoder))
        calls = [c for c in encode(kit, layout, work) if "attention" in c.name]
        return float(sum(call.time.seconds[0, 0] for call in calls))

    assert attention_s(vision) < attention_s(replace(vision, windowed_layers=0)) / 2


def test_breakdown_has_the_encoder_in_the_first_stage(step_model: Steps) -> None:
    step = step_model("Qwen/Qwen3-VL-8B-Instruct", "h100_sxm")
    work, bare = images(1, 4096), images(0, 0)
    for layout in (LAYOUT.format(1), "attn:TP1 ffn:TP1 PP2"):
        at = parse_layout(layout)
        added = step.time(at, work).latency_s - step.time(at, bare).latency_s
        assert added[0] == pytest.approx(
            sum(
                call.time.seconds[call.index[0]]
                for call in step.calls(at, work)
                if call.name.startswith(VISION)
            )
        )


def test_weights_lie_where_images_are_encoded(step_model: Steps) -> None:
    step = step_model("Qwen/Qwen3-VL-8B-Instruct", "h100_sxm")
    vision = encoder("qwen3-vl-8b")

    def weights(layout: str, work: StepWork) -> float:
        at, one = parse_layout(layout), np.ones((1, 1))
        memory = replica_memory(
            step.model, step.device, step.engine, step.precision, at, work, one, one * 2000
        )
        return float(memory.weights[0, 0])

    whole = weights(LAYOUT.format(1), images(1, 4096)) - weights(LAYOUT.format(1), images(0, 0))
    assert whole == 2.0 * vision.parameters()
    split = weights(LAYOUT.format(4), images(1, 4096)) - weights(LAYOUT.format(4), images(0, 0))
    assert 2.0 * vision.parameters() / 4 < split < 2.0 * vision.parameters()


def test_traffic_carries_images() -> None:
    text = Lengths.from_histogram([100, 300], [1, 1])
    traffic = Traffic(text.longer_by(1000), Lengths.fixed(10), vision=VisionLoad(2.0, 4096.0))
    assert traffic.inputs.tokens == (1100, 1300)
    # A chunk of half a mean prompt has half of its images.
    work = mixed_work(traffic, 1.0, np.array([600.0, 2400.0]))
    assert work.vision_sequences == pytest.approx([1.0, 4.0])
    assert not mixed_work(Traffic(text, text), 1.0, 600.0).vision_sequences.any()


def test_prefill_pays_for_images(step_model: Steps) -> None:
    step = step_model("Qwen/Qwen3-VL-8B-Instruct", "h100_sxm")
    inputs, outputs, batch = Lengths.fixed(2000), Lengths.fixed(10), np.array([1, 4])
    layout = parse_layout(LAYOUT.format(1))
    bare = prefill(step, layout, Traffic(inputs, outputs), batch)
    with_images = Traffic(inputs, outputs, vision=VisionLoad(1.0, 4096.0))
    paid = prefill(step, layout, with_images, batch)
    added = (paid.latency_s - bare.latency_s)[0, :, 0]
    factor = step.engine.correction.token_factor(images(1, 4096))
    expected = encoder_s(step, LAYOUT.format(1), images(batch, 4096)) * factor
    assert added == pytest.approx(expected, rel=1e-6)
    assert (paid.memory.total > bare.memory.total).all()
