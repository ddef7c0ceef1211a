"""Devices and the links between them, read from one YAML file each.

A device file's figures each carry their source; `perfmodel/data/devices/README.md`
explains the fields. Users add devices by a path or a folder on the search path.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from perfmodel.documents import read_yaml
from perfmodel.errors import ConfigError
from perfmodel.precision import FORMATS
from perfmodel.units import parse_quantity

SHIPPED = Path(__file__).parent / "data" / "devices"
PLATFORMS = ("weak-scale-out", "strong-scale-out", "scale-up")
PEAKS = tuple(sorted({number_format.peak for number_format in FORMATS.values()}))
UNLIMITED = 2**31


@dataclass(frozen=True)
class Link:
    """One level of the interconnect.

    Attributes:
        span: how many devices reach each other at this level (`UNLIMITED` for the outermost).
        bandwidth_bytes_per_s: per device, one direction.
        latency_s: time of a message without payload (the alpha of alpha-beta).
    """

    name: str
    span: int
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True)
class Device:
    """One accelerator with its host and fabric.

    Attributes:
        memory_bytes: what the driver reports, not the marketing figure.
        memory_bandwidth_bytes_per_s: HBM or GDDR peak.
        peak_flops_per_s: dense matrix peak by precision (`bf16`, `fp8`, `int8`, `fp4`).
        host_devices: devices in the unit that is bought or rented.
        links: innermost first.
        achieved_compute: share of the peak that large matrix products reach, where it is
            published for the device; None: the operators' own assumption.
        achieved_bandwidth: the same of memory bandwidth.
        alike: catalog names of devices on which the same kernels run, faster or slower.
        caution: what a reader of a plan that uses the device must be told.
        sources: figure name -> where it comes from.
    """

    name: str
    title: str
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    tdp_w: float
    host_devices: int
    platform: str
    links: tuple[Link, ...]
    achieved_compute: float | None = None
    achieved_bandwidth: float | None = None
    alike: tuple[str, ...] = ()
    notes: str = ""
    caution: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def fast_link(self) -> Link:
        """The innermost link: the domain in which tensor parallelism is cheap."""
        return self.links[0]

    @property
    def network(self) -> Link:
        """The outermost link, over which hosts (and pools) talk."""
        return self.links[-1]

    def supports(self, peak: str) -> bool:
        """Whether the device multiplies natively at this precision."""
        return peak in self.peak_flops_per_s


def load_device(name_or_path: str | Path, search_path: Iterable[Path] = ()) -> Device:
    """A device by catalog name, by file name on `search_path`, or by path to a YAML file.

    Raises:
        ConfigError: unknown name (with the nearest known ones), or a malformed file
            (with file, line, field and what was expected).
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return _read_device(Path(text))
    for folder in (*search_path, SHIPPED):
        for candidate in sorted(folder.glob("*.yaml")):
            if candidate.stem.lower() == text.lower():
                return _read_device(candidate)
    names = device_names(search_path)
    close = difflib.get_close_matches(text.lower(), names, n=2, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(f"unknown device {text!r}{hint} (known: {', '.join(names)})")


def device_names(search_path: Iterable[Path] = ()) -> list[str]:
    """Names of all devices that `load_device` finds, sorted."""
    folders = (*search_path, SHIPPED)
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


@lru_cache(maxsize=256)
def _read_device(path: Path) -> Device:
    document = read_yaml(path)
    data = document.data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected a mapping describing one device")
    sources: dict[str, str] = {}

    def fail(location: tuple[str | int, ...], message: str) -> ConfigError:
        return ConfigError(f"{document.where(location)}: {message}")

    def get(location: tuple[str | int, ...]) -> Any:
        value: Any = data
        for part in location:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                raise fail(location, "this field is required") from None
        return value

    def quantity(location: tuple[str | int, ...], kind: str) -> float:
        entry = get(location)
        text = entry
        if isinstance(entry, dict):
            if "value" not in entry:
                raise fail(location, "expected {value: ..., source: ...}")
            text = entry["value"]
            sources[".".join(map(str, location))] = str(entry.get("source", "not given"))
        try:
            value = parse_quantity(text, kind)
        except ValueError as error:
            raise fail(location, str(error)) from None
        if not value > 0:
            raise fail(location, f"expected a positive {kind} quantity, got {text!r}")
        return value

    def share(location: tuple[str, ...]) -> float | None:
        if location[0] not in data or location[1] not in get(location[:1]):
            return None
        entry = get(location)
        value = entry.get("value") if isinstance(entry, dict) else entry
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise fail(location, f"expected a share above 0 and at most 1, got {value!r}")
        if isinstance(entry, dict):
            sources[".".join(location)] = str(entry.get("source", "not given"))
        return float(value)

    def count(location: tuple[str | int, ...]) -> int:
        value = get(location)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise fail(location, f"expected a positive whole number, got {value!r}")
        return value

    def names(field: str) -> tuple[str, ...]:
        values = data.get(field, [])
        if not isinstance(values, list):
            raise fail((field,), f"expected a list of device names, got {values!r}")
        for i, value in enumerate(values):
            if value not in (known := device_names()):
                raise fail((field, i), f"expected one of {', '.join(known)}, got {value!r}")
        return tuple(values)

    platform = get(("platform",))
    if platform not in PLATFORMS:
        raise fail(("platform",), f"expected one of {', '.join(PLATFORMS)}, got {platform!r}")
    peak = get(("peak",))
    if not isinstance(peak, dict) or "bf16" not in peak:
        raise fail(("peak",), "expected a mapping of precisions to FLOP/s with at least bf16")
    for name in peak:
        if name not in PEAKS:
            raise fail(("peak", str(name)), f"expected one of {', '.join(PEAKS)}")
    entries = get(("links",))
    if not isinstance(entries, list) or not entries:
        raise fail(("links",), "expected a list of links, innermost first")
    links: list[Link] = []
    for i in range(len(entries)):
        unlimited = get(("links", i, "span")) == "unlimited"
        link = Link(
            name=str(get(("links", i, "name"))),
            span=UNLIMITED if unlimited else count(("links", i, "span")),
            bandwidth_bytes_per_s=quantity(("links", i, "bandwidth"), "bytes_per_s"),
            latency_s=quantity(("links", i, "latency"), "time"),
        )
        if links and link.span <= links[-1].span:
            raise fail(("links", i, "span"), "expected a span above the previous link's")
        sources[f"links.{link.name}"] = str(entries[i].get("source", "not given"))
        links.append(link)
    if links[-1].span != UNLIMITED:
        raise fail(("links", len(links) - 1, "span"), "the outermost link's span must be unlimited")
    return Device(
        name=str(get(("name",))),
        title=str(get(("title",))),
        memory_bytes=quantity(("memory",), "bytes"),
        memory_bandwidth_bytes_per_s=quantity(("memory_bandwidth",), "bytes_per_s"),
        peak_flops_per_s={str(name): quantity(("peak", name), "flops_per_s") for name in peak},
        tdp_w=quantity(("tdp",), "power"),
        host_devices=count(("host", "devices")),
        platform=platform,
        links=tuple(links),
        achieved_compute=share(("achieved", "compute")),
        achieved_bandwidth=share(("achieved", "bandwidth")),
        alike=names("alike"),
        notes=str(data.get("notes", "")),
        caution=" ".join(str(data.get("caution", "")).split()),
        sources=sources,
    )
