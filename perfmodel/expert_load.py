"""How tokens spread over experts, and what that makes of the busiest device.

A measured table of experts was timed under a distribution of its own (`balanced`,
`power_law_1.01`, ...). An `ExpertLoad` states another: uniform, a power law, or a user's
counts, placed on devices as they come or balanced. `rank_load` says of either how much more
than the mean the busiest device of an expert group has to do, and how many experts it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel.documents import parse_json, read_text
from perfmodel.errors import ConfigError
from perfmodel.expert_placement import balanced_placement, contiguous_placement
from perfmodel.power_law import POWER_LAW, drawn_loads

FloatArray = NDArray[np.float64]

TABLES = ("balanced", "power_law_1.01", "power_law_1.2", "uniform")
"""Distributions under which experts are measured, the most even first."""

ORDERS = 256
"""Random orders of experts over which a power law placed contiguously is the mean."""

TABLE_DRAWS = 64
"""Draws over which a table's own power law is the mean. Its rows are of a few, not recorded."""

_TOKENS: FloatArray = np.logspace(0, 24, 25, base=2.0, dtype=np.float64)
"""Tokens at which a busiest device is evaluated; between them it is linear in their logarithm."""

MANY = 12
"""Position in `RankLoad` of a number of tokens (4,096) at which loads are compared."""

_COMPARED_DEVICES = 8


@dataclass(frozen=True)
class ExpertLoad:
    """A stated distribution of tokens over the experts of a layer.

    Attributes:
        distribution: `uniform`; `power_law`, the i-th most popular expert having a share in
            proportion to `i ** -exponent`, in an order that has nothing to do with placement;
            or `histogram`.
        counts: of a histogram, one row per layer (or one for all): tokens by expert.
        placement: `contiguous`, equally many neighbours on each device; or `balanced`, the
            busiest first, each to the device with least to do [1]_.
        redundant_experts: further copies of the busiest experts, per layer (`balanced` only).

    References:
        .. [1] DeepSeek's expert-parallelism load balancer (EPLB), global policy.
    """

    distribution: Literal["uniform", "power_law", "histogram"]
    exponent: float = 0.0
    counts: tuple[tuple[float, ...], ...] = ()
    placement: Literal["contiguous", "balanced"] = "contiguous"
    redundant_experts: int = 0

    def __str__(self) -> str:
        text = self.distribution.replace("_", " ")
        text += f" {self.exponent:g}" if self.distribution == "power_law" else ""
        copies = f" with {self.redundant_experts} redundant" if self.redundant_experts else ""
        return f"{text}, {self.placement} placement{copies}"

    def popularity(self, experts: int) -> FloatArray:
        """Shares of the routed tokens by expert, (layers or orders, experts); rows add up to 1."""
        if self.distribution == "histogram":
            rows = np.array(self.counts, dtype=float)
        else:
            rows = np.arange(1.0, experts + 1.0)[None] ** -self.exponent
            if self.distribution == "power_law" and self.placement == "contiguous":
                source = np.random.default_rng(experts)
                rows = np.stack([source.permutation(rows[0]) for _ in range(ORDERS)])
        return np.asarray(rows / rows.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class RankLoad:
    """The busiest device of an expert group, over `_TOKENS`.

    Attributes:
        pairs: token-expert pairs there over the mean device's.
        reached: experts on one device that at least one token visits, at most.
    """

    pairs: FloatArray
    reached: FloatArray


def visits(popularity: FloatArray, top_k: int) -> FloatArray:
    """Chance that a token visits each expert, of the shape of `popularity`.

    `top_k` times its share, but at most one: what an expert can't take goes to the others in
    proportion.
    """
    chance = popularity * top_k
    for _ in range(popularity.shape[-1]):
        full = chance >= 1.0
        rest = np.where(full, 0.0, popularity)
        left = top_k - full.sum(axis=-1, keepdims=True)
        whole = rest.sum(axis=-1, keepdims=True)
        spread = rest * left / np.where(whole > 0, whole, 1.0)
        updated = np.where(full, 1.0, spread)
        if not (updated > 1.0).any():
            return updated
        chance = updated
    return np.minimum(chance, 1.0)


@lru_cache(maxsize=512)
def rank_load(load: ExpertLoad | str, experts: int, top_k: int, devices: int) -> RankLoad:
    """The busiest of so many devices under a stated load, or under a table's distribution.

    Of several layers (or orders, or draws) it is the mean: layers run one after another, and
    each waits for its own busiest device.
    """
    if isinstance(load, str):
        rows = [visits(_table_popularity(load, experts, top_k, float(t)), top_k) for t in _TOKENS]
        loads = [_busiest(row, devices, top_k, _TOKENS[i : i + 1]) for i, row in enumerate(rows)]
        return RankLoad(
            np.concatenate([one.pairs for one in loads]),
            np.concatenate([one.reached for one in loads]),
        )
    chance = visits(load.popularity(experts), top_k)
    if load.placement == "balanced":
        placed = balanced_placement(chance, devices, load.redundant_experts)
    else:
        placed = contiguous_placement(chance, devices)
    return _of_placed(placed, top_k, _TOKENS)


def _busiest(chance: FloatArray, devices: int, top_k: int, tokens: FloatArray) -> RankLoad:
    return _of_placed(contiguous_placement(chance, devices), top_k, tokens)


def _of_placed(placed: FloatArray, top_k: int, tokens: FloatArray) -> RankLoad:
    """From chances of a visit by row, device and place, (rows, devices, places)."""
    mean = top_k / placed.shape[1]
    pairs = (placed.sum(axis=2) / mean).max(axis=1).mean()
    missed = np.exp(np.log1p(-np.minimum(placed, 1 - 1e-12))[..., None] * tokens)
    reached = (1.0 - missed).sum(axis=2).max(axis=1).mean(axis=0)
    return RankLoad(np.full(len(tokens), pairs), reached)


def _table_popularity(table: str, experts: int, top_k: int, tokens: float) -> FloatArray:
    """Shares by draw and expert under which a table was timed at so many tokens.

    Its integer loads are rounded from these.
    """
    if not table.startswith(POWER_LAW):
        return np.full((1, experts), 1.0 / experts)
    exponent = float(table.removeprefix(POWER_LAW))
    # Each draw's loads at all numbers of tokens are of the same random numbers.
    draws = [np.random.default_rng([d, top_k, experts]) for d in range(TABLE_DRAWS)]
    rows = np.stack([drawn_loads(draw, exponent, tokens, top_k, experts) for draw in draws])
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def busiest_device(
    load: ExpertLoad | str, experts: int, top_k: int, devices: FloatArray, tokens: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The busiest device over arrays: its pairs over the mean's, and experts reached.

    Args:
        devices: of the expert group, (U, 1).
        tokens: that enter the group, (U, C).
    """
    shape = np.broadcast_shapes(devices.shape, tokens.shape)
    pairs, reached = np.ones(shape), np.ones(shape)
    position = np.log2(np.maximum(np.broadcast_to(tokens, shape), 1.0))
    grid = np.log2(_TOKENS)
    for degree in np.unique(devices):
        rows = np.flatnonzero(devices[:, 0] == degree)
        one = rank_load(load, experts, top_k, int(degree))
        pairs[rows] = np.interp(position[rows], grid, one.pairs)
        reached[rows] = np.interp(position[rows], grid, one.reached)
    return pairs, reached


def nearest_table(
    load: ExpertLoad, experts: int, top_k: int, tables: Sequence[str] = TABLES
) -> str:
    """The table whose busiest of 8 devices has most nearly as much to do as this load's.

    Args:
        tables: those to choose among; all that there may be if empty.
    """
    devices = next(d for d in range(min(_COMPARED_DEVICES, experts), 0, -1) if experts % d == 0)

    def excess(which: ExpertLoad | str) -> float:
        return float(np.log(rank_load(which, experts, top_k, devices).pairs[MANY]))

    own = excess(load)
    return min(tables or TABLES, key=lambda table: abs(excess(table) - own))


def read_counts(path: Path) -> tuple[tuple[float, ...], ...]:
    """Counts of tokens by layer and expert, from a CSV or JSON file.

    CSV: a line per layer with a number for each expert, or a single column for all layers; lines
    that begin with `#` are skipped. JSON: a list of numbers, or a list of such lists.

    Raises:
        ConfigError: the file can't be read, is ragged or empty, or holds what is no count; names
            the line (CSV) or the layer (JSON).
    """
    text = read_text(path, "CSV or JSON")
    if path.suffix == ".json":
        data = parse_json(text, path)
        if isinstance(data, list) and data and not any(isinstance(row, list) for row in data):
            data = [data]
        if not isinstance(data, list) or not all(isinstance(row, list) for row in data):
            raise ConfigError(
                "expected a list of counts, or one such list per layer", source=str(path)
            )
        rows = [(f"{path}: layer {i}", row) for i, row in enumerate(data)]
    else:
        lines = ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1))
        rows = [
            (f"{path}:{i}", [part.strip() for part in line.split(",")])
            for i, line in lines
            if line and not line.startswith("#")
        ]
    counts = tuple(tuple(_count(value, where) for value in row) for where, row in rows)
    if counts and all(len(row) == 1 for row in counts):
        counts = (tuple(row[0] for row in counts),)
    if not counts or not counts[0]:
        raise ConfigError("expected counts of tokens by expert, got none", source=str(path))
    for (where, _), row in zip(rows, counts, strict=False):
        if len(row) != len(counts[0]):
            raise ConfigError(
                f"expected {len(counts[0])} counts as before, got {len(row)}", source=where
            )
        if sum(row) <= 0:
            raise ConfigError("expected at least one expert with tokens", source=where)
    return counts


def _count(value: object, where: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if not 0 <= number < float("inf"):
            raise ValueError
    except ValueError:
        raise ConfigError(f"expected counts from zero up, got {value!r}", source=where) from None
    return number
