"""What a bench is asked, and what it answers: one shape in, one time out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Key = Mapping[str, int | str]
"""The shape columns of one row, by name."""


@dataclass(frozen=True)
class Sample:
    """One measured shape.

    Attributes:
        time_s: median time of one call.
        spread: half the distance between the quartiles of the repeats, relative to the median.
        repeats: how many times it was timed.
        kernel: the implementation timed.
    """

    time_s: float
    spread: float
    repeats: int
    kernel: str


@dataclass(frozen=True)
class Machine:
    """Peaks of the machine at hand, as measured before the tables.

    Attributes:
        title: what the machine calls itself.
        memory_bytes: memory that tensors can take.
        memory_bandwidth_bytes_per_s: the best of copying and reading large buffers.
        peak_flops_per_s: of a large product, by precision; at least `bf16`.
        tdp_w: power limit; 0 if the machine does not say.
        devices: how many of the kind are present.
        link_bytes_per_s: host to device, one direction; 0 where there is no such link.
        peer_bytes_per_s: between devices, one direction, as a collective reaches it; 0 where none
            was run.
        peers: devices that the largest collective ran over.
        details: what else identifies it, e.g. threads and cache size.
    """

    title: str
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    tdp_w: float = 0.0
    devices: int = 1
    link_bytes_per_s: float = 0.0
    peer_bytes_per_s: float = 0.0
    peers: int = 1
    details: Mapping[str, str] | None = None


class UnavailableError(Exception):
    """A shape cannot be timed now; that says nothing of whether the machine could."""


class Bench(Protocol):
    """Times operators on one machine."""

    version: str
    """Version of the library whose kernels are timed."""

    variant: str
    """What else must be the same for rows to belong to one table, e.g. the threads used."""

    def machine(self) -> Machine:
        """Warm up, and measure the peaks.

        Raises:
            UnavailableError: a later call may succeed.
        """

    def measure(self, family: str, key: Key) -> Sample | None:
        """Time one shape; None if it does not fit the machine or no kernel takes it.

        Raises:
            UnavailableError: a later call may succeed; nothing is written down.
        """


def summarize(times: Sequence[float], kernel: str) -> Sample:
    """Median and relative half-width between the quartiles of repeats, in seconds."""
    ordered = sorted(times)
    middle = statistics.median(ordered)
    count = len(ordered)
    low, high = ordered[(count - 1) // 4], ordered[(3 * (count - 1) + 3) // 4]
    return Sample(middle, (high - low) / (2.0 * middle), count, kernel)


def repeat(
    once: Callable[[], float],
    kernel: str,
    *,
    at_least: int,
    at_most: int,
    seconds: float,
    precision: float = 0.01,
) -> Sample:
    """Repeat a timing until its median is known well enough.

    The standard error of a median is about 1.25 sigma / sqrt(n), and the quartiles of a normal
    lie 0.67 sigma from it; so `1.9 * spread / sqrt(n)` estimates it from the repeats themselves.

    Args:
        once: one timing, seconds of one call.
        kernel: name for the sample.
        at_least, at_most: bounds of the number of repeats; cheap calls reach the upper one.
        seconds: of timed work after which no further repeat is begun.
        precision: relative standard error that suffices.
    """
    times: list[float] = []
    spent = 0.0
    while len(times) < at_most:
        times.append(once())
        spent += times[-1]
        if len(times) < at_least:
            continue
        sample = summarize(times, kernel)
        if spent > seconds or 1.9 * sample.spread / len(times) ** 0.5 < precision:
            break
    return summarize(times, kernel)
