"""Collectives between processes of this machine: NCCL between GPUs, gloo between CPU processes.

Each member is a process of its own, told by the collecting one what to run. Every wait has a
limit: a member that does not answer ends the group, and what was asked cannot be measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from perfmodel.collect.measure import Key, Sample, UnavailableError, summarize

START_TIMEOUT_S = 120.0
"""For all members to start and find each other."""

ANSWER_TIMEOUT_S = 60.0
"""For one shape."""

LOOP_S = 5e-3
"""A timed loop lasts about so long: long against the members' leaving a barrier one by one."""

CALLS = (1, 200)
"""Fewest and most calls of a loop."""

REPEATS = 9

Task = tuple[str, int, int, int, int]
"""Operation, bytes, members, calls of a loop, repeats."""


def sizes(world: int) -> tuple[int, ...]:
    """Numbers of members that are measured: powers of two up to all."""
    return tuple(1 << i for i in range(1, world.bit_length()) if 1 << i <= world)


class Group:
    """The members, started at once.

    Lifetime: until `close`, or until one of them fails to answer; from then on every call
    raises `UnavailableError`.

    Args:
        device: `cpu` or `cuda`.
        world: members.
    """

    def __init__(self, device: str, world: int) -> None:
        self.backend = "nccl" if device == "cuda" else "gloo"
        self._folder = tempfile.TemporaryDirectory(prefix="group_")
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._members = []
        for rank in range(world):
            here, there = context.Pipe()
            store = str(Path(self._folder.name) / "store")
            member = context.Process(
                target=_member, args=(device, rank, world, store, there), daemon=True
            )
            member.start()
            there.close()
            self._pipes.append(here)
            self._members.append(member)
        self._alive = True
        with contextlib.suppress(UnavailableError):
            self._answers(self._pipes, START_TIMEOUT_S)

    def measure(self, key: Key) -> Sample | None:
        """Time one row of `collective`; None if the backend lacks it.

        Raises:
            UnavailableError: a member is gone, or has not answered in time.
        """
        operation, count = str(key["operation"]), int(key["devices"])
        message = int(key["message_bytes"])
        first = self._run((operation, message, count, 1, 2))
        if first is None:
            return None
        fewest, most = CALLS
        calls = max(fewest, min(most, round(LOOP_S / max(min(first), 1e-7))))
        times = self._run((operation, message, count, calls, REPEATS))
        return None if times is None else summarize(times, f"torch.distributed, {self.backend}")

    def close(self) -> None:
        """End all members."""
        self._alive = False
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for member in self._members:
            member.join(timeout=2.0)
            if member.is_alive():
                member.kill()
                member.join(timeout=2.0)
        for pipe in self._pipes:
            pipe.close()
        self._pipes, self._members = [], []
        self._folder.cleanup()

    def _run(self, task: Task) -> list[float] | None:
        """Seconds of one call, for each repeat that of the slowest member."""
        if not self._alive:
            raise UnavailableError
        members = self._pipes[: task[2]]
        try:
            for pipe in members:
                pipe.send(task)
        except OSError:
            self.close()
            raise UnavailableError from None
        answers = self._answers(members, ANSWER_TIMEOUT_S)
        if any(isinstance(answer, str) for answer in answers):
            return None
        return [max(times) for times in zip(*answers, strict=True)]

    def _answers(self, pipes: list[Connection], limit_s: float) -> list[Any]:
        """One answer of each; where one is missing, the end of the group."""
        stop = time.monotonic() + limit_s
        answers = []
        try:
            for pipe in pipes:
                if not pipe.poll(max(0.0, stop - time.monotonic())):
                    raise TimeoutError
                answers.append(pipe.recv())
        except (EOFError, OSError):
            self.close()
            raise UnavailableError from None
        return answers


def _member(device: str, rank: int, world: int, store: str, pipe: Connection) -> None:
    """What a member's process does: one task after another, until told to end."""
    import torch  # where it is missing, nobody makes a group

    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
        # All members are on this machine; its name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed = torch.distributed
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=ANSWER_TIMEOUT_S),
    )
    groups = {count: distributed.new_group(list(range(count))) for count in sizes(world)}
    pipe.send("ready")
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is None:
            return
        answer: list[float] | str
        try:
            answer = _timed(torch, device, groups[task[2]], task)
        except Exception as error:
            # Told to the collecting process, which notes the shape as not measurable.
            answer = f"{type(error).__name__}: {error}"
        pipe.send(answer)


def _timed(torch: Any, device: str, group: Any, task: Task) -> list[float]:
    operation, message, count, calls, repeats = task
    run = _operation(torch, device, group, operation, message, count)

    def settle() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    run()
    times = []
    for _ in range(repeats):
        settle()
        torch.distributed.barrier(group=group)
        settle()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        settle()
        times.append((time.perf_counter() - start) / calls)
    return times


def _operation(
    torch: Any, device: str, group: Any, operation: str, message: int, count: int
) -> Callable[[], Any]:
    """One call; `message` as the schema counts it for each operation."""
    distributed = torch.distributed
    part = max(1, message // 2 // count)
    whole = torch.zeros(part * count, dtype=torch.bfloat16, device=device)
    if operation == "all_reduce":
        return lambda: distributed.all_reduce(whole, group=group)
    if operation == "alltoall":
        received = torch.empty_like(whole)
        return lambda: distributed.all_to_all_single(received, whole, group=group)
    own = torch.zeros(part, dtype=torch.bfloat16, device=device)
    if operation == "all_gather":
        gather = _newest(distributed, "all_gather_single", "all_gather_into_tensor")
        return lambda: gather(whole, own, group=group)
    if operation == "reduce_scatter":
        scatter = _newest(distributed, "reduce_scatter_single", "reduce_scatter_tensor")
        return lambda: scatter(own, whole, group=group)
    raise KeyError(operation)


def _newest(module: Any, *names: str) -> Any:
    """The first of a function's names that this version has."""
    return next(getattr(module, name) for name in names if hasattr(module, name))
