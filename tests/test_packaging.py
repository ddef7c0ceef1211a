"""What is built to be installed: all data is in, and a plan is made from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("planner", "spaces", "perfmodel")
QUERY = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": ["h100_sxm"],
    "search": {"max_replica_devices": 2},
}


def sources(*folders: str) -> set[str]:
    """Files below folders of the repository, caches apart."""
    files = (file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file())
    return {file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts}


def test_what_is_built_has_all_data_and_plans_from_any_folder(tmp_path: Path) -> None:
    """One test, so that one process builds; nothing is downloaded."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    wheel_is_whole(wheel)
    source_is_whole(source)
    plans_from_elsewhere(wheel, tmp_path)


def wheel_is_whole(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert own == sources(*PACKAGES)
    for name in (
        "planner/web/templates/report.html.j2",
        "planner/data/costs.yaml",
        "perfmodel/data/corrections.yaml",
        "perfmodel/data/devices/h100_sxm.yaml",
        "perfmodel/data/perfdb/h100_sxm/trtllm/gemm.parquet",
    ):
        assert name in own
    licences = {Path(name).name for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def source_is_whole(source: Path) -> None:
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert names >= sources(*PACKAGES, "tests", "examples")
    for name in ("docs/conf.py", "docs/index.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        assert name in names
    assert {"CITATION.cff", "LICENSE", "NOTICE", "README.md", "constraints.txt"} <= names


def plans_from_elsewhere(wheel: Path, folder: Path) -> None:
    """A wheel of pure Python is installed by unpacking it; its requirements are there already."""
    target, elsewhere = folder / "installed", folder / "elsewhere"
    zipfile.ZipFile(wheel).extractall(target)
    elsewhere.mkdir()
    (elsewhere / "query.yaml").write_text(yaml.safe_dump(QUERY))

    def python(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert python("-c", "import planner; print(planner.__file__)").startswith(str(target))
    files = ("--json", "plan.json", "--report", "plan.html")
    printed = python("-m", "planner.cli", "solve", "query.yaml", *files, "-q")
    assert "per hour" in printed
    assert json.loads((elsewhere / "plan.json").read_text())["best"]["usd_per_hour"] > 0
    assert "<html" in (elsewhere / "plan.html").read_text()


def test_versions_agree() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_extras_named_by_doctor_and_the_dev_extra_hold() -> None:
    import tomllib

    from planner.doctor import EXTRAS

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra, (package, _) in EXTRAS.items():
        assert any(line.startswith(package) for line in extras[extra])
    # What builds the documentation is there for its test.
    assert set(extras["docs"]) <= set(extras["dev"])
