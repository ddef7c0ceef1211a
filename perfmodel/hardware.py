"""Devices and the links between them, read from one YAML file each.

A device file's figures each carry their source; `perfmodel/data/devices/README.md`
explains the fields. Users add devices by a path or a folder on the search path.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from perfmodel.documents import Document, FieldPath, read_yaml
from perfmodel.errors import ConfigError
from perfmodel.inheritance import extend
from perfmodel.links import ACHIEVED, TOPOLOGIES, UNLIMITED, Link
from perfmodel.precision import FORMATS
from perfmodel.units import parse_quantity

SHIPPED = Path(__file__).parent / "data" / "devices"
PLATFORMS = ("weak-scale-out", "strong-scale-out", "scale-up")
PEAKS = tuple(sorted({number_format.peak for number_format in FORMATS.values()}))
FIELDS = (
    *("name", "title", "memory", "memory_bandwidth", "peak", "tdp", "host", "platform", "links"),
    *("achieved", "alike", "caution", "notes", "extends"),
)
LINK_FIELDS = (
    *("name", "span", "bandwidth", "latency", "topology", "in_network_reduction"),
    *("oversubscription", "achieved", "source"),
)

LEAST = {
    "memory": "1GiB",
    "memory_bandwidth": "1GB/s",
    "peak": "1GFLOP/s",
    "bandwidth": "1MB/s",
    "link": "1MB/s",
}
"""What every device, host and link exceeds: a figure below has lost its unit."""

__all__ = ["UNLIMITED", "Device", "Link", "device_names", "load_device"]


def is_amd(name: str) -> bool:
    """Whether a device is one of AMD's, by its name."""
    return name.startswith("mi") and name[2:3].isdigit()


@dataclass(frozen=True)
class Device:
    """One accelerator with its host and fabric.

    Attributes:
        memory_bytes: what the driver reports, not the marketing figure.
        memory_bandwidth_bytes_per_s: HBM or GDDR peak.
        peak_flops_per_s: dense matrix peak by precision (`bf16`, `fp8`, `int8`, `fp4`).
        host_devices: devices in the unit that is bought or rented.
        node_devices: of them, those under one operating system; None: all.
        links: innermost first.
        host_memory_bytes: host memory per device; None where the file does not say.
        host_bandwidth_bytes_per_s: of a device's link to it, one direction, all devices
            loading at once; None likewise.
        achieved_compute: share of the peak that large matrix products reach, where it is
            published for the device; None: the operators' own assumption.
        achieved_bandwidth: the same of memory bandwidth.
        alike: catalog names of devices on which the same kernels run, faster or slower.
        caution: what a reader of a plan that uses the device must be told.
        measured: for a variant, the device on which operators were measured.
        time_factor: what the estimated times of its steps are multiplied by, where they are known
            to be off; no operator falls below its roofline.
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
    node_devices: int | None = None
    host_memory_bytes: float | None = None
    host_bandwidth_bytes_per_s: float | None = None
    achieved_compute: float | None = None
    achieved_bandwidth: float | None = None
    alike: tuple[str, ...] = ()
    notes: str = ""
    caution: str = ""
    measured: Device | None = None
    time_factor: float = 1.0
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def fast_link(self) -> Link:
        """The innermost link: the domain in which tensor parallelism is cheap."""
        return self.links[0]

    @property
    def network(self) -> Link:
        """The outermost link, over which hosts (and pools) talk."""
        return self.links[-1]

    @property
    def tables(self) -> str:
        """Under which name operator tables are stored: a variant uses those of its origin."""
        return self.measured.tables if self.measured is not None else self.name

    def supports(self, peak: str) -> bool:
        """Whether the device multiplies natively at this precision."""
        return peak in self.peak_flops_per_s


def load_device(name_or_path: str | Path, search_path: Iterable[Path] = ()) -> Device:
    """A device by catalog name, by file name on `search_path`, or by path to a YAML file.

    Raises:
        ConfigError: unknown name (with the nearest known ones), or a malformed file
            (with file, line, field and what was expected).
    """
    return _read_device(_find(name_or_path, search_path), tuple(search_path))


def _find(name_or_path: str | Path, search_path: Iterable[Path]) -> Path:
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return Path(text)
    for folder in (*search_path, SHIPPED):
        if not folder.is_dir():
            raise ConfigError(f"{folder}: this folder of the device search path does not exist")
        for candidate in sorted(folder.glob("*.yaml")):
            if candidate.stem.lower() == text.lower():
                return candidate
    names = device_names(search_path)
    close = difflib.get_close_matches(text.lower(), names, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(f"unknown device {text!r}{hint} (`planner devices` lists all)")


def device_names(search_path: Iterable[Path] = ()) -> list[str]:
    """Names of all devices that `load_device` finds, sorted."""
    folders = (*search_path, SHIPPED)
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def _document(path: Path, search_path: tuple[Path, ...]) -> tuple[Document, Path | None]:
    """A device file laid over the one it extends, and the latter's path."""
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        raise ConfigError(f"{path}:1: expected a mapping describing one device")
    if "extends" not in document.data:
        return document, None
    origin, seen, own = None, [path.resolve()], document
    while isinstance(own.data, dict) and "extends" in own.data:
        named, where = own.data["extends"], own.where(("extends",))
        if not isinstance(named, str):
            raise ConfigError(f"{where}: expected a device's name or path, got {named!r}")
        if named.endswith((".yaml", ".yml")):
            named = str(own.path.parent / named)
        # Beside a shipped device of the same name, a file may vary that one.
        folders = [f for f in search_path if f.resolve() != own.path.parent.resolve()]
        try:
            found = _find(named, [own.path.parent, *folders])
            if found.resolve() == own.path.resolve():
                found = _find(named, folders)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        if found.resolve() in seen:
            raise ConfigError(f"{where}: extends itself, by way of {found}")
        seen.append(found.resolve())
        origin = origin or found
        own = read_yaml(found)
        if not isinstance(own.data, dict):
            raise ConfigError(f"{found}:1: expected a mapping describing one device")
        base = {k: v for k, v in own.data.items() if k not in ("name", "title")}
        document = extend(document, Document(own.path, base, own.lines, own.files))
    return document, origin


@lru_cache(maxsize=256)
def _read_device(path: Path, search_path: tuple[Path, ...]) -> Device:
    document, origin = _document(path, search_path)
    data = document.data
    measured = None if origin is None else _read_device(origin, search_path)
    if measured is not None:
        named = data.setdefault("name", path.stem)
        data.setdefault("title", f"{named}: a variant of {measured.title}")
    sources: dict[str, str] = {}

    def fail(location: FieldPath, message: str) -> ConfigError:
        return ConfigError(f"{document.where(location)}: {message}")

    def get(location: FieldPath) -> Any:
        value: Any = data
        for part in location:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                raise fail(location, "this field is required") from None
        return value

    def quantity(location: FieldPath, kind: str) -> float:
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
        least = LEAST.get(str(location[0] if location[0] == "peak" else location[-1]))
        if least is not None and value < parse_quantity(least, kind):
            problem = "its unit is missing, or too small"
            raise fail(location, f"expected at least {least}, got {text!r}: {problem}")
        return value

    def of_host(name: str, kind: str) -> float | None:
        return quantity(("host", name), kind) if name in get(("host",)) else None

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

    def count(location: FieldPath) -> int:
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
    for name in data:
        if name not in FIELDS:
            raise fail((str(name),), f"unknown field; expected {', '.join(FIELDS)}")
    entries = get(("links",))
    if not isinstance(entries, list) or not entries:
        raise fail(("links",), "expected a list of links, innermost first")
    read = [(_link(document, i, count, quantity, get, fail), i) for i in range(len(entries))]
    if measured is not None:
        # A variant's new links are named after those it has: their spans say where they lie.
        read.sort(key=lambda pair: pair[0].span)
    for (inside, _), (link, i) in itertools.pairwise(read):
        if link.span <= inside.span:
            raise fail(("links", i, "span"), "expected a span above the previous link's")
        if link.topology == "mesh":
            raise fail(("links", i, "topology"), "only the innermost link may be a mesh")
    last, i = read[-1]
    if last.span != UNLIMITED:
        raise fail(("links", i, "span"), "the outermost link's span must be unlimited")
    links = [link for link, _ in read]
    host_devices = count(("host", "devices"))
    node = count(("host", "node")) if "node" in get(("host",)) else None
    if node is not None and host_devices % node:
        raise fail(("host", "node"), f"expected a divisor of host.devices, got {node}")
    if isinstance(host := get(("host",)), dict) and "source" in host:
        sources["host.devices"] = str(host["source"])
    for link, i in read:
        sources[f"links.{link.name}"] = _link_source(document, i)
    return Device(
        name=str(get(("name",))),
        title=str(get(("title",))),
        memory_bytes=quantity(("memory",), "bytes"),
        memory_bandwidth_bytes_per_s=quantity(("memory_bandwidth",), "bytes_per_s"),
        peak_flops_per_s={str(name): quantity(("peak", name), "flops_per_s") for name in peak},
        tdp_w=quantity(("tdp",), "power"),
        host_devices=host_devices,
        platform=platform,
        links=tuple(links),
        node_devices=node,
        host_memory_bytes=of_host("memory", "bytes"),
        host_bandwidth_bytes_per_s=of_host("link", "bytes_per_s"),
        achieved_compute=share(("achieved", "compute")),
        achieved_bandwidth=share(("achieved", "bandwidth")),
        alike=names("alike"),
        notes=str(data.get("notes", "")),
        caution=" ".join(str(data.get("caution", "")).split()),
        measured=measured,
        sources=sources,
    )


def _link(
    document: Document,
    i: int,
    count: Callable[[FieldPath], int],
    quantity: Callable[[FieldPath, str], float],
    get: Callable[[FieldPath], Any],
    fail: Callable[[FieldPath, str], ConfigError],
) -> Link:
    at: FieldPath = ("links", i)
    entry = document.data["links"][i]
    if not isinstance(entry, dict):
        raise fail((*at, "span"), "this field is required")
    name = str(get((*at, "name")))
    for key in entry:
        if key not in LINK_FIELDS:
            raise fail((*at, str(key)), f"unknown field; expected {', '.join(LINK_FIELDS)}")
    topology = entry.get("topology", "switch")
    if topology not in TOPOLOGIES:
        expected = " or ".join(TOPOLOGIES)
        raise fail((*at, "topology"), f"expected {expected}, got {topology!r}")
    reduces = entry.get("in_network_reduction", False)
    if not isinstance(reduces, bool):
        raise fail((*at, "in_network_reduction"), f"expected true or false, got {reduces!r}")
    shared = entry.get("oversubscription", 1.0)
    if isinstance(shared, bool) or not isinstance(shared, int | float) or not shared >= 1:
        raise fail((*at, "oversubscription"), f"expected a factor of at least 1, got {shared!r}")
    achieved = entry.get("achieved", ACHIEVED)
    if isinstance(achieved, bool) or not isinstance(achieved, int | float) or not 0 < achieved <= 1:
        expected = "expected a share above 0 and at most 1"
        raise fail((*at, "achieved"), f"{expected}, got {achieved!r}")
    unlimited = get((*at, "span")) == "unlimited"
    return Link(
        name=name,
        span=UNLIMITED if unlimited else count((*at, "span")),
        bandwidth_bytes_per_s=quantity((*at, "bandwidth"), "bytes_per_s"),
        latency_s=quantity((*at, "latency"), "time"),
        topology=topology,
        reduces=reduces,
        oversubscription=float(shared),
        achieved=float(achieved),
    )


def _link_source(document: Document, i: int) -> str:
    """A link's source; where a variant changes some of its fields, which and where."""
    entry = document.data["links"][i]
    source = str(entry.get("source", "not given"))
    written = {key: document.files.get(("links", i, key), document.path) for key in entry}
    own = [key for key, file in written.items() if file == document.path and key != "name"]
    if not own or "source" in own or "source" not in entry:
        return source
    return f"{', '.join(own)}: as {document.path.name} says; else {source}"
