"""How far predictions are from measured deployments, by constants that did not see them.

Rows are predicted under the operators alone, and under constants fitted to other rows:
in turn, each fold of models is left out of the fit and tested. An engine measured with one
model alone is folded over its rows instead, of which each is left out with a fifth of them.
"""

from __future__ import annotations

import os
import statistics
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from perfmodel.calibration import fit
from perfmodel.correction import NEUTRAL, Correction
from perfmodel.deployments import Deployment, read_deployments
from perfmodel.errors import InputError
from perfmodel.serving import Served, Server

FOLDS = 5
"""Parts that models are dealt into; with fewer models, each is a fold of its own."""

Row = Deployment | InputError


@dataclass(frozen=True)
class Seen:
    """One measured row and its predictions, (TTFT, TPOT) in seconds.

    Attributes:
        groups: that it is reported in: all, its mode, device, device and mode, and so on.
        before: by the operators alone.
        after: by constants fitted to other rows.
    """

    id: str
    groups: tuple[str, ...]
    measured: tuple[float, float]
    before: tuple[float, float]
    after: tuple[float, float]


def serve_all(
    path: Path,
    refuse: Callable[[str], None],
    track: Callable[[Sequence[Row]], Iterable[Row]] = iter,
) -> list[Served]:
    """Every row of a file that can be predicted; `refuse` is told of each other, and why.

    Args:
        track: wraps the rows, to show progress.

    Raises:
        ConfigError: the file cannot be read.
    """
    server, served = Server(), []
    for row in track(read_deployments(path)):
        if isinstance(row, InputError):
            refuse(str(row))
            continue
        try:
            served.append(server.serve(row))
        except InputError as error:
            refuse(f"{row.id}: {error}")
    return served


def fit_engines(rows: Sequence[Served]) -> dict[str, Correction]:
    """Constants of every engine, fitted to all of its measured rows.

    Raises:
        InputError: no row was measured.
    """
    engines = _by_engine(rows)
    if not engines:
        raise InputError("no row has measured times to fit to")
    with _executor() as executor:
        jobs = {name: executor.submit(fit, members) for name, members in sorted(engines.items())}
        return {name: job.result() for name, job in jobs.items()}


def fitted_to(rows: Sequence[Served]) -> dict[str, dict[str, int]]:
    """By engine and mode: measured rows that `fit_engines` fits to."""
    counts: dict[str, dict[str, int]] = {}
    for engine, members in sorted(_by_engine(rows).items()):
        modes = [row.deployment.mode for row in members]
        counts[engine] = {mode: modes.count(mode) for mode in ("agg", "disagg") if mode in modes}
    return counts


def held_out(rows: Sequence[Served]) -> dict[str, str]:
    """By engine: on what rows the constants are fitted that `cross_validate` tests."""
    words = {}
    for engine, members in sorted(_by_engine(rows).items()):
        if len({row.deployment.model for row in members}) > 1:
            words[engine] = "other models' rows"
        elif len({_fold(row, members) for row in members}) > 1:
            words[engine] = "other rows of the same, its only model"
        else:
            words[engine] = "none: too few rows to leave some out"
    return words


def cross_validate(rows: Sequence[Served]) -> list[Seen]:
    """Each measured row, predicted by constants that were fitted without its fold."""
    with _executor() as executor:
        parts = []
        for members in _by_engine(rows).values():
            folds = [_fold(row, members) for row in members]
            for fold in sorted(set(folds)):
                tested = [row for row, f in zip(members, folds, strict=True) if f == fold]
                others = [row for row, f in zip(members, folds, strict=True) if f != fold]
                parts.append((tested, executor.submit(_fit_or_neutral, others)))
        jobs = [
            executor.submit(_compare, row, fitted.result())
            for tested, fitted in parts
            for row in tested
        ]
        return [job.result() for job in jobs]


def errors(pairs: Iterable[tuple[float, float]]) -> dict[str, float]:
    """Median and mean absolute relative error of (predicted, measured); empty of none."""
    relative = [abs(predicted / measured - 1) for predicted, measured in pairs]
    if not relative:
        return {}
    return {"median": statistics.median(relative), "mean": statistics.fmean(relative)}


def by_group(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    """Rows by the groups that they are reported in, all of them first."""
    groups: dict[str, list[Seen]] = defaultdict(list)
    for row in seen:
        for name in row.groups:
            groups[name].append(row)
    return dict(sorted(groups.items(), key=lambda item: (item[0] != "all", item[0])))


def _by_engine(rows: Sequence[Served]) -> dict[str, list[Served]]:
    engines: dict[str, list[Served]] = defaultdict(list)
    for row in rows:
        if row.deployment.measured is not None:
            engines[row.deployment.engine].append(row)
    return engines


def _fold(row: Served, members: Sequence[Served]) -> int:
    """Which fold a row is in, by its model; by itself if all are of one model."""
    models = sorted({other.deployment.model for other in members})
    if len(models) > 1:
        return models.index(row.deployment.model) % FOLDS
    return zlib.crc32(row.deployment.id.encode()) % FOLDS


def _fit_or_neutral(rows: Sequence[Served]) -> Correction:
    return fit(rows) if rows else NEUTRAL


def _compare(row: Served, correction: Correction) -> Seen:
    deployment = row.deployment
    assert deployment.measured is not None
    before, after = row.play(NEUTRAL), row.play(correction)
    mode, model = deployment.mode, deployment.model.rsplit("/", 1)[-1]
    groups = (
        "all",
        f"mode {mode}",
        f"device {deployment.device}",
        f"device {deployment.device} {mode}",
        f"engine {deployment.engine} {mode}",
        f"model {model} {mode}",
    )
    return Seen(
        deployment.id,
        groups,
        deployment.measured,
        (before.ttft_s, before.tpot_s),
        (after.ttft_s, after.tpot_s),
    )


def _executor() -> ProcessPoolExecutor:
    # Forking a process whose libraries run threads of their own can hang.
    method = "forkserver" if sys.platform.startswith("linux") else "spawn"
    return ProcessPoolExecutor(os.cpu_count(), get_context(method))
