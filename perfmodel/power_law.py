"""The power law of expert loads under which the tables of experts are measured.

It is that of the imported tables' collector: loads are drawn between 1 token and 0.8 of all
tokens, or where tokens have fewer choices than there are experts between 0.01 and 2, and scaled
to what is routed in all.
"""

from __future__ import annotations

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
