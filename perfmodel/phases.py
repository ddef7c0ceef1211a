"""What one replica delivers in one phase: latency, capacity and memory.

Each function takes layouts (L) and a grid of the cheap axes (C: batch, or batch and
chunk) and returns arrays of shape (L, C). Nothing here knows a price or an SLO.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import Layouts
from perfmodel.memory import MemoryTerms, replica_memory
from perfmodel.prefix_cache import late_s, load_s
from perfmodel.step import StepModel
from perfmodel.traffic import Traffic
from perfmodel.work import StepWork, step_tokens

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PrefillEstimate:
    """Prefill replicas, arrays (L, C) unless said otherwise.

    Attributes:
        latency_s: one step through all pipeline stages, by representative input, (L, C, J).
        pace_s: mean time between steps leaving the pipeline.
        pace_cv2: squared coefficient of variation of that time.
        qps: requests/s at full utilization.
        servers: batches served at once, as a queue sees them: attention data-parallel ranks.
        memory: bytes by term on the fullest device.
    """

    latency_s: FloatArray
    pace_s: FloatArray
    pace_cv2: FloatArray
    qps: FloatArray
    servers: FloatArray
    memory: MemoryTerms


@dataclass(frozen=True)
class DecodeEstimate:
    """Decode replicas, arrays (L, C).

    Attributes:
        ttit_s: mean time between a sequence's tokens with every slot taken.
        ttit_slo_s: the same at the percentile asked for: contexts then are longer than usual.
        slots: sequences in flight.
        qps: requests/s with every slot taken: `slots / (OSL * ttit_s)`.
    """

    ttit_s: FloatArray
    ttit_slo_s: FloatArray
    slots: FloatArray
    qps: FloatArray
    memory: MemoryTerms


@dataclass(frozen=True)
class ContinuousEstimate:
    """Continuous-batching replicas, arrays (L, C) over pairs of batch and chunk.

    Attributes:
        mixed_s: an iteration with a full prefill chunk, as a running request sees it.
        pure_s: an iteration of decodes alone.
        mixed_share: share of iterations that carry a chunk, on one attention rank.
        stalled_share: share of iterations in which any rank carries one; all wait for it.
        step_tokens: tokens that a sequence gains per iteration, (C,).
        ttit_s: mean time between tokens, every slot taken.
        ttit_slo_s: the same at the percentile asked for, over iterations.
        prefill_s: iterations that one prompt takes, by representative input, (L, C, J), and
            what it waits for its cached prefix.
        load_s: the latter alone, broadcastable to it.
        slots: sequences in flight.
        servers: prompts processed at once, as a queue sees them.
        qps: requests/s; where every iteration carries a chunk and slots still run empty, what the
            chunks let in.
    """

    mixed_s: FloatArray
    pure_s: FloatArray
    mixed_share: FloatArray
    stalled_share: FloatArray
    step_tokens: FloatArray
    ttit_s: FloatArray
    ttit_slo_s: FloatArray
    prefill_s: FloatArray
    load_s: FloatArray
    slots: FloatArray
    servers: FloatArray
    qps: FloatArray
    memory: MemoryTerms


def prefill(
    step: StepModel, layouts: Layouts, traffic: Traffic, batch: IntArray
) -> PrefillEstimate:
    """Prefill-only replicas that take `batch` (C,) whole prompts per attention rank and step."""
    time = step.time(layouts, prefill_work(traffic, batch))
    shape = (len(layouts), len(batch), len(traffic.new_tokens))
    weights = np.array(traffic.inputs.weights)
    pace, latency = time.pace_s.reshape(shape), time.latency_s.reshape(shape)
    if traffic.loads_prefix:
        loading = _prefix_load_s(step, layouts, traffic)[:, None] * batch[:, None]
        latency = latency + late_s(step.model.layers, layouts, loading, latency)
        pace = np.maximum(pace, loading)
    mean_pace = pace @ weights
    # A step of `batch` independent prompts varies less than one prompt does.
    variance = np.maximum((pace**2) @ weights - mean_pace**2, 0.0) / batch
    ranks = layouts.dp_a.astype(float)[:, None]
    return PrefillEstimate(
        latency_s=latency,
        pace_s=mean_pace,
        pace_cv2=variance / mean_pace**2,
        qps=batch * ranks / mean_pace,
        servers=np.broadcast_to(ranks, mean_pace.shape),
        memory=prefill_memory(step, layouts, traffic, batch),
    )


def decode(
    step: StepModel,
    layouts: Layouts,
    traffic: Traffic,
    batch: IntArray,
    percentile: float | None = None,
    *,
    drafts: IntArray | int = 0,
    acceptance: float = 0.0,
) -> DecodeEstimate:
    """Decode-only replicas with `batch` (C,) sequences per attention rank and micro-batch.

    A pipeline of `pp` stages holds `pp` micro-batches; a token passes through every stage,
    so that a sequence waits `pp` paces for its next iteration.

    Args:
        percentile: of `ttit_slo_s`; the mean if None.
        drafts: tokens that speculation drafts per sequence and iteration, (C,).
        acceptance: share of them accepted, each given that those before it were.
    """
    gain = step_tokens(drafts, acceptance)
    work = decode_work(traffic, batch, drafts)
    pp = layouts.pp.astype(float)[:, None]
    ttit = step.time(layouts, work).pace_s * pp / gain
    tail = ttit
    if percentile is not None:
        then = decode_work(traffic, batch, drafts, context_at(traffic, batch, percentile))
        tail = step.time(layouts, then).pace_s * pp / gain
    slots = batch * layouts.dp_a.astype(float)[:, None] * pp
    return DecodeEstimate(
        ttit_s=ttit,
        ttit_slo_s=tail,
        slots=slots,
        qps=slots / (traffic.outputs.mean * ttit),
        memory=decode_memory(step, layouts, traffic, batch, drafts),
    )


def continuous(
    step: StepModel,
    layouts: Layouts,
    traffic: Traffic,
    batch: IntArray,
    chunk: IntArray,
    percentile: float | None = None,
    *,
    drafts: IntArray | int = 0,
    acceptance: float = 0.0,
) -> ContinuousEstimate:
    """Replicas that mix decodes with prefill chunks; `batch` and `chunk` both (C,).

    `batch` sequences per attention rank and micro-batch decode in every iteration. They
    use up `batch * ISL / OSL` prompt tokens per iteration on average, which arrive in
    chunks of `chunk` tokens on a share of the iterations. Speculation (see `decode`) ends
    sequences in fewer iterations: each then takes as many times more prompt tokens.

    Args:
        percentile: of `ttit_slo_s`; the mean if None.
    """
    prompt = traffic.mean_new_tokens
    drafts, gain = np.broadcast_to(drafts, batch.shape), step_tokens(drafts, acceptance)
    mixed = mixed_work(traffic, batch, chunk, drafts)
    distinct, back = np.unique(np.stack([batch, drafts]), axis=1, return_inverse=True)
    back = back.reshape(-1)
    alone = decode_work(traffic, distinct[0], distinct[1])
    pp = layouts.pp.astype(float)[:, None]
    mixed_s = step.time(layouts, mixed).pace_s * pp
    pure_s = (step.time(layouts, alone).pace_s * pp)[:, back]
    needed = batch * gain * prompt / (traffic.outputs.mean * chunk)
    share = np.broadcast_to(np.minimum(needed, 1.0), mixed_s.shape)
    iteration = share * mixed_s + (1.0 - share) * pure_s
    load, stretch = np.zeros((1, 1, 1)), np.ones((1, 1))
    if traffic.loads_prefix:
        # Prefixes are loaded while other sequences decode: only a request of its own waits for
        # its prefix. Iterations wait where the link cannot follow.
        loading = _prefix_load_s(step, layouts, traffic)
        load = late_s(step.model.layers, layouts, loading[:, None], mixed_s[:, :, None])
        prompts = batch * gain / traffic.outputs.mean * np.minimum(1.0 / needed, 1.0)
        weights = np.array(traffic.inputs.weights)
        stretch = np.maximum(prompts * pp * (loading @ weights)[:, None] / iteration, 1.0)
    ttit = iteration * stretch / gain
    ranks = layouts.dp_a.astype(float)[:, None] * pp
    stalled = 1.0 - (1.0 - share) ** layouts.dp_a.astype(float)[:, None]
    at_slo = ttit
    if percentile is not None:
        # What one standard deviation of the batch's mean context adds to an iteration.
        longer = replace(
            alone, context_tokens=alone.context_tokens + traffic.context_std / np.sqrt(distinct[0])
        )
        context_s = (step.time(layouts, longer).pace_s * pp)[:, back] - pure_s
        at_slo = _iteration_at(percentile / 100.0, stalled, pure_s, mixed_s, context_s)
        at_slo = at_slo * stretch / gain
    slots = batch * ranks
    chunks = np.ceil(traffic.new_tokens / chunk[:, None])
    return ContinuousEstimate(
        mixed_s=mixed_s,
        pure_s=pure_s,
        mixed_share=share,
        stalled_share=stalled,
        step_tokens=gain,
        ttit_s=ttit,
        ttit_slo_s=at_slo,
        prefill_s=mixed_s[:, :, None] * chunks[None] + load,
        load_s=load,
        slots=slots,
        servers=np.broadcast_to(ranks, mixed_s.shape),
        qps=slots / (traffic.outputs.mean * ttit) * np.minimum(1.0 / needed, 1.0),
        memory=continuous_memory(step, layouts, traffic, batch, chunk, drafts),
    )


def _iteration_at(
    quantile: float,
    mixed_share: FloatArray,
    pure_s: FloatArray,
    mixed_s: FloatArray,
    context_s: FloatArray,
) -> FloatArray:
    """Quantile of the iterations' times, a share of which carry a chunk and take longest.

    Where those are more than the rest above the quantile, it is one among them; each kind
    varies normally with the contexts in the batch, by `context_s`.
    """
    from scipy.special import ndtri

    among_mixed = mixed_share > 1.0 - quantile
    share = np.where(among_mixed, mixed_share, 1.0 - mixed_share)
    below = np.where(among_mixed, 1.0 - mixed_share, 0.0)
    deviations = ndtri(np.clip((quantile - below) / share, 1e-4, 1.0 - 1e-4))
    seconds: FloatArray = np.where(among_mixed, mixed_s, pure_s) + deviations * context_s
    return seconds


def prefill_work(traffic: Traffic, batch: IntArray) -> StepWork:
    """Steps of `batch` (C,) whole prompts of every representative length (J), C * J columns."""
    nodes = len(traffic.new_tokens)
    return StepWork.of(
        prefill_sequences=np.repeat(batch, nodes),
        prefill_tokens=np.tile(traffic.new_tokens, len(batch)),
        prefix_tokens=np.tile(traffic.cached_tokens, len(batch)),
        **traffic.images_of(np.repeat(batch, nodes)),
    )


def context_at(traffic: Traffic, batch: IntArray, percentile: float) -> FloatArray:
    """A percentile of the mean context of `batch` (C,) sequences, tokens.

    It varies from step to step; its variance shrinks with the batch.
    """
    spread = NormalDist().inv_cdf(percentile / 100.0) * traffic.context_std / np.sqrt(batch)
    return np.asarray(np.maximum(traffic.context_mean + spread, 1.0))


def decode_work(
    traffic: Traffic,
    batch: IntArray,
    drafts: IntArray | int = 0,
    context_tokens: FloatArray | None = None,
) -> StepWork:
    """An iteration of `batch` decodes, in their mean context if no other is given."""
    return StepWork.of(
        decode_sequences=batch,
        context_tokens=traffic.context_mean if context_tokens is None else context_tokens,
        decode_tokens=np.asarray(drafts) + 1.0,
    )


def mixed_work(
    traffic: Traffic,
    batch: IntArray | float,
    chunk: IntArray | float,
    drafts: IntArray | float = 0,
) -> StepWork:
    """An iteration of `batch` decodes and `chunk` prompt tokens.

    A chunk sees the cached prefix and, on average, half of the prompt's other chunks; a
    chunk longer than a prompt holds several. The prompt is that of a mean token, not of a
    mean request: long prompts have more tokens, each with more before it. Images are spread
    evenly over the prompts' chunks.
    """
    prompt = float(np.dot(traffic.new_tokens**2, traffic.inputs.weights)) / traffic.mean_new_tokens
    tokens = np.minimum(chunk, prompt)
    cached = prompt * traffic.prefix_hit / (1.0 - traffic.prefix_hit)
    return StepWork.of(
        decode_sequences=batch,
        context_tokens=traffic.context_mean,
        prefill_sequences=chunk / tokens,
        prefill_tokens=tokens,
        prefix_tokens=cached + (prompt - tokens) / 2.0,
        decode_tokens=np.asarray(drafts) + 1.0,
        **traffic.images_of(np.asarray(chunk) / traffic.mean_new_tokens),
    )


def prefill_memory(
    step: StepModel, layouts: Layouts, traffic: Traffic, batch: IntArray
) -> MemoryTerms:
    """What the fullest device of a prefill replica holds, (L, C); prompts of the longest kind."""
    longest = StepWork.of(
        prefill_sequences=batch,
        prefill_tokens=traffic.new_tokens[-1],
        prefix_tokens=traffic.cached_tokens[-1],
        **traffic.images_of(batch),
    )
    # Every stage holds a batch, and one more waits for its cache to be taken away.
    held = batch * (layouts.pp.astype(float)[:, None] + 1.0)
    own = np.array([traffic.inputs.maximum - traffic.shared_tokens[-1]])
    return _memory(step, layouts, traffic, longest, held, own)


def decode_memory(
    step: StepModel,
    layouts: Layouts,
    traffic: Traffic,
    batch: IntArray,
    drafts: IntArray | int = 0,
) -> MemoryTerms:
    """What the fullest device of a decode replica holds, (L, C)."""
    held = batch * layouts.pp.astype(float)[:, None]
    work = decode_work(traffic, batch, drafts)
    return _memory(step, layouts, traffic, work, held, traffic.own_peak_tokens(held))


def continuous_memory(
    step: StepModel,
    layouts: Layouts,
    traffic: Traffic,
    batch: IntArray,
    chunk: IntArray,
    drafts: IntArray | int = 0,
) -> MemoryTerms:
    """What the fullest device of a continuous replica holds, (L, C)."""
    # Beside the decodes, the prompts whose chunks an iteration carries hold their caches: of
    # the prompt alone, as they have no output yet.
    pp = layouts.pp.astype(float)[:, None]
    running, entering = batch * pp, np.ceil(chunk / traffic.new_tokens.max()) * pp
    held = running + entering
    tokens = running * traffic.peak_tokens(running) + entering * traffic.inputs.maximum
    work = mixed_work(traffic, batch, chunk, drafts)
    own = tokens / held - traffic.mean_shared_tokens
    return _memory(step, layouts, traffic, work, held, own)


def _memory(
    step: StepModel,
    layouts: Layouts,
    traffic: Traffic,
    work: StepWork,
    sequences: FloatArray,
    tokens: FloatArray,
) -> MemoryTerms:
    return replica_memory(
        step.model,
        step.device,
        step.engine,
        step.precision,
        layouts,
        work,
        sequences,
        tokens,
        load=step.load,
        resident_tokens=traffic.resident_tokens,
    )


def _prefix_load_s(step: StepModel, layouts: Layouts, traffic: Traffic) -> FloatArray:
    """Time to load one prompt's cached prefix from the host, by representative input, (L, J)."""
    return load_s(step.model, step.device, step.precision, layouts, traffic.cached_tokens)
