"""Demand over time: curves, hours, traces, and what is said of bad ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perfmodel.errors import ConfigError
from planner.catalog.demand import (
    MOST_LEVELS,
    Demand,
    DemandChoice,
    demand_over_time,
)
from planner.catalog.trace import Trace, read_trace

HERE = Path()
SHAPE = list(range(1, 25))


def demand(slot_s: float = 3600.0, workload_qps: float | None = None, **fields: Any) -> Demand:
    choice = DemandChoice.model_validate(fields)
    return demand_over_time(choice, workload_qps, slot_s, HERE)


@given(
    ratio=st.floats(1, 50),
    hour=st.floats(0, 24, exclude_max=True),
    peak=st.floats(0.1, 1e4),
    slot_s=st.sampled_from([3600.0, 900.0, 300.0]),
)
def test_a_curve_has_its_peak_at_its_hour_and_its_ratio(
    ratio: float, hour: float, peak: float, slot_s: float
) -> None:
    found = demand(slot_s, peak_qps=peak, peak_to_trough=ratio, peak_hour=hour)
    assert found.hours == 24
    assert found.peak == pytest.approx(peak)
    assert found.qps[int(hour * 3600 // slot_s)] == pytest.approx(peak)
    # A slot has its greatest demand, so that its least is a little above the trough.
    trough = peak / ratio
    assert trough * (1 - 1e-8) <= min(found.qps)
    away = 2 * np.pi * slot_s / 86400
    assert min(found.qps) <= trough + peak * (1 - np.cos(away)) / 2 * (1 - 1 / ratio) + 1e-6 * peak


def test_a_curve_has_its_mean() -> None:
    """Of the curve, whatever the slots: its peak is `1 + (r - 1) / (r + 1)` times the mean."""
    for slot_s in (3600.0, 900.0, 300.0):
        for found in (
            demand(slot_s, mean_qps=5, peak_to_trough=4),
            demand(slot_s, workload_qps=5, peak_to_trough=4),
        ):
            assert found.peak == pytest.approx(8.0)
            assert 5.0 < found.mean <= 5.0 + 3.0 * slot_s / 3600.0 / 10
    flat = demand(mean_qps=5, peak_to_trough=1)
    assert set(flat.qps) == {5.0}
    noon = demand(peak_qps=5, peak_to_trough=2)
    assert noon.qps[12] == noon.qps[11] == 5.0 > noon.qps[10]


def test_hours_are_taken_as_they_are_or_scaled() -> None:
    assert demand(hourly=SHAPE, workload_qps=99).qps == tuple(map(float, SHAPE))
    assert demand(hourly=SHAPE, peak_qps=48).qps == tuple(2.0 * x for x in SHAPE)
    assert demand(hourly=SHAPE, mean_qps=25).mean == pytest.approx(25.0)
    quarters = demand(900.0, hourly=SHAPE)
    assert len(quarters.qps) == 96
    assert quarters.qps[:5] == (1, 1, 1, 1, 2)
    week = demand(hourly=SHAPE * 7)
    assert week.hours == 168
    assert demand(hourly=SHAPE).repeated(168) == week


@given(
    hourly=st.lists(st.floats(0, 100), min_size=168, max_size=168).filter(any),
    slot_s=st.sampled_from([3600.0, 1200.0]),
)
def test_every_demand_has_a_level_that_holds_it(hourly: list[float], slot_s: float) -> None:
    found = demand(slot_s, hourly=hourly)
    assert 1 <= len(found.levels) <= MOST_LEVELS
    assert found.levels == tuple(sorted(set(found.levels)))
    assert found.levels[0] > 0
    assert found.levels[-1] == found.peak


def trace_file(folder: Path, *lines: object) -> Path:
    path = folder / "arrivals.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_trace_is_counted_by_hour(tmp_path: Path) -> None:
    """Hour `h` has `h + 1` arrivals, and two minutes of hour 3 have all of its four."""
    times = [3600 * h + 3600 / (h + 1) * i for h in range(24) if h != 3 for i in range(h + 1)]
    times += [10800 + t for t in (600, 601, 660, 661)]
    path = trace_file(tmp_path, "arrival_s,user", *(f"{t},x" for t in sorted(times)))
    found = demand_over_time(DemandChoice(trace=path.name), None, 3600.0, tmp_path)
    assert found.qps == pytest.approx([(h + 1) / 3600 for h in range(24)])
    assert "300 arrivals" in found.note
    choice = DemandChoice.model_validate({"trace": path.name, "trace_window": "5min"})
    busiest = demand_over_time(choice, None, 3600.0, tmp_path)
    assert busiest.qps[3] == pytest.approx(4 / 300)
    assert all(b >= q for b, q in zip(busiest.qps, found.qps, strict=True))
    # Its busiest windows are above its mean, which is what is stated.
    twice = DemandChoice.model_validate(
        {"trace": path.name, "trace_window": "5min", "mean_qps": 2 * 300 / 86400}
    )
    assert demand_over_time(twice, None, 3600.0, tmp_path).qps == pytest.approx(
        [2 * q for q in busiest.qps]
    )
    scaled = DemandChoice(trace=path.name, peak_qps=48)
    assert demand_over_time(scaled, None, 3600.0, tmp_path).qps == pytest.approx(
        [2.0 * (h + 1) for h in range(24)]
    )


def test_timestamps_say_the_hour_and_the_day_of_the_week(tmp_path: Path) -> None:
    """From Wednesday 2026-01-07 for a day and a half: of repeated hours the busiest counts."""
    path = trace_file(
        tmp_path,
        "# a comment",
        "timestamp",
        *(f"2026-01-{7 + h // 24:02}T{h % 24:02}:30:00Z" for h in range(24)),
        *["2026-01-08T01:30:00+01:00"] * 3,
        "",
        *(f"2026-01-08T{h:02}:00:00" for h in range(1, 12)),
    )
    trace = read_trace(path)
    assert trace.arrivals_s[0] == 2 * 86400 + 1800
    qps = trace.qps(3600.0, 3600.0)
    assert len(qps) == 24
    assert qps[0] * 3600 == pytest.approx(3)
    assert qps[1:] * 3600 == pytest.approx(1)
    week = Trace(path, np.arange(0, 8 * 86400, 1800.0))
    assert len(week.qps(3600.0, 3600.0)) == 168


@pytest.mark.parametrize("start_s", [0, 600, 1800, 37800])
def test_a_day_from_any_minute_counts_each_hour_once(start_s: int) -> None:
    every_minute = Trace(Path("a.csv"), start_s + np.arange(0, 86400, 60.0))
    for window_s in (3600.0, 300.0):
        assert every_minute.qps(3600.0, window_s) == pytest.approx(np.full(24, 1 / 60))
    longer = Trace(Path("a.csv"), start_s + np.arange(0, 1.9 * 86400, 60.0))
    assert longer.qps(3600.0, 3600.0) == pytest.approx(np.full(24, 1 / 60))


@pytest.mark.parametrize("days", [1, 2, 7])
@pytest.mark.parametrize("window_s", [3600.0, 300.0])
@given(start_s=st.integers(0, 86399), more_s=st.integers(-3000, 3000))
def test_a_trace_may_begin_and_end_at_any_moment(
    days: int, window_s: float, start_s: int, more_s: int
) -> None:
    """Ten requests/s at all times are ten in every hour, and in the mean."""
    arrivals = start_s + np.arange(0.0, days * 86400 + more_s, 10.0)
    trace = Trace(HERE, arrivals)
    found = trace.qps(3600.0, window_s)
    assert len(found) in (24, 168)
    assert found == pytest.approx(np.full(len(found), 0.1), rel=0.04)
    assert trace.mean_qps(3600.0) == pytest.approx(0.1, rel=0.01)


def test_the_parts_of_an_hour_at_both_ends_are_put_together() -> None:
    """Of the hour from 10:00, whose rate is twice the others', 24 h 6 min see two parts."""
    rate = np.where(np.arange(24) == 10, 0.2, 0.1)
    every_s = np.arange(10.5 * 3600, 34.6 * 3600, 5.0)
    arrivals = every_s[(rate[(every_s // 3600).astype(int) % 24] > 0.1) | (every_s % 10 == 0)]
    found = Trace(HERE, arrivals).qps(3600.0, 3600.0)
    assert found[10] == pytest.approx(0.2, rel=0.01)
    assert found[9] == found[11] == pytest.approx(0.1)


def test_a_single_arrival_at_an_end_is_no_rush() -> None:
    hour = np.arange(3600.0, 86400.0, 10.0)
    assert Trace(HERE, np.append(3599.9, hour)).qps(3600.0, 3600.0)[0] == 1 / 3600
    assert Trace(HERE, np.append([3599.8, 3599.9], hour)).qps(3600.0, 3600.0)[0] == 0.1


def test_slots_of_no_whole_minutes_are_described_too() -> None:
    """Eight slots an hour, of 7.5 min: none has more arrivals than another."""
    assert "busiest slot 1.00 and" in Trace(HERE, np.arange(0.0, 86400.0, 1.0)).describe(450.0)


def test_bursts_are_told_from_poisson_arrivals() -> None:
    rng = np.random.default_rng(1)
    even = Trace(Path("even.csv"), np.sort(rng.uniform(0, 86400, 20000)))
    assert even.dispersion(3600.0) == pytest.approx(1.0, abs=0.1)
    assert "bursts" not in even.describe(3600.0)
    bursts = Trace(Path("bursts.csv"), np.sort(np.repeat(rng.uniform(0, 86400, 2000), 10)))
    assert bursts.dispersion(3600.0) == pytest.approx(10.0, rel=0.2)
    assert "bursts are not planned for" in bursts.describe(3600.0)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "arrivals.csv:1: expected arrivals, one a line, got none"),
        (["arrival_s"], "arrivals.csv:1: expected arrivals"),
        (["arrival_s", 1, 3, 2], "arrivals.csv:4: 2 is earlier than the line before"),
        (["arrival_s", 1, "x"], "arrivals.csv:3: expected a number or a timestamp"),
        (["arrival_s", "x"], "arrivals.csv:2: expected a number or a timestamp"),
        ([1, "nan"], "arrivals.csv:2: expected a time from zero up, got 'nan'"),
        ([-1], "arrivals.csv:1: expected a time from zero up, got '-1'"),
        ([1, "inf"], "arrivals.csv:2: expected a time from zero up"),
        ([1, "2026-01-05"], "arrivals.csv:2: expected all lines as numbers, or all"),
        (["2026-01-05", 1], "arrivals.csv:2: expected all lines as numbers, or all"),
        (["2026-01-06", "2026-01-04"], "arrivals.csv:2: 2026-01-04 is earlier than the line"),
        ([0, 7200], "arrivals.csv: covers 3 h; expected arrivals in every hour of a day"),
        # Times that could be read as a thousand times what they are.
        (["timestamp", 0, 86_399_000], "arrivals.csv:2: 0 is no time since 1970, and may be"),
        ([0, 86_399_000], "arrivals.csv:2: 86399000 is 143 weeks from the Monday"),
        (["arrival_s", 0, 86_399_000], "arrivals.csv:3: 86399000 is 143 weeks"),
        (["arrival_s", 1_767_605_400_000], "arrivals.csv:2: 1.76761e+12 s is neither in the week"),
        (["arrival_ms", 1_767_605_400], "arrivals.csv:2: 1.76761e+09 ms is neither in the week"),
        ([1_767_605_400, 1_767_605_400_000], "arrivals.csv:2: 1767605400000 is 2"),
        ([20260105], "arrivals.csv:1: 2.02601e+07 s is neither in the week"),
        (["latency,ttft", "1,2"], "arrivals.csv:1: expected times, or a comma-separated heading"),
        (["timestamp;tokens", "1;2"], "arrivals.csv:1: expected times, or a comma-separated"),
        (['{"timestamp": 0}'], "arrivals.csv:1: expected times, or a comma-separated heading"),
        (["05/01/2026 08:30"], "arrivals.csv:1: expected times, or a comma-separated heading"),
        (["tokens,ts", "5"], "arrivals.csv:2: expected a number or a timestamp"),
        (["17,2026-01-05T08:30:00Z"], "arrivals.csv:1: the first column has numbers and another"),
        (
            ["2026-01-05T08:30:00Z", "2062-01-05T08:31:00Z"],
            "arrivals.csv:2: 2062-01-05T08:31:00Z is 1,878 weeks from the Monday before the first "
            "arrival; expected a year at most",
        ),
    ],
)
def test_bad_traces(tmp_path: Path, lines: list[object], said: str) -> None:
    trace_file(tmp_path, *lines)
    with pytest.raises(ConfigError) as error:
        demand_over_time(DemandChoice(trace="arrivals.csv"), None, 3600.0, tmp_path)
    assert said in str(error.value)


MONDAY = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
AT_S = (2 * 86400 + 1800.5, 2 * 86400 + 5400.25)
"""Wednesday, 00:30:00.5 and 01:30:00.25."""


@pytest.mark.parametrize(
    ("heading", "spelled"),
    [
        *[
            (name, lambda s, scale=scale: f"{(MONDAY + s) * scale:.0f}")
            for name in (None, "ts", "TIMESTAMP", "Arrival Time", "createdAt")
            for scale in (1e3, 1e6, 1e9)
        ],
        ("timestamp", lambda s: f"{MONDAY + s:.2f}"),
        ("timestamp_ms", lambda s: f"{1e3 * (MONDAY + s):.0f}"),
        (None, str),
        ("arrival_s", str),
        ("arrivalTime (ms)", lambda s: f"{1e3 * s:.0f}"),
        # As in Azure's public traces of 2023 and 2024.
        ("TIMESTAMP", lambda s: f"{datetime.fromtimestamp(MONDAY + s, UTC):%F %T.%f}0"),
        ("TIMESTAMP", lambda s: f"{datetime.fromtimestamp(MONDAY + s, UTC):%F %T.%f+00:00}"),
    ],
)
def test_times_as_people_write_them(
    tmp_path: Path, heading: str | None, spelled: Callable[[float], str]
) -> None:
    heads = [] if heading is None else [f"\ufeff{heading},ContextTokens"]
    path = trace_file(tmp_path, *heads, *(f"{spelled(s)},7" for s in AT_S))
    assert read_trace(path).arrivals_s == pytest.approx(AT_S, abs=1e-3)


def test_the_column_of_arrivals_is_found_by_its_name(tmp_path: Path) -> None:
    path = trace_file(tmp_path, "request,arrived_at", '"one, two",2026-01-05', "x,2026-01-06")
    assert read_trace(path).arrivals_s.tolist() == [0, 86400]


def test_a_trace_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv: no such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.csv: cannot be read as UTF-8"):
        read_trace(tmp_path / "bytes.csv")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "expected one of peak_to_trough, hourly and trace"),
        ({"hourly": SHAPE, "peak_to_trough": 2}, "got peak_to_trough and hourly"),
        ({"hourly": SHAPE[:-1]}, "expected 24 or 168 numbers, got 23"),
        ({"hourly": 5}, "expected 24 or 168 numbers, got 5"),
        ({"hourly": [-1, *SHAPE[1:]]}, "expected numbers from zero up, got -1 for hour 0"),
        ({"hourly": [*SHAPE[1:], float("nan")]}, "got nan for hour 23"),
        ({"hourly": [*SHAPE[1:], float("inf")]}, "got inf for hour 23"),
        ({"hourly": [*SHAPE[1:], True]}, "got True for hour 23"),
        ({"hourly": [*SHAPE[1:], "9"]}, "got '9' for hour 23"),
        ({"hourly": [0] * 24}, "expected demand in some hour"),
        ({"hourly": SHAPE, "mean_qps": 1, "peak_qps": 2}, "got both"),
        ({"hourly": SHAPE, "peak_qps": 0}, "expected a number above zero, got 0"),
        ({"hourly": SHAPE, "peak_qps": float("nan")}, "expected a number above zero"),
        ({"hourly": SHAPE, "peak_qps": True}, "expected a number, got True"),
        ({"hourly": SHAPE, "peak_hour": 3}, "peak_hour: expected peak_to_trough beside it"),
        ({"hourly": SHAPE, "trace_window": "5min"}, "trace_window: expected trace beside it"),
        ({"trace": "a", "trace_window": "0s"}, "expected more than 0s"),
        ({"trace": "a", "trace_window": "-5min"}, "expected a time from 0s up"),
        ({"trace": "a", "trace_window": 300}, "a unit is missing"),
        ({"peak_to_trough": 0.5}, "greater than or equal to 1"),
        ({"peak_to_trough": float("nan")}, "finite number"),
        ({"peak_to_trough": True}, "expected a number, got True"),
        ({"peak_to_trough": 2, "peak_hour": 24}, "less than 24"),
        ({"daily": 2}, "Extra inputs are not permitted"),
    ],
)
def test_bad_demand(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        DemandChoice.model_validate(fields)
    assert said in str(error.value)


def test_demand_that_does_not_suit_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected mean_qps or peak_qps, or workload"):
        demand(peak_to_trough=2)
    trace_file(tmp_path, *range(0, 86400, 600))
    choice = DemandChoice.model_validate({"trace": "arrivals.csv", "trace_window": "7min"})
    with pytest.raises(ValueError, match="divides a slot of 3600 s, got 420 s"):
        demand_over_time(choice, None, 3600.0, tmp_path)
