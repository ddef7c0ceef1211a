"""Batches: nothing lost, nothing computed twice, the same wherever it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from perfmodel.errors import ConfigError
from planner.catalog import (
    Result,
    Service,
    Settings,
    batch,
    dask_cluster,
    digest_of,
    load_catalog,
    local_processes,
    plan_fleet,
    run_batch,
    write_result,
)
from planner.catalog.families import sharing_fleets
from planner.evaluated import evaluate
from planner.solve import answer, solve

CatalogFile = Callable[..., Path]
THREE = {name: {"workload": {"qps": qps}} for name, qps in (("a", 5), ("b", 20), ("c", 60))}


def quiet(_name: str, _share: float) -> None:
    pass


def services(path: Path) -> tuple[Service, ...]:
    return load_catalog(path)[0].services


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.json")}


def test_a_repeated_batch_computes_nothing(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    out, found = tmp_path / "out", services(catalog_file(services=THREE))
    first = run_batch(found, out, Settings(), here, 1, quiet)
    written = contents(out)
    again = run_batch(found, out, Settings(), here, 1, quiet)
    assert [r.name for r in first] == ["a", "b", "c"]
    assert all(r.computed and r.plan for r in first)
    assert not any(r.computed for r in again)
    assert [r.plan for r in again] == json.loads(json.dumps([r.plan for r in first]))
    assert contents(out) == written


def test_only_what_changed_is_computed_again(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    out = tmp_path / "out"
    run_batch(services(catalog_file(services=THREE)), out, Settings(), here, 1, quiet)
    changed = {**THREE, "b": {"workload": {"qps": 25}}}
    again = run_batch(services(catalog_file(services=changed)), out, Settings(), here, 1, quiet)
    assert [r.name for r in again if r.computed] == ["b"]


def test_one_search_answers_all_that_differ_in_demand_and_prices(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = {"devices": [{"name": "h100_sxm", "usd_per_device_hour": 99.0}]}
    alike = {**THREE, "dear": dear, "again": THREE["b"], "too much": {"slo": {"ttit": "10us"}}}
    longer = {"workload": {"input_tokens": 1500}}
    path = catalog_file(services={**alike, "longer": longer, "d": {"workload": {"qps": 7}}})
    found = services(path)
    searches: list[Any] = []

    def counted(query: Any, **options: Any) -> Any:
        searches.append(query)
        return evaluate(query, **options)

    monkeypatch.setattr(batch, "evaluate", counted)
    monkeypatch.setattr(batch, "_latest", [])
    results = run_batch(found, tmp_path / "out", Settings(), here, 1, quiet)
    asked = sorted((q.workload.input_tokens.mean, round(q.slo.ttit.seconds, 6)) for q in searches)
    assert asked == [(1000, 1e-5), (1000, 0.03), (1500, 0.03)]
    assert [r.name for r in results if r.plan is None] == ["too much"]
    # As if each had been solved alone.
    for service, result in zip(found, results, strict=True):
        if result.plan is not None:
            alone = solve(service.query, all_fleets=True).to_dict()
            alone["alternatives"] = [
                *alone["alternatives"],
                *sharing_fleets(evaluate(service.query)),
            ]
            del alone["search"]["seconds"]
            assert result.plan == alone


def test_services_that_need_few_devices_get_them_on_one_host(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    """Each alone takes a whole host, and whatever fills it; together they need not."""
    query = {"search": {"max_replica_devices": 8}}
    small = {name: {**query, "workload": {"qps": qps}} for name, qps in (("a", 2), ("b", 3))}
    catalog, _ = load_catalog(catalog_file(services=small))
    results = run_batch(catalog.services, tmp_path / "out", Settings(), here, 1, quiet)
    found = plan_fleet(catalog, results)
    assert [h.hosts for h in found.hosts] == [1]
    assert found.usd_per_hour == pytest.approx(found.alone_usd_per_hour / 2)


@pytest.mark.parametrize("text", ["", "{", '{"schema": "other"}', "[1]", "\x00"])
def test_a_corrupted_result_is_computed_again(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor, text: str
) -> None:
    out, found = tmp_path / "out", services(catalog_file(services={"a": THREE["a"]}))
    run_batch(found, out, Settings(), here, 1, quiet)
    whole = contents(out)
    (out / "a.json").write_text(text)
    (again,) = run_batch(found, out, Settings(), here, 1, quiet)
    assert again.computed
    assert contents(out) == whole


def test_a_query_without_a_plan_stops_nothing(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    bad = {
        "too fast": {"slo": {"ttit": "10us"}},
        "unknown": {"devices": ["h100_sxm", "no_such_device"]},
        "unpriced": {"devices": [str(_unpriced(tmp_path))]},
    }
    found = services(catalog_file(services={**bad, **THREE}))
    results = run_batch(found, tmp_path / "out", Settings(), here, 1, quiet)
    assert [r.plan is None for r in results] == [True] * 3 + [False] * 3
    assert "TTIT" in results[0].error
    assert "no_such_device" in results[1].error
    assert "no price known" in results[2].error
    assert all("catalog.yaml:" in r.error for r in results[:3])


def test_a_fault_of_the_program_stops_nothing_and_is_tried_again(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = catalog_file(services=THREE), tmp_path / "out"
    found = services(path)
    with monkeypatch.context() as patch:

        def faulty(evaluated: Any, **options: Any) -> Any:
            if evaluated.query.workload.qps == 20:
                raise ZeroDivisionError("of nothing")
            return answer(evaluated, **options)

        patch.setattr(batch, "answer", faulty)
        results = run_batch(found, out, Settings(), here, 1, quiet)
    assert [r.plan is None for r in results] == [False, True, False]
    assert "catalog.yaml:" in results[1].error
    assert "a fault of the planner, ZeroDivisionError: of nothing" in results[1].error
    written = json.loads((out / "b.json").read_text())
    assert written["traceback"].startswith("Traceback (most recent call last)")
    assert 'raise ZeroDivisionError("of nothing")' in written["traceback"]
    again = run_batch(found, out, Settings(), here, 1, quiet)
    assert [r.computed for r in again] == [False, True, False]
    assert again[1].plan is not None
    assert "traceback" not in json.loads((out / "b.json").read_text())


def _unpriced(folder: Path) -> Path:
    from perfmodel.hardware import SHIPPED

    path = folder / "mine.yaml"
    text = (SHIPPED / "h100_sxm.yaml").read_text()
    path.write_text(text.replace("name: h100_sxm", "name: mine"))
    return path


def test_a_full_disk_leaves_what_was_written(tmp_path: Path, monkeypatch: Any) -> None:
    plan = {"best": {}, "alternatives": []}
    write_result(tmp_path, Result("a", "1", plan, ""))
    whole = contents(tmp_path)

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        with self.open("w") as file:
            file.write("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_result(tmp_path, Result("a", "2", plan, ""))
    assert contents(tmp_path) == whole
    assert len(list(tmp_path.iterdir())) == 1


def test_names_become_files_of_their_own(tmp_path: Path) -> None:
    for name in ("a/b", "a%2fb", "../c", "ä"):
        write_result(tmp_path, Result(name, "1", None, "none"))
    assert len(contents(tmp_path)) == 4


def test_the_digest_is_of_all_that_matters_and_the_same_in_every_process(
    catalog_file: CatalogFile,
) -> None:
    path = catalog_file(
        services={
            "a": {"model": "Qwen/Qwen3-235B-A22B-FP8"},
            "b": {"model": "Qwen/Qwen3-235B-A22B-FP8", "workload": {"input_tokens": 1001}},
            "c": {
                "model": "Qwen/Qwen3-235B-A22B-FP8",
                "devices": [{"name": "h100_sxm", "usd_per_device_hour": 9.99}],
            },
        }
    )
    found = services(path)
    digests = [digest_of(service, Settings()) for service in found]
    assert len({*digests, digest_of(found[0], Settings(search="tpe"))}) == 4
    code = (
        "import sys; from pathlib import Path; from planner.catalog import *\n"
        "for s in load_catalog(Path(sys.argv[1]))[0].services: print(digest_of(s, Settings()))"
    )
    for seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.split() == digests


def test_a_batch_that_was_killed_goes_on_where_it_was(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    many = {f"s{i}": {"workload": {"qps": 5 + i}} for i in range(8)}
    path, out = catalog_file(services=many), tmp_path / "out"
    command = [sys.executable, "-m", "planner.cli", "batch", path, "--out", out, "--workers", "1"]
    process = subprocess.Popen([str(c) for c in command], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(contents(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = contents(out)
    assert len(finished) >= 2
    results = run_batch(services(path), out, Settings(), here, 1, quiet)
    known = {f"{r.name}.json" for r in results if not r.computed}
    assert known == set(finished)
    assert {n: t for n, t in contents(out).items() if n in finished} == finished
    whole = tmp_path / "whole"
    run_batch(services(path), whole, Settings(), here, 1, quiet)
    assert contents(out) == contents(whole)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from planner.catalog import local_processes\n"
        "if __name__ == '__main__':\n"
        "    with local_processes(1) as (executor, _):\n"
        "        print(executor.submit(os.getpid).result(), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = Path("/proc") / str(int(parent.stdout.readline()))
        parent.wait()
    deadline = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(worker)


def _runs(process: Path) -> bool:
    """Whether it is there, and not only waits to be reaped."""
    try:
        return "(zombie)" not in (process / "status").read_text()
    except OSError:
        return False


def test_processes_and_a_cluster_that_loses_a_worker_give_the_same(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    from distributed import LocalCluster

    many = {f"s{i}": {"workload": {"qps": 5 + i}} for i in range(6)}
    found = services(catalog_file(services=many))
    run_batch(found, tmp_path / "here", Settings(), here, 1, quiet)
    with local_processes(2) as (executor, workers):
        run_batch(found, tmp_path / "processes", Settings(), executor, workers, quiet)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        killed = False

        def kill_once(_name: str, _share: float) -> None:
            nonlocal killed
            if not killed:
                killed = True
                os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)

        with dask_cluster(cluster.scheduler_address) as (executor, workers):
            assert "keep-freed-memory" in cluster.scheduler.worker_plugins
            run_batch(found, tmp_path / "cluster", Settings(), executor, workers, kill_once)
        assert killed
    assert contents(tmp_path / "processes") == contents(tmp_path / "here")
    assert contents(tmp_path / "cluster") == contents(tmp_path / "here")


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.catalog.executors.SCHEDULER_S", 1.0)
    with pytest.raises(ConfigError, match="does not answer"), dask_cluster("tcp://127.0.0.1:1"):
        pass
    with pytest.raises(ConfigError, match="does not answer"), dask_cluster("nonsense://x"):
        pass
