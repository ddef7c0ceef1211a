"""A measured fleet against its plan: where they differ, and by how much against the known error.

The plan's figures are evaluated again at the measured request rate, so that a run at another load
than planned is held against what the plan expects there. A difference in the mean time to first
token is divided into two: what the median is above the plan's time without waiting (prefill and
handling), and what the mean is further above the median than the plan's waiting (queueing).
"""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.database import PerfStore
from perfmodel.units import format_time
from planner.estimator_error import TimeError, first_token_error, token_error
from planner.plan import FleetPlan
from planner.problem import Problem
from planner.query_workload import Target
from planner.verify.results import Measured

SATURATED = 0.95
"""Share of the offered requests below which a fleet did not keep up."""

OFF_LOAD = 0.05
"""Difference in load or lengths from which a run is not of the plan's workload."""


@dataclass(frozen=True)
class Comparison:
    """One figure, planned and measured.

    Attributes:
        known: how far such figures are known to be off; None where that is not known.
    """

    name: str
    planned: float
    measured: float
    unit: str
    known: TimeError | None

    @property
    def difference(self) -> float:
        """Measured over planned, less one."""
        return self.measured / self.planned - 1.0

    @property
    def beyond(self) -> bool:
        """Further off than is usual."""
        known, ratio = self.known, self.measured / self.planned
        return known is not None and not known.low <= ratio <= known.high

    @property
    def usual(self) -> str:
        """The known error as differences: `-8% to +10%`."""
        known = self.known
        return "unknown" if known is None else f"{known.low - 1:+.0%} to {known.high - 1:+.0%}"


@dataclass(frozen=True)
class Verdict:
    """What a run says of a plan.

    Attributes:
        findings: where differences lie.
        cautions: why the run may not be comparable.
        kept: by target of the SLO, whether it was met.
    """

    comparisons: tuple[Comparison, ...]
    findings: tuple[str, ...]
    cautions: tuple[str, ...]
    kept: tuple[tuple[str, bool], ...]


def compare(problem: Problem, expected: FleetPlan, measured: Measured, store: PerfStore) -> Verdict:
    """A run against what the plan expects at its load.

    Args:
        expected: the fleet assessed at the measured rate.
    """
    ttft_error = first_token_error(expected)
    ttit_error = token_error(problem, expected, store)
    found = [
        Comparison("requests/s", expected.qps, measured.qps, "", None),
        Comparison("TTFT mean", expected.ttft.mean_s, measured.ttft["mean"], "s", ttft_error),
    ]
    slo = problem.slo
    if slo.ttft and slo.ttft.percentile and expected.ttft.slo_s is not None:
        at = slo.ttft.statistic
        if at in measured.ttft:
            found.append(
                Comparison(f"TTFT {at}", expected.ttft.slo_s, measured.ttft[at], "s", ttft_error)
            )
    if "mean" in measured.ttit:
        planned = expected.ttit_at_load_s
        found.append(Comparison("TTIT mean", planned, measured.ttit["mean"], "s", ttit_error))
    if "mean" in measured.e2e:
        # As many slots are taken as the load keeps, where the plan's own figure has them all; and
        # the first token is in the time to it.
        after = max(problem.traffic.outputs.mean - 1.0, 0.0)
        planned = expected.ttft.mean_s + after * expected.ttit_at_load_s
        found.append(Comparison("end to end mean", planned, measured.e2e["mean"], "s", None))
    if measured.output_tokens:
        planned = expected.qps * problem.traffic.outputs.mean
        tokens = measured.qps * measured.output_tokens
        found.append(Comparison("output tokens/s", planned, tokens, "", None))
    return Verdict(
        tuple(found),
        tuple(_findings(expected, measured, found)),
        tuple(_cautions(problem, measured)),
        tuple(_kept(problem, measured)),
    )


def split_ttft(expected: FleetPlan, measured: Measured) -> tuple[float, float] | None:
    """Seconds by which prefill, and waiting, add to the planned mean TTFT; None: not to be told."""
    median = measured.ttft.get("p50")
    if median is None:
        return None
    waiting = expected.ttft.waiting_s + expected.ttft.admission_s
    idle = expected.ttft.mean_s - waiting
    return median - idle, measured.ttft["mean"] - median - waiting


def _findings(expected: FleetPlan, measured: Measured, comparisons: list[Comparison]) -> list[str]:
    lines = []
    by_name = {one.name: one for one in comparisons}
    offered = measured.offered_qps
    overloaded = offered is not None and measured.qps < SATURATED * offered
    if offered is not None and overloaded:
        lines.append(
            f"queueing: of {offered:.4g} requests/s offered {measured.qps:.4g} were finished: the "
            f"fleet did not keep up (planned capacity {expected.capacity_qps:.4g})"
        )
    ttit = by_name.get("TTIT mean")
    if ttit is not None:
        lines.append(f"decode: {_said(ttit)}")
    ttft = by_name["TTFT mean"]
    parts = split_ttft(expected, measured)
    if parts is None:
        lines.append(
            f"prefill or queueing: {_said(ttft)}; without a median they are not told apart"
        )
        return lines
    prefill, queueing = parts
    lines.append(f"first token: {_said(ttft)}")
    if not ttft.beyond:
        return lines
    for name, part, other in (("prefill", prefill, queueing), ("queueing", queueing, prefill)):
        if abs(part) >= abs(other) and not (overloaded and name == "prefill"):
            sign = "more" if part > 0 else "less"
            share = abs(part) / (abs(prefill) + abs(queueing))
            where = (
                "its median against the plan's service, handling and transfer"
                if name == "prefill"
                else "its mean above its median against the plan's waiting"
            )
            lines.append(
                f"{name}: {format_time(abs(part))} {sign} than planned, {share:.0%} of the "
                f"first token's difference ({where})"
            )
    return lines


def _said(one: Comparison) -> str:
    way = "slower" if one.difference > 0 else "faster"
    inside = "beyond" if one.beyond else "within"
    return (
        f"{abs(one.difference):.0%} {way} than planned ({format_time(one.measured)}, planned "
        f"{format_time(one.planned)}), {inside} the known error of {one.usual}"
    )


def _cautions(problem: Problem, measured: Measured) -> list[str]:
    lines = []
    if measured.model and _own_name(measured.model) != _own_name(problem.model.name):
        lines.append(
            f"the results are of {measured.model}, the plan is of {problem.model.name}: the same "
            "under another name, or results of something else"
        )
    planned = {
        "input": (problem.traffic.inputs.mean, measured.input_tokens),
        "output": (problem.traffic.outputs.mean, measured.output_tokens),
    }
    for name, (tokens, seen) in planned.items():
        if seen and abs(seen / tokens - 1.0) > OFF_LOAD:
            lines.append(
                f"{name} lengths were {seen:,.0f} tokens in the mean, planned {tokens:,.0f}: "
                "its times are of another workload"
            )
    if problem.qps is not None and abs(measured.qps / problem.qps - 1.0) > OFF_LOAD:
        lines.append(
            f"{measured.qps:.4g} requests/s were finished, {problem.qps:.4g} are planned for: the "
            "plan's figures beside them are for the measured load"
        )
    if measured.failed:
        lines.append(f"{measured.failed:,} requests failed")
    if "mean" not in measured.ttit:
        lines.append("the file has no time per output token: decode is not compared")
    return lines


def _own_name(model: str) -> str:
    """A model's name without its owner or folder, in small letters."""
    return model.rstrip("/").rpartition("/")[2].lower()


def _kept(problem: Problem, measured: Measured) -> list[tuple[str, bool]]:
    """Which targets were met, of those whose statistic was measured."""
    found = []
    named = (("TTFT", problem.slo.ttft, measured.ttft), ("TTIT", problem.slo.ttit, measured.ttit))
    targets: list[tuple[str, Target | None, dict[str, float]]] = [
        (name, target, dict(spread)) for name, target, spread in named
    ]
    for name, target, spread in targets:
        if target is None or target.statistic not in spread:
            continue
        text = f"{name} {target.statistic} of {format_time(target.seconds)}"
        found.append((text, spread[target.statistic] <= target.seconds))
    return found
