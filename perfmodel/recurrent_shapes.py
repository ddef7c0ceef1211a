"""The shape of a recurrent layer: a gated delta net or a Mamba-2 mixer in attention's place.

Such a layer keeps no keys and values. Each sequence has a state of fixed size, which every
token reads and rewrites, and the last few inputs of a short convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel.checks import require, require_counts

CONV_STATE_BYTES = 2
"""The convolution's kept inputs are activations: bf16."""


@dataclass(frozen=True)
class Recurrent:
    """One layer's recurrence.

    Attributes:
        kind: `"gated_delta_net"` ([1]_; Qwen3-Next, Qwen3.5) or `"mamba2"` ([2]_; Nemotron-H).
        heads: value heads, each with a state of `key_dim * head_dim` numbers.
        head_dim: width of a value head.
        key_heads: heads of queries and keys; Mamba's groups, which share B and C.
        key_dim: width of such a head; Mamba's state size.
        conv_width: taps of the causal convolution over queries, keys and values.
        conv_bias: the convolution has biases.
        bias: the input and output projections have biases.
        chunk_tokens: tokens that a prefill scan takes at a time.
        state_element_bytes: of the state as engines keep it; 4 unless the checkpoint says else.

    Raises:
        ConfigError: a count is not an integer in range, or heads don't share keys evenly.

    References:
        .. [1] Yang et al., Gated Delta Networks, arXiv:2412.06464.
        .. [2] Dao and Gu, Transformers are SSMs, arXiv:2405.21060.
    """

    kind: Literal["gated_delta_net", "mamba2"]
    heads: int
    head_dim: int
    key_heads: int
    key_dim: int
    conv_width: int
    conv_bias: bool = False
    bias: bool = False
    chunk_tokens: int = 64
    state_element_bytes: int = 4

    window_tokens: ClassVar[int] = 0
    kv_elements_per_token: ClassVar[int] = 0
    index_bytes_per_token: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Refuse what no layer can have."""
        counts = ("heads", "head_dim", "key_heads", "key_dim", "conv_width", "chunk_tokens")
        require_counts(self, 1, *counts, "state_element_bytes")
        require(
            self.heads % self.key_heads == 0,
            "key_heads",
            f"expected a divisor of the {self.heads} value heads, got {self.key_heads}",
        )

    @property
    def value_width(self) -> int:
        """All value heads together."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """All key heads together; queries are as wide."""
        return self.key_heads * self.key_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.key_width + self.value_width

    @property
    def gates(self) -> int:
        """Numbers a token and head gets beside its vectors: decay and, in a delta net, rate."""
        return 2 if self.kind == "gated_delta_net" else 1

    @property
    def activation_width(self) -> int:
        """Elements of one token at the layer's widest point: what the input projections give."""
        return self.conv_channels + self.value_width + self.gates * self.heads

    @property
    def state_bytes(self) -> int:
        """One sequence's state and convolution inputs in one layer, whole."""
        return int(self.state_bytes_on_device(np.ones(1))[0])

    def state_bytes_on_device(self, tp: NDArray[Any]) -> NDArray[np.float64]:
        """The same on one device of a tensor-parallel group: heads are split."""
        state = self.heads / tp * self.key_dim * self.head_dim * self.state_element_bytes
        kept = (self.conv_width - 1) * CONV_STATE_BYTES
        channels = 2.0 * self.key_heads_on_device(tp) * self.key_dim + self.value_width / tp
        total: NDArray[np.float64] = state + kept * channels
        return total

    def key_heads_on_device(self, tp: NDArray[Any]) -> NDArray[np.float64]:
        """Key heads of one device: split down to one, and then replicated."""
        share: NDArray[np.float64] = np.maximum(self.key_heads / tp, 1.0)
        return share

    def splits_over(self, tp: NDArray[Any]) -> NDArray[np.bool_]:
        """Where heads divide over a tensor-parallel group of `tp`.

        Engines replicate Mamba's groups, but not a delta net's key heads.
        """
        whole = (self.heads % tp == 0) & (self.key_heads % tp == 0)
        if self.kind == "mamba2":
            whole |= (self.heads % tp == 0) & (tp % self.key_heads == 0)
        return np.asarray(whole)

    def projections(self, hidden: int) -> dict[str, int]:
        """Weights of each projection matrix, biases apart, by its checkpoint name."""
        output = {"out_proj": self.value_width * hidden}
        if self.kind == "mamba2":
            return {"in_proj": hidden * self.activation_width} | output
        return {
            "in_proj_qkv": hidden * self.conv_channels,
            "in_proj_z": hidden * self.value_width,
            "in_proj_ba": hidden * self.gates * self.heads,
        } | output

    def projections_on_device(self, hidden: int, tp: NDArray[Any]) -> NDArray[np.float64]:
        """Projection weights on one device of a tensor-parallel group."""
        keys = 2 * hidden * self.key_dim
        split = sum(self.projections(hidden).values()) - keys * self.key_heads
        total: NDArray[np.float64] = split / tp + keys * self.key_heads_on_device(tp)
        return total

    def parameters(self, hidden: int) -> int:
        """Weights of one layer's recurrence: projections, convolution, gates, inner norm."""
        count = sum(self.projections(hidden).values())
        count += self.conv_channels * (self.conv_width + self.conv_bias)
        if self.kind == "mamba2":
            count += 3 * self.heads + self.value_width  # decay, step bias, skip; gated norm
        else:
            count += 2 * self.heads + self.head_dim  # decay, step bias; one head's norm
        if self.bias:
            count += self.activation_width + hidden
        return count
