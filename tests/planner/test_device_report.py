"""A device in detail: every figure with its source, its prices, and what to beware of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perfmodel.documents import read_yaml
from perfmodel.hardware import device_names, load_device
from planner.cli import app
from planner.device_report import figures
from planner.prices import PRICES


@pytest.mark.parametrize("name", device_names())
def test_every_source_of_a_shipped_device_stands_beside_a_figure(name: str) -> None:
    device = load_device(name)
    shown = {source for _, _, source in figures(device)}
    assert set(device.sources.values()) <= shown
    assert "" not in shown


def planner(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80"})


def test_a_device_from_the_command_line() -> None:
    said = planner("devices", "mi300x")
    assert said.exit_code == 0, said.output
    assert max(len(line) for line in said.stdout.splitlines()) <= 80
    assert "no measured operators: its estimates are analytic" in said.stdout
    assert "caution: No operator was measured" in said.stdout
    for figure in ("192.0 GiB", "5.3 TB/s", "1,307.4 TFLOP/s", "750 W", "448 GB/s each way"):
        assert figure in said.stdout
    entries = [e for e in read_yaml(PRICES).data["prices"] if e["device"] == "mi300x"]
    for entry in entries:
        assert f"{entry['usd_per_device_hour']:.2f} " in said.stdout
    first = said.stdout.split("USD per device-hour: the first is the default")[1].splitlines()[2]
    (default,) = [e for e in entries if e.get("default")]
    assert first.startswith(f"{default['usd_per_device_hour']:.2f} ")
    measured = planner("devices", "h100_sxm").stdout
    assert "operators measured under sglang, trtllm, vllm" in measured
    assert "caution" not in measured


def test_a_variant_says_whose_operators_it_uses(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text("extends: h100_sxm\nlinks: [{name: nic, bandwidth: 100GB/s}]\n")
    said = planner("devices", path).stdout
    assert "wide: wide: a variant of NVIDIA H100" in said
    assert "operators measured on h100_sxm under sglang" in said
    assert "100 GB/s each way to" in said
    assert "no price listed: give usd_per_device_hour" in said


def test_an_unknown_device_is_refused() -> None:
    said = planner("devices", "h100")
    assert said.exit_code == 2
    assert "did you mean h100_sxm" in said.stderr
