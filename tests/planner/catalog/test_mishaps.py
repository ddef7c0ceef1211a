"""What happens to a batch: full disks, corrupted results, servers that are no scheduler."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perfmodel.errors import ConfigError
from planner.catalog import Settings, dask_cluster, load_catalog, local_processes, run_batch
from planner.catalog.batch import SUMMARY

CatalogFile = Callable[..., Path]
TWO = {name: {"workload": {"qps": qps}} for name, qps in (("a", 5), ("b", 20))}


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of at most so many bytes can be written; the system refuses the rest, as if full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def solve(path: Path, out: Path, here: Executor) -> list[Any]:
    return run_batch(load_catalog(path)[0].services, out, Settings(), here, 1, lambda _n, _s: None)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_disk_that_fills_up_loses_nothing(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    out = tmp_path / "out"
    solve(catalog_file(services={"a": TWO["a"]}), out, here)
    before = files(out)
    both = catalog_file(services=TWO)
    with room_for(1024), pytest.raises(ConfigError, match=r"b\.json: cannot be written: "):
        solve(both, out, here)
    assert files(out) == before
    assert [r.computed for r in solve(both, out, here)] == [False, True]


def test_a_summary_that_does_not_fit_leaves_the_results(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor
) -> None:
    out, path = tmp_path / "out", catalog_file(services=TWO)
    solve(path, out, here)
    before = files(out)
    (out / SUMMARY).unlink()
    with room_for(1024), pytest.raises(ConfigError, match=rf"{SUMMARY}: cannot be written: File"):
        solve(path, out, here)
    assert files(out) == {name: text for name, text in before.items() if name != SUMMARY}
    assert not any(r.computed for r in solve(path, out, here))


@pytest.mark.parametrize(
    "fields",
    [
        {"plan": None},
        {"plan": None, "error": 3},
        {"plan": []},
        {"plan": {"best": {}}},
        {"plan": {"best": {}, "alternatives": []}},
        {"plan": "none"},
    ],
)
def test_a_result_without_a_plan_or_a_reason_is_computed_again(
    catalog_file: CatalogFile, tmp_path: Path, here: Executor, fields: dict[str, Any]
) -> None:
    out, path = tmp_path / "out", catalog_file(services={"a": TWO["a"]})
    solve(path, out, here)
    whole = files(out)
    data = json.loads(whole["a.json"])
    (out / "a.json").write_text(json.dumps({**data, **fields}))
    (again,) = solve(path, out, here)
    assert again.computed
    assert files(out)["a.json"] == whole["a.json"]


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """A server of something else, which answers every call alike and keeps the line open."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        calls: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    call, _ = listening.accept()
                except OSError:
                    return
                calls.append(call)
                call.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for call in calls:
                call.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 400 Bad request\r\n\r\n"])
def test_a_server_that_is_no_scheduler(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.catalog.executors.SCHEDULER_S", 0.5)
    with (
        server(answer) as address,
        pytest.raises(ConfigError, match="does not answer"),
        dask_cluster(address),
    ):
        pass


def test_a_scheduler_that_is_lost_on_the_way() -> None:
    import dask
    from distributed import LocalCluster

    def lose(cluster: Any) -> None:
        with dask_cluster(cluster.scheduler_address) as (executor, _):
            future = executor.submit(time.sleep, 0.5)
            cluster.sync(cluster.scheduler.close)
            future.result()

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),  # to find it again
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        pytest.raises(ConfigError, match="was lost on the way; run again to go on"),
    ):
        lose(cluster)


def test_workers_that_are_killed_over_the_same_work() -> None:
    import dask
    from distributed import LocalCluster

    def kill(cluster: Any) -> None:
        with dask_cluster(cluster.scheduler_address) as (executor, _):
            executor.submit(os._exit, 1).result()

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        pytest.raises(ConfigError, match="workers were killed over the same services, 1 in a row"),
    ):
        kill(cluster)


def test_a_process_that_is_killed() -> None:
    with (
        pytest.raises(ConfigError, match="one of 1 processes was killed"),
        local_processes(1) as (executor, _),
    ):
        executor.submit(os._exit, 1).result()


def test_a_worker_is_no_scheduler() -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        address = next(iter(cluster.workers.values())).address
        with pytest.raises(ConfigError, match="is not a scheduler: Worker"), dask_cluster(address):
            pass
