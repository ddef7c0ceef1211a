"""Mixes of device types: known answers, brute force, splits, bad input, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from perfmodel.errors import ConfigError
from planner.cli import app
from planner.melange import (
    DeviceType,
    Mix,
    MixProblem,
    alone_usd_per_hour,
    cheapest_mix,
    is_melange,
    read_melange,
)
from planner.melange_report import print_mix

SMALL: dict[str, Any] = {
    "workload_distribution": [[0.5, 0.25], [0.25, 0]],
    "gpu_info": {
        "small": {"cost": 1.0, "tputs": [[4, 1], [0, 0]]},
        "large": {"cost": 3.0, "tputs": [[6, 4], [2, 0]]},
    },
    "total_request_rate": 8.0,
    "slice_factor": 1,
}


def written(folder: Path, text: str | dict[str, Any]) -> Path:
    path = folder / "mix.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text, indent=1))
    return path


def changed(**fields: Any) -> dict[str, Any]:
    data: dict[str, Any] = {**json.loads(json.dumps(SMALL)), **fields}
    return {name: value for name, value in data.items() if value is not None}


def problem_of(qps: Any, tables: Any, prices: Any, slices: int | None = None) -> MixProblem:
    devices = [
        DeviceType(str(i), float(price), np.array(table, dtype=float))
        for i, (table, price) in enumerate(zip(tables, prices, strict=True))
    ]
    return MixProblem(np.array(qps, dtype=float), tuple(devices), slices)


def check(mix: Mix) -> None:
    """Every bucket is served whole, in whole slices, by devices that can and suffice."""
    problem = mix.problem
    for row, column in np.ndindex(problem.qps.shape):
        shares = mix.shares[:, row, column]
        whole = 1.0 if problem.qps[row, column] > 0 else 0.0
        assert shares.sum() == pytest.approx(whole, abs=1e-9)
        for share, device in zip(shares, problem.devices, strict=True):
            assert share >= 0
            assert share == 0 or device.qps[row, column] > 0
            if problem.slices:
                assert share * problem.slices == pytest.approx(round(share * problem.slices))
    for g, device in enumerate(problem.devices):
        load = sum(
            (
                Fraction(float(mix.shares[g][at]))
                * Fraction(float(problem.qps[at]))
                / Fraction(float(device.qps[at]))
                for at in np.ndindex(problem.qps.shape)
                if mix.shares[g][at] > 0
            ),
            Fraction(0),
        )
        assert load <= mix.counts[g] + Fraction(2, 10**6)
        assert mix.counts[g] >= 1 or load == 0


def test_a_mix_that_is_cheaper_than_either_type_alone(tmp_path: Path) -> None:
    """Four requests/s keep one small device busy and two of them two; two more a large one."""
    found = cheapest_mix(read_melange(written(tmp_path, SMALL)))
    check(found)
    assert found.counts.tolist() == [3, 1]
    assert found.usd_per_hour == 6.0
    assert found.gap == 0.0
    assert found.loads == pytest.approx([3.0, 1.0])
    assert [who for _, _, who in found.served_by()] == [{"small": 1}, {"small": 1}, {"large": 1}]
    # 4 / 6 + 2 / 4 + 2 / 2 large devices are busy: three.
    assert alone_usd_per_hour(found.problem).tolist() == [float("inf"), 9.0]


def test_buckets_that_may_be_split_cost_less(tmp_path: Path) -> None:
    """Three requests/s of one size, two types that serve two: only a split fills both."""
    fields = {
        "workload_distribution": [[1.0]],
        "total_request_rate": 3.0,
        "gpu_info": [
            {"name": "a", "cost": 2.0, "tputs": [[2.0]]},
            {"name": "b", "cost": 1.0, "tputs": [[1.0]]},
        ],
    }
    prices = {}
    for slices in (1, 2, 3, None):
        path = written(tmp_path, changed(**fields, slice_factor=slices))
        found = cheapest_mix(read_melange(path))
        check(found)
        prices[slices] = found.usd_per_hour
    assert prices == {1: 3.0, 2: 3.0, 3: 3.0, None: 3.0}
    fields["gpu_info"][1] = {"name": "b", "cost": 0.9, "tputs": [[1.0]]}
    fields["gpu_info"][0] = {"name": "a", "cost": 1.0, "tputs": [[2.0]]}
    for slices, price in ((1, 2.0), (2, 2.0), (3, 1.9), (None, 1.9)):
        path = written(tmp_path, changed(**fields, slice_factor=slices))
        found = cheapest_mix(read_melange(path))
        check(found)
        assert found.usd_per_hour == pytest.approx(price)


def test_however_little_a_bucket_asks_for_it_needs_a_device() -> None:
    found = cheapest_mix(problem_of([[1e-9, 1.0]], [[[5, 0]], [[0, 2]]], [1, 1], 4))
    check(found)
    assert found.counts.tolist() == [1, 1]


def test_devices_at_no_price_are_used_first() -> None:
    found = cheapest_mix(problem_of([[6.0]], [[[2]], [[3]]], [0, 1], 2))
    check(found)
    assert found.usd_per_hour == 0.0
    assert found.gap == 0.0


@st.composite
def problems(draw: st.DrawFn) -> MixProblem:
    kinds, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rate = st.integers(0, 12).map(lambda n: n / 4)
    qps = [draw(st.lists(rate, min_size=columns, max_size=columns))]
    table = st.lists(st.integers(0, 5), min_size=columns, max_size=columns)
    tables = [[draw(table)] for _ in range(kinds)]
    # The last type serves everything.
    tables[-1] = [[count + 1 for count in tables[-1][0]]]
    prices = draw(st.lists(st.integers(1, 20), min_size=kinds, max_size=kinds))
    if not any(qps[0]):
        qps[0][0] = 1.0
    return problem_of(qps, tables, prices, draw(st.integers(1, 3)))


def least_price(problem: MixProblem) -> float:
    """Of all ways to hand whole slices to types, in exact arithmetic."""
    slices = problem.slices or 1
    kinds = len(problem.devices)
    splits = [s for s in product(range(slices + 1), repeat=kinds) if sum(s) == slices]
    wanted = [at for at in np.ndindex(problem.qps.shape) if problem.qps[at] > 0]
    possible = [
        [
            split
            for split in splits
            if all(d.qps[at] > 0 for d, n in zip(problem.devices, split, strict=True) if n)
        ]
        for at in wanted
    ]
    best = float("inf")
    for chosen in product(*possible):
        price = 0.0
        for g, device in enumerate(problem.devices):
            load = sum(
                Fraction(split[g], slices) * Fraction(problem.qps[at]) / Fraction(device.qps[at])
                for at, split in zip(wanted, chosen, strict=True)
                if split[g]
            )
            price += ceil(load) * device.usd_per_hour
        best = min(best, price)
    return best


@settings(max_examples=60)
@given(problem=problems())
def test_nothing_is_cheaper_than_what_is_found(problem: MixProblem) -> None:
    found = cheapest_mix(problem)
    check(found)
    best = least_price(problem)
    assert found.usd_per_hour == pytest.approx(best)
    assert found.gap == pytest.approx(0.0, abs=1e-6)
    split = cheapest_mix(MixProblem(problem.qps, problem.devices))
    check(split)
    assert split.usd_per_hour <= best + 1e-9
    assert found.usd_per_hour <= alone_usd_per_hour(problem).min()


@settings(max_examples=20)
@given(problem=problems(), times=st.integers(2, 4))
def test_finer_slices_cost_no_more(problem: MixProblem, times: int) -> None:
    finer = MixProblem(problem.qps, problem.devices, (problem.slices or 1) * times)
    assert cheapest_mix(finer).usd_per_hour <= cheapest_mix(problem).usd_per_hour + 1e-9


def test_a_bucket_that_nothing_serves() -> None:
    with pytest.raises(ValueError, match="serves one of the buckets"):
        cheapest_mix(problem_of([[1.0, 1.0]], [[[1, 0]]], [1]))


def test_shares_are_of_all_requests(tmp_path: Path) -> None:
    """Percentages would be a hundred times the stated demand."""
    rounded = written(tmp_path, changed(workload_distribution=[[0.5, 0.25], [0.248, 0]]))
    assert read_melange(rounded).qps.sum() == pytest.approx(8.0, rel=0.01)
    for shares, total in (([[50, 25], [25, 0]], "100"), ([[0.5, 0.25], [0, 0]], "0.75")):
        path = written(tmp_path, changed(workload_distribution=shares))
        with pytest.raises(ConfigError, match=f"shares that add up to 1, got {total} together"):
            read_melange(path)


def test_gpu_info_as_a_list_is_the_same_question(tmp_path: Path) -> None:
    listed = [{"name": name, **entry} for name, entry in SMALL["gpu_info"].items()]
    one = read_melange(written(tmp_path, SMALL))
    other = read_melange(written(tmp_path, changed(gpu_info=listed)))
    assert [d.name for d in one.devices] == [d.name for d in other.devices]
    assert np.array_equal(one.loads, other.loads)


def line_of(path: Path, text: str) -> int:
    lines = path.read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if text in line)


SMALL_ENTRY = SMALL["gpu_info"]["small"]


@pytest.mark.parametrize(
    ("fields", "line", "said"),
    [
        (
            {"gpu_info": {"a": {"tputs": [[1]]}}},
            '"a": {',
            "gpu_info.a.cost: this field is required",
        ),
        ({"gpu_info": {"a": {"cost": 1}}}, '"a": {', "gpu_info.a.tputs: this field is required"),
        ({"gpu_info": [SMALL_ENTRY]}, "{", "gpu_info.0.name: this field is required"),
        (
            {"gpu_info": {"a": {"cost": -3, "tputs": [[1]]}}},
            '"cost": -3',
            "gpu_info.a.cost: Input should be greater than or equal to 0 (got -3)",
        ),
        (
            {"gpu_info": {"a": {"cost": 1, "tputs": [[1, 2], [3, -4]]}}},
            "-4",
            "gpu_info.a.tputs.1.1: Input should be greater than or equal to 0 (got -4)",
        ),
        (
            {"gpu_info": {"a": {"cost": 1, "tputs": [[1, 2], [3]]}}},
            "[",
            "gpu_info.a.tputs.1: expected 2 numbers as in the first row, got 1",
        ),
        (
            {"gpu_info": {"a": {"cost": 1, "tputs": [[1, 2, 3], [4, 5, 6]]}}},
            '"tputs": [',
            "expected 2 x 2 numbers as workload_distribution has, got 2 x 3 numbers",
        ),
        (
            {"gpu_info": [{"name": "a", **SMALL_ENTRY}, {"name": "a", **SMALL_ENTRY}]},
            "{",
            "gpu_info.1: a second device type of the name 'a'",
        ),
        ({"gpu_info": {}}, '"gpu_info": {}', "gpu_info: expected at least one value"),
        ({"gpu_info": None}, "{", "gpu_info: this field is required"),
        (
            {"workload_distribution": [[0.5, 0.5], [1.0]]},
            "[",
            "workload_distribution.1: expected 2 numbers as in the first row, got 1",
        ),
        ({"workload_distribution": [[0.5, True], [1, 1]]}, "true", "should be a valid number"),
        ({"workload_distribution": [[]]}, "[]", "at least one value"),
        (
            {"workload_distribution": [[0, 0], [0, 0]]},
            '"workload_distribution": [',
            "above zero in some bucket",
        ),
        (
            {"workload_distribution": [[0.5, 0.25], [0, 0.25]]},
            "0.25",
            "workload_distribution.1.1: no device type serves this bucket: its entry in tputs is "
            "0 for each of small, large",
        ),
        ({"total_request_rate": 0}, '"total_request_rate": 0', "greater than 0"),
        ({"total_request_rate": "30"}, '"total_request_rate": "30"', "should be a valid number"),
        ({"total_request_rate": float("nan")}, '"total_request_rate": NaN', "should be"),
        ({"slice_factor": 0}, '"slice_factor": 0', "greater than or equal to 1"),
        ({"slice_factor": 1.5}, '"slice_factor": 1.5', "should be a valid integer"),
        ({"slices": 4}, '"slices": 4', "unknown field"),
    ],
)
def test_bad_input_names_its_line_and_field(
    tmp_path: Path, fields: dict[str, Any], line: str, said: str
) -> None:
    path = written(tmp_path, changed(**fields))
    with pytest.raises(ConfigError) as error:
        read_melange(path)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}:")
    place = str(error.value).removeprefix(f"{path}:").split(":")[0]
    assert path.read_text().splitlines()[int(place) - 1].strip(" ,") == line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mix.json:1:1: not valid JSON"),
        ('{\n "gpu_info": {,}\n}', "mix.json:2:15: not valid JSON"),
        ('{"gpu_info": 1,\n "gpu_info": 2}', "mix.json:2: gpu_info: given twice (first on 1)"),
        ("[1, 2]", "mix.json:1: expected a mapping of fields"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_what_is_no_json_of_this_form(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_melange(written(tmp_path, text))
    assert said in str(error.value)


def test_json_that_yaml_would_read_otherwise(tmp_path: Path) -> None:
    """Tabs between tokens, and numbers such as 1e-1, which are words to YAML."""
    text = json.dumps(changed(total_request_rate=8)).replace("8", "80e-1").replace(", ", ",\n\t")
    assert read_melange(written(tmp_path, text)).qps.sum() == pytest.approx(8.0)
    bad = text.replace("80e-1", "-1e0")
    with pytest.raises(ConfigError, match=r"total_request_rate: .*\(got -1.0\)") as error:
        read_melange(written(tmp_path, bad))
    line = line_of(tmp_path / "mix.json", "total_request_rate")
    assert f"mix.json:{line}:" in str(error.value)


def test_which_files_ask_for_a_mix(tmp_path: Path) -> None:
    assert is_melange(written(tmp_path, SMALL))
    assert not is_melange(written(tmp_path, {"services": {"a": {}}}))
    assert not is_melange(tmp_path)
    assert not is_melange(tmp_path / "catalog.yaml")


def planner(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80"})


def test_a_mix_from_the_command_line(tmp_path: Path) -> None:
    path, out = written(tmp_path, SMALL), tmp_path / "out.json"
    said = planner("fleet", path, "--out", out)
    assert said.exit_code == 0, said.output
    assert "$6.00 per hour: 3 x small, 1 x large" in said.stdout
    assert "proven: no mix of whole buckets is cheaper" in said.stdout
    assert "33.3% less than $9.00 for large alone" in said.stdout
    assert max(len(line) for line in said.stdout.splitlines()) <= 80
    data = json.loads(out.read_text())
    assert data["schema"] == "planner.mix/1"
    assert {d["name"]: d["count"] for d in data["devices"]} == {"small": 3, "large": 1}
    assert data["buckets"][0] == {"row": 0, "column": 0, "qps": 4.0, "served_by": {"small": 1.0}}
    assert data["proven"] is True
    split = planner("fleet", written(tmp_path, changed(slice_factor=None)), "--out", out)
    assert "however buckets are split" in split.stdout
    assert json.loads(out.read_text())["usd_per_hour"] <= 6.0


def test_what_is_not_proven_is_said(tmp_path: Path) -> None:
    found = cheapest_mix(read_melange(written(tmp_path, SMALL)))
    console = Console(width=80, record=True)
    print_mix(replace(found, bound_usd_per_hour=4.5), console)
    assert (
        "at most 25.00% above the cheapest mix of whole buckets ($4.50 at least"
        in console.export_text()
    )
    assert replace(found, bound_usd_per_hour=4.5).to_dict()["proven"] is False


def test_the_shipped_example() -> None:
    said = planner("fleet", Path(__file__).parents[2] / "examples" / "mix_qwen3_8b.json")
    assert said.exit_code == 0, said.output
    assert "$59.50 per hour: 1 x l40s, 4 x b200_sxm" in said.stdout
    assert "proven" in said.stdout
    assert "75% b200_sxm, 25% l40s" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--results", "results"], "--results: for catalogs"),
        (["--scheduler", "tcp://x:1"], "--scheduler: for catalogs"),
        (["--out", "nowhere/out.json"], "the folder does not exist"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = planner("fleet", written(tmp_path, SMALL), *arguments)
    assert ran.exit_code == 2
    assert said in ran.stderr
    assert not (tmp_path / "nowhere").exists()
