"""Feasible configurations of one role on one device, as arrays.

A sweep finds millions of them, so that each is kept as its coordinates (layout, column of
the swept axes) and the few times that were estimated; all else is derived when asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import Layouts
from perfmodel.precision import Precision
from perfmodel.traffic import Traffic
from perfmodel.work import step_tokens
from planner.problem import Offer

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Role = Literal["prefill", "decode", "continuous"]


@dataclass(frozen=True, eq=False)
class Axes:
    """The swept axes of a role, (C,) each.

    Attributes:
        batch: sequences (prefill: prompts) per attention rank and micro-batch.
        chunk: prefill tokens per rank and iteration (continuous), else 0.
        traffic: the requests, whose lengths say how many chunks a prompt has.
        drafts: tokens that speculation drafts per sequence and iteration; 0: none.
        acceptance: share of them accepted, each given that those before it were.
    """

    batch: IntArray
    chunk: IntArray
    traffic: Traffic
    drafts: IntArray
    acceptance: float = 0.0

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, columns: IntArray) -> Axes:
        """Some of the columns."""
        return replace(
            self,
            batch=self.batch[columns],
            chunk=self.chunk[columns],
            drafts=self.drafts[columns],
        )

    @property
    def step_tokens(self) -> FloatArray:
        """Tokens that a sequence gains per iteration, (C,)."""
        return step_tokens(self.drafts, self.acceptance)

    @property
    def chunks(self) -> FloatArray:
        """Iterations that a prompt of each representative length takes, (C, J)."""
        return np.ceil(self.traffic.new_tokens / np.maximum(self.chunk, 1)[:, None])

    @property
    def chunks_needed(self) -> FloatArray:
        """Prefill chunks per iteration that keep every slot filled, (C,)."""
        gained = self.batch * self.step_tokens
        prompt_tokens = gained * self.traffic.mean_new_tokens / self.traffic.outputs.mean
        return np.asarray(prompt_tokens / np.maximum(self.chunk, 1))

    @property
    def mixed_share(self) -> FloatArray:
        """Share of iterations that carry a prefill chunk, (C,)."""
        return np.minimum(self.chunks_needed, 1.0)


@dataclass(frozen=True, eq=False)
class Estimates:
    """What was estimated of N configurations.

    Attributes:
        step_s: prefill: latency by representative input, (N, J); continuous: an iteration with
            a prefill chunk, and where prefixes are loaded from the host, what a prompt of each
            length waits for its own, (N, 1) or (N, 1 + J); decode: (N, 0).
        pace_s: prefill: mean time between steps, (N,); else zero.
        pace_cv2: prefill: its squared coefficient of variation, (N,); else zero.
        ttit_s: decode, continuous: mean time between tokens, every slot taken, (N,); else zero.
        ttit_slo_s: the statistic of it that the query's target is of (the mean if none), (N,).
    """

    step_s: FloatArray
    pace_s: FloatArray
    pace_cv2: FloatArray
    ttit_s: FloatArray
    ttit_slo_s: FloatArray

    def take(self, index: object) -> Estimates:
        """The estimates at an index array or mask."""
        return Estimates(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @classmethod
    def concatenate(cls, parts: Sequence[Estimates]) -> Estimates:
        """One after another."""
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Feasible configurations of one role on one device in one precision.

    Attributes:
        layout: (N,) row of `layouts`.
        column: (N,) column of `axes`.
        cache_heads: of `perfmodel.kv_transfer`.
    """

    role: Role
    offer: Offer
    precision: Precision
    layouts: Layouts
    axes: Axes
    cache_heads: tuple[int, ...]
    layout: IntArray
    column: IntArray
    estimates: Estimates

    def __len__(self) -> int:
        return len(self.layout)

    def take(self, index: object) -> Candidates:
        """The candidates at an index array or mask."""
        return self.subset(self.layout[index], self.column[index], self.estimates.take(index))  # type: ignore[call-overload]

    def subset(self, layout: IntArray, column: IntArray, estimates: Estimates) -> Candidates:
        """Other configurations over the same layouts and axes."""
        shared = (self.role, self.offer, self.precision, self.layouts, self.axes, self.cache_heads)
        return Candidates(*shared, layout, column, estimates)

    @classmethod
    def concatenate(cls, parts: Sequence[Candidates]) -> Candidates:
        """Candidates over the same layouts and axes, one after another."""
        return parts[0].subset(
            np.concatenate([p.layout for p in parts]),
            np.concatenate([p.column for p in parts]),
            Estimates.concatenate([p.estimates for p in parts]),
        )

    def _degree(self, name: str) -> IntArray:
        values: IntArray = getattr(self.layouts, name)[self.layout]
        return values

    @property
    def batch(self) -> IntArray:
        """Sequences (prefill: prompts) per attention rank and micro-batch."""
        return np.asarray(self.axes.batch[self.column])

    @property
    def chunk(self) -> IntArray:
        """Prefill tokens per rank and iteration (continuous), else 0."""
        return np.asarray(self.axes.chunk[self.column])

    @property
    def drafts(self) -> IntArray:
        """Tokens that speculation drafts per sequence and iteration."""
        return np.asarray(self.axes.drafts[self.column])

    @property
    def step_tokens(self) -> FloatArray:
        """Tokens that a sequence gains per iteration."""
        return np.asarray(self.axes.step_tokens[self.column])

    @property
    def world(self) -> IntArray:
        """Devices of one replica."""
        return self._degree("world")

    @property
    def slots(self) -> FloatArray:
        """Sequences in flight; zero for prefill."""
        if self.role == "prefill":
            return np.zeros(len(self))
        return (self.batch * self._degree("dp_a") * self._degree("pp")).astype(float)

    @property
    def servers(self) -> FloatArray:
        """Prompts (prefill: batches of them) served at once, as a queue sees them."""
        ranks = self._degree("dp_a")
        if self.role == "continuous":
            ranks = ranks * self._degree("pp")
        return ranks.astype(float)

    @property
    def qps(self) -> FloatArray:
        """Capacity of one replica, requests/s."""
        if self.role == "prefill":
            return self.batch * self.servers / self.estimates.pace_s
        qps = self.slots / (self.axes.traffic.outputs.mean * self.estimates.ttit_s)
        if self.role == "continuous":
            # Where chunks fall short of the slots, the slots run partly empty.
            qps = qps * np.minimum(1.0 / self.axes.chunks_needed[self.column], 1.0)
        return qps

    @property
    def ttit_s(self) -> FloatArray:
        """Mean time between tokens with every slot taken; zero for prefill."""
        return self.estimates.ttit_s

    @property
    def ttit_slo_s(self) -> FloatArray:
        """The same in the statistic of the query's target."""
        return self.estimates.ttit_slo_s

    @property
    def iteration_s(self) -> FloatArray:
        """Mean iteration with every slot taken; zero for prefill."""
        return np.asarray(self.estimates.ttit_s * self.step_tokens)

    @property
    def latency_s(self) -> FloatArray:
        """First-token service time by representative input, (N, J); zero for decode."""
        if self.role == "prefill":
            return self.estimates.step_s
        if self.role == "decode":
            return np.zeros((len(self), len(self._weights)))
        computed = self.estimates.step_s[:, :1] * self.axes.chunks[self.column]
        loading = self.estimates.step_s[:, 1:]
        return np.asarray(computed + loading if loading.shape[1] else computed)

    @property
    def service_s(self) -> FloatArray:
        """Mean first-token service time."""
        if self.role != "continuous":
            return np.asarray(self.latency_s @ self._weights)
        loading = self.estimates.step_s[:, 1:]
        return self.pace_s + (loading @ self._weights if loading.shape[1] else 0.0)

    @property
    def pace_s(self) -> FloatArray:
        """Mean time between completions of one busy server."""
        if self.role != "continuous":
            return self.estimates.pace_s
        return self.estimates.step_s[:, 0] * (self.axes.chunks @ self._weights)[self.column]

    @property
    def pace_cv2(self) -> FloatArray:
        """Squared coefficient of variation of that time."""
        if self.role != "continuous":
            return self.estimates.pace_cv2
        chunks = self.axes.chunks
        cv2 = (chunks**2 @ self._weights) / (chunks @ self._weights) ** 2 - 1.0
        return np.asarray(np.maximum(cv2, 0.0)[self.column])

    @property
    def prefill_share(self) -> FloatArray:
        """Share of time a server is busy with prompts at full load."""
        if self.role == "continuous":
            return np.asarray(self.axes.mixed_share[self.column])
        return np.full(len(self), float(self.role == "prefill"))

    @property
    def _weights(self) -> FloatArray:
        return np.array(self.axes.traffic.inputs.weights)


@dataclass
class Funnel:
    """How many configurations each constraint left, of one role on one device.

    Layout stages count layouts; `evaluated` and later ones count layouts times the swept axes.
    """

    role: Role
    device: str
    precision: str
    stages: list[tuple[str, int]] = field(default_factory=list)

    def add(self, name: str, count: int) -> None:
        """Record what is left after a constraint."""
        self.stages.append((name, count))

    def count(self, name: str) -> int:
        """What was left after the named stage (0 if it was never reached)."""
        return dict(self.stages).get(name, 0)
