"""Axes and cells, from options and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfmodel.errors import InputError
from planner.query import Query
from planner.whatif.axes import SCENARIO, cells, read_changes, read_options


def test_cells_are_the_product_and_the_last_axis_is_fastest(two: Query) -> None:
    axes = read_options(["slo.ttit=20ms,40ms", "workload.qps=x1,x2"], ["l40s=0,8,unlimited"])
    found = cells(two, axes)
    assert len(found) == 12
    assert [c.labels["devices.l40s.inventory"] for c in found[:3]] == ["0", "8", "unlimited"]
    assert [len(c.query.devices) for c in found[:3]] == [1, 2, 2]
    assert found[-1].labels == {
        "slo.ttit": "40ms",
        "workload.qps": "x2",
        "devices.l40s.inventory": "unlimited",
    }
    assert found[-1].query.workload.qps == 200


FILE = """\
changes:
  slo.ttit: [20ms, {p99: 40ms}]
  devices.l40s.usd_per_device_hour: 1..3:3
scenarios:
  slips: {devices.h100_sxm.inventory: 0}
  crunch: {workload.qps: x2, slo.ttft: 1s}
add_devices: [mine.yaml]
"""


def test_a_file_of_changes(two: Query, tmp_path: Path) -> None:
    path = tmp_path / "changes.yaml"
    path.write_text(FILE)
    changes = read_changes(path)
    assert [axis.name for axis in changes.axes][-1] == SCENARIO
    assert changes.devices == (str(tmp_path / "mine.yaml"),)
    found = cells(two, changes.axes, changes.folder)
    assert len(found) == 2 * 3 * 2
    assert found[0].labels["slo.ttit"] == "20ms"
    assert found[-1].labels["slo.ttit"] == "{p99: 40ms}"
    assert [len(c.query.devices) for c in found[:2]] == [1, 2]
    assert found[1].query.workload.qps == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("changes: {slo.ttit: []}", "changes.yaml:1: changes.slo.ttit: expected at least one"),
        ("changes:\n  slo.ttit: 1..3", "changes.yaml:2: changes.slo.ttit: .*how many"),
        ("changes:\n  slo.ttit: [20ms, 20ms]", "changes.yaml:2: .*given twice: 20ms"),
        ("change: {}", "change: unknown field"),
        ("scenarios: {slips: {}}", "changes.yaml:1: scenarios.slips: expected fields"),
        ("[1]", "expected a mapping"),
    ],
)
def test_bad_files_name_file_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "changes.yaml"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=said):
        read_changes(path)


@pytest.mark.parametrize(
    ("vary", "inventory", "said"),
    [
        ([], [], "nothing is varied"),
        (["slo.ttit"], [], "--vary slo.ttit: expected FIELD=VALUES"),
        (["=3"], [], "expected FIELD=VALUES"),
        ([], ["8"], "--inventory 8: expected DEVICE=DEVICES"),
        (["slo.ttit=1..3"], [], "--vary slo.ttit=1..3: .*how many"),
        (["slo.ttit=20ms", "slo.ttit=30ms"], [], "slo.ttit: varied twice"),
        (["devices.l40s.inventory=8"], ["l40s=16"], "devices.l40s.inventory: varied twice"),
        (["workload.qps=1..100:100", "slo.ttit=1ms..99ms:11"], [], "1,100 cells.*at most 1,000"),
        (["slo.ttot=20ms"], [], "slo.ttot: unknown field"),
        (["devices.h200_sxm.inventory=8"], [], "no device 'h200_sxm'"),
    ],
)
def test_bad_options(two: Query, vary: list[str], inventory: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        cells(two, read_options(vary, inventory))
