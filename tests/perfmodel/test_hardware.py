"""Device files: every shipped one loads, and what a malformed one is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError
from perfmodel.hardware import PLATFORMS, SHIPPED, UNLIMITED, device_names, load_device
from perfmodel.operators import Kind, Operators
from perfmodel.precision import FORMATS

GOOD = """\
name: toy
title: Toy device
memory: {value: 80GiB, source: "a data sheet"}
memory_bandwidth: 3.35TB/s
peak:
  bf16: 1000TFLOP/s
  fp8: 2000TFLOP/s
tdp: 700W
host:
  devices: 8
platform: strong-scale-out
links:
  - {name: nvlink, span: 8, bandwidth: 450GB/s, latency: 2us}
  - {name: nic, span: unlimited, bandwidth: 50GB/s, latency: 5us}
"""


def written(folder: Path, text: str, name: str = "toy.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_loads_and_is_plausible(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.platform in PLATFORMS
    assert 16e9 < device.memory_bytes < 1e12
    assert 0.3e12 < device.memory_bandwidth_bytes_per_s < 20e12
    assert 50e12 < device.peak_flops_per_s["bf16"] < 5e15
    assert set(device.peak_flops_per_s) <= {f.peak for f in FORMATS.values()}
    assert all(rate >= device.peak_flops_per_s["bf16"] for rate in device.peak_flops_per_s.values())
    spans = [link.span for link in device.links]
    bandwidths = [link.bandwidth_bytes_per_s for link in device.links]
    assert spans == sorted(set(spans))
    assert spans[-1] == UNLIMITED
    assert bandwidths == sorted(bandwidths, reverse=True)
    assert bandwidths[0] < device.memory_bandwidth_bytes_per_s
    assert device.network is device.links[-1]
    assert device.fast_link is device.links[0]
    figures = {"memory", "memory_bandwidth", "tdp"} | {f"peak.{p}" for p in device.peak_flops_per_s}
    assert figures <= set(device.sources)
    assert "not given" not in device.sources.values()


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_has_a_host(name: str) -> None:
    device = load_device(name)
    assert device.host_memory_bytes is not None
    assert device.host_bandwidth_bytes_per_s is not None
    assert 100e9 < device.host_memory_bytes < 1e12
    assert 30e9 < device.host_bandwidth_bytes_per_s < device.fast_link.bandwidth_bytes_per_s * 2
    assert {"host.memory", "host.link"} <= set(device.sources)


def test_a_host_may_be_left_out_but_not_misspelt(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, GOOD))
    assert (device.host_memory_bytes, device.host_bandwidth_bytes_per_s) == (None, None)
    wrong = GOOD.replace("  devices: 8\n", "  devices: 8\n  link: fast\n")
    with pytest.raises(ConfigError, match=r"toy2.yaml:\d+: host.link: expected a bytes_per_s"):
        load_device(written(tmp_path, wrong, "toy2.yaml"))


def test_known_figures() -> None:
    h100, h200, mi300x = (load_device(n) for n in ("h100_sxm", "h200_sxm", "mi300x"))
    assert h100.memory_bandwidth_bytes_per_s == 3.35e12
    assert h200.memory_bandwidth_bytes_per_s == pytest.approx(4.8e12)
    assert h100.peak_flops_per_s == h200.peak_flops_per_s
    assert mi300x.memory_bytes == 206_141_652_992
    assert h100.fast_link.bandwidth_bytes_per_s == 450e9


def test_a_users_folder_comes_first_and_needs_no_code(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, GOOD.replace("name: toy", "name: h100_sxm"), "h100_sxm.yaml")
    assert load_device("toy", [tmp_path]).title == "Toy device"
    assert load_device("h100_sxm", [tmp_path]).title == "Toy device"
    assert "toy" in device_names([tmp_path])
    assert "toy" not in device_names()


@pytest.mark.parametrize("name", ["H100_SXM", "h100_sxm"])
def test_names_ignore_case(name: str) -> None:
    assert load_device(name).name == "h100_sxm"


def test_every_listed_name_loads(tmp_path: Path) -> None:
    written(tmp_path, GOOD, "MyToy.yaml")
    for name in device_names([tmp_path]):
        assert load_device(name, [tmp_path])


def test_a_path_loads(tmp_path: Path) -> None:
    assert load_device(written(tmp_path, GOOD)).name == "toy"
    assert load_device(SHIPPED / "mi300x.yaml") == load_device("mi300x")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown device 'h100'; did you mean h[12]00_sxm"):
        load_device("h100")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tdp: 700W\n", "", ":1: tdp: this field is required"),
        ("3.35TB/s", "3.35TB", ":4: memory_bandwidth: unknown unit 'TB'"),
        ("80GiB", "-80GiB", ":3: memory: expected a positive bytes quantity"),
        ("80GiB", "100", ":3: memory: expected at least 1GiB, got 100: its unit is missing"),
        ("80GiB", "80MiB", ":3: memory: expected at least 1GiB, got '80MiB': its unit"),
        ("3.35TB/s", "3.35", ":4: memory_bandwidth: expected at least 1GB/s, got"),
        ("fp8: 2000TFLOP/s", "fp8: 2000", ":7: peak.fp8: expected at least 1GFLOP/s, got 2000"),
        ("450GB/s", "450", ":13: links.0.bandwidth: expected at least 1MB/s, got 450"),
        ("value: 80GiB, ", "", ":3: memory: expected {value: ..., source: ...}"),
        ("bf16: 1000", "fp16: 1000", ":5: peak: expected a mapping of precisions"),
        ("fp8: 2000TFLOP/s", "fp8: fast", ":7: peak.fp8: expected a flops_per_s quantity"),
        ("fp8: 2000", "fp9: 2000", ":7: peak.fp9: "),
        ("  devices: 8", "  devices: 8.5", ":10: host.devices: expected a positive whole number"),
        ("  devices: 8", "  devices: true", ":10: host.devices: expected a positive whole number"),
        ("host:\n  devices: 8", "host: 8", ":9: host.devices: this field is required"),
        ("  devices: 8", "  devices: 8\n  node: 3", ":11: host.node: expected a divisor"),
        ("strong-scale-out", "scale-sideways", ":11: platform: expected one of weak-scale-out"),
        ("span: 8", "span: 0", ":13: links.0.span: expected a positive whole number"),
        ("span: unlimited", "span: 8", ":14: links.1.span: expected a span above"),
        ("span: unlimited", "span: 64", ":14: links.1.span: the outermost link's span must be"),
        ("latency: 2us", "latency: 2", ":13: links.0.latency: a unit is missing"),
        ("name: nic, ", "", ":14: links.1.name: this field is required"),
        ("- {name: nvlink, span: 8, bandwidth: 450GB/s, latency: 2us}", "- 3", ":13: links.0.span"),
    ],
)
def test_a_malformed_file_is_told_line_field_and_expectation(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_device(path)
    assert f"{path}{expected}" in str(caught.value)


def test_like_devices_are_named_by_each_other() -> None:
    for name in device_names():
        for other in load_device(name).alike:
            assert other != name
            assert name in load_device(other).alike
    assert load_device("h100_sxm").alike == ("h200_sxm",)


@pytest.mark.parametrize(
    ("value", "message"),
    [("h100_sxm", "alike: expected a list of device names"), ("[h100]", r"expected one of a100")],
)
def test_devices_alike_are_known_ones(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"toy\.yaml:15: .*{message}"):
        load_device(written(tmp_path, GOOD + f"alike: {value}\n"))


@pytest.mark.parametrize("text", ["", "- a\n", "toy\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"toy\.yaml:1: expected a mapping"):
        load_device(written(tmp_path, text))


def test_links_that_are_no_list_are_refused(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("links:")] + "links: nvlink\n"
    with pytest.raises(ConfigError, match=r":12: links: expected a list of links"):
        load_device(written(tmp_path, text))


# Variants.


@pytest.mark.parametrize(
    ("text", "link", "expected"),
    [
        ("links: [{name: nic, bandwidth: 100GB/s}]", "nic", (UNLIMITED, 100e9, 1.0)),
        (
            "platform: scale-up\nhost: {devices: 144}\nlinks: [{name: nvlink, span: 144}]",
            "nvlink",
            (144, 450e9, 1.0),
        ),
        (
            "links:\n  - {name: nic, span: 256}\n  - {name: spine, span: unlimited, "
            "bandwidth: 50GB/s, latency: 7us, oversubscription: 2}",
            "spine",
            (UNLIMITED, 50e9, 2.0),
        ),
    ],
    ids=["nic", "scale-up", "spine"],
)
def test_a_variant_is_a_few_lines(
    tmp_path: Path, text: str, link: str, expected: tuple[float, ...]
) -> None:
    path = written(tmp_path, f"extends: h100_sxm\n{text}\n", "mine.yaml")
    device, h100 = load_device("mine", [tmp_path]), load_device("h100_sxm")
    assert device == load_device(path)
    found = next(one for one in device.links if one.name == link)
    assert (found.span, found.bandwidth_bytes_per_s, found.oversubscription) == expected
    assert (device.name, device.tables, device.measured) == ("mine", "h100_sxm", h100)
    assert device.peak_flops_per_s == h100.peak_flops_per_s
    assert [one.span for one in device.links] == sorted(one.span for one in device.links)
    changed = next(i for i in device.sources if i == f"links.{link}")
    assert link == "spine" or "as mine.yaml says; else" in device.sources[changed]


def test_variants_may_extend_variants_by_path(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, "extends: ./toy.yaml\ntdp: 300W\n", "cool.yaml")
    path = written(tmp_path, "extends: cool\npeak: {fp8: 4000TFLOP/s}\n", "quick.yaml")
    device = load_device(path)
    assert device.tdp_w == 300
    assert device.peak_flops_per_s == {"bf16": 1e15, "fp8": 4e15}
    assert device.tables == "toy"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: h100\n", "mine.yaml:1: extends: unknown device 'h100'; did you mean"),
        ("extends: [a]\n", "mine.yaml:1: extends: expected a device's name or path"),
        ("extends: ./mine.yaml\n", "extends itself"),
        ("extends: toy\ntpd: 3W\n", "mine.yaml:2: tpd: unknown field; expected name,"),
        ("extends: toy\nlinks: [{name: nic, bandwidth: 5GB}]\n", "links.1.bandwidth: "),
        ("extends: toy\nlinks:\n- {name: x, span: 4}\n", "mine.yaml:3: links.2.bandwidth: this"),
        (
            "extends: toy\nlinks: [{name: nic, oversubscription: 0.5}]\n",
            "mine.yaml:2: links.1.oversubscription: expected a factor of at least 1",
        ),
        (
            "extends: toy\nlinks: [{name: nic, topology: ring}]\n",
            "mine.yaml:2: links.1.topology: expected switch or mesh",
        ),
        (
            "extends: toy\nlinks: [{name: nic, topology: mesh}]\n",
            "mine.yaml:2: links.1.topology: only the innermost",
        ),
        (
            "extends: toy\nlinks: [{name: nic, in_network_reduction: 2}]\n",
            "mine.yaml:2: links.1.in_network_reduction: expected true or false",
        ),
        (
            "extends: toy\nlinks: [{name: nic, achieved: 2}]\n",
            "mine.yaml:2: links.1.achieved: expected a share",
        ),
        ("extends: bad\n", "bad.yaml:1: tdp: unknown unit 'V'"),
    ],
)
def test_a_malformed_variant_is_told_which_file_and_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, "tdp: 7V\n" + GOOD.replace("tdp: 700W\n", ""), "bad.yaml")
    with pytest.raises(ConfigError) as caught:
        load_device(written(tmp_path, text, "mine.yaml"))
    assert expected in str(caught.value)


def test_measurements_carry_over_by_the_roofline(store: PerfStore, tmp_path: Path) -> None:
    same = load_device(written(tmp_path, "extends: h100_sxm\ntdp: 500W\n", "same.yaml"))
    text = "extends: h100_sxm\nmemory_bandwidth: 6.7TB/s\n"
    fast = load_device(written(tmp_path, text, "fast.yaml"))
    shape = {"m": 1.0, "n": 8192.0, "k": 8192.0}  # bound by the weights' bytes
    columns = {name: np.array([[value]]) for name, value in shape.items()}
    times = [
        Operators(device, "trtllm", store).gemm.time({"dtype": "bf16"}, columns)
        for device in (load_device("h100_sxm"), same, fast)
    ]
    assert times[1].seconds.item() == times[0].seconds.item()
    assert 0.5 <= times[2].seconds.item() / times[0].seconds.item() < 0.75
    kinds = [time.kind.item() for time in times]
    assert kinds == [Kind.MEASURED, Kind.MEASURED, Kind.EXTRAPOLATED]
