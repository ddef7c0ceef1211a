"""The vision encoder: images become token embeddings before the first decoder layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perfmodel.architecture import VisionEncoder
from perfmodel.layout import Layouts
from perfmodel.modules.base import EMBEDDING, Call, FloatArray, ModuleKit, Shapes
from perfmodel.operators import Group, OperatorTime
from perfmodel.precision import ACTIVATION_BYTES
from perfmodel.work import StepWork

VISION = "vision_"
"""What the names of the encoder's operators begin with."""


def encode(kit: ModuleKit, layouts: Layouts, work: StepWork) -> Iterator[Call]:
    """Every operator of the encoder, each at its time over all layers; in bf16.

    The first pipeline stage encodes the images of the prompts it takes. Layers are split over
    tensor parallelism as far as heads divide, images are dealt out over context parallelism;
    patch embedding and projector run whole on every device. Where a step holds a part of a
    prompt, it has that part of the time of its images.
    """
    encoder = kit.model.vision
    assert encoder is not None
    shapes = Shapes(layouts, "tp_a", "cp_a")
    shards = encoder.shards(shapes["tp_a"])
    sequences, patches = work.vision_sequences, np.maximum(work.vision_patches, 1.0)
    together = np.maximum(sequences / shapes["cp_a"], 1.0)
    part = np.minimum(sequences, 1.0)
    rows, hidden = together * patches, encoder.hidden

    def call(name: str, time: OperatorTime, repeats: float, module: str = "vision") -> Call:
        whole = np.broadcast_shapes(time.seconds.shape, (1, len(work)))
        scale = repeats * part
        spent = OperatorTime(
            np.broadcast_to(time.seconds, whole) * scale,
            np.broadcast_to(time.kind, whole),
            np.broadcast_to(time.bound, whole),
            np.broadcast_to(time.floor_s, whole) * scale,
        )
        return Call(VISION + name, module, EMBEDDING, 0, spent, shapes.index)

    def product(m: FloatArray, n: object, k: object) -> OperatorTime:
        one = np.ones_like(shards)
        shape = {"m": m, "n": np.asarray(n) * one, "k": np.asarray(k) * one}
        return kit.ops.gemm.time({"dtype": "bf16"}, shape)

    layers, width = encoder.layers, encoder.intermediate / shards
    embedded = product(rows, hidden, encoder.patch_elements)
    yield call("patch_embedding", embedded, 1)
    norm = kit.memory_pass(rows * hidden * 4 * ACTIVATION_BYTES)
    yield call("norms", norm, 2 * layers)
    yield call("qkv_proj", product(rows, 3.0 * hidden / shards, hidden), layers)
    full = layers - encoder.windowed_layers
    if full:
        attended = _attention(kit, encoder, shards, together, patches)
        yield call("attention", attended, full)
    if encoder.windowed_layers:
        seen = np.minimum(patches, encoder.window_patches)
        attended = _attention(kit, encoder, shards, rows / seen, seen)
        yield call("window_attention", attended, encoder.windowed_layers)
    yield call("output_proj", product(rows, hidden, hidden / shards), layers)
    up = encoder.up_projections * width
    yield call("up_proj", product(rows, up, hidden), layers)
    yield call("activation", kit.memory_pass(rows * (up + width) * ACTIVATION_BYTES), layers)
    yield call("down_proj", product(rows, hidden, width), layers)
    group = Group(shards, np.ones_like(shards))
    reduced = kit.ops.collectives.all_reduce(group, rows * hidden * ACTIVATION_BYTES)
    yield call("all_reduce", reduced, 2 * layers, "communication")
    for i, (inputs, outputs) in enumerate(encoder.projections, 1):
        merged = np.maximum(rows / encoder.patches_per_token, 1.0)
        yield call(f"projector_{i}", product(merged, outputs, inputs), 1)


def _attention(
    kit: ModuleKit,
    encoder: VisionEncoder,
    shards: FloatArray,
    sequences: FloatArray,
    patches: FloatArray,
) -> OperatorTime:
    """Attention both ways: n patches meet n others, as n queries after (n - 1) / 2 cached do."""
    heads = encoder.heads / shards
    return kit.ops.context.time(
        {"dtype": "bf16", "kv_dtype": "bf16"},
        {
            "q_heads": heads,
            "kv_heads": heads,
            "head_dim": np.full_like(shards, encoder.head_dim),
            "window_tokens": np.zeros_like(shards),
            "batch": sequences,
            "tokens": patches,
            "prefix_tokens": (patches - 1.0) / 2.0,
        },
    )
