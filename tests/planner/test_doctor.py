"""`planner doctor`: a sound installation passes, and each thing that is wrong is named."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner import doctor
from planner.cli import app
from planner.doctor import ABSENT, BAD, OK, findings


def test_a_sound_installation() -> None:
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for what in ("planner", "packages", "tables", "extra ui", "threads", "self-check"):
        assert what in result.stdout
    assert "h100_sxm" in result.stdout
    assert "$2.00 per hour" in result.stdout


def test_another_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "KNOWN", {**doctor.KNOWN, "ttit_s": 0.03})
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert result.stderr == "error: not in order: self-check\n"
    assert "expected 0.03" in result.stdout


def test_missing_tables_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("perfmodel.database.store.SHIPPED", tmp_path)
    states = {one.what: one for one in findings()}
    assert states["tables"].state == BAD
    assert "analytic" in states["tables"].found


def test_a_malformed_device_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nmemory: much\n")
    states = {one.what: one for one in findings([tmp_path])}
    assert states["devices"].state == BAD
    assert "mine.yaml" in states["devices"].found


def test_a_missing_extra_is_optional_and_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "ui", ("no_such_package_here", "planner ui"))
    monkeypatch.setattr(doctor, "_self_check", lambda: "left out")
    states = {one.what: one for one in findings()}
    assert states["extra ui"].state == ABSENT
    assert "pip install 'llm-fleet-planner[ui]'" in states["extra ui"].found
    assert all(one.state != BAD for one in states.values())


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = doctor.version

    def version(name: str) -> str:
        if name == "optuna":
            raise PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(doctor, "version", version)
    found = doctor._packages()
    assert found.state == BAD
    assert found.found == "missing: pip install optuna"


def test_every_required_package_is_looked_at() -> None:
    found = doctor._packages()
    assert found.state == OK
    for package in ("numpy", "ortools", "vl-convert-python", "pyyaml"):
        assert f"{package} " in found.found.lower()


def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    found = doctor._writable("this folder", tmp_path / "absent")
    assert found.state == BAD
    assert "absent" in found.found
    assert doctor._writable("this folder", tmp_path).state == OK
