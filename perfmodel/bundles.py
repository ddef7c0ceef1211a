"""Bundles of columns of work, of which only the least weighted time is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Bundles:
    """Groups of columns of work, a column in as many as one likes.

    Attributes:
        column: (M,) columns of the work, group after group.
        weight: (M,) what the time of each is multiplied by, not negative.
        starts: (G,) where each group starts in these.
    """

    column: IntArray
    weight: FloatArray
    starts: IntArray

    @classmethod
    def of(cls, weights: list[FloatArray], starts: IntArray) -> Bundles:
        """The same groups of all columns once for each array of weights, one after another."""
        width, count = len(weights[0]), len(weights)
        return cls(
            np.tile(np.arange(width), count),
            np.concatenate(weights),
            np.concatenate([starts + width * k for k in range(count)]),
        )

    def at(self, column: IntArray) -> Bundles:
        """Over other columns of work: those that column `column[c]` stands for."""
        return Bundles(np.asarray(column)[self.column], self.weight, self.starts)

    def least(self, seconds: FloatArray, columns: int) -> FloatArray:
        """The least weighted time of each group: (..., C) to (..., G)."""
        whole = np.broadcast_to(seconds, (*np.shape(seconds)[:-1], columns))
        return np.asarray(
            np.minimum.reduceat(whole[..., self.column] * self.weight, self.starts, axis=-1)
        )
