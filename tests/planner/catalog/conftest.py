"""Small catalogs, and results that need no solving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import yaml

SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": ["h100_sxm"],
    "runtime": "continuous",
    "search": {"max_replica_devices": 2},
}


class Here(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture
def here() -> Iterator[Executor]:
    """An executor that needs no other process."""
    with Here() as executor:
        yield executor


@pytest.fixture
def catalog_file(tmp_path: Path) -> Callable[..., Path]:
    """`catalog_file(services={...}, ...)`: a catalog whose defaults are a small query."""

    def write(**fields: Any) -> Path:
        path = tmp_path / "catalog.yaml"
        path.write_text(yaml.safe_dump({"defaults": SMALL, **fields}, sort_keys=False))
        return path

    return write
