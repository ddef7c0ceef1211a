"""Studies on disk: continued, shared, and never taken for another question's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest

from perfmodel.errors import InputError
from planner.search import tpe
from planner.search.storage import open_storage, study_name
from planner.sweep import Space

WIDE: dict[str, Any] = {"search": {"max_replica_devices": 16}, "workload": {"qps": 300}}


def quietly(_what: str, _share: float) -> None:
    pass


def trials(storage: str) -> dict[str, list[tuple[Any, ...]]]:
    """By study: layout, value and what was found, of every trial that evaluated one."""
    kept = open_storage(storage)
    found = {}
    for study in kept.get_all_studies():
        own = kept.get_all_trials(study._study_id)
        found[study.study_name] = [
            (tuple(t.user_attrs["layout"]), t.value, t.user_attrs.get("found"))
            for t in own
            if "layout" in t.user_attrs
        ]
    return found


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_study_goes_on_and_computes_nothing_again(
    tmp_path: Path,
    space_of: Callable[..., Space],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    where = {"journal": str(tmp_path / "s.log"), "database": f"sqlite:///{tmp_path}/s.db"}[kind]
    space = space_of(**WIDE)
    evaluated = []
    evaluate = Space.evaluate

    def watched(self: Space, role: Any, *a: Any, **k: Any) -> Any:
        evaluated.extend((role, int(row)) for row in k["rows"])
        if len(evaluated) == stop:
            raise KeyboardInterrupt
        return evaluate(self, role, *a, **k)

    monkeypatch.setattr(Space, "evaluate", watched)
    stop = 3
    with pytest.raises(KeyboardInterrupt):
        tpe(space, quietly, trials=6, storage=where, startup_share=0.5)
    before = trials(where)
    assert sum(len(of_study) for of_study in before.values()) == 3  # the last one unfinished
    monkeypatch.setattr("planner.search.trials.ABANDONED", timedelta(0))
    stop = -1
    evaluated.clear()
    result = tpe(space, quietly, trials=6, storage=where, startup_share=0.5)
    after = trials(where)
    for name, of_study in before.items():
        finished = [t for t in of_study if t[1] is not None]
        assert after[name][: len(finished)] == finished
    # Every layout was finished once; only the interrupted one was begun twice.
    for of_study in after.values():
        layouts = [layout for layout, value, _ in of_study if value is not None]
        assert len(layouts) == len(set(layouts))
    count = len(evaluated)
    evaluated.clear()
    again = tpe(space, quietly, trials=6, storage=where, startup_share=0.5)
    assert count
    assert not evaluated
    assert again.evaluated == result.evaluated
    for one, other in zip(again.candidates, result.candidates, strict=True):
        assert one.role == other.role
        assert sorted(one.qps.tolist()) == sorted(other.qps.tolist())


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    where = str(tmp_path / "shared.log")
    query = tmp_path / "query.yaml"
    query.write_text(
        "model: Qwen/Qwen3-8B\n"
        "workload: {qps: 300, input_tokens: 1000, output_tokens: 100}\n"
        "slo: {ttft: 500ms, ttit: 30ms}\n"
        "devices: [h100_sxm]\n"
        "runtime: disaggregated\n"
        "search: {max_replica_devices: 16}\n"
    )
    command = [sys.executable, "-c", "from planner.cli import main; main()", "solve", str(query)]
    command += ["-q", "--search", "tpe", "--trials", "12", "--storage", where]
    workers = [
        subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    answers = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert all("h100_sxm" in answer for answer in answers)
    studies = trials(where)
    assert len(studies) == 2  # one of each role, whoever made it
    for of_study in studies.values():
        found = {layout: text for layout, _, text in of_study}
        assert 1 <= len(found) <= 13
        # What both evaluated by chance came out alike.
        assert all(found[layout] == text for layout, _, text in of_study)


def test_a_changed_question_has_a_study_of_its_own(space_of: Callable[..., Space]) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"workload": {"qps": 21}},
        {"slo": {"ttft": "501ms", "ttit": "30ms"}},
        {"devices": [{"name": "h100_sxm", "usd_per_device_hour": 1.0}]},
        {"engine": "vllm"},
        {"search": {"max_replica_devices": 8}},
        {"execution": {"cuda_graphs": False}},
    ]
    names = [
        study_name(space_of(**change), role) for change in changes for role in ("prefill", "decode")
    ]
    assert len(set(names)) == len(names)
    # The runtimes asked for do not change what a role's estimates are.
    assert study_name(space_of(runtime="disaggregated"), "decode") in names
    assert all(name.startswith("Qwen3-8B-") for name in names)


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        ("no_such_folder/s.log", "the folder does not exist"),
        (".", "is a folder"),
        ("nonsense://host/db", "the database cannot be opened: Can't load plugin"),
        ("sqlite:////no/such/folder/s.db", "the database cannot be opened: "),
        ("other.log", "is not a journal of studies"),
    ],
)
def test_storage_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.log").write_text("a letter\n")
    with pytest.raises(InputError, match="--storage") as error:
        open_storage(storage)
    assert problem in str(error.value)
    assert (tmp_path / "other.log").read_text() == "a letter\n"


def test_no_storage_is_memory() -> None:
    assert isinstance(open_storage(None), optuna.storages.InMemoryStorage)
