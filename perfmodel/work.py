"""What one step processes, and how a model's layers lie on pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import ModelArchitecture

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class StepWork:
    """Compositions of one forward step, one column each; arrays of shape (C,).

    All counts are of one attention data-parallel rank and one pipeline micro-batch.

    Attributes:
        decode_sequences: sequences that are decoded.
        context_tokens: their mean cache length.
        prefill_sequences: sequences whose prompt (or a chunk of it) is processed.
        prefill_tokens: new tokens of each.
        prefix_tokens: tokens of each that are already cached.
        decode_tokens: tokens computed of each decoded sequence: one, or under speculative
            decoding one more than were drafted, all verified at once.
        vision_sequences: sequences of patches that the vision encoder takes; below one where
            the step holds a part of a prompt with images.
        vision_patches: patches of each.
    """

    decode_sequences: FloatArray
    context_tokens: FloatArray
    prefill_sequences: FloatArray
    prefill_tokens: FloatArray
    prefix_tokens: FloatArray
    decode_tokens: FloatArray
    vision_sequences: FloatArray
    vision_patches: FloatArray

    @classmethod
    def of(
        cls,
        *,
        decode_sequences: object = 0.0,
        context_tokens: object = 0.0,
        prefill_sequences: object = 0.0,
        prefill_tokens: object = 0.0,
        prefix_tokens: object = 0.0,
        decode_tokens: object = 1.0,
        vision_sequences: object = 0.0,
        vision_patches: object = 0.0,
    ) -> StepWork:
        """From scalars or (C,) arrays, broadcast against each other."""
        parts = np.broadcast_arrays(
            *(
                np.atleast_1d(np.asarray(part, dtype=float))
                for part in (
                    decode_sequences,
                    context_tokens,
                    prefill_sequences,
                    prefill_tokens,
                    prefix_tokens,
                    decode_tokens,
                    vision_sequences,
                    vision_patches,
                )
            )
        )
        return cls(*parts)

    def __len__(self) -> int:
        return len(self.decode_sequences)

    @property
    def new_tokens(self) -> FloatArray:
        """Tokens that enter the first layer."""
        return self.decoded + self.prefill_sequences * self.prefill_tokens

    @property
    def decoded(self) -> FloatArray:
        """Tokens computed of all decoded sequences."""
        return self.decode_sequences * self.decode_tokens

    @property
    def drafted(self) -> FloatArray:
        """Tokens drafted per decoded sequence, one pass of the draft module each."""
        drafted: FloatArray = np.where(self.decode_sequences > 0, self.decode_tokens - 1.0, 0.0)
        return drafted

    @property
    def divisible(self) -> NDArray[np.bool_]:
        """Where the step's work can be split into two half batches."""
        return (self.decode_sequences >= 2) | (self.prefill_sequences * self.prefill_tokens >= 2)

    @property
    def drafts_prompts(self) -> NDArray[np.bool_]:
        """Where a draft model computes prompts too: beside drafts, and where nothing decodes.

        A prefill pool's caches of both models are wanted by whichever decode pool follows.
        """
        drafts = (self.drafted > 0) | (self.decode_sequences == 0)
        return np.asarray((self.prefill_sequences > 0) & drafts)

    @property
    def sampled(self) -> FloatArray:
        """Tokens for which the step ends with a row of logits."""
        return self.decoded + self.prefill_sequences


def step_tokens(drafts: object, acceptance: float) -> FloatArray:
    """Tokens that a sequence gains per iteration, of the shape of `drafts`.

    One, and each drafted token with the chance that it and those before it are accepted.

    Args:
        drafts: tokens drafted per iteration, whole numbers.
        acceptance: chance of each, given that those before it were accepted.
    """
    count = np.asarray(drafts, dtype=np.int64)
    gained: FloatArray = np.cumsum(acceptance ** np.arange(count.max(initial=0) + 1.0))[count]
    return gained


@dataclass(frozen=True)
class Stage:
    """One kind of pipeline stage: layers of each group, and whether it is an end."""

    counts: tuple[int, ...]
    first: bool
    last: bool


@lru_cache(maxsize=4096)
def stages(model: ModelArchitecture, pp: int) -> tuple[Stage, ...]:
    """The distinct stages of a pipeline of `pp`, in the order of the layers.

    Layers are dealt out evenly; where they do not divide, the earlier stages take one
    more, so that the last, which also holds the LM head, has the fewest.
    """
    per_stage, extra = divmod(model.layers, pp)
    distinct: dict[Stage, None] = {}
    start = 0
    for s in range(pp):
        end = start + per_stage + (s < extra)
        held = model.layer_pattern[start:end]
        counts = tuple(held.count(g) for g in range(len(model.groups)))
        distinct[Stage(counts, s == 0, s == pp - 1)] = None
        start = end
    return tuple(distinct)
