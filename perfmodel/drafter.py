"""A draft model: a small model of its own that drafts tokens for a large one to verify.

It runs on the devices of the large one's last pipeline stage, in each attention rank for that
rank's sequences: split by tensor parallelism as far as its shape allows, or whole on one device
while the others wait.
"""

from __future__ import annotations

import numpy as np

from perfmodel.architecture import Drafter, ModelArchitecture
from perfmodel.layout import Layouts


def drafter_layouts(drafter: Drafter, target: Layouts) -> Layouts:
    """Its layout beside each of the target's, (L,)."""
    one = np.ones_like(target.tp_a)
    tp = one
    if drafter.split:
        for degree in 2 ** np.arange(1, 9):
            split = (degree <= target.tp_a) & _divides(drafter.model, degree)
            tp = np.where(split, degree, tp)
    return Layouts(one, tp, one, one, tp, one, one)


def _divides(model: ModelArchitecture, tp: np.int64) -> bool:
    at = np.array([tp])
    return all(
        bool(group.attention.splits_over(at)[0]) and group.feed_forward.intermediate % tp == 0
        for group in model.groups
    )
