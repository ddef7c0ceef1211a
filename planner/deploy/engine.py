"""The interface of a serving engine: from a pool to the flags that run it, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from perfmodel.layout import Layouts
from perfmodel.precision import WEIGHT_ONLY
from planner.deploy.flags import Flags, words
from planner.deploy.intent import PORT, Gap, PoolSpec, Rollout


@dataclass(frozen=True)
class Launch:
    """What starts one replica of a pool.

    Attributes:
        command: the program and its subcommand.
        model: words that name the model.
        flags: of every host.
        multi_host: further flags, of replicas on several hosts.
        worker: further flags, of hosts other than the first.
        environment: variables to set.
        config: file name and content, of engines that read one.
        by_mpi: the first host starts the ranks of all.
    """

    command: tuple[str, ...]
    model: tuple[str, ...]
    flags: Flags
    multi_host: Flags = field(default_factory=dict)
    worker: Flags = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    config: tuple[str, Mapping[str, Any]] | None = None
    by_mpi: bool = False

    def words(self, *, worker: bool = False) -> list[str]:
        """All words of the command line."""
        extra = words(self.worker) if worker else []
        return [*self.command, *self.model, *words(self.flags), *words(self.multi_host), *extra]


@dataclass(frozen=True)
class Settings:
    """What can be read back from an engine's flags.

    Attributes:
        batch, chunk_tokens, draft_tokens: as a `PoolSpec` has them.
    """

    layout: Layouts
    batch: int
    chunk_tokens: int | None
    draft_tokens: int


class Engine(ABC):
    """One serving engine.

    `gaps` says what the flags cannot express of a pool; `launch` writes the rest as flags;
    `settings` reads them back, for tests and for whoever edits the files by hand.
    """

    name: str
    title: str
    version: str
    image: str
    router_package: str | None
    """On PyPI, with the router; None: the engine brings its own."""

    known_flags: tuple[str, ...]
    """Every flag that `launch` may write."""

    online_formats: Mapping[str, str] = MappingProxyType({})
    """Formats to which a bf16 checkpoint can be quantized as it is loaded, in its own words."""

    @abstractmethod
    def launch(self, rollout: Rollout, pool: PoolSpec) -> Launch:
        """What starts a replica of the pool."""

    @abstractmethod
    def settings(self, flags: Flags, *, is_moe: bool, role: str) -> Settings:
        """What such flags (of `Launch.config` where there is one) make the engine run."""

    @abstractmethod
    def router(self, rollout: Rollout, urls: Mapping[str, list[str]]) -> Launch:
        """What sends requests to a prefill and then to a decode replica.

        Args:
            urls: of the replicas, by role.
        """

    def gaps(self, rollout: Rollout, pool: PoolSpec) -> list[Gap]:
        """What the flags cannot express, besides the layout."""
        found = []
        if rollout.encoder_pool and pool.role != "decode":
            found.append(
                Gap("a pool of its own that encodes images", f"the {pool.role} pool encodes them")
            )
        if pool.sequence_parallel:  # vLLM's pass for it is gone from the version written for
            found.append(
                Gap(f"{pool.role}: sequence parallelism", f"{pool.spelled} with all-reduces")
            )
        excluded = self.overlap_excluded(rollout, pool)
        if pool.two_batch_overlap and excluded is not None:
            found.append(
                Gap(f"{pool.role}: two half batches at once {excluded}", "one batch at a time")
            )
        if rollout.kv_overlap == "layerwise" and self.name != "trtllm" and pool.role == "prefill":
            found.append(
                Gap("KV caches sent layer by layer", "each is sent when its prompt is computed")
            )
        return found

    def overlap_excluded(self, rollout: Rollout, pool: PoolSpec) -> str | None:
        """Why the engine cannot run two half batches of this pool at once; None if it can."""
        return None

    def overlaps(self, rollout: Rollout, pool: PoolSpec) -> bool:
        """Whether the pool's flags ask for two half batches at once."""
        return pool.two_batch_overlap and self.overlap_excluded(rollout, pool) is None

    def conditions(self, rollout: Rollout, pool: PoolSpec) -> list[str]:
        """What must hold for the flags to mean what the plan says."""
        precision = pool.precision
        held = rollout.checkpoint
        named = {module: precision.by_module()[module] for module in held}
        as_published = all(
            n in (held[m], WEIGHT_ONLY.get(held[m])) or stored(n) == held[m]
            for m, n in named.items()
        )
        found = []
        if not as_published and self.quantization(rollout, pool) is None:
            wanted, published = (
                ", ".join(f"{module} {stored(name)}" for module, name in formats.items())
                for formats in (named, held)
            )
            found.append(
                f"{pool.role}: serve a checkpoint of {rollout.model} quantized to {wanted} "
                f"(the published one: {published})"
            )
        if precision.lm_head != "bf16":
            found.append(f"{pool.role}: the checkpoint's LM head must be {precision.lm_head}")
        if any(name.endswith("_weight_only") for name in named.values()):
            found.append(
                f"{pool.role}: weights are expanded to bf16, as {self.title} does on devices that "
                "do not multiply their format"
            )
        return found

    def quantization(self, rollout: Rollout, pool: PoolSpec) -> str | None:
        """The engine's name for quantizing a bf16 checkpoint as it is loaded; None if it can't."""
        named = pool.precision.by_module()
        formats = {named[module] for module in rollout.checkpoint}
        whole = set(rollout.checkpoint.values()) == {"bf16"}
        if not whole or len(formats) != 1 or named["lm_head"] != "bf16":
            return None
        return self.online_formats.get(formats.pop())


def stored(name: str) -> str:
    """A number format as the checkpoint stores it, whatever multiplies it."""
    name = name.removesuffix("_weight_only")
    return "mxfp4" if name == "mxfp4_mxfp8" else name


def step_budget(rollout: Rollout, pool: PoolSpec) -> int:
    """Tokens of one rank's step, at most: prompts or a chunk, and the decodes beside it.

    A prefill step takes `batch` prompts whole. A decode pool computes no prompts, but must be
    able to compute one again whose cache was lost.
    """
    if pool.role == "prefill":
        return pool.batch * rollout.longest_prompt
    if pool.role == "decode":
        return max(pool.decode_tokens, rollout.longest_prompt)
    return (pool.chunk_tokens or 0) + pool.decode_tokens


def planned_share(pool: PoolSpec, *terms: str) -> float:
    """Share of the device's memory left beside some terms of the plan, rounded down to 1 %."""
    kept = sum(float(pool.memory_bytes.get(term, 0.0)) for term in terms)
    return int((1.0 - kept / pool.capacity_bytes) * 100) / 100


def served(port: int = PORT) -> dict[str, Any]:
    """Flags that every HTTP server takes."""
    return {"--host": "0.0.0.0", "--port": port}
