"""What operators share whose tables are of groups of devices, and of few or many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.database.grid import RatioTable
from perfmodel.operators.base import FloatArray, OperatorModel, OperatorTime


class LargestGroupHeld(OperatorModel):
    """An operator of a group of devices, whose size is a slice of its table.

    Between measured sizes neighbours are averaged, as in any slice. Beyond the largest only
    that one speaks: an average with small groups would not join it.

    Class attributes:
        sizes: the slice columns that say how large the group is.
    """

    sizes: ClassVar[tuple[str, ...]] = ()

    def _interpolate(
        self,
        table: RatioTable,
        categories: Mapping[str, str],
        arrays: Mapping[str, FloatArray],
        full: tuple[int, ...],
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        names = list(self.slices)
        largest = {name: 2.0 ** table.keys[:, names.index(name)].max() for name in self.sizes}
        held = {name: np.minimum(arrays[name], most) for name, most in largest.items()}
        seconds, inside = super()._interpolate(table, categories, dict(arrays) | held, full)
        beyond = np.zeros((1, 1), dtype=bool)
        for name, size in held.items():
            beyond = beyond | (arrays[name] > size)
        if beyond.any():
            measured = self.work(categories, dict(arrays) | held) + table.start_s
            seconds = seconds * ((self.work(categories, arrays) + table.start_s) / measured)
            inside = inside & ~beyond
        return seconds, inside


class Filled:
    """Times put together from blocks of rows and columns; what no block covers takes none."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._time = OperatorTime(
            np.zeros(shape),
            np.zeros(shape, dtype=np.uint8),
            np.zeros(shape, dtype=np.uint8),
            np.zeros(shape),
        )

    def put(self, rows: NDArray[np.intp], columns: NDArray[np.intp], time: OperatorTime) -> None:
        """A block's times, broadcastable to (rows, columns)."""
        for name in ("seconds", "kind", "bound", "floor_s"):
            getattr(self._time, name)[np.ix_(rows, columns)] = getattr(time, name)

    def time(self) -> OperatorTime:
        """All of them."""
        return self._time


def up_to(within: NDArray[np.bool_], small: OperatorTime, large: OperatorTime) -> OperatorTime:
    """A kernel for few tokens where they are few enough, another one beyond.

    Args:
        within: where the first serves.
        small: its times, held at its limit beyond it: more tokens take no less.
    """
    return OperatorTime(
        np.where(within, small.seconds, np.maximum(small.seconds, large.seconds)),
        np.where(within, small.kind, large.kind),
        np.where(within, small.bound, large.bound),
        np.where(within, small.floor_s, np.maximum(small.floor_s, large.floor_s)),
    )
