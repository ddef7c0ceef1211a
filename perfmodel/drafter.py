"""A draft model: a small model of its own that drafts tokens for a large one to verify.

It runs on the devices of the large one's last pipeline stage, in each attention rank for that
rank's sequences: split by tensor parallelism as far as its shape allows, or whole on one device
while the others wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel.layout import Layouts
from perfmodel.model_shapes import ModelArchitecture
from perfmodel.precision import Precision


@dataclass(frozen=True)
class Drafter:
    """A draft model beside a target.

    Attributes:
        precision: number formats of its weights and cache.
        split: over the target's tensor-parallel group; otherwise whole on one device.
    """

    model: ModelArchitecture
    precision: Precision
    split: bool = True

    def layouts(self, target: Layouts) -> Layouts:
        """Its layout beside each of the target's, (L,)."""
        one = np.ones_like(target.tp_a)
        tp = one
        if self.split:
            for degree in 2 ** np.arange(1, 9):
                tp = np.where((degree <= target.tp_a) & self._divides(degree), degree, tp)
        return Layouts(one, tp, one, one, tp, one, one)

    def _divides(self, tp: np.int64) -> bool:
        at = np.array([tp])
        return all(
            bool(group.attention.splits_over(at)[0]) and group.feed_forward.intermediate % tp == 0
            for group in self.model.groups
        )
