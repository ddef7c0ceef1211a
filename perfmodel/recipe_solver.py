"""The architecture of a recipe: hidden size, layers and network width solved for its parameters.

Every hidden size and number of layers in reach is tried at once; for each the width of a
network (or of an expert) follows from the parameters, tiled. Of those that come within 1 %
of the recipe, the one nearest to its proportions is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm

import numpy as np
from numpy.typing import NDArray

from perfmodel.checks import require
from perfmodel.errors import ConfigError
from perfmodel.layer_shapes import Attention, FeedForward, LayerGroup
from perfmodel.model_shapes import QUANTIZABLE, ModelArchitecture
from perfmodel.recipe import LARGEST_HIDDEN, MOST_LAYERS, Recipe
from perfmodel.units import format_parameters

FloatArray = NDArray[np.float64]

TOLERANCE = 0.01
"""Share by which parameters, total and active, may miss the recipe's."""

_FURTHEST = 4.0
"""Factor by which a solved aspect may differ from the one aimed at."""

_WIDEST = 64.0
"""Width of a network per hidden size, at most: that of T5-11B (arXiv:1910.10683, section 3.6)."""

_COARSE_EXPERTS = 16
_WIDE = 4096
_MATRICES = FeedForward(1).matrices


@lru_cache(maxsize=64)
def from_recipe(recipe: Recipe) -> ModelArchitecture:
    """The architecture that a recipe describes.

    Returns:
        A decoder whose `parameters()` (and, where the recipe states them,
        `active_parameters()`) are within 1 % of the recipe's; `notes` tells what was chosen.
        Hidden sizes are multiples of 256 (of 128 below 2,048), network widths of 256 (of
        128 below 4,096).

    Raises:
        ConfigError: the recipe contradicts itself, or no such architecture exists; names the
            field, and says what would be possible.
    """
    _refuse_contradictions(recipe)
    reach = _Reach.of(recipe)
    width = reach.width
    misses = np.abs(reach.total(width) / recipe.parameters - 1.0)
    near = (width > 0) & (misses <= 0.99 * TOLERANCE)
    if not near.any():
        raise _unreachable(recipe, reach)
    cost = _distance(reach.layers * recipe.aspect / reach.hidden) + (misses / 0.003) ** 2
    proportion = _distance(np.maximum(width, 1.0) / (_width_ratio(recipe) * reach.hidden))
    if recipe.active_parameters is None:
        cost = cost + proportion
    else:
        # The width is what meets them: its proportion can only break ties.
        cost = cost + 0.01 * proportion
        active = reach.active(width)
        off = np.abs(active / recipe.active_parameters - 1.0)
        if not (near & (off <= 0.99 * TOLERANCE)).any():
            raise _inactive(recipe, active[near])
        near &= off <= 0.99 * TOLERANCE
        cost = cost + (off / 0.003) ** 2
    row, column = np.unravel_index(np.where(near, cost, np.inf).argmin(), near.shape)
    return _model(
        recipe,
        int(reach.hidden[row, 0]),
        int(reach.layers[0, column]),
        int(width[row, column]),
    )


def _distance(ratio: FloatArray) -> FloatArray:
    """How far a proportion is from the one aimed at; 1 at 10 %."""
    return (np.log(ratio) / 0.1) ** 2


def _top_k(recipe: Recipe) -> int:
    if not recipe.experts:
        return 0
    return min(2, recipe.experts) if recipe.top_k is None else recipe.top_k


def _width_ratio(recipe: Recipe) -> float:
    """Width of a network, or of an expert, per hidden size."""
    if recipe.experts and recipe.expert_ratio is not None:
        return recipe.expert_ratio
    if recipe.experts > _COARSE_EXPERTS:
        return 3.0 / (_top_k(recipe) + recipe.shared_experts)
    return recipe.ffn_ratio


def _refuse_contradictions(recipe: Recipe) -> None:
    if not recipe.experts:
        for field in ("top_k", "shared_experts", "dense_layers", "expert_ratio"):
            require(not getattr(recipe, field), field, "expected none without experts")
        require(
            recipe.active_parameters is None,
            "active_parameters",
            "expected none without experts: all parameters of a dense model are active",
        )
    require(
        _top_k(recipe) <= recipe.experts,
        "top_k",
        f"expected at most the {recipe.experts} experts, got {recipe.top_k}",
    )
    active = recipe.active_parameters
    require(
        active is None or active <= recipe.parameters,
        "active_parameters",
        f"expected at most the {format_parameters(recipe.parameters)} parameters in all, "
        f"got {format_parameters(active or 0.0)}",
    )
    require(
        recipe.layers is None or recipe.dense_layers < recipe.layers,
        "dense_layers",
        f"expected fewer than the {recipe.layers} layers, got {recipe.dense_layers}",
    )
    if recipe.heads is not None and recipe.attention == "gqa":
        require(
            recipe.heads % recipe.kv_heads == 0,
            "kv_heads",
            f"expected a divisor of the {recipe.heads} heads, got {recipe.kv_heads}",
        )


@dataclass(frozen=True)
class _Reach:
    """Architectures in reach: hidden sizes (H, 1) times layers (1, L), and their weights.

    Attributes:
        fixed: weights whatever the networks' width, (H, L).
        fixed_active: of these, those that a token is multiplied with.
        per_width: weights per unit of width, (H, L).
        active_per_width: of these, those that a token is multiplied with.
        width: of the networks such that the recipe's parameters are met, tiled; 0 where
            nothing is left for them, or they or the aspect are out of proportion.
    """

    hidden: FloatArray
    layers: FloatArray
    fixed: FloatArray
    fixed_active: FloatArray
    per_width: FloatArray
    active_per_width: FloatArray
    width: FloatArray

    def total(self, width: FloatArray) -> FloatArray:
        return self.fixed + self.per_width * width

    def active(self, width: FloatArray) -> FloatArray:
        return self.fixed_active + self.active_per_width * width

    @classmethod
    def of(cls, recipe: Recipe) -> _Reach:
        sizes = [recipe.hidden_size] if recipe.hidden_size else _hidden_sizes()
        hidden = np.array(sizes, dtype=float)[:, None]
        most = recipe.layers or MOST_LAYERS
        layers = np.arange(recipe.layers or recipe.dense_layers + 1, most + 1.0)[None]
        attention = np.array([_attention(recipe, h).parameters(h) for h in sizes], dtype=float)
        sparse, visited = layers - recipe.dense_layers, _top_k(recipe) + recipe.shared_experts
        table = recipe.vocabulary * hidden
        layer = layers * (attention[:, None] + 2.0 * hidden) + hidden
        layer = layer + (sparse * recipe.experts * hidden if recipe.experts else 0.0)
        fixed = layer + (1.0 if recipe.tied_embeddings else 2.0) * table
        one = _MATRICES * hidden
        held = recipe.experts + recipe.shared_experts
        per_width = one * (
            sparse * held + recipe.dense_layers * visited if recipe.experts else layers
        )
        width = _tiled((recipe.parameters - fixed) / per_width)
        aspect = hidden / layers / recipe.aspect
        free = recipe.layers is None
        in_reach = (aspect <= _FURTHEST) & (aspect >= 1.0 / _FURTHEST) if free else aspect > 0
        in_reach = in_reach & (width <= _WIDEST * hidden)
        return cls(
            hidden,
            layers,
            fixed,
            layer + table,
            per_width,
            one * layers * (visited if recipe.experts else 1.0),
            np.where(in_reach, width, 0.0),
        )


def _hidden_sizes() -> list[int]:
    return [*range(256, 2048, 128), *range(2048, LARGEST_HIDDEN + 1, 256)]


def _tiled(width: FloatArray) -> FloatArray:
    tile = np.where(width < _WIDE, 128.0, 256.0)
    result: FloatArray = np.maximum(np.round(width / tile), 0.0) * tile
    return result


def _attention(recipe: Recipe, hidden: int) -> Attention:
    latent = recipe.attention == "mla"
    heads = recipe.heads
    if heads is None:
        step = 16 if hidden >= 48 * recipe.head_dim else 8
        step = step if latent else lcm(step, recipe.kv_heads)
        heads = max(round(hidden / recipe.head_dim / step), 1) * step
    if latent:
        return Attention(
            kind="mla",
            heads=heads,
            kv_heads=heads,
            head_dim=recipe.head_dim + 64,
            v_head_dim=recipe.head_dim,
            q_lora_rank=1536,
            kv_lora_rank=512,
            rope_head_dim=64,
        )
    return Attention("gqa", heads, recipe.kv_heads, recipe.head_dim, recipe.head_dim)


def _inactive(recipe: Recipe, possible: FloatArray) -> ConfigError:
    """Why no architecture has as many active parameters as the recipe wants."""
    wanted = recipe.active_parameters or 0.0
    least, most = format_parameters(possible.min()), format_parameters(possible.max())
    nearest = format_parameters(possible[np.abs(possible - wanted).argmin()])
    return ConfigError(
        f"expected from {least} to {most} (nearest to {format_parameters(wanted)}: {nearest}), "
        f"which {format_parameters(recipe.parameters)} parameters in {recipe.experts} experts of "
        f"which a token visits {_top_k(recipe)} allow; another top_k, aspect or number of layers "
        "allows others",
        field="active_parameters",
    )


def _unreachable(recipe: Recipe, reach: _Reach) -> ConfigError:
    """Why no architecture has the recipe's parameters."""
    wanted = format_parameters(recipe.parameters)
    pinned = [f"{n} {getattr(recipe, n):,}" for n in ("hidden_size", "layers") if _given(recipe, n)]
    least = float(reach.total(np.full_like(reach.width, 128.0)).min())
    if least > recipe.parameters:
        where = f" with {' and '.join(pinned)}" if pinned else ""
        return ConfigError(
            f"expected at least {format_parameters(least)}{where}: so much take vocabulary "
            f"{recipe.vocabulary:,}, attention and the narrowest networks alone; got {wanted}",
            field="parameters",
        )
    if pinned:
        return ConfigError(
            f"expected what {' and '.join(pinned)} can hold within 1 % in networks at most "
            f"{_WIDEST:g} times as wide as the hidden size; got {wanted}: leave one of them free",
            field="parameters",
        )
    return ConfigError(
        f"no hidden size to {LARGEST_HIDDEN:,} and layers to {MOST_LAYERS:,} within a factor of "
        f"{_FURTHEST:g} of aspect {recipe.aspect:g} reach {wanted}",
        field="parameters",
    )


def _given(recipe: Recipe, field: str) -> bool:
    return getattr(recipe, field) is not None


def _model(recipe: Recipe, hidden: int, layers: int, width: int) -> ModelArchitecture:
    attention, top_k, dense = _attention(recipe, hidden), _top_k(recipe), recipe.dense_layers
    network = FeedForward(
        width,
        experts=recipe.experts,
        top_k=top_k,
        shared_intermediate=width * recipe.shared_experts,
    )
    groups = [LayerGroup(attention, network, layers - dense)]
    if dense:
        first = FeedForward(width * (top_k + recipe.shared_experts))
        groups.insert(0, LayerGroup(attention, first, dense))
    kind = "moe" if recipe.experts else "dense"
    size = format_parameters(recipe.parameters).replace(" ", "")
    model = ModelArchitecture(
        name=recipe.name or f"synthetic {kind}-{size}",
        hidden=hidden,
        vocab=recipe.vocabulary,
        tied_embeddings=recipe.tied_embeddings,
        groups=tuple(groups),
        max_context_tokens=recipe.max_context_tokens,
        quantization=recipe.precision,
        quantized_modules=QUANTIZABLE if recipe.precision != "bf16" else frozenset(),
    )
    return _noted(model, recipe, width)


def _noted(model: ModelArchitecture, recipe: Recipe, width: int) -> ModelArchitecture:
    """The model with a note of what was chosen for it."""
    attention = model.groups[-1].attention
    assert isinstance(attention, Attention)
    heads = f"{attention.heads} heads of {recipe.head_dim}"
    heads += " (latent)" if attention.kind == "mla" else f", {attention.kv_heads} KV heads"
    networks = f"networks {width:,} wide"
    if recipe.experts:
        networks = f"{recipe.experts} experts {width:,} wide, {_top_k(recipe)} per token"
        if recipe.shared_experts:
            networks += f" and {recipe.shared_experts} shared"
        if recipe.dense_layers:
            networks += f", none in the first {recipe.dense_layers}"
    total = model.parameters()
    return replace(
        model,
        notes=(
            f"Synthetic: no such model exists. Solved from its recipe: {model.layers} layers, "
            f"hidden size {model.hidden:,}, {heads}, {networks}; {format_parameters(total)} "
            f"parameters ({total / recipe.parameters - 1:+.2%} of the recipe's "
            f"{format_parameters(recipe.parameters)}), "
            f"{format_parameters(model.active_parameters())} active.",
        ),
    )
