"""Fit an engine's constants to measured deployments.

What is fitted is what no operator's time speaks of: how an engine handles a request, and what
share of drafts is accepted. What it adds to a step stands as it is expected: those constants,
fitted too, took up the errors of the operators of the models at hand, and the time per token
of models that the fit had not seen was predicted worse, by every engine in continuous service.

The loss is the mean absolute log-ratio of predicted to measured TPOT and TTFT, cut off so
that a row whose deployment was something else than it says (speculation that it does not
mention, a cold start) pulls no more than any other. A penalty holds each constant near what
is expected of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.correction import Correction
from perfmodel.errors import InputError
from perfmodel.serving import Served

FloatArray = NDArray[np.float64]

EXPECTED = Correction(
    iteration_overhead_s=3e-4,
    sequence_overhead_s=5e-6,
    layer_gap_s=5e-5,
    shared_overlap=0.3,
    prefill_factor=1.1,
    request_overhead_s=0.04,
    handover_s=0.03,
    first_token_steps=1.0,
    acceptance=0.7,
)
"""What is expected of an engine before anything is measured, and where the search begins."""

TOLERANCE = {
    "request_overhead_s": 0.05,
    "handover_s": 0.05,
    "first_token_steps": 4.0,
    "acceptance": 0.1,
}
"""How far what is fitted may well be from that: the unit of its search and penalty."""

CONTINUOUS = ("request_overhead_s", "first_token_steps", "acceptance")
DISAGGREGATED = ("handover_s",)

CUT, TTFT_WEIGHT, PENALTY = 1.2, 0.5, 0.02
LEAST_ROWS = 20
"""Fewer measured rows of a mode say nothing about its constants."""

LARGEST_CLIENTS = 256
"""Larger loads take long to play and say the same."""


def fit(rows: Sequence[Served], *, sample: int = 60, trials: int = 20, seed: int = 0) -> Correction:
    """The constants of one engine.

    Args:
        rows: measured deployments of that engine.
        sample: how many rows to play, drawn evenly over models.
        trials: evaluations of the loss for each constant.

    Raises:
        InputError: no row was measured.
    """
    measured = [row for row in rows if row.deployment.measured is not None]
    if not measured:
        raise InputError("no measured deployment to fit to")
    found = EXPECTED
    for mode, names in (("agg", CONTINUOUS), ("disagg", DISAGGREGATED)):
        of_mode = [row for row in measured if row.deployment.mode == mode]
        # Of a mode that was hardly measured, what is expected of it stands.
        if len(of_mode) >= LEAST_ROWS or (mode == "agg" and of_mode):
            found = _search(found, names, _drawn(of_mode, sample, seed), trials)
    return found


def log_errors(row: Served, correction: Correction) -> tuple[float, float]:
    """Log-ratio of predicted to measured TTFT and TPOT."""
    assert row.deployment.measured is not None
    seen = row.play(correction)
    ttft, tpot = row.deployment.measured
    return math.log(seen.ttft_s / ttft), math.log(seen.tpot_s / tpot)


def _drawn(rows: Sequence[Served], count: int, seed: int) -> list[Served]:
    """Rows in equal numbers of each model and device where there are so many."""
    order = np.random.default_rng(seed).permutation(len(rows))
    kinds: dict[tuple[str, str], list[Served]] = {}
    for i in order:
        row = rows[int(i)]
        if row.deployment.load.clients <= LARGEST_CLIENTS:
            kinds.setdefault((row.deployment.model, row.deployment.device), []).append(row)
    drawn: list[Served] = []
    while len(drawn) < count and any(kinds.values()):
        for members in kinds.values():
            if members and len(drawn) < count:
                drawn.append(members.pop())
    return drawn or list(rows)


def _search(
    start: Correction, names: Sequence[str], rows: Sequence[Served], trials: int
) -> Correction:
    from scipy.optimize import minimize

    unit = np.array([TOLERANCE[name] for name in names])

    def at(point: FloatArray) -> Correction:
        values = dict(zip(names, (np.abs(point) * unit).tolist(), strict=True))
        if "acceptance" in values:
            values["acceptance"] = min(values["acceptance"], 1.0)
        return replace(start, **values)

    def loss(point: FloatArray) -> float:
        correction = at(point)
        errors = np.array([log_errors(row, correction) for row in rows])
        size = np.minimum(np.sqrt(errors**2 + 4e-4), CUT).mean(axis=0)
        far = float(np.sum((point - origin) ** 2))
        return float(TTFT_WEIGHT * size[0] + size[1] + PENALTY * far)

    origin: Any = np.array([getattr(start, name) for name in names]) / unit
    simplex = np.vstack([origin, origin + np.eye(len(names))])
    options: Any = {"maxfev": trials * len(names), "initial_simplex": simplex}
    best = minimize(loss, origin, method="Nelder-Mead", options=options)
    return at(best.x)
