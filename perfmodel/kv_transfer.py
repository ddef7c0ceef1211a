"""A prompt's KV cache on its way from a prefill replica to a decode replica.

The devices of one attention rank each hold a part of a sequence's cache: the layers of their
pipeline stage, a context-parallel share of the tokens, a tensor-parallel share of the KV heads.
Two pools may split it differently. Every decode device pulls its own part, each piece of it
from a prefill device that has it, over its own network link:

- a device of a larger part than the other side's talks to several devices there;
- KV heads beyond their number, and a latent, are replicated on both sides. Every decode device
  pulls its own copy, so that a replicated part is sent more than once; of the prefill devices
  that hold a replica each serves its share of the readers, where there are enough of them.

The link of the busiest device, on either side, sets the pace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import Attention, ModelArchitecture, Recurrent
from perfmodel.hardware import Link
from perfmodel.layout import Layouts

FloatArray = NDArray[np.float64]

OVERLAPS = ("none", "layerwise")
"""When a cache is sent: after the prompt is computed, or each layer as soon as it is."""


def cache_heads(model: ModelArchitecture) -> tuple[int, ...]:
    """Over how many tensor-parallel devices each kind of layer's cache can be split, distinct.

    KV heads; one for a latent; a recurrent layer's key heads, by which its state is split. A
    draft model's cache is moved as well.
    """
    own = {_heads(group.attention) for group in model.groups}
    if model.drafter is not None:
        own.update(cache_heads(model.drafter.model))
    return tuple(sorted(own))


def cache_parts(
    model: ModelArchitecture, tokens: float, kv_bytes_per_element: float
) -> dict[int, float]:
    """Cache of one sequence of `tokens`, bytes, by the heads over which it can be split."""
    parts: dict[int, float] = {}
    for group in model.groups:
        heads = _heads(group.attention)
        held = _layer_bytes(group.attention, tokens, kv_bytes_per_element)
        parts[heads] = parts.get(heads, 0.0) + group.count * held
    if model.drafter is not None:
        drafter = model.drafter
        drafted = cache_parts(drafter.model, tokens, drafter.precision.bytes("kv"))
        for heads, held in drafted.items():
            parts[heads] = parts.get(heads, 0.0) + held
    return parts


def _heads(mixer: Attention | Recurrent) -> int:
    if isinstance(mixer, Recurrent):
        return mixer.key_heads
    return 1 if mixer.kind == "mla" else mixer.kv_heads


def _layer_bytes(mixer: Attention | Recurrent, tokens: float, element: float) -> float:
    if isinstance(mixer, Recurrent):
        return float(mixer.state_bytes)
    kept = min(tokens, mixer.window_tokens) if mixer.window_tokens else tokens
    return kept * (mixer.kv_elements_per_token * element + mixer.index_bytes_per_token)


@dataclass(frozen=True)
class Traffic:
    """What one sequence's cache puts on the links, arrays broadcastable to (P, D).

    Attributes:
        sent_bytes: by the busiest prefill device.
        received_bytes: by the busiest decode device.
        sources: prefill devices from which a decode device pulls.
    """

    sent_bytes: FloatArray
    received_bytes: FloatArray
    sources: FloatArray


def link_traffic(
    parts: Mapping[int, float], layers: int, prefill: Layouts, decode: Layouts
) -> Traffic:
    """Bytes that a sequence's cache puts on the links between layouts P and layouts D.

    Args:
        parts: of `cache_parts`.
        layers: of the model; the fullest pipeline stage of either side counts.
    """
    p, d = (_degrees(prefill, 1), _degrees(decode, 0))
    readers = np.maximum(d.pp / p.pp, 1.0) * np.maximum(d.cp / p.cp, 1.0)
    sent: FloatArray = np.zeros((1, 1))
    received: FloatArray = np.zeros((1, 1))
    sources: FloatArray = np.ones((1, 1))
    for heads, whole in parts.items():
        p_split, d_split = np.minimum(p.tp, heads), np.minimum(d.tp, heads)
        copies = d.tp / d_split
        serving = np.minimum(p.tp / p_split, copies * readers)
        sent = sent + copies * whole * stage_share(layers, p.pp) / (p.cp * p_split) / serving
        received = received + whole * stage_share(layers, d.pp) / (d.cp * d_split)
        pulled = np.maximum(p.pp / d.pp, 1.0) * np.maximum(p.cp / d.cp, 1.0)
        sources = np.maximum(sources, pulled * np.maximum(p_split / d_split, 1.0))
    return Traffic(sent, received, sources)


def transfer_s(
    traffic: Traffic,
    layers: int,
    prefill: tuple[Layouts, Link],
    decode: tuple[Layouts, Link],
    prompts: FloatArray,
    hidden_s: FloatArray | float,
) -> FloatArray:
    """Time from the end of a prompt's computation to the arrival of its cache, (P, D), seconds.

    A device with `n` of the model's `layers` sends them in `X n / layers`, where `X` is what
    all layers would take over its link. Sent each as soon as it is computed, layers pass two
    machines in turn, computation and link: with `T` for the whole computation, the link is
    done `(X + (n - 1) max(X - T, 0)) / layers` after it. Where the link keeps up that is the
    last layer alone; with nothing hidden (`T` = 0) it is the whole.

    Args:
        prefill, decode: layouts of each side, and the network link of its devices.
        prompts: of one prefill step, (P,): their caches leave together and share the links.
        hidden_s: how long a prompt is computed, (P,), where layers are sent meanwhile; else 0.
    """
    (p_layouts, p_link), (d_layouts, d_link) = prefill, decode
    computed = np.asarray(hidden_s, dtype=float).reshape(-1, 1)
    sending = prompts[:, None] * traffic.sent_bytes
    seconds = np.maximum(
        _remaining_s(sending, p_link, _degrees(p_layouts, 1).pp, layers, computed),
        _remaining_s(traffic.received_bytes, d_link, _degrees(d_layouts, 0).pp, layers, computed),
    )
    latency = max(p_link.latency_s, d_link.latency_s)
    return np.asarray(traffic.sources * latency + seconds)


def _remaining_s(
    moved: FloatArray, link: Link, pp: FloatArray, layers: int, computed_s: FloatArray
) -> FloatArray:
    """What is left to send when the last layer is computed."""
    return unhidden_s(moved / stage_share(layers, pp) / link_rate(link), computed_s, pp, layers)


def unhidden_s(
    moving_s: FloatArray, computing_s: FloatArray, pp: FloatArray, layers: int
) -> FloatArray:
    """Time by which layers that are moved and computed one by one outlast computation alone.

    See `transfer_s`; the order of the two does not matter to it.

    Args:
        moving_s: of all layers through the busiest device's link, had it all of them.
        computing_s: of all layers; 0 hides nothing.
        pp: pipeline stages; the fullest one's layers pass through one device.
    """
    held = np.ceil(layers / pp)
    behind = np.maximum(moving_s - computing_s, 0.0)
    result: FloatArray = (moving_s + (held - 1.0) * behind) / layers
    return result


def link_rate(link: Link) -> float:
    """What a device's network link carries, bytes/s, one direction."""
    return link.pair_bytes_per_s * link.achieved


def stage_share(layers: int, pp: FloatArray) -> FloatArray:
    """Share of the layers on the fullest of `pp` pipeline stages."""
    share: FloatArray = np.ceil(layers / pp) / layers
    return share


@dataclass(frozen=True)
class _Degrees:
    pp: FloatArray
    cp: FloatArray
    tp: FloatArray


def _degrees(layouts: Layouts, axis: int) -> _Degrees:
    """The degrees that split a cache, along the first (`axis` 1) or the second of two axes."""
    named = (layouts.pp, layouts.cp_a, layouts.tp_a)
    return _Degrees(*(np.expand_dims(values.astype(float), axis) for values in named))


def receiver_columns(heads: tuple[int, ...], layouts: Layouts) -> list[FloatArray]:
    """Of decode layouts (L), what no prefill layout's transfer falls with; (L,) each.

    A layout that has none of them above another's is sent a cache as fast as that, by any
    prefill layout: a smaller part and fewer copies are faster, and so are more readers, which
    spread over replicas.
    """
    tp = layouts.tp_a.astype(float)
    columns = [-layouts.pp.astype(float), -layouts.cp_a.astype(float)]
    for count in heads:
        columns += [-np.minimum(tp, count), tp / np.minimum(tp, count)]
    return [column for column in columns if len(column) and np.any(column != column[0])]
