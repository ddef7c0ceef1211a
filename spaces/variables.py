"""The decision variables of a deployment and their domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import DEGREES

IntArray = NDArray[np.int64]

MAX_WORLD = 256
"""Devices of one replica, at most."""

PREFILL_BATCHES: IntArray = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32], dtype=np.int64)
"""Prompts per attention rank and prefill step."""

STEP_TOKENS = 32768
"""Tokens of one prefill step per attention rank, at most (a longer prompt is a step alone).

Larger steps gain nothing: a product of this many rows is at its peak rate, and the measured
tables end here."""

CHUNKS: IntArray = np.array([256, 512, 1024, 2048, 4096, 8192, 16384], dtype=np.int64)
"""Prefill tokens per attention rank that one continuous-batching iteration carries."""


def decode_batches(limit: int = 4096) -> IntArray:
    """Sequences per attention rank and micro-batch: every one to 8, then eight per octave."""
    values = list(range(1, 9))
    octave = 8
    while octave < limit:
        values += [octave + octave * i // 8 for i in range(1, 9)]
        octave *= 2
    return np.array([v for v in values if v <= limit], dtype=np.int64)


def exponents(max_world: int = MAX_WORLD) -> int:
    """Each degree is a power of two, 2^0 to 2^exponents."""
    return int(max_world).bit_length() - 1


@dataclass(frozen=True)
class RawSpace:
    """Sizes of the space before any constraint."""

    max_world: int = MAX_WORLD

    @property
    def layouts(self) -> int:
        """Every combination of the seven degrees."""
        values = exponents(self.max_world) + 1
        return int(values ** len(DEGREES))
