"""Bounds from outside: least work by hand from a published config, and conservation of memory.

Nothing here asks the estimator how much work there is. Counts come from the checkpoint's own
`config.json`; whatever a layout does, a step moves and multiplies at least that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel.model_catalog
from perfmodel.architecture import load_model
from perfmodel.correction import NEUTRAL
from perfmodel.engine import EngineProfile
from perfmodel.hardware import Device, load_device
from perfmodel.layout import Layouts, format_layout
from perfmodel.memory import replica_memory
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork
from spaces import enumerate_layouts, structure_constraints

StepOf = Callable[..., StepModel]
CONFIGS = Path(perfmodel.model_catalog.__file__).parent / "data" / "models"
MODELS = [
    "Qwen/Qwen3-0.6B",
    "meta-llama/Llama-3.1-70B",
    "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen3-235B-A22B",
    "openai/gpt-oss-120b",
    "deepseek-ai/DeepSeek-V3",
]
FORMATS = {"bf16": ("bf16", 2.0), "fp8": ("fp8", 1.0), "int4": ("bf16", 0.5), "nvfp4": ("fp4", 0.5)}
"""The peak at which each multiplies, where a device has it, and its bytes, scales left out."""
BARE = EngineProfile("trtllm", "no reserve", NEUTRAL, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Counts:
    """A model by its config: parameters of one layer by module, and attention's widths.

    Attributes:
        split: attention's parameters that tensor parallelism splits over all its devices.
        kv: those of the key and value projections, split over at most `kv_heads`.
        whole: those that every device of a tensor-parallel group holds.
        cache: elements kept per token and layer.
        score, value: multiply-adds per query head and pair of tokens, least of any algorithm.
        windows: tokens seen by each layer, None for all of them.
    """

    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    split: int
    kv: int
    whole: int
    cache: int
    score: int
    value: int
    windows: tuple[int | None, ...]
    dense_layers: int
    dense: int
    expert: int
    experts: int
    top_k: int
    shared: int
    tied: bool

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def expert_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def attention(self) -> int:
        return self.split + self.kv + self.whole


@lru_cache
def counts(name: str) -> Counts:
    c: dict[str, Any] = json.loads((CONFIGS / f"{name.replace('/', '--')}.json").read_text())
    h, heads, layers = c["hidden_size"], c["num_attention_heads"], c["num_hidden_layers"]
    kv_heads = c["num_key_value_heads"]
    if "kv_lora_rank" in c:
        latent, rope = c["kv_lora_rank"], c["qk_rope_head_dim"]
        nope, v, q = c["qk_nope_head_dim"], c["v_head_dim"], c["q_lora_rank"]
        split = heads * (q * (nope + rope) + latent * (nope + v) + v * h)
        whole, kv, cache = h * (q + latent + rope), 0, latent + rope
        score, value, kv_heads = nope + rope, v, 1
    else:
        d = c.get("head_dim", h // heads)
        split, kv, whole = 2 * h * heads * d, 2 * h * kv_heads * d, 0
        cache, score, value = 2 * kv_heads * d, d, d
    sliding = [t == "sliding_attention" for t in c.get("layer_types", ["full"] * layers)]
    experts = c.get("n_routed_experts") or c.get("num_local_experts") or c.get("num_experts") or 0
    width = c.get("moe_intermediate_size", c["intermediate_size"])
    return Counts(
        hidden=h,
        vocab=c["vocab_size"],
        heads=heads,
        kv_heads=kv_heads,
        split=split,
        kv=kv,
        whole=whole,
        cache=cache,
        score=score,
        value=value,
        windows=tuple(c["sliding_window"] if s else None for s in sliding),
        dense_layers=c.get("first_k_dense_replace", 0) if experts else layers,
        dense=3 * h * c["intermediate_size"],
        expert=3 * h * width,
        experts=experts,
        top_k=c.get("num_experts_per_tok", 0),
        shared=3 * h * width * c.get("n_shared_experts", 0),
        tied=c["tie_word_embeddings"],
    )


@lru_cache
def layouts_of(name: str) -> Layouts:
    return enumerate_layouts(structure_constraints(load_model(name)), 64)


works = st.fixed_dictionaries(
    {
        "decode_sequences": st.sampled_from([0, 1, 7, 64, 500]),
        "context_tokens": st.integers(1, 20_000),
        "prefill_sequences": st.sampled_from([0, 1, 4]),
        "prefill_tokens": st.integers(1, 9_000),
        "prefix_tokens": st.sampled_from([0, 0, 3000]),
    }
).filter(lambda w: w["decode_sequences"] + w["prefill_sequences"] > 0)


def pairs_seen(new: int, before: int, window: int | None) -> float:
    """Query-key pairs of `new` tokens that follow `before` others, causal."""
    seen = before + np.arange(1, new + 1)
    return float((seen if window is None else np.minimum(seen, window)).sum())


def least_s(c: Counts, device: Device, fmt: str, work: dict[str, int], ranks: int) -> float:
    """Seconds of one device that does all of a replica's work, compute or bandwidth alone."""
    peak, stored = FORMATS[fmt]
    peaks = device.peak_flops_per_s
    rate = peaks.get(peak, peaks["bf16"])
    decodes, prompts = work["decode_sequences"] * ranks, work["prefill_sequences"] * ranks
    tokens = decodes + prompts * work["prefill_tokens"]
    active = c.dense_layers * c.dense + c.expert_layers * (c.top_k * c.expert + c.shared)
    linear = 2.0 * tokens * (c.layers * c.attention + active)
    head = c.hidden * c.vocab
    seen = read = 0.0
    for window in c.windows:
        held = min(work["context_tokens"], window or work["context_tokens"])
        seen += decodes * held
        seen += prompts * pairs_seen(work["prefill_tokens"], work["prefix_tokens"], window)
        read += decodes * held * c.cache * 2.0
    products = 2.0 * c.heads * (c.score + c.value) * seen + 2.0 * (decodes + prompts) * head
    reached = c.experts * (1.0 - (1.0 - c.top_k / max(c.experts, 1)) ** tokens)
    weights = c.layers * c.attention + c.dense_layers * c.dense
    weights += c.expert_layers * (reached * c.expert + c.shared)
    moved = weights * stored + head * 2.0 + read
    return max(
        linear / rate + products / peaks["bf16"], moved / device.memory_bandwidth_bytes_per_s
    )


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(MODELS),
    st.sampled_from(["h100_sxm", "b200_sxm", "l40s", "mi300x"]),
    st.sampled_from(["trtllm", "sglang"]),
    st.sampled_from(sorted(FORMATS)),
    st.integers(0, 2**30),
    works,
)
def test_no_step_beats_what_it_must_multiply_and_move(
    step_model: StepOf,
    model: str,
    device: str,
    engine: str,
    fmt: str,
    choice: int,
    work: dict[str, int],
) -> None:
    layouts = layouts_of(model)
    one = layouts[np.array([choice % len(layouts)])]
    step = step_model(model, device, engine, fmt)
    time = step.time(one, StepWork.of(**work))
    alone = least_s(counts(model), load_device(device), fmt, work, int(one.dp_a[0]))
    where = f"{format_layout(one)} {work}"
    assert time.pace_s.item() >= alone / one.world[0], where
    assert time.latency_s.item() >= alone / one.stage_world[0], where


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(MODELS), st.integers(0, 2**30), st.sampled_from([1, 50, 5000]))
def test_all_devices_together_hold_the_model_and_its_copies(
    model: str, choice: int, tokens: int
) -> None:
    """Weights and cache of a stage's devices, added up: each as often as the layout says."""
    c, found = counts(model), layouts_of(model)
    flat = found[found.pp == 1]
    one = flat[np.array([choice % len(flat)])]
    degrees = {name: int(getattr(one, name)[0]) for name in ("tp_a", "tp_f", "ep_f", "dp_a")}
    tp, tp_f, ep = degrees["tp_a"], degrees["tp_f"], degrees["ep_f"]
    devices = int(one.world[0])
    per_rank = 3.0
    architecture = load_model(model)
    held = replica_memory(
        architecture,
        load_device("h100_sxm"),
        BARE,
        Precision(),
        one,
        StepWork.of(),
        np.array([[per_rank]]),
        np.array([float(tokens)]),
    )
    # In a mixture of experts, dense parts follow attention where no token leaves its devices.
    dense = tp_f if not c.experts else tp if tp_f * ep == tp else 1
    tables = (1 if c.tied else 2) * c.hidden * c.vocab
    copies = devices / tp * (c.layers * c.split + tables)
    copies += devices / min(tp, c.kv_heads) * c.layers * c.kv
    copies += devices * c.layers * c.whole
    copies += devices / dense * (c.dense_layers * c.dense + c.expert_layers * c.shared)
    copies += devices / (tp_f * ep) * c.expert_layers * c.experts * c.expert
    # Norms, biases, routers and sinks: everywhere, and less than a hundredth of a large model.
    rest = held.weights.item() * devices / 2.0 - copies
    assert 0 <= rest <= 0.03 * copies, format_layout(one)
    kept = sum(min(tokens, window or tokens) for window in c.windows)
    replicas = tp / min(tp, c.kv_heads)
    expected = per_rank * degrees["dp_a"] * replicas * kept * c.cache * 2.0
    assert held.kv_cache.item() * devices == pytest.approx(expected), format_layout(one)
