"""Where a batch runs: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from perfmodel.allocator import keep_freed_memory
from perfmodel.errors import ConfigError

SCHEDULER_S = 8.0
"""How long a scheduler has to answer."""


@contextmanager
def local_processes(count: int | None = None) -> Iterator[tuple[Executor, int]]:
    """Processes of this machine, as many as it has processors if not said.

    Raises:
        ConfigError: one of them was killed.
    """
    import multiprocessing

    workers = count or len(os.sched_getaffinity(0))
    # Forked processes would inherit the threads of solvers in unknown states.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as executor:
        try:
            yield executor, workers
        except BrokenExecutor:
            raise ConfigError(
                f"one of {workers} processes was killed (for want of memory, if not by you); run "
                "again to go on from the results so far, with fewer --workers"
            ) from None


async def _identity(address: str) -> dict[str, Any]:
    """What a Dask server says it is."""
    from distributed.core import rpc

    connect: Any = rpc
    server = connect(address, timeout=SCHEDULER_S)
    try:
        identity: dict[str, Any] = await server.identity()
        return identity
    finally:
        server.close_comms()


def _end_with_parent() -> None:
    """Make this worker end when its parent is killed, instead of waiting for work for ever."""
    import multiprocessing
    import threading

    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def _keeping_freed_memory() -> Any:
    """What a Dask cluster runs in each worker.

    They start with `MALLOC_TRIM_THRESHOLD_=65536`: freed arrays go back to the system at once and
    are paged in anew, which takes a third of the time of the estimator's arrays.
    """
    from distributed import WorkerPlugin

    class KeepFreedMemory(WorkerPlugin):
        """Sent by value: this class is none of a module's."""

        name = "keep-freed-memory"

        def setup(self, worker: Any) -> None:
            keep_freed_memory(everything=False)

    return KeepFreedMemory()


@contextmanager
def dask_cluster(address: str) -> Iterator[tuple[Executor, int]]:
    """The workers of a Dask scheduler.

    Raises:
        ConfigError: the package is missing, no scheduler answers, it is lost, or workers are killed
            one after another over the same work.
    """
    try:
        import distributed
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise ConfigError(
            "--scheduler needs Dask: pip install 'llm-fleet-planner[cluster]'"
        ) from None
    connect: Any = distributed.Client
    try:
        # A client would wait for ever for a server of something else to speak its language.
        what = asyncio.run(asyncio.wait_for(_identity(address), SCHEDULER_S))
        if what.get("type") != "Scheduler":
            raise ConfigError(f"--scheduler: {address} is not a scheduler: {what.get('type')}")
        client = connect(address, timeout=SCHEDULER_S)
    except (TimeoutError, MemoryError):  # the latter: of a length that was none
        raise ConfigError(
            f"--scheduler: {address} does not answer as a Dask scheduler in {SCHEDULER_S:g} s"
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--scheduler: {address} does not answer: {error}") from None
    with client:
        workers = sum(client.nthreads().values())
        if not workers:
            raise ConfigError(f"--scheduler: {address} has no workers")
        client.register_plugin(_keeping_freed_memory())
        try:
            yield client.get_executor(retries=3, pure=False), workers
        except CancelledError:
            raise ConfigError(
                f"--scheduler: {address} was lost on the way; run again to go on from the results "
                "so far"
            ) from None
        except KilledWorker as error:
            killed = error.allowed_failures + 1
            raise ConfigError(
                f"--scheduler: workers were killed over the same services, {killed} in a row (for "
                "want of memory, if not by you); run again to go on from the results so far, on "
                "workers with more memory"
            ) from None
