"""Device memory of a replica: every term of the fullest pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import Attention, FeedForward, ModelArchitecture, Recurrent
from perfmodel.drafter import drafter_layouts
from perfmodel.engine import EngineProfile
from perfmodel.expert_load import ExpertLoad, busiest_device
from perfmodel.hardware import Device
from perfmodel.layout import Layouts
from perfmodel.precision import ACTIVATION_BYTES, Precision
from perfmodel.work import StepWork, stages

FloatArray = NDArray[np.float64]

TERMS = ("weights", "kv_cache", "activations", "buffers", "reserve", "fragmentation")


REPLICATED = (
    "q_a_proj",
    "kv_a_proj_with_mqa",
    "indexer.wq_b",
    "indexer.wk",
    "indexer.weights_proj",
)
"""Projections that tensor parallelism does not split."""


@dataclass(frozen=True)
class MemoryTerms:
    """Bytes on the fullest device by term, each broadcastable to (L, C)."""

    weights: FloatArray
    kv_cache: FloatArray
    activations: FloatArray
    buffers: FloatArray
    reserve: FloatArray
    fragmentation: FloatArray

    @property
    def total(self) -> FloatArray:
        """All terms together, bytes."""
        total: FloatArray = sum(getattr(self, term) for term in TERMS[1:]) + self.weights
        return total


def attention_weight_bytes(
    attention: Attention | Recurrent, hidden: int, tp: FloatArray, precision: Precision
) -> FloatArray:
    """One layer's attention weights on one device of a tensor-parallel group of `tp`.

    Query and output heads are split; KV heads are split down to one per device and then
    replicated; MLA's down-projections to the latents, and its indexer, are replicated.
    """
    shards = attention.projections(hidden)
    extra = attention.parameters(hidden) - sum(shards.values())  # norms, biases, sinks: bf16
    if isinstance(attention, Recurrent):
        split = attention.projections_on_device(hidden, tp)
        return split * precision.bytes("attention") + extra * ACTIVATION_BYTES
    kv_share = np.maximum(1.0 / tp, 1.0 / attention.kv_heads)
    total = np.zeros_like(tp)
    for name, count in shards.items():
        if name in ("k_proj", "v_proj"):
            total = total + count * kv_share
        elif name in REPLICATED:
            total = total + count
        else:
            total = total + count / tp
    return total * precision.bytes("attention") + extra * ACTIVATION_BYTES


def kv_bytes_per_sequence(
    attention: Attention | Recurrent,
    tokens: FloatArray,
    tp: FloatArray,
    cp: FloatArray,
    precision: Precision,
) -> FloatArray:
    """One layer's cache of one sequence of `tokens` on one device.

    Context parallelism splits the tokens; tensor parallelism splits KV heads down to one;
    MLA's latent is whole on every device, and so are an indexer's keys. A window caps the
    tokens kept. A recurrent layer has a state in place of a cache, of the same size at any
    length, split by heads over tensor parallelism alone.
    """
    if isinstance(attention, Recurrent):
        return attention.state_bytes_on_device(tp) + 0.0 * tokens
    kept = np.minimum(tokens, attention.window_tokens) if attention.window_tokens else tokens
    share = np.ones_like(tp)
    if attention.kind == "gqa":
        share = np.maximum(1.0 / tp, 1.0 / attention.kv_heads)
    per_token = attention.kv_elements_per_token * share * precision.bytes("kv")
    result: FloatArray = kept * (per_token + attention.index_bytes_per_token) / cp
    return result


def prefix_bytes(
    attention: Attention | Recurrent,
    tokens: FloatArray,
    tp: FloatArray,
    cp: FloatArray,
    precision: Precision,
) -> FloatArray:
    """One layer's cache of `tokens` of many prefixes on one device.

    As `kv_bytes_per_sequence`, but that no window caps what many prefixes have together, and
    that a recurrent layer's states, one per prefix, are not counted.
    """
    if isinstance(attention, Recurrent):
        return np.zeros_like(tp) + 0.0 * tokens
    whole = replace(attention, window_tokens=0)
    return kv_bytes_per_sequence(whole, tokens, tp, cp, precision)


def cache_bytes_on_device(
    model: ModelArchitecture, precision: Precision, layouts: Layouts, tokens: FloatArray
) -> FloatArray:
    """Cache of one sequence of `tokens` (J,) on the device with most of it, (L, J)."""
    tp, cp = _column(layouts.tp_a), _column(layouts.cp_a)
    layer = [
        np.broadcast_to(
            kv_bytes_per_sequence(group.attention, tokens, tp, cp, precision),
            (len(layouts), len(tokens)),
        )
        for group in model.groups
    ]
    most = np.zeros((len(layouts), len(tokens)))
    for pp in np.unique(layouts.pp):
        rows = np.flatnonzero(layouts.pp == pp)
        for stage in stages(model, int(pp)):
            held = sum(count * kv[rows] for count, kv in zip(stage.counts, layer, strict=True))
            most[rows] = np.maximum(most[rows], held)
    return most


def replica_memory(
    model: ModelArchitecture,
    device: Device,
    engine: EngineProfile,
    precision: Precision,
    layouts: Layouts,
    work: StepWork,
    peak_sequences: FloatArray,
    peak_tokens: FloatArray,
    load: ExpertLoad | None = None,
    resident_tokens: float = 0.0,
) -> MemoryTerms:
    """Memory of the fullest device of each layout (L) under each column of work (C).

    Where work drafts tokens, the last stage also holds the module or the model that does, and
    its cache; where it has images, the first stage holds the vision encoder, in bf16.

    Args:
        peak_sequences: (L, C) or broadcastable: sequences whose cache one attention
            data-parallel rank holds at once, all pipeline micro-batches counted.
        peak_tokens: (C,) or broadcastable: the length at which each is counted.
        load: of the experts, if one is stated: its redundant experts, and the tokens of the
            busiest device.
        resident_tokens: prefix-cache tokens that each rank keeps besides.
    """
    hidden = model.hidden
    tp, cp = _column(layouts.tp_a), _column(layouts.cp_a)
    tp_f, ep_f = _column(layouts.tp_f), _column(layouts.ep_f)
    dense_tp = dense_shards(model, layouts)
    layer_weights: list[FloatArray] = []
    layer_kv: list[FloatArray] = []
    layer_resident: list[FloatArray] = []
    resident = np.array([resident_tokens])
    for group in model.groups:
        ffn = group.feed_forward
        dense = (ffn.dense_parameters(hidden) + ffn.shared_parameters(hidden)) / dense_tp
        dense = dense + ffn.latent_parameters(hidden)
        norms = hidden if ffn.is_absent else 2 * hidden
        layer_weights.append(
            attention_weight_bytes(group.attention, hidden, tp, precision)
            + dense * precision.bytes("ffn")
            + experts_on_device(ffn, ep_f, load)
            * ffn.expert_parameters(hidden)
            / tp_f
            * precision.bytes("experts")
            + (ffn.router_parameters(hidden) + norms) * ACTIVATION_BYTES
        )
        layer_kv.append(kv_bytes_per_sequence(group.attention, peak_tokens, tp, cp, precision))
        layer_resident.append(prefix_bytes(group.attention, resident, tp, cp, precision))
    table = model.vocab * hidden * ACTIVATION_BYTES / tp
    head = model.vocab * hidden * precision.bytes("lm_head") / tp
    # A quantized head is a copy of its own.
    tied = model.tied_embeddings and precision.lm_head == "bf16"
    drafter = model.drafter
    drafting = work.drafted > 0
    if drafter is not None:
        drafting = drafting | work.drafts_prompts
    draft = model.draft_group
    draft_weights = layer_weights[draft] + model.draft_projection_parameters * ACTIVATION_BYTES

    encoding, encoder = work.vision_sequences > 0, _encoder_bytes(model, tp)

    kv_per_sequence = [np.broadcast_to(kv, (len(layouts), kv.shape[1])) for kv in layer_kv]
    shape = np.broadcast_shapes((len(layouts), 1), kv_per_sequence[0].shape, peak_sequences.shape)
    for some in (drafting, encoding):
        if some.any():
            shape = np.broadcast_shapes(shape, some.shape)
    sequences = np.broadcast_to(peak_sequences, shape)
    beside = None
    if drafter is not None and drafting.any():
        own = drafter.precision.on(device.peak_flops_per_s)
        small = drafter_layouts(drafter, layouts)
        beside = replica_memory(
            drafter.model,
            device,
            engine,
            own,
            small,
            StepWork.of(),
            sequences,
            peak_tokens,
            resident_tokens=resident_tokens,
        )
    weights, kv_cache, fullest = np.zeros(shape), np.zeros(shape), np.full(shape, -1.0)
    for pp in np.unique(layouts.pp):
        rows = np.flatnonzero(layouts.pp == pp)
        for stage in stages(model, int(pp)):
            # Embedding on the first stage, LM head on the last; one table where they are tied.
            shared = tied and stage.first and stage.last
            held: FloatArray = (stage.first - shared) * table[rows] + stage.last * head[rows]
            if stage.first and encoding.any():
                held = held + encoding * encoder[rows]
            cached, kept = np.zeros((len(rows), 1)), np.zeros((len(rows), 1))
            layers = zip(stage.counts, layer_weights, kv_per_sequence, layer_resident, strict=True)
            for count, w, kv, prefix in layers:
                held = held + count * w[rows]
                cached = cached + count * kv[rows]
                kept = kept + count * prefix[rows]
            if stage.last and drafting.any() and drafter is None:
                # The module shares the model's tables, of which the last stage has the LM head.
                lacks = not (stage.first or tied)
                held = held + drafting * (draft_weights[rows] + lacks * table[rows])
                cached = cached + drafting * kv_per_sequence[draft][rows]
            cached = cached * sequences[rows] + kept
            if stage.last and beside is not None:
                held = held + drafting * np.broadcast_to(beside.weights, shape)[rows]
                cached = cached + drafting * np.broadcast_to(beside.kv_cache, shape)[rows]
            fuller = held + cached > fullest[rows]
            fullest[rows] = np.where(fuller, held + cached, fullest[rows])
            weights[rows] = np.where(fuller, held, weights[rows])
            kv_cache[rows] = np.where(fuller, cached, kv_cache[rows])
    alone = _column(layouts.world) == 1
    return MemoryTerms(
        weights=weights,
        kv_cache=kv_cache,
        activations=_activation_bytes(model, layouts, work, load),
        buffers=np.where(alone, 0.0, engine.group_buffer_bytes),
        reserve=np.full((1, 1), engine.reserve_bytes),
        fragmentation=np.full((1, 1), engine.fragmentation * device.memory_bytes),
    )


def encoder_memory_bytes(
    model: ModelArchitecture, device: Device, engine: EngineProfile, layout: Layouts, work: StepWork
) -> float:
    """A device that only encodes images: weights, activations, reserve and fragmentation.

    Args:
        layout: a single one.
    """
    weights = float(_encoder_bytes(model, _column(layout.tp_a))[0, 0])
    live = float(_encoder_width(model, layout, work)[0, 0]) * ACTIVATION_BYTES
    return weights + live + engine.reserve_bytes + engine.fragmentation * device.memory_bytes


def _encoder_bytes(model: ModelArchitecture, tp: FloatArray) -> FloatArray:
    """The vision encoder's weights on one device of a tensor-parallel group of `tp`."""
    vision = model.vision
    if vision is None:
        return np.zeros_like(tp)
    split = vision.layers * vision.layer_parameters / vision.shards(tp)
    return (split + vision.unsplit_parameters) * ACTIVATION_BYTES


def dense_shards(model: ModelArchitecture, layouts: Layouts) -> FloatArray:
    """Over how many devices a dense FFN or shared expert is split, shape (L, 1)."""
    return _column(layouts.dense_tp if model.is_moe else layouts.tp_f)


def experts_on_device(ffn: FeedForward, ep: FloatArray, load: ExpertLoad | None) -> FloatArray:
    """Routed experts that one of `ep` devices holds, copies included: whole ones if there are."""
    copies = load.redundant_experts if load and ffn.is_moe else 0
    held = (ffn.experts + copies) / ep
    return np.asarray(np.ceil(held) if copies else held)


def _activation_bytes(
    model: ModelArchitecture, layouts: Layouts, work: StepWork, load: ExpertLoad | None
) -> FloatArray:
    """Live activations of one layer at its widest point, plus fp32 logits of sampled tokens.

    They are those of a pipeline stage, whatever the number of stages: evaluated once for all.
    """
    stage, index = _distinct_stages(layouts)
    return np.asarray(_stage_activation_bytes(model, layouts[stage], work, load)[index])


def _distinct_stages(layouts: Layouts) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Layouts that stand for all with the same stage, and which of them each has, (L,)."""
    packed = np.zeros(len(layouts), dtype=np.int64)
    for names in (("tp_a", "cp_a", "dp_a"), ("tp_f", "ep_f", "dp_f")):
        for name in names:
            packed = packed * 4096 + getattr(layouts, name)
        _, first, packed = np.unique(packed, return_index=True, return_inverse=True)
    return first, packed.reshape(-1)


def _stage_activation_bytes(
    model: ModelArchitecture, layouts: Layouts, work: StepWork, load: ExpertLoad | None
) -> FloatArray:
    prompt = work.prefill_sequences * work.prefill_tokens
    tokens = work.decoded + prompt / _column(layouts.cp_a)
    pooled = work.decoded * _column(layouts.decode_copies) + prompt
    pooled = pooled * _column(layouts.dp_a) / _column(layouts.dp_f)
    widest = np.zeros((1, 1))
    for group in model.groups:
        attention, ffn = group.attention, group.feed_forward
        wide = tokens * attention.activation_width / _column(layouts.tp_a)
        dense_width = ffn.shared_intermediate if ffn.is_moe else ffn.intermediate
        own = pooled if not model.is_moe else tokens
        middle = own * 2.0 * dense_width / dense_shards(model, layouts)
        if ffn.is_moe:
            pairs = pooled * ffn.top_k / _column(layouts.ep_f)
            if load is not None:
                busiest, _ = busiest_device(
                    load, ffn.experts, ffn.top_k, _column(layouts.ep_f), pooled
                )
                pairs = pairs * busiest
            middle = middle + pairs * (
                2.0 * ffn.intermediate / _column(layouts.tp_f) + (ffn.latent or model.hidden)
            )
        widest = np.maximum(widest, np.maximum(wide, middle))
    widest = np.maximum(widest, _encoder_width(model, layouts, work))
    logits = work.sampled * model.vocab / _column(layouts.tp_a) * 4.0
    residual = 3.0 * np.maximum(tokens, pooled) * model.hidden
    result: FloatArray = (widest + residual) * ACTIVATION_BYTES + logits
    return result


def _encoder_width(model: ModelArchitecture, layouts: Layouts, work: StepWork) -> FloatArray:
    """Live elements of the vision encoder at its widest point; it runs before the layers do."""
    vision = model.vision
    if vision is None:
        return np.zeros((1, 1))
    whole_images = np.where(
        work.vision_sequences > 0,
        np.maximum(work.vision_sequences / _column(layouts.cp_a), 1.0),
        0.0,
    )
    shards = vision.shards(_column(layouts.tp_a))
    network = (1 + vision.up_projections) * vision.intermediate
    inside = np.maximum(network, 4.0 * vision.hidden) / shards + 3.0 * vision.hidden
    embedding = vision.output_width / vision.patches_per_token
    result: FloatArray = whole_images * work.vision_patches * (inside + embedding)
    return result


def _column(values: NDArray[np.generic]) -> FloatArray:
    return values.astype(float)[:, None]
