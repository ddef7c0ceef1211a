"""The power law of expert loads under which the tables of experts are measured.

It is that of the imported tables' collector: loads are drawn between 1 token and 0.8 of all
tokens, or where tokens have fewer choices than there are experts between 0.01 and 2, and scaled
to what is routed in all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

POWER_LAW = "power_law_"
"""What the names of such tables begin with; the exponent follows."""


def drawn_loads(
    source: np.random.Generator, exponent: float, tokens: float, top_k: int, experts: int
) -> FloatArray:
    """Loads of all experts before they are scaled, (experts,); their density falls by the exponent.

    Args:
        tokens: that are routed, each to `top_k` experts.
    """
    low, high = (1.0, max(0.8 * tokens, 1.0)) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - exponent
    drawn = source.random(experts)
    loads: FloatArray = ((high**power - low**power) * drawn + low**power) ** (1.0 / power)
    return loads


def reached_experts(exponent: float, tokens: Any, top_k: Any, experts: Any) -> FloatArray:
    """Expected number of experts that at least one of `tokens` reaches under such loads.

    An expert is reached if its load, scaled to all pairs of token and expert, is not rounded to
    nothing. Mean and distribution are those of a truncated power law.

    Args:
        exponent: neither 1 nor 2.
        tokens, top_k, experts: broadcastable.
    """
    pairs = np.asarray(tokens * top_k, dtype=float)
    many = pairs > experts
    low = np.where(many, 1.0, 0.01)
    # Few tokens over few experts leave no range at all: loads are equal then.
    high = np.where(many, np.maximum(0.8 * np.asarray(tokens), 1.0 + 1e-9), 2.0)
    once, twice = 1.0 - exponent, 2.0 - exponent
    spread = high**once - low**once
    mean = (high**twice - low**twice) / twice * once / spread
    least = np.clip(0.5 * mean * experts / pairs, low, high)
    reached = experts * (high**once - least**once) / spread
    return np.asarray(np.maximum(reached, np.minimum(top_k, experts)))
