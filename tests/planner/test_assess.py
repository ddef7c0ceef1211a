"""What is said of a chosen pool at its load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfmodel import phases
from planner import assess
from planner.candidates import Candidates
from planner.choice import Pool
from planner.sweep import Space

SpaceOf = Callable[..., Space]
PoolsOf = Callable[..., list[Candidates]]


def test_no_batch_takes_longer_than_a_larger_one(
    space_of: SpaceOf, pools_of: PoolsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table's row that was disturbed does not make a pool slower as it empties."""
    pool = next(found for found in pools_of() if found.role == "decode")
    # Of few sequences, where a step takes hardly longer for one more.
    full = Pool(pool, int((pool.batch == 8).argmax()), 1)
    estimate = phases.decode

    def disturbed(*args: Any, **options: Any) -> phases.DecodeEstimate:
        found = estimate(*args, **options)
        found.ttit_s[:, -2] = 1.02 * found.ttit_s[:, -1]
        return found

    def at(share: float) -> float:
        return assess._ttit_at_load(space_of(), full, share * full.qps)

    shares = np.linspace(0.05, 1.0, 40)
    plain = [at(share) for share in shares]
    monkeypatch.setattr(phases, "decode", disturbed)
    found = [at(share) for share in shares]
    assert max(found) <= float(full.one.ttit_s[0]) * (1 + 1e-9)
    assert np.all(np.diff(found) >= 0)
    assert found[0] == plain[0]
