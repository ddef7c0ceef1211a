"""Timing operators with PyTorch, on a CPU or a CUDA device.

**CPU.** A timing is a loop of calls long enough for the clock (0.2 ms), so it includes what
PyTorch's dispatch of a call costs: a step in eager mode pays that too. The process keeps the
memory that it frees (`keep_freed_memory`).

**CUDA.** Launches are captured in a CUDA graph, each with other operands of the pool, and
replayed between two events: launch overhead is left out, as in the engines' tables. A row
costs one eager call, one capture and at least three replays. Captures take about 20 us per
launch, replays are cut to 3 ms in all unless a single call is longer, and nothing is allocated
between rows but outputs from the caching allocator: some 5 to 10 ms per row, of which most is
fixed. That makes 100,000 rows in about 15 minutes where calls are short, as most of a
log-spaced grid's are; shapes whose roofline exceeds 50 ms (`collection.LONGEST_S`) are not
timed. Rebuilding the table between batches of midpoints adds about 1 ms per row (see
`adaptive.BATCH_SHARE`). Reckoned, not measured: no such machine was at hand.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.allocator import keep_freed_memory
from perfmodel.collect.measure import Key, Machine, Sample, UnavailableError, repeat
from perfmodel.collect.torch_group import Group, sizes
from perfmodel.collect.torch_ops import build
from perfmodel.collect.torch_pool import Built, Pool
from perfmodel.errors import InputError

LOOP_S = 2e-4
"""A timed loop on a CPU lasts at least this long: a thousand times the clock's resolution."""

GRAPH_S = 2e-4
"""The same of one replay; events resolve 0.5 us."""

MOST_LAUNCHES = 64

PEER_BYTES = 1 << 24
"""Gathered to find the rate between devices."""

TRIES = 4
"""A timing in which another process took a core is repeated, at most so often in all.

Threads that meet at a barrier wait for one that lost its core: a product of 0.1 ms then takes
a scheduler's slice, 4 or 8 ms, with hardly any spread. So what several threads were disturbed in
every time is no measurement (`UnavailableError`). Wait, or measure one thread
(`OMP_NUM_THREADS=1`), of which the time it had a core is taken.
"""

BUSY_LOAD = 1 / 3
"""Processes that want a core, per core, from which several threads cannot well be timed."""

BUSY = (
    "other work keeps the cores busy: set OMP_NUM_THREADS=1 (of one thread, the time it had a "
    "core is measured), or wait"
)

LONG_S = 5e-3
"""A timing of one thread that lasts so long is not repeated: what a preemption costs it, the
refilling of a cache, is little."""

HOUSEKEEPING_S = 0.05
"""One preemption in so many seconds is nobody's fault."""


def import_torch() -> Any:
    """The torch module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            "measuring this machine needs PyTorch; "
            "install the extra: pip install 'llm-fleet-planner[collect]'"
        ) from None
    return torch


class TorchBench:
    """Times operators on one device of this machine.

    Lifetime: made once per collection; holds a large pool of memory until dropped.

    Args:
        device: `cpu`, or `cuda` (its current device).
        world: processes to run collectives over: on CUDA one for each of so many devices.
        pool_bytes: operands' memory; 0 chooses three times the last-level cache on a CPU (at
            least 1 GiB) and 16 GiB on CUDA, at most 40 % of what is there.

    Raises:
        InputError: PyTorch is missing, or has no such device.
    """

    def __init__(self, device: str, world: int = 1, pool_bytes: int = 0) -> None:
        if device not in ("cpu", "cuda"):
            raise InputError(f"device {device!r}: expected cpu or cuda")
        self.torch = import_torch()
        self.cuda = device == "cuda"
        if self.cuda and not self.torch.cuda.is_available():
            raise InputError("PyTorch finds no CUDA device; use cpu, or install a CUDA build")
        if self.cuda and world > self.torch.cuda.device_count():
            raise InputError(
                f"a group of {world}: PyTorch finds {self.torch.cuda.device_count()} CUDA devices"
            )
        self.world = world
        self._group: Group | None = None
        self.version = str(self.torch.__version__)
        self.variant = "graphs" if self.cuda else f"{self.torch.get_num_threads()} threads"
        self.torch.set_grad_enabled(False)
        self._keeps = not self.cuda and keep_freed_memory()
        memory = self._memory_bytes()
        wanted = pool_bytes or ((16 << 30) if self.cuda else max(1 << 30, 3 * cache_bytes()))
        self.pool = Pool(self.torch, device, int(min(wanted, 0.4 * memory)) // 2)

    def disturbance(self) -> str:
        """What keeps several threads of a CPU from being timed well now; empty if nothing."""
        if self.cuda or self.torch.get_num_threads() == 1:
            return ""
        return BUSY if busy_cores() else ""

    def close(self) -> None:
        """End the processes that were started for collectives."""
        if self._group is not None:
            self._group.close()

    def machine(self) -> Machine:
        """Warm the clocks for a second, then time large products and streams."""
        peaks = {}
        sizes = (4096, 8192) if self.cuda else (2048, 4096)
        formats = ["bf16", *(["fp8"] if self._has_fp8() else [])]
        stop = time.perf_counter() + 1.0
        while time.perf_counter() < stop:
            with contextlib.suppress(UnavailableError):
                self.measure("gemm", {"dtype": "bf16", "m": 1024, "n": 2048, "k": 2048})
        for dtype in formats:
            rates = []
            for size in sizes:
                sample = self.measure("gemm", {"dtype": dtype, "m": size, "n": size, "k": size})
                if sample is not None:
                    rates.append(2.0 * size**3 / sample.time_s)
            if rates:
                peaks[dtype] = max(rates)
        torch = self.torch
        half = len(self.pool.data) // 2
        target, source = self.pool.data[:half], self.pool.data[half : 2 * half]
        copy = self._time(Built(lambda i: target.copy_(source), "copy"))
        bandwidth = 4.0 * half / copy.time_s
        stream = self.measure("gemm", {"dtype": "bf16", "m": 1, "n": 8192, "k": 8192})
        if stream is not None:
            bandwidth = max(bandwidth, 2.0 * 8192**2 / stream.time_s)
        peer, peers = self._peer_link()
        if not self.cuda:
            details = {
                "threads": str(torch.get_num_threads()),
                "cache_bytes": str(cache_bytes()),
                "pool_bytes": str(2 * len(self.pool.data)),
                "freed_memory": "kept" if self._keeps else "as the C library does",
            }
            return Machine(
                cpu_title(),
                self._memory_bytes(),
                bandwidth,
                peaks,
                peer_bytes_per_s=peer,
                peers=peers,
                details=details,
            )
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        details = {"cuda": str(torch.version.cuda), "pool_bytes": str(2 * len(self.pool.data))}
        return Machine(
            properties.name,
            float(properties.total_memory),
            bandwidth,
            peaks,
            devices=torch.cuda.device_count(),
            link_bytes_per_s=self._host_link(),
            peer_bytes_per_s=peer,
            peers=peers,
            details=details,
        )

    def measure(self, family: str, key: Key) -> Sample | None:
        """Time one row; None if its operands exceed the pool or no kernel takes them."""
        if family == "collective":
            return self._collective(key)
        try:
            return self._time(build(self.pool, family, key, self.cuda))
        except (MemoryError, RuntimeError):
            # RuntimeError: out of device memory, or a shape that a kernel refuses.
            if self.cuda:
                self.torch.cuda.synchronize()
                self.torch.cuda.empty_cache()
            return None

    def _time(self, built: Built) -> Sample:
        if self.cuda:
            return self._time_cuda(built)
        return _time_cpu(built, self.torch.get_num_threads())

    def _time_cuda(self, built: Built) -> Sample:
        torch, operation = self.torch, built.run
        stream = torch.cuda.Stream()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(stream):
            # The first call loads and tunes kernels, and may not be captured.
            operation(0)
            begin.record(stream)
            operation(1)
            end.record(stream)
        end.synchronize()
        eager = float(begin.elapsed_time(end)) * 1e-3
        launches = _whole(min(MOST_LAUNCHES, round(GRAPH_S / max(eager, 1e-6))), built.cycle)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(launches):
                operation(i)

        def once() -> float:
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) * 1e-3 / launches

        once()
        sample = repeat(once, built.kernel, at_least=3, at_most=15, seconds=3e-3 / launches)
        graph.reset()
        return sample

    def _has_fp8(self) -> bool:
        return self.cuda and bool(self.torch.cuda.get_device_capability() >= (8, 9))

    def _host_link(self) -> float:
        """Host to device copy rate from page-locked memory, bytes/s."""
        host = self.torch.empty(1 << 28, dtype=self.torch.uint8, pin_memory=True)
        target = self.pool.data.view(self.torch.uint8)[: 1 << 28]
        sample = self._time(Built(lambda i: target.copy_(host, non_blocking=True), "memcpy"))
        return float(1 << 28) / sample.time_s

    def _peer_link(self) -> tuple[float, int]:
        """Bytes/s at which a large gathering reaches each device, and their number; or 0 and 1."""
        if self.world < 2:
            return 0.0, 1
        devices = sizes(self.world)[-1]
        key: dict[str, int | str] = {"operation": "all_gather", "dtype": "bf16"}
        sample = None
        with contextlib.suppress(UnavailableError):
            sample = self._collective(key | {"devices": devices, "message_bytes": PEER_BYTES})
        if sample is None:
            return 0.0, 1
        return PEER_BYTES * (1.0 - 1.0 / devices) / sample.time_s, devices

    def _collective(self, key: Key) -> Sample | None:
        if self.world < 2:
            return None
        if self._group is None:
            self._group = Group("cuda" if self.cuda else "cpu", self.world)
        return self._group.measure(key)

    def _memory_bytes(self) -> float:
        if self.cuda:
            return float(self.torch.cuda.get_device_properties(0).total_memory)
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _whole(calls: int, cycle: int) -> int:
    """At least so many calls, in whole cycles."""
    return max(1, -(-calls // cycle)) * cycle


def _time_cpu(built: Built, threads: int) -> Sample:
    operation = built.run
    # Of one thread, the time it had a core: other processes' turns are not the operator's.
    clock = time.thread_time if threads == 1 else time.perf_counter
    operation(0)
    start = clock()
    operation(1)
    first = clock() - start
    loop = _whole(round(LOOP_S / max(first, 1e-7)), built.cycle)
    position = 2

    def once() -> float:
        nonlocal position
        took = 0.0
        for _ in range(TRIES):
            before = _preemptions()
            start = clock()
            for i in range(position, position + loop):
                operation(i)
            took = clock() - start
            position += loop
            # Long timings meet the kernel's own housekeeping in any case.
            allowed = took / HOUSEKEEPING_S
            if _preemptions() - before <= allowed or (threads == 1 and took > LONG_S):
                return took / loop
        if threads > 1:
            raise UnavailableError(BUSY)
        return took / loop

    # A cycle of long calls is repeated less often than one call.
    enough = 5 if first * built.cycle < 0.05 else 3 if built.cycle == 1 else 2
    return repeat(once, built.kernel, at_least=enough, at_most=41, seconds=0.15 / loop)


def _preemptions() -> int:
    """How often any thread of this process has lost its core to another process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def busy_cores() -> bool:
    """Whether other work wants the cores: by the load average of the last minute."""
    try:
        return os.getloadavg()[0] > BUSY_LOAD * len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return False


def cache_bytes() -> int:
    """Size of the CPU's last-level cache; 32 MiB where the system does not say."""
    largest = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        scale = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        digits = text.rstrip("KM")
        largest = max(largest, int(digits) * scale if digits.isdigit() else 0)
    return largest or 32 << 20


def cpu_title() -> str:
    """The CPU's name and the number of threads that this process may use."""
    name = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.exists():
        fields: Mapping[str, str] = dict(
            (part.strip() for part in line.split(":", 1))  # type: ignore[misc]
            for line in path.read_text().splitlines()
            if ":" in line
        )
        name = fields.get("model name", name)
    return f"{name}, {len(os.sched_getaffinity(0))} threads"
