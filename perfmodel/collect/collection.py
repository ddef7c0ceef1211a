"""A collection from start to end: probe, coarse grids, refinement, files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from perfmodel.architecture import ModelArchitecture
from perfmodel.collect import grids
from perfmodel.collect.adaptive import QUANTILE, Refinement, Slice, Start
from perfmodel.collect.journal import Journal, RowId, row_id
from perfmodel.collect.measure import Bench, Key, Machine, Sample, UnavailableError
from perfmodel.collect.results import (
    FamilyReport,
    Report,
    Rows,
    raised_peaks,
    write_device,
    write_manifest,
    write_tables,
)
from perfmodel.collect.rooflines import Rooflines, provisional_device
from perfmodel.collect.torch_group import sizes
from perfmodel.database import FAMILIES
from perfmodel.engine import PYTORCH
from perfmodel.errors import InputError
from perfmodel.hardware import device_names

Progress = Callable[[float, str], None]

LONGEST_S = {"cpu": 0.15, "cuda": 0.05}
"""Shapes whose roofline is longer are not timed: beyond, time follows the roofline."""

REFINE_SHARE = 0.85
"""Of the budget; the rest is for the held-out samples of slices that have none yet."""


def collect(
    device: Literal["cpu", "cuda"],
    destination: Path,
    *,
    name: str,
    families: Iterable[str] = grids.FAMILIES,
    budget_s: float = 600.0,
    error_bound: float = 0.05,
    resume: bool = True,
    progress: Progress | None = None,
    models: Sequence[ModelArchitecture] = (),
    world: int = 1,
    bench: Bench | None = None,
    warn: Callable[[str], None] | None = None,
) -> Report:
    """Measure this machine's operators and write them as tables of the store.

    Writes `<destination>/<name>/pytorch/<family>.parquet`, a `MANIFEST.json` and the journal
    beside them, and the device file `<destination>/<name>.yaml`. `PerfStore([destination])`
    then finds the tables and `load_device(name, [destination])` the device.

    Interrupted, it loses nothing: called again with the same destination and name it goes on
    where it stopped. Called again after its end, it refines further.

    Args:
        device: what to measure.
        destination: folder; made if absent.
        name: of the device: lower-case letters, digits, `_`, `-` and `.`; no shipped device's.
        families: of `FAMILIES`; those that cannot be measured here are noted and left out.
        budget_s: seconds after which no further row is begun.
        error_bound: relative error of interpolation to reach at the 90th percentile.
        resume: whether to keep the rows of an earlier call; else they are measured anew.
        progress: called with the share of the budget spent, and what is being done.
        models: models whose own slices are added to the generic grid.
        world: devices (on a CPU: processes) to measure collectives over; one has none.
        bench: what times a row; by default PyTorch.
        warn: told at the start what will disturb the timings; a note of the report says so too.

    Raises:
        InputError: PyTorch or the device is missing, an argument is out of range, the
            journal is damaged or of another machine, or the machine is too busy to be probed.
        OSError: the destination cannot be written to.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise InputError(f"device name {name!r}: expected lower-case letters, digits, _ - and .")
    if name in device_names():
        raise InputError(
            f"device name {name!r}: a shipped device has it, whose figures a query would no longer "
            f"find; choose another, such as my_{name}"
        )
    if not error_bound > 0 or not budget_s > 0:
        raise InputError("error bound and budget must be positive")
    if world < 1:
        raise InputError("a group has at least one device")
    wanted, notes = _possible(families, device, world)
    started = time.monotonic()
    destination = Path(destination)
    path = destination / name / PYTORCH.name / "journal.jsonl"
    if not resume:
        path.unlink(missing_ok=True)
    with ExitStack() as stack:
        if bench is None:
            from perfmodel.collect.torch_bench import TorchBench

            bench = timer = stack.enter_context(closing(TorchBench(device, world)))
            if disturbance := timer.disturbance():
                notes.append(f"when this began, {disturbance}")
                if warn is not None:
                    warn(disturbance)
        identity = {
            "device": name,
            "kind": device,
            "torch": bench.version,
            "variant": bench.variant,
        }
        journal = stack.enter_context(Journal(path, identity))
        run = _Run(bench, journal, name, error_bound, started, budget_s, progress)
        machine = run.machine()
        longest = LONGEST_S[device]
        fp8 = "fp8" in machine.peak_flops_per_s
        parts = grids.slices(device, wanted, fp8, sizes(world))
        # A model's own slices first: they are what the user asked for.
        parts = [p for model in models for p in grids.of_model(model, device, wanted)] + parts
        refinements = run.refine(parts, longest)
        rows = dict(journal.rows)
    machine = raised_peaks(name, machine, rows)
    files = write_tables(destination, name, bench.version, rows)
    reports = {family: _family_report(family, refinements, rows) for family in files}
    if run.out_of_time:
        notes.append("the budget ran out before every slice reached the bound")
    for family, (count, reason) in sorted(run.unavailable.items()):
        why = f" ({reason})" if reason else ""
        notes.append(f"{family}: {count:,} shapes could not be timed now; call again{why}")
    for family in wanted:
        if family not in files:
            notes.append(f"{family}: no row could be measured within the budget")
    write_manifest(
        path.with_name("MANIFEST.json"),
        files,
        bench.version,
        machine,
        reports,
        error_bound,
        tuple(notes),
    )
    device_file = destination / f"{name}.yaml"
    write_device(device_file, name, machine, bench.version)
    seconds = time.monotonic() - started
    run.say("done", 1.0)
    return Report(name, device_file, machine, reports, run.measured, seconds, tuple(notes))


UNUSED = {
    "all_reduce": "PyTorch has no other than NCCL's, which collective holds",
    "quantize": "no operator model reads it",
}
"""Families that PyTorch could run, and why they are not measured."""


def _possible(families: Iterable[str], device: str, world: int) -> tuple[list[str], list[str]]:
    """The families that are collected on a device, and notes on the others.

    Raises:
        InputError: a name that is no family's.
    """
    wanted: list[str] = []
    notes: list[str] = []
    for family in dict.fromkeys(families):
        if family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise InputError(f"unknown operator family {family!r}; expected one of {known}")
        if family in grids.CUDA_ONLY and device != "cuda":
            notes.append(f"{family}: a {device} has no such link")
        elif family == "collective" and world < 2:
            notes.append(f"{family}: not measurable on a single device; ask for more (world)")
        elif family in UNUSED:
            notes.append(f"{family}: not collected, {UNUSED[family]}")
        elif family not in grids.FAMILIES:
            notes.append(f"{family}: not collected; estimates are extrapolated or analytic")
        else:
            wanted.append(family)
    return wanted, notes


class _Run:
    """One call's state: the clock, the journal, and what is being refined."""

    def __init__(
        self,
        bench: Bench,
        journal: Journal,
        name: str,
        bound: float,
        started: float,
        budget_s: float,
        progress: Progress | None,
    ) -> None:
        self.bench, self.journal, self.name, self.bound = bench, journal, name, bound
        self.started, self.budget_s, self.progress = started, budget_s, progress
        self.measured = 0
        self.unavailable: dict[str, tuple[int, str]] = {}
        self.out_of_time = False
        self.longest_s = float("inf")

    def spent(self) -> float:
        """Share of the budget that is gone."""
        return (time.monotonic() - self.started) / self.budget_s

    def say(self, text: str, share: float | None = None) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(min(self.spent() if share is None else share, 1.0), text)

    def machine(self) -> Machine:
        """The machine's figures; those of the first call, so that ratios stay comparable."""
        self.say("probing the machine")
        if "machine" not in self.journal.notes:
            try:
                self.journal.note("machine", asdict(self.bench.machine()))
            except UnavailableError as error:
                raise InputError(f"the machine cannot be timed now: {error}") from None
        return Machine(**self.journal.notes["machine"])

    def refine(self, parts: Iterable[Slice], longest_s: float) -> list[Refinement]:
        """Coarse grids of all slices first, then rounds where the error is largest."""
        self.longest_s = longest_s
        machine = self.machine()
        rooflines = Rooflines(provisional_device(self.name, machine))
        under_way: list[Refinement] = []
        starts: dict[RowId, Start] = {}
        for part in parts:
            texts = {name: v for name, v in part.fixed.items() if isinstance(v, str)}
            refinement = Refinement(
                part,
                lambda key, family=part.family: rooflines.work_s(family, key),  # type: ignore[misc]
                lambda key, family=part.family: self.row(family, key, rooflines),  # type: ignore[misc]
                self.bound,
                starts.setdefault(row_id(part.family, texts), Start()),
            )
            self.say(f"{part}: coarse grid")
            refinement.coarse()
            under_way.append(refinement)
        urgency = {i: r.urgency for i, r in enumerate(under_way) if not r.done}
        # Families share the time evenly: noise in one must not starve another.
        given = dict.fromkeys((r.part.family for r in under_way), 0.0)
        while urgency and self.spent() < REFINE_SHARE:
            family = min((under_way[i].part.family for i in urgency), key=lambda f: given[f])
            own = [i for i in urgency if under_way[i].part.family == family]
            i = max(own, key=lambda i: urgency[i])
            refinement = under_way[i]
            self.say(f"{refinement.part}: {len(refinement.times)} points")
            begin = time.monotonic()
            refinement.round()
            given[family] += time.monotonic() - begin
            if refinement.done:
                del urgency[i]
            else:
                urgency[i] = refinement.urgency
        self.out_of_time = bool(urgency)
        for refinement in under_way:
            if not refinement.done and not refinement.errors and self.spent() < 1.0:
                self.say(f"{refinement.part}: held-out sample")
                refinement.validate()
        return under_way

    def row(self, family: str, key: Key, rooflines: Rooflines) -> Sample | None:
        """A row from the journal, or measured now; None if impossible or out of time."""
        known = row_id(family, key)
        if known in self.journal.rows:
            return self.journal.rows[known]
        if rooflines.floor_s(family, key) > self.longest_s or self.spent() >= 1.0:
            return None
        try:
            sample = self.bench.measure(family, key)
        except UnavailableError as error:
            count, _ = self.unavailable.get(family, (0, ""))
            self.unavailable[family] = (count + 1, str(error))
            return None
        self.journal.add(family, key, sample)
        self.measured += 1
        return sample


def _family_report(family: str, refinements: Iterable[Refinement], rows: Rows) -> FamilyReport:
    own = [r for r in refinements if r.part.family == family]
    errors = [error for r in own for error in r.errors]
    spreads = [s.spread for (f, _), s in rows.items() if f == family and s is not None]
    return FamilyReport(
        rows=len(spreads),
        tests=len(errors),
        median_error=float(np.median(errors)) if errors else None,
        p90_error=float(np.quantile(errors, QUANTILE)) if errors else None,
        reached=all(r.done for r in own),
        spread=float(np.median(spreads)),
    )
