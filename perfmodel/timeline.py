"""One layer of a step on a device's streams: what runs when, what overlaps, what bounds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.graph import COMMUNICATION, COMPUTE, HOST, run
from perfmodel.layout import Layouts
from perfmodel.modules import LAYER, Call
from perfmodel.operators import Bound, Kind
from perfmodel.overlap import SECTIONS, HalfBatches, halved, layer_graph, section
from perfmodel.step import StepModel
from perfmodel.work import StepWork, stages

SETTLING = 4
"""Layers run before the one that is shown: by then half batches follow evenly."""


@dataclass(frozen=True)
class Span:
    """One operator call.

    Attributes:
        stream: of `perfmodel.graph`.
        lane: the half of the batch, where two are run at once; else empty.
        kind, bound: as in `perfmodel.breakdown.OperatorShare`.
    """

    name: str
    module: str
    stream: str
    lane: str
    start_s: float
    end_s: float
    kind: str
    bound: str

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class LayerTimeline:
    """A layer of one group of alike layers; the first span starts at zero.

    Attributes:
        count: such layers in the slowest pipeline stage.
        period_s: from a layer's start to the next one's.
    """

    group: int
    count: int
    spans: tuple[Span, ...]
    period_s: float


def layer_timelines(step: StepModel, layout: Layouts, work: StepWork) -> tuple[LayerTimeline, ...]:
    """A layer of each group in the stage with the most layers, of one layout and column of work."""
    stage = max(stages(step.model, int(layout.pp[0])), key=lambda one: sum(one.counts))
    calls = list(step.calls(layout, work))
    halves = step.half_batches(layout, work)
    half_calls = [] if halves is None else list(step.calls(layout, halved(work)))
    gap = float(step.engine.layer_overhead_s(work)[0])
    found = []
    for group, count in enumerate(stage.counts):
        if not count:
            continue
        one = _serial(group, count, _of(calls, group), gap)
        if halves is not None and group in halves.sections and halves.possible[0]:
            split = _overlapped(group, count, _of(half_calls, group), halves)
            one = min(one, split, key=lambda layer: layer.period_s)
        found.append(one)
    return tuple(found)


def _of(calls: Sequence[Call], group: int) -> list[Call]:
    """A group's calls in the order in which a layer runs them; they come module by module."""
    layer = [call for call in calls if call.part == LAYER and call.group == group]
    dispatches = any(call.name == "dispatch" for call in layer)
    return sorted(layer, key=lambda call: _place(call, dispatches))


def _place(call: Call, dispatches: bool) -> int:
    if call.module == "attention":
        return 0
    if call.name in ("attention_all_reduce", "attention_reduce_scatter"):
        return 1
    if call.name in ("ffn_norm", "router", "latent_down_proj"):
        return 2
    if call.name == "attention_all_gather":
        # Where experts are reached by dispatch, tokens are gathered for the next layer.
        return 8 if dispatches else 3
    return {"dispatch": 4, "combine": 6}.get(call.name, 7 if call.module == "communication" else 5)


def _serial(group: int, count: int, calls: Sequence[Call], gap_s: float) -> LayerTimeline:
    """One operator after another, the engine's launch gap first."""
    spans = []
    now = gap_s
    if gap_s:
        spans.append(_gap(0.0, gap_s, ""))
    for call in calls:
        span = _span(call, "", now, 1.0)
        if span.seconds > 0:
            spans.append(span)
            now = span.end_s
    return LayerTimeline(group, count, tuple(spans), now)


def _overlapped(
    group: int, count: int, calls: Sequence[Call], halves: HalfBatches
) -> LayerTimeline:
    """Two half batches, as the simulator runs them, after some layers."""
    gap = float(halves.layer_overhead_s[0])
    factors = {name: float(halves.factor(name)[0]) for name in SECTIONS}
    within: dict[str, list[Span]] = {name: [] for name in SECTIONS}
    now = dict.fromkeys(SECTIONS, 0.0)
    now["attention"] = gap
    for call in calls:
        name = section(call)
        span = _span(call, "", now[name], factors[name])
        if span.seconds > 0:
            within[name].append(span)
            now[name] = span.end_s
    graph = layer_graph(*(now[name] for name in SECTIONS))  # type: ignore[arg-type]
    timeline = run(graph * SETTLING)
    first, size = (SETTLING - 1) * len(graph), len(graph)
    zero = float(timeline.start[first])
    spans = []
    for i in range(first, first + size):
        node, start = timeline.nodes[i], float(timeline.start[i]) - zero
        if node.name == "attention" and gap:
            spans.append(_gap(start, gap, node.lane))
        spans += [_moved(span, start, node.lane) for span in within[node.name]]
    period = float(timeline.start[first] - timeline.start[first - size])
    return LayerTimeline(group, count, tuple(spans), period)


def _gap(start_s: float, seconds: float, lane: str) -> Span:
    return Span("launch", "engine", HOST, lane, start_s, start_s + seconds, "analytic", "latency")


def _span(call: Call, lane: str, start_s: float, factor: float) -> Span:
    row, time = call.index[0], call.time
    bound = Bound(int(time.bound[row, 0])).name.lower()
    travels = bound == "link" or call.module == "communication"
    return Span(
        name=call.name,
        module=call.module,
        stream=COMMUNICATION if travels else COMPUTE,
        lane=lane,
        start_s=start_s,
        end_s=start_s + float(time.seconds[row, 0]) * factor,
        kind=Kind(int(time.kind[row, 0])).name.lower(),
        bound=bound,
    )


def _moved(span: Span, by_s: float, lane: str) -> Span:
    start, end = span.start_s + by_s, span.end_s + by_s
    return Span(span.name, span.module, span.stream, lane, start, end, span.kind, span.bound)
