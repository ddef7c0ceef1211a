"""Quantities with units: friendly spellings in, SI numbers out.

Inside the project every number is SI (seconds, bytes, operations) or USD; this
module is the one place that reads `200ms`, `80GiB`, `3.35TB/s` or `989TFLOP/s`.
"""

from __future__ import annotations

import re

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIXES = _DECIMAL | _BINARY

_SCALES: dict[str, dict[str, float]] = {
    "time": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "bytes": {prefix + "B": scale for prefix, scale in _PREFIXES.items()},
    "bytes_per_s": {prefix + "B/s": scale for prefix, scale in _PREFIXES.items()},
    "flops_per_s": {
        prefix + unit: scale
        for prefix, scale in _DECIMAL.items()
        for unit in ("FLOP/s", "FLOPS", "OP/s", "OPS")
    },
    "power": {"W": 1.0, "kW": 1e3},
    "tokens": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6},
    "parameters": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12},
}

_EXAMPLES = {
    "time": "200ms or 1.5s",
    "bytes": "80GiB or 141GB",
    "bytes_per_s": "3.35TB/s",
    "flops_per_s": "989TFLOP/s",
    "power": "700W",
    "tokens": "4000 or 32k",
    "parameters": "70B or 1.8T",
}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ/]*)\s*")


def parse_quantity(text: str | float | int, kind: str) -> float:
    """Read a quantity of one `kind` and return it in SI.

    Args:
        text: a spelling such as `"200ms"`; a plain number is taken as already SI,
            except for `"time"`, where a number without a unit is refused because
            milliseconds and seconds are too easily confused.
        kind: one of `time` (s), `bytes`, `bytes_per_s`, `flops_per_s`, `power` (W), `tokens`,
            `parameters`.

    Raises:
        ValueError: the text is no number, or its unit is not one of that kind.
    """
    scales = _SCALES[kind]
    if isinstance(text, bool):
        raise ValueError(f"expected a {kind} quantity such as {_EXAMPLES[kind]}, got {text!r}")
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"expected a {kind} quantity such as {_EXAMPLES[kind]}, got {text!r}")
    number, unit = float(match.group(1)), match.group(2)
    if unit in scales:
        return number * scales[unit]
    if not unit and kind != "time":
        return number
    known = ", ".join(sorted(u for u in scales if u))
    problem = f"unknown unit {unit!r}" if unit else "a unit is missing"
    raise ValueError(
        f"{problem} in {text!r}: expected a {kind} quantity such as {_EXAMPLES[kind]} ({known})"
    )


def format_time(seconds: float, digits: int = 3) -> str:
    """A time for people: `13.2 ms`, `1.25 s`, `7.1 us`."""
    magnitude = abs(seconds)
    if magnitude >= 1.0:
        return f"{seconds:.{digits}g} s"
    if magnitude >= 1e-3:
        return f"{seconds * 1e3:.{digits}g} ms"
    return f"{seconds * 1e6:.{digits}g} us"


def format_apart(first_s: float, second_s: float) -> tuple[str, str]:
    """Two times for people, in as many digits as tell them apart (9 at most)."""
    for digits in range(3, 10):
        first, second = format_time(first_s, digits), format_time(second_s, digits)
        if first != second:
            break
    return first, second


def format_bytes(count: float) -> str:
    """A byte count for people, in binary units: `80.0 GiB`."""
    for unit, scale in (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if abs(count) >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def format_parameters(count: float) -> str:
    """A number of weights for people, in four digits: `405 B`, `1.802 T`."""
    for unit, scale in (("T", 1e12), ("B", 1e9)):
        if count >= 0.9995 * scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count / 1e6:.4g} M"


def format_count(number: float, noun: str) -> str:
    """A number of things, such as `1 host`, `1.5 hosts` or `1,200 hosts`."""
    number = int(number) if number == int(number) else number
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
