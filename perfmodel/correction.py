"""What end-to-end measurements add to the operators' times: a few physical constants per engine.

Operators are timed alone, in a loop, on a machine that does nothing else. A serving engine
also schedules and samples, launches prefill kernel by kernel, runs shared experts beside
routed ones and handles requests. Each of these is one constant here, expected of any engine
or fitted to measured deployments (`perfmodel.calibration`); `NEUTRAL` leaves the operators
as they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import ConfigError
from perfmodel.work import StepWork, step_tokens

FloatArray = NDArray[np.float64]

SHIPPED = Path(__file__).resolve().parent / "data" / "corrections.yaml"
"""The corrections fitted to the public deployments, by engine."""

DRAFT = "draft_"
"""What the names of the operators begin with that draft tokens."""


@dataclass(frozen=True)
class Correction:
    """One engine's constants.

    Attributes:
        iteration_overhead_s: scheduling and sampling of one iteration.
        sequence_overhead_s: the same, per sequence that receives a token.
        layer_gap_s: per layer of an iteration with prompts in it: those are launched
            kernel by kernel, where decode steps replay a captured graph.
        shared_overlap: share of the shared experts' time hidden behind the routed ones.
        prefill_factor: operators on prompt tokens: long products run at the clock that the
            power limit sustains, not at a benchmark's.
        request_overhead_s: per request before its first token: network, tokenizer,
            admission.
        handover_s: per request of a disaggregated deployment on top: routing to the prefill
            pool, and from there to the decode pool.
        first_token_steps: decode iterations by which a first token is late: engines poll
            for new requests, and send tokens, only every so many iterations.
        acceptance: share of drafted tokens that speculation accepts, each given that those
            before it were.
    """

    iteration_overhead_s: float = 0.0
    sequence_overhead_s: float = 0.0
    layer_gap_s: float = 0.0
    shared_overlap: float = 0.0
    prefill_factor: float = 1.0
    request_overhead_s: float = 0.0
    handover_s: float = 0.0
    first_token_steps: float = 0.0
    acceptance: float = 0.7

    def step_tokens(self, drafts: int) -> float:
        """Tokens that a sequence gains per iteration which drafts so many."""
        return float(step_tokens(drafts, self.acceptance))

    def operator_factor(self, kind: str) -> float:
        """What an operator of a kind (see `operator_kind`) is multiplied by."""
        return 1.0 - self.shared_overlap if kind == "shared" else 1.0

    def token_factor(self, work: StepWork) -> FloatArray:
        """What all operators of each column of work are multiplied by, (C,)."""
        new = np.maximum(work.new_tokens, 1e-9)
        share = work.prefill_sequences * work.prefill_tokens / new
        factor: FloatArray = 1.0 + (self.prefill_factor - 1.0) * share
        return factor

    def step_overhead_s(self, work: StepWork) -> FloatArray:
        """Fixed and per-sequence cost of each column of work, (C,)."""
        overhead: FloatArray = (
            self.iteration_overhead_s + self.sequence_overhead_s * work.decode_sequences
        )
        return overhead

    def layer_overhead_s(self, work: StepWork) -> FloatArray:
        """Launch gap of one layer in each column of work, (C,)."""
        gap: FloatArray = np.where(work.prefill_sequences > 0, self.layer_gap_s, 0.0)
        return gap


NEUTRAL = Correction()
"""Operators as measured, and nothing else."""


def operator_kind(name: str, module: str) -> str:
    """What an operator call is: communication, routed or shared experts, or other.

    The draft module's operators are like those of a layer.
    """
    name = name.removeprefix(DRAFT)
    if module == "communication":
        return "communication"
    if name == "routed_experts":
        return "routed"
    return "shared" if name.startswith("shared_expert") else "other"


@lru_cache(maxsize=8)
def load_corrections(path: Path = SHIPPED) -> dict[str, Correction]:
    """Corrections by engine.

    Raises:
        ConfigError: unreadable, an unknown or a missing constant, or a value that is no
            number >= 0.
    """
    from perfmodel.documents import read_yaml

    document: Any = read_yaml(path).data
    known = {field.name for field in fields(Correction)}
    found = {}
    engines = document.get("engines") if isinstance(document, dict) else None
    if not isinstance(engines, dict) or not all(isinstance(v, dict) for v in engines.values()):
        raise ConfigError(
            "expected engines by name, each with its constants", source=str(path), field="engines"
        )
    for engine, values in engines.items():
        for name, value in values.items():
            where = f"engines.{engine}.{name}"
            if name not in known:
                raise ConfigError(
                    f"unknown; constants are {', '.join(sorted(known))}",
                    source=str(path),
                    field=where,
                )
            if not isinstance(value, int | float) or value < 0:
                raise ConfigError(
                    f"expected a number of at least 0, got {value!r}", source=str(path), field=where
                )
        if missing := sorted(known - values.keys()):
            raise ConfigError(
                f"lacks {', '.join(missing)}; write every constant, as `planner calibrate` does",
                source=str(path),
                field=f"engines.{engine}",
            )
        found[engine] = Correction(**values)
    return found


def dump_corrections(corrections: dict[str, Correction], comment: str) -> str:
    """The YAML that `load_corrections` reads."""
    import yaml

    rounded = {
        engine: {name: float(f"{value:.4g}") for name, value in asdict(correction).items()}
        for engine, correction in corrections.items()
    }
    header = "".join(f"# {line}\n" for line in comment.splitlines())
    return header + yaml.safe_dump({"engines": rounded}, sort_keys=False)
