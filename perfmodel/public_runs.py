"""How a public benchmark runs its engines, where its rows do not say.

InferenceX (github.com/SemiAnalysisAI/InferenceX, Apache-2.0) publishes the scripts and
recipes of its runs; its rows name the model, the devices, the number of clients and part of
the layout. Each function here states one habit of those scripts, read between November 2025
and April 2026, and holds for rows of that benchmark alone: a row that says a thing itself
(`draft_tokens`, `decode_num_workers` and the like) is taken at its word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RANDOM_LENGTHS = 0.8
"""Each prompt and output length is drawn between this share of the nominal and it."""

LONG_DRAFT, SHORT_DRAFT = 3, 1
"""Tokens that DeepSeek's own module drafts per step: attention in tensor, in data parallel."""

BLACKWELL = ("b200_sxm", "b300_sxm")
WIDE_DOMAINS = ("gb200_nvl72", "gb300_nvl72")
HOST = 8
"""Devices of a host outside the wide domains."""

CROWD_TOKENS = 500_000
"""Prompt tokens of all clients from which on a decode pool runs its attention data parallel."""

FEW_DECODERS = 4
"""Decode workers that share a smaller load: three to nine, mostly four or five."""

CROWDED_DECODERS = 2
"""Decode workers of one host each that share a crowd: one to five."""

WIDE_GROUP = 32
"""Devices of a crowd's decode worker in a wide domain, where the row says one."""

FULL_HOUSE = 100
"""From so many clients on, TensorRT-LLM's decode pools are asked for more than they hold."""

BALANCED = 32
"""Expert parallelism from which on SGLang runs with its expert load balancer."""


@dataclass(frozen=True)
class Source:
    """What a row's source says.

    Attributes:
        is_sample: the row is of the public sample, which gathers this benchmark's runs and others.
        is_public: a run of this benchmark.
        measured: date, as `2026-01-31`; empty if not said.
        clients: 0 if not said.
    """

    is_public: bool = False
    measured: str = ""
    clients: int = 0
    is_sample: bool = False

    @classmethod
    def of(cls, text: str) -> Source:
        """From the column `silicon_data_source`."""
        named = re.search(r"silicon_concurrency=(\d+)", text)
        date = re.search(r"measured=(\d{4}-\d\d-\d\d)", text)
        public = re.search(r"source_file=\d{4}-\d\d-\d\d\.csv", text) is not None
        clients = int(named.group(1)) if named else 0
        sample = "source_file=" in text
        return cls(public, date.group(1) if date else "", clients, sample)


def draft_tokens(engine: str, version: str, measured: str, attention_dp: int) -> int:
    """Tokens drafted per step in a continuous run of a model that can: by the engine's build.

    Runs with and without speculation were made from different builds of TensorRT-LLM, or
    from one build at different times.
    """
    speculating = engine == "trtllm" and (
        version == "1.2.0rc6.post3"
        or (version == "1.1.0rc2.post2" and "2026-01-10" <= measured <= "2026-01-20")
    )
    if not speculating:
        return 0
    return SHORT_DRAFT if attention_dp > 1 else LONG_DRAFT


def has_small_cache(engine: str, device: str) -> bool:
    """Whether the cache is kept in 8 bits whatever the checkpoint's format."""
    return engine == "trtllm" or (engine == "sglang" and device in (*BLACKWELL, *WIDE_DOMAINS))


def has_large_cache(engine: str, device: str) -> bool:
    """Whether the cache is kept in 16 bits whatever the checkpoint's format.

    vLLM's scripts ask for 8 bits, but its H100 rows do not show them: at TP2 Llama-3.1-70B
    takes half as many sequences as 8 bits would leave room for, and its time per token grows
    twice as fast with the cache.
    """
    return engine == "vllm" and device == "h100_sxm"


def poll_steps(engine: str, device: str, model: str, clients: int) -> int:
    """Iterations between two looks for new requests (SGLang's `scheduler-recv-interval`)."""
    rarely = any(name in model.lower() for name in ("deepseek", "qwen3.5"))
    if engine != "sglang" or device not in BLACKWELL or not rarely:
        return 1
    return 30 if clients >= 16 else 10


def gather_steps(engine: str, attention_dp: int) -> int:
    """Iterations that a prompt waits at most until every attention rank has one to prefill."""
    return 60 if engine == "trtllm" and attention_dp > 1 else 0


def is_crowded(device: str, world: int, clients: int, prompt_tokens: float) -> bool:
    """Whether a decode pool runs its attention data parallel over all devices of a worker."""
    if device in WIDE_DOMAINS and world > HOST:
        return True
    return clients * prompt_tokens >= CROWD_TOKENS


def decode_workers(world: int, clients: int, crowded: bool) -> int:
    """Decode workers of a disaggregated run."""
    if crowded:
        return 1 if world > HOST else CROWDED_DECODERS
    return min(FEW_DECODERS, clients)


def decode_slots(engine: str, clients: int) -> int:
    """Sequences that the decode workers take together.

    Workers, their ranks and batches are powers of two, or three or five of them; a number of
    clients that is none is such a capacity and a margin over it.
    """
    if engine != "trtllm" or clients <= FULL_HOUSE:
        return clients
    return max(odd << ((clients // odd).bit_length() - 1) for odd in (1, 3, 5))


def routing(engine: str, expert_parallel: int) -> str:
    """How tokens spread over experts."""
    balanced = engine == "sglang" and expert_parallel >= BALANCED
    return "balanced" if balanced else "power_law_1.01"
