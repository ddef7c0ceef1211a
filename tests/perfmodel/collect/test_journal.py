"""What was measured stays measured."""

from pathlib import Path

import pytest

from perfmodel.collect.journal import Journal, row_id
from perfmodel.collect.measure import Sample
from perfmodel.errors import InputError

IDENTITY = {"device": "here", "torch": "1"}
SAMPLE = Sample(1.25e-3, 0.01, 7, "kernel")
KEY = {"dtype": "bf16", "m": 8}


def filled(path: Path, count: int) -> None:
    with Journal(path, IDENTITY) as journal:
        for m in range(1, count + 1):
            journal.add("gemm", {"dtype": "bf16", "m": m}, SAMPLE)


def test_rows_survive(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    with Journal(path, IDENTITY) as journal:
        journal.add("gemm", KEY, SAMPLE)
        journal.add("gemm", {**KEY, "m": 9}, None)
        journal.note("machine", {"a": [1, 2]})
    with Journal(path, IDENTITY) as again:
        assert again.rows[row_id("gemm", dict(reversed(KEY.items())))] == SAMPLE
        assert again.rows[row_id("gemm", {**KEY, "m": 9})] is None
        assert again.notes == {"machine": {"a": [1, 2]}}


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_torn_last_line_is_dropped_and_overwritten(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 3)
    path.write_bytes(path.read_bytes()[:-lost])
    with Journal(path, IDENTITY) as journal:
        assert len(journal.rows) == 2
        journal.add("gemm", {"dtype": "bf16", "m": 3}, SAMPLE)
    with Journal(path, IDENTITY) as journal:
        assert len(journal.rows) == 3


def test_damage_inside_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 3)
    path.write_bytes(path.read_bytes().replace(b"0.00125", b"0.00126", 1))
    with pytest.raises(InputError, match=r"journal\.jsonl:2: damaged line"):
        Journal(path, IDENTITY)


def test_another_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 1)
    with pytest.raises(InputError, match="a journal of"):
        Journal(path, {**IDENTITY, "torch": "2"})


def test_a_file_cut_to_nothing_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    filled(path, 1)
    path.write_bytes(path.read_bytes()[:10])
    filled(path, 2)
    with Journal(path, IDENTITY) as journal:
        assert len(journal.rows) == 2
