"""Drawn catalogs: readable, of all six classes, the same from the same seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from planner.catalog import load_catalog

SCRIPT = Path(__file__).parents[2] / "experiments" / "catalogs.py"
CLASSES = {
    # 99th percentiles of prompt and answer, range of the TTFT target, TTIT target.
    "text_agent": (2000, 500, (0.2, 0.5), 0.04),
    "multimodal_agent": (2000, 500, (0.3, 0.8), 0.04),
    "realtime_agent": (50, 100, (0.0, 0.2), 0.03),
    "safety": (8000, 16, (0.0, 0.2), 0.01),
    "data_augmentation": (8000, 1000, (2.0, 5.0), 0.3),
    "data_scoring": (32000, 8, None, None),
}


def drawn(count: int, seed: int, out: Path) -> Path:
    command = [sys.executable, str(SCRIPT), "--services", str(count), "--seed", str(seed)]
    subprocess.run([*command, "--out", str(out)], check=True, timeout=60)
    return out


def test_a_catalog_of_all_classes(tmp_path: Path) -> None:
    path = drawn(120, 3, tmp_path / "catalog.yaml")
    assert drawn(120, 3, tmp_path / "again.yaml").read_bytes() == path.read_bytes()
    catalog, errors = load_catalog(path)
    assert errors == []
    assert len(catalog.services) == 120
    assert {s.region for s in catalog.services} == {"us", "eu", "asia"}
    seen = set()
    for service in catalog.services:
        name = service.name.rpartition("_")[0]
        seen.add(name)
        longest_input, longest_output, ttft, ttit = CLASSES[name]
        workload, slo = service.query.workload, service.query.slo
        # The 99th percentile is at the limit: the longest of few representative lengths, about.
        assert workload.output_tokens.maximum == pytest.approx(longest_output, rel=0.03)
        assert workload.input_tokens.maximum == pytest.approx(longest_input, rel=0.03)
        assert (slo.ttft is None) == (ttft is None)
        if slo.ttft is not None and ttft is not None:
            assert ttft[0] <= slo.ttft.seconds <= ttft[1] + 1e-9
        assert (None if slo.ttit is None else slo.ttit.seconds) == pytest.approx(ttit)
        assert len(service.query.devices) == 7
    assert seen == set(CLASSES)
    # Heavy-tailed: the largest tenth has most of its class's demand.
    demands = [
        np.sort([s.query.workload.qps for s in catalog.services if s.name.startswith(name)])
        for name in ("text_agent", "safety")
    ]
    for qps in demands:
        assert qps[-1] > 10 * np.median(qps)


def test_catalogs_of_other_seeds_ask_about_the_same_profiles(tmp_path: Path) -> None:
    asked = []
    for seed in (1, 2):
        catalog, _ = load_catalog(drawn(60, seed, tmp_path / f"{seed}.yaml"))
        asked.append(
            {(s.query.model, s.query.workload.input_tokens, s.query.slo) for s in catalog.services}
        )
    assert len(asked[0] | asked[1]) <= 18
    assert asked[0] & asked[1]


def test_too_many_services_are_refused() -> None:
    command = [sys.executable, str(SCRIPT), "--services", "1001"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "expected 1 to 1,000" in done.stderr
