"""What requests look like: distributions of input and output length, and prefix reuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import InputError

FloatArray = NDArray[np.float64]

TIERS = ("device", "host", "none")
"""Where cached prefixes may lie (see `perfmodel.prefix_cache`)."""

NODES = 6
"""Representative lengths that stand for a distribution given by percentiles."""


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths as weighted representative values, ascending, in tokens."""

    tokens: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def fixed(cls, tokens: float) -> Lengths:
        """Every request the same."""
        return cls((float(tokens),), (1.0,))

    @classmethod
    def from_histogram(cls, tokens: Sequence[float], weights: Sequence[float]) -> Lengths:
        """From lengths and how often each occurs; weights need not add up to one.

        Raises:
            InputError: lengths and weights do not pair up, a length below one token, a
                negative weight, or no weight at all.
        """
        if len(tokens) != len(weights) or not tokens:
            raise InputError("expected as many weights as token lengths, at least one")
        if min(tokens) < 1 or min(weights) < 0 or sum(weights) <= 0:
            raise InputError("expected lengths of at least one token and positive weights")
        pairs = sorted((float(t), float(w)) for t, w in zip(tokens, weights, strict=True) if w > 0)
        whole = sum(w for _, w in pairs)
        return cls(tuple(t for t, _ in pairs), tuple(w / whole for _, w in pairs))

    @classmethod
    def from_percentiles(cls, percentiles: Mapping[float, float]) -> Lengths:
        """From `{50: 800, 90: 2000, 99: 4000}`: tokens at percentiles.

        The quantile function is linear between the given points in log tokens. Beyond them
        it continues with the nearest segment's slope down to percentile 0 and up to 100, at
        most to half the lowest and twice the highest value given.

        Raises:
            InputError: no percentile, one outside 0..100, or tokens that decrease.
        """
        points = sorted((float(p), float(t)) for p, t in percentiles.items())
        if not points:
            raise InputError("expected at least one percentile")
        if any(not 0 <= p <= 100 for p, _ in points):
            raise InputError("expected percentiles between 0 and 100")
        if any(t < 1 for _, t in points):
            raise InputError("expected lengths of at least one token")
        if any(b[1] < a[1] for a, b in pairwise(points)):
            raise InputError("expected tokens that do not decrease with the percentile")
        if len(points) == 1:
            return cls.fixed(points[0][1])
        p = np.array([point[0] for point in points])
        logs = np.log([point[1] for point in points])
        slopes = np.diff(logs) / np.diff(p)
        low = max(logs[0] - slopes[0] * p[0], logs[0] - np.log(2.0))
        high = min(logs[-1] + slopes[-1] * (100.0 - p[-1]), logs[-1] + np.log(2.0))
        p = np.concatenate([[0.0], p, [100.0]])
        logs = np.concatenate([[min(low, logs[0])], logs, [max(high, logs[-1])]])
        # Finer in the tail, which sets tail latencies and memory.
        edges = np.array([0.0, 25.0, 50.0, 75.0, 90.0, 98.0, 100.0])
        weights = np.diff(edges) / 100.0
        inner = np.linspace(edges[:-1], edges[1:], 33)
        tokens = np.exp(np.interp(inner, p, logs)).mean(axis=0)
        return cls(tuple(tokens.tolist()), tuple(weights.tolist()))

    @cached_property
    def mean(self) -> float:
        """Mean tokens."""
        return float(np.dot(self.tokens, self.weights))

    @cached_property
    def mean_square(self) -> float:
        """Mean of the squared tokens."""
        return float(np.dot(np.square(self.tokens), self.weights))

    def longer_by(self, tokens: float) -> Lengths:
        """The distribution with so many tokens added to every length."""
        return Lengths(tuple(t + tokens for t in self.tokens), self.weights)

    @property
    def maximum(self) -> float:
        """The longest representative."""
        return self.tokens[-1]


@dataclass(frozen=True)
class VisionLoad:
    """What the images of one request are to the vision encoder.

    Attributes:
        sequences: of patches, of all images together.
        patches: of one sequence.
    """

    sequences: float
    patches: float


@dataclass(frozen=True)
class Traffic:
    """The requests of one service; input and output lengths are taken as independent.

    Attributes:
        inputs: prompt lengths, the tokens of images included.
        prefix_hit: share of each prompt's tokens found in the prefix cache.
        prefix_tier: where they lie, of `TIERS`.
        prefix_tokens: tokens that each attention rank keeps to find as many; 0: not said, and
            not counted.
        vision: its images, where the devices that take the prompt encode them; every image is
            encoded, whatever of the prompt is cached.
    """

    inputs: Lengths
    outputs: Lengths
    prefix_hit: float = 0.0
    prefix_tier: str = "device"
    prefix_tokens: float = 0.0
    vision: VisionLoad | None = None

    @property
    def loads_prefix(self) -> bool:
        """Whether cached prefixes are loaded from the host."""
        return self.prefix_tier == "host" and self.prefix_hit > 0

    @property
    def resident_tokens(self) -> float:
        """Prefix tokens kept in device memory by each attention rank."""
        return self.prefix_tokens if self.prefix_tier == "device" else 0.0

    @cached_property
    def shared_tokens(self) -> FloatArray:
        """Of these, what a sequence in flight shares at each representative input, (J,)."""
        return self.cached_tokens * (self.resident_tokens > 0)

    @cached_property
    def mean_shared_tokens(self) -> float:
        """The same on average."""
        return float(self.shared_tokens @ np.array(self.inputs.weights))

    def images_of(self, prompts: object) -> dict[str, object]:
        """The images of so many prompts, as `StepWork.of` takes them."""
        if self.vision is None:
            return {}
        count = np.asarray(prompts, dtype=float) * self.vision.sequences
        return {"vision_sequences": count, "vision_patches": self.vision.patches}

    @cached_property
    def new_tokens(self) -> FloatArray:
        """Prompt tokens to compute at each representative input, at least one, (J,)."""
        return np.maximum(np.array(self.inputs.tokens) * (1.0 - self.prefix_hit), 1.0)

    @cached_property
    def cached_tokens(self) -> FloatArray:
        """Prompt tokens found in the prefix cache at each representative input, (J,)."""
        return np.array(self.inputs.tokens) - self.new_tokens

    @cached_property
    def mean_new_tokens(self) -> float:
        """Mean prompt tokens to compute."""
        return float(self.new_tokens @ np.array(self.inputs.weights))

    @cached_property
    def context_mean(self) -> float:
        """Mean cache length of a sequence in flight, tokens.

        A sequence is in flight in proportion to its output, of which half is written on
        average: E[in] + E[out^2] / (2 E[out]).
        """
        return self.inputs.mean + self.outputs.mean_square / (2.0 * self.outputs.mean)

    @cached_property
    def context_std(self) -> float:
        """Standard deviation of the cache length over sequences in flight, tokens."""
        tokens, weights = np.array(self.outputs.tokens), np.array(self.outputs.weights)
        biased = weights * tokens / self.outputs.mean
        # Uniform progress u through an output of t: E[(ut)^2] = t^2/3.
        square = float(biased @ tokens**2) / 3.0
        progress = float(biased @ tokens) / 2.0
        inputs = self.inputs.mean_square - self.inputs.mean**2
        return float(np.sqrt(max(square - progress**2, 0.0) + max(inputs, 0.0)))

    @cached_property
    def peak_mean(self) -> float:
        """Mean final length of a sequence in flight, tokens: E[in] + E[out^2]/E[out]."""
        return self.inputs.mean + self.outputs.mean_square / self.outputs.mean

    @cached_property
    def peak_std(self) -> float:
        """Standard deviation of the final length over sequences in flight, tokens."""
        tokens, weights = np.array(self.outputs.tokens), np.array(self.outputs.weights)
        biased = weights * tokens / self.outputs.mean
        outputs = float(biased @ tokens**2) - float(biased @ tokens) ** 2
        inputs = self.inputs.mean_square - self.inputs.mean**2
        return float(np.sqrt(max(outputs, 0.0) + max(inputs, 0.0)))

    def peak_tokens(self, sequences: FloatArray) -> FloatArray:
        """Mean final length that `sequences` in flight together exceed in 1 % of cases, tokens."""
        spread = NORMAL_99 * self.peak_std / np.sqrt(np.maximum(sequences, 1.0))
        longest = self.inputs.maximum + self.outputs.maximum
        result: FloatArray = np.minimum(self.peak_mean + spread, longest)
        return result

    def own_peak_tokens(self, sequences: FloatArray) -> FloatArray:
        """Of `peak_tokens`, what sequences hold besides the prefix that they share, tokens."""
        return self.peak_tokens(sequences) - self.mean_shared_tokens


NORMAL_99 = 2.3263478740408408
"""The standard normal's 99th percentile."""
