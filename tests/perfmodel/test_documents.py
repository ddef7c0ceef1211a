"""Mistakes in YAML files: file, line, field and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from perfmodel.documents import Document, read_yaml, validate
from perfmodel.errors import ConfigError


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: float
    names: list[str] = []


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    count: int = 1
    either: int | str | None = None
    parts: list[Part] = []

    @field_validator("count")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("expected an odd count")
        return value


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def document(folder: Path, text: str) -> Document:
    return read_yaml(written(folder, text))


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(document(folder, text), Whole)
    return str(caught.value)


def test_a_good_document_validates(tmp_path: Path) -> None:
    whole = validate(document(tmp_path, "title: a\nparts:\n  - share: 0.5\n"), Whole)
    assert whole.parts[0].share == 0.5


def test_lines_of_fields_are_remembered(tmp_path: Path) -> None:
    doc = document(tmp_path, "# comment\ntitle: a\n\nparts:\n  - share: 1\n    names:\n    - x\n")
    file = tmp_path / "file.yaml"
    assert doc.where(("title",)) == f"{file}:2: title"
    assert doc.where(("parts", 0, "share")) == f"{file}:5: parts.0.share"
    assert doc.where(("parts", 0, "names", 0)) == f"{file}:7: parts.0.names.0"


def test_a_field_that_is_not_there_is_placed_at_its_parent(tmp_path: Path) -> None:
    doc = document(tmp_path, "title: a\nparts:\n  - names: []\n")
    assert doc.where(("parts", 0, "share")).endswith("file.yaml:3: parts.0.share")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("title: a\ncount: 2\n", "file.yaml:2: count: expected an odd count"),
        ("title: a\nparts:\n- share: x\n", "file.yaml:3: parts.0.share: "),
        ("count: 1\n", "title: this field is required"),
        ("title: a\n\ncuont: 1\n", "file.yaml:3: cuont: unknown field"),
        ("title: a\nparts:\n- share: 1\n  shaer: 1\n", "file.yaml:4: parts.0.shaer: unknown field"),
        ("title: a\neither: [1]\n", "file.yaml:2: either: "),
        ("- a\n- b\n", "file.yaml:1: expected a mapping of fields (title, count"),
        ("", "file.yaml:1: expected a mapping of fields"),
    ],
)
def test_what_a_wrong_field_is_told(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_a_wrong_value_is_quoted(tmp_path: Path) -> None:
    assert "(got 'x')" in refusal(tmp_path, "title: a\ncount: x\n")


def test_every_mistake_is_reported_on_a_line_of_its_own(tmp_path: Path) -> None:
    message = refusal(tmp_path, "count: 2\nparts:\n- share: x\n- share: y\n")
    lines = message.splitlines()
    assert len(lines) == 4
    assert [line for line in lines if ":3: parts.0.share" in line]
    assert [line for line in lines if ":4: parts.1.share" in line]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "file.yaml:3: a: given twice (first on 1)"),
        ("a:\n  b: 1\n  c: 2\n  b: 2\n", "file.yaml:4: a.b: given twice (first on 2)"),
        ("a: [1\nb: 2\n", "file.yaml:2:"),
        ("a: 'open\n", "not valid YAML"),
        ("a: b: c\n", "file.yaml:1:5: not valid YAML"),
        ("a: !!python/object:os.system x\n", "file.yaml:1:4: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: &x\n  b: *x\n", "not valid YAML"),
        ("a: 2024-99-99\n", "not valid YAML"),
    ],
)
def test_what_is_not_a_good_file_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_one_key_in_two_mappings_is_no_duplicate(tmp_path: Path) -> None:
    data: Any = document(tmp_path, "a: {x: 1}\nb: {x: 1}\nc: [{x: 1}, {x: 2}]\n").data
    assert data["c"][1]["x"] == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_yaml(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"title: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read as UTF-8"):
        read_yaml(latin)
