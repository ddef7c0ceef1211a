"""Two-batch overlap: one half batch computes while the other's tokens travel to experts.

Where tokens are dispatched to experts, an engine may split a step's batch in two and launch
the halves alternately, layer by layer: attention of the one, attention of the other, experts
of the one, and so on, with dispatch and combine on a stream of their own. What it costs:
every half streams all weights again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.graph import COMMUNICATION, COMPUTE, Node, Repetition, repeat
from perfmodel.modules import LAYER, Call
from perfmodel.work import StepWork

FloatArray = NDArray[np.float64]
Gather = tuple[FloatArray, NDArray[np.intp]]

SECTIONS = ("attention", "dispatch", "experts", "combine")
"""The parts of a layer in their order; the second and the last are the tokens' travel."""

HALVES = ("first half", "second half")

EXCHANGE_SHARE = 20 / 132
"""Share of the processors that the exchange of prompts' tokens takes from computing.

DeepEP's kernels for prefill run on 20 of an H100's 132 multiprocessors by default
(`Buffer.num_sms`); those for decode leave the transfer to the NICs and take none.
"""


@dataclass(frozen=True)
class HalfBatches:
    """The layers of a step whose batch is split in two.

    Attributes:
        sections: by layer group, and in it by section: times of unique shapes, in seconds,
            and the shape of each layout.
        layer_overhead_s: the engine's own, per layer and half, (C,).
        possible: columns of work that can be split, (C,).
        slowdown: what computing is multiplied by while tokens travel, (C,).
    """

    sections: dict[int, tuple[list[Gather], ...]]
    layer_overhead_s: FloatArray
    possible: NDArray[np.bool_]
    slowdown: FloatArray

    @classmethod
    def of(cls, calls: Iterable[Call], layer_overhead_s: FloatArray, work: StepWork) -> HalfBatches:
        """From the calls of one half of `work`, whose launch gap that is."""
        sections: dict[int, tuple[list[Gather], ...]] = {}
        dispatching = set()
        for call in calls:
            if call.part != LAYER:
                continue
            of_group = sections.setdefault(call.group, tuple([] for _ in SECTIONS))
            of_group[SECTIONS.index(section(call))].append((call.time.seconds, call.index))
            if call.name == "dispatch":
                dispatching.add(call.group)
        share = np.where(work.prefill_sequences > 0, EXCHANGE_SHARE, 0.0)
        return cls(
            {group: found for group, found in sections.items() if group in dispatching},
            layer_overhead_s,
            work.divisible,
            1.0 / (1.0 - share),
        )

    def layers(self, group: int, rows: NDArray[np.intp], most: int) -> Repetition:
        """Up to `most` layers of a group one after another, for some layouts: (rows, C)."""

        def total(gathers: list[Gather]) -> FloatArray:
            columns = len(self.possible)
            seconds = np.zeros((len(rows), columns))
            for values, index in gathers:
                seconds += values[index[rows]]
            return seconds

        attention, dispatch, experts, combine = (
            total(gathers) * self.factor(name)
            for name, gathers in zip(SECTIONS, self.sections[group], strict=True)
        )
        attention += self.layer_overhead_s
        return repeat(layer_graph(attention, dispatch, experts, combine), most)

    def factor(self, name: str) -> FloatArray:
        """What the times of a section are multiplied by, (C,)."""
        return np.ones_like(self.slowdown) if name in ("dispatch", "combine") else self.slowdown

    def faster(
        self, group: int, rows: NDArray[np.intp], counts: Iterable[int], serial_s: FloatArray
    ) -> dict[int, FloatArray]:
        """Time of so many layers, in whichever way is faster, (rows, C) each.

        Args:
            serial_s: one layer with the whole batch at once, the engine's overhead included.
        """
        counts = set(counts)
        solved = self.layers(group, rows, max(counts, default=0))
        return {
            count: np.where(
                self.possible, np.minimum(count * serial_s, solved.after(count)), count * serial_s
            )
            for count in counts
        }


def layer_graph(
    attention_s: FloatArray, dispatch_s: FloatArray, experts_s: FloatArray, combine_s: FloatArray
) -> tuple[Node, ...]:
    """One layer of two half batches, each of which takes these times."""
    there = [
        node
        for half in HALVES
        for node in (
            Node("attention", COMPUTE, half, attention_s),
            Node("dispatch", COMMUNICATION, half, dispatch_s),
        )
    ]
    back = [
        node
        for half in HALVES
        for node in (
            Node("experts", COMPUTE, half, experts_s),
            Node("combine", COMMUNICATION, half, combine_s),
        )
    ]
    return (*there, *back)


def section(call: Call) -> str:
    """Which of `SECTIONS` an operator call of a layer belongs to."""
    if call.name in ("dispatch", "combine"):
        return call.name
    # Tensor parallelism's collectives are launched among the kernels, which wait for them.
    before = ("ffn_norm", "router", "latent_down_proj", "attention_reduce_scatter")
    return "attention" if call.module == "attention" or call.name in before else "experts"


def halved(work: StepWork) -> StepWork:
    """Half of each column of work: half of the sequences, or of a single prompt's tokens.

    The half of a prompt's tokens is the mean of both: the second sees the first's cache.
    """
    single = (work.prefill_sequences > 0) & (work.prefill_sequences < 2)
    return replace(
        work,
        decode_sequences=work.decode_sequences / 2,
        prefill_sequences=np.where(single, 1.0, 0.5) * work.prefill_sequences,
        prefill_tokens=np.where(single, 0.5, 1.0) * work.prefill_tokens,
        prefix_tokens=work.prefix_tokens + np.where(single, 0.25, 0.0) * work.prefill_tokens,
    )
