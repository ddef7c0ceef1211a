"""Quantities: friendly spellings in, SI numbers out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.units import (
    format_apart,
    format_bytes,
    format_count,
    format_time,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("200ms", "time", 0.2),
        ("1.5 s", "time", 1.5),
        ("2.3us", "time", 2.3e-6),
        ("2.3µs", "time", 2.3e-6),
        ("2h", "time", 7200.0),
        ("80GiB", "bytes", 80 * 2**30),
        ("141GB", "bytes", 141e9),
        ("81559MiB", "bytes", 81559 * 2**20),
        ("206141652992B", "bytes", 206141652992.0),
        ("3.35TB/s", "bytes_per_s", 3.35e12),
        ("989.4TFLOP/s", "flops_per_s", 989.4e12),
        ("2614.9TOP/s", "flops_per_s", 2614.9e12),
        ("1.2PFLOPS", "flops_per_s", 1.2e15),
        ("700W", "power", 700.0),
        ("1.2kW", "power", 1200.0),
        ("32k", "tokens", 32_000.0),
        ("4000", "tokens", 4000.0),
        ("1e-3s", "time", 1e-3),
        (128, "tokens", 128.0),
        (8e10, "bytes", 8e10),
    ],
)
def test_spellings(text: str | float, kind: str, expected: float) -> None:
    assert parse_quantity(text, kind) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("number", ["200", 200, 0.2])
def test_a_time_without_a_unit_is_refused(number: str | float) -> None:
    with pytest.raises(ValueError, match=r"a unit is missing.*200ms"):
        parse_quantity(number, "time")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("80GiB", "time"),
        ("3.35TB", "bytes_per_s"),
        ("3.35TB/s", "bytes"),
        ("200 parsecs", "time"),
        ("1.2GW", "power"),
    ],
)
def test_a_unit_of_another_kind_is_refused_with_an_example(text: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"unknown unit .* expected a .* such as"):
        parse_quantity(text, kind)


@pytest.mark.parametrize("text", ["fast", "", "ms", "1,5s", "1.2.3s", True, "nan", "inf"])
def test_what_is_no_number_is_refused(text: str | bool) -> None:
    with pytest.raises(ValueError, match="expected a time quantity"):
        parse_quantity(text, "time")


@given(st.floats(1e-6, 1e6), st.sampled_from([("ms", 1e-3), ("us", 1e-6), ("s", 1.0)]))
def test_a_unit_scales_the_number(number: float, unit: tuple[str, float]) -> None:
    name, scale = unit
    assert parse_quantity(f"{number!r}{name}", "time") == pytest.approx(number * scale)


@given(st.floats(1e-6, 1e4))
def test_times_for_people_read_back(seconds: float) -> None:
    assert parse_quantity(format_time(seconds), "time") == pytest.approx(seconds, rel=0.006)


@given(st.floats(1.0, 2.0**50))
def test_bytes_for_people_read_back(count: float) -> None:
    assert parse_quantity(format_bytes(count), "bytes") == pytest.approx(count, rel=0.06, abs=0.5)


def test_formats() -> None:
    assert format_time(0.0132) == "13.2 ms"
    assert format_time(7.1e-6) == "7.1 us"
    assert format_time(1.25) == "1.25 s"
    assert format_bytes(80 * 2**30) == "80.0 GiB"
    assert format_bytes(12) == "12 B"


def test_times_that_differ_are_told_apart() -> None:
    assert format_apart(0.06, 0.06001) == ("60 ms", "60.01 ms")
    assert format_apart(0.06, 0.07) == ("60 ms", "70 ms")
    assert format_apart(1.25, 1.25) == ("1.25 s", "1.25 s")


def test_one_thing_is_singular() -> None:
    assert format_count(1, "host") == "1 host"
    assert format_count(0, "host") == "0 hosts"
    assert format_count(1200, "host") == "1,200 hosts"
