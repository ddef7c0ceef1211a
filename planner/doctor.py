"""Whether an installation is sound: what `planner doctor` looks at, one finding a line."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perfmodel.errors import InputError

PACKAGE = "llm-fleet-planner"

OK, ABSENT, BAD = "ok", "absent", "BAD"
"""States of a finding; only the last one makes an installation unsound."""

EXTRAS = {
    "ui": ("streamlit", "planner ui"),
    "cluster": ("distributed", "planner batch --scheduler"),
    "collect": ("torch", "planner perfdb collect"),
}
"""Extra -> the package that it brings, and the command that needs it."""

QUERY: Mapping[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 2, "input_tokens": 500, "output_tokens": 50},
    "slo": {"ttft": "500ms", "ttit": "20ms"},
    "devices": [{"name": "h100_sxm", "usd_per_device_hour": 2.0, "host_devices": 1}],
    "runtime": "continuous",
    "search": {"max_replica_devices": 1},
}
"""A query of few configurations, with prices of its own."""

KNOWN = {"usd_per_hour": 2.0, "ttft_s": 0.0917, "ttit_s": 0.00757}
"""Its answer: one device, and its mean latencies on the shipped tables."""

TOLERANCE = 0.1
"""By which the latencies may differ from those, relative: constants are fitted anew at times."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: of `OK`, `ABSENT` (something optional) and `BAD`.
        found: what there is, and what to do about it.
    """

    what: str
    state: str
    found: str


def findings(perfdb: Sequence[Path] = (), folder: Path | None = None) -> Iterator[Finding]:
    """Everything that is looked at, in order, as it is found.

    Args:
        perfdb: folders of tables besides the shipped ones.
        folder: where files would be written; the current one if None.
    """
    yield _version()
    yield Finding("python", OK, f"{platform.python_version()}, {sys.executable}")
    yield _packages()
    yield from _data(perfdb)
    for extra, (package, command) in EXTRAS.items():
        yield _extra(extra, package, command)
    yield _writable("this folder", folder or Path.cwd())
    yield _writable("temporary files", Path(tempfile.gettempdir()))
    yield _threads()
    yield _checked("self-check", _self_check)


def _version() -> Finding:
    try:
        return Finding("planner", OK, version(PACKAGE))
    except PackageNotFoundError:
        return Finding("planner", BAD, f"{PACKAGE} is not installed: pip install .")


def _packages() -> Finding:
    """Required packages, of which importing none takes long."""
    found, missing = [], []
    for requirement in _required():
        try:
            found.append(f"{requirement} {version(requirement)}")
        except PackageNotFoundError:
            missing.append(requirement)
    if missing:
        return Finding("packages", BAD, f"missing: pip install {' '.join(missing)}")
    return Finding("packages", OK, ", ".join(found))


def _required() -> list[str]:
    """Names of the packages that every installation needs."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    plain = [line for line in lines if "extra ==" not in line]
    return ["".join(c if c.isalnum() or c in "-_." else " " for c in s).split()[0] for s in plain]


def _data(perfdb: Sequence[Path]) -> Iterator[Finding]:
    yield _checked("models", _models)
    yield _checked("devices", lambda: _devices(perfdb))
    yield _checked("tables", lambda: _tables(perfdb))


def _models() -> str:
    from perfmodel.architecture import catalog

    return f"{len(catalog())} shipped"


def _devices(perfdb: Sequence[Path]) -> str:
    from perfmodel.hardware import device_names, load_device
    from planner.prices import price_list

    names, prices = device_names(perfdb), price_list()
    for name in names:
        load_device(name, perfdb)
    return f"{len(names)}, {sum(name in prices for name in names)} of them with a price"


def _tables(perfdb: Sequence[Path]) -> str:
    from perfmodel.database import PerfStore

    tables = PerfStore(perfdb).describe()
    rows = sum(table.rows for table in tables)
    if not rows:
        raise InputError("no measured rows: every estimate would be analytic")
    devices = sorted({table.device for table in tables})
    engines = sorted({table.engine for table in tables})
    return f"{rows:,} rows of {', '.join(devices)}; engines {', '.join(engines)}"


def _extra(extra: str, package: str, command: str) -> Finding:
    if find_spec(package) is None:
        hint = f"not installed; for {command}: pip install '{PACKAGE}[{extra}]'"
        return Finding(f"extra {extra}", ABSENT, hint)
    try:
        return Finding(f"extra {extra}", OK, f"{package} {version(package)}")
    except PackageNotFoundError:
        return Finding(f"extra {extra}", OK, package)


def _writable(what: str, folder: Path) -> Finding:
    """Whether a file can be written; permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"planner")
            file.flush()
    except OSError as error:
        return Finding(what, BAD, f"{folder}: cannot write: {error.strerror or error}")
    return Finding(what, OK, f"{folder} can be written to")


def _threads() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    stated = [f"{name}={os.environ[name]}" for name in limits if name in os.environ]
    return Finding("threads", OK, ", ".join([f"{count} processors", *stated]))


def _self_check() -> str:
    """Solve the small query on the shipped tables.

    Raises:
        InputError: no plan, or another than is known.
    """
    from perfmodel.database import PerfStore
    from planner.query import Query
    from planner.solve import solve

    best = solve(Query.model_validate(dict(QUERY)), store=PerfStore()).best
    answer = {
        "usd_per_hour": best.usd_per_hour,
        "ttft_s": best.ttft.mean_s,
        "ttit_s": best.ttit_mean_s,
    }
    for name, known in KNOWN.items():
        if abs(answer[name] / known - 1.0) > TOLERANCE:
            raise InputError(f"{name} of a small query is {answer[name]:.4g}, expected {known:.4g}")
    return (
        f"a small query costs ${best.usd_per_hour:.2f} per hour, TTFT {best.ttft.mean_s * 1e3:.0f} "
        f"ms, TTIT {best.ttit_mean_s * 1e3:.1f} ms, as it should"
    )


def _checked(what: str, look: Callable[[], str]) -> Finding:
    """What was found; any error is a finding, since the others should be seen too."""
    try:
        return Finding(what, OK, look())
    except Exception as error:
        return Finding(what, BAD, str(error) or type(error).__name__)
