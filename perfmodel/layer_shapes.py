"""The shape of one decoder layer, and how many weights its parts hold.

Plain values and integer arithmetic; nothing here knows of files, devices or layouts.
Counts are of the unsharded layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel.checks import require, require_counts
from perfmodel.recurrent_shapes import Recurrent


@dataclass(frozen=True)
class Attention:
    """One layer's attention.

    Attributes:
        kind: `"gqa"` (grouped-query; multi-head and multi-query are its ends) or `"mla"`
            (multi-head latent attention [1]_, which caches one latent per token).
        heads: query heads.
        kv_heads: key/value heads; for MLA equal to `heads`, though the cache holds one latent.
        head_dim: width of a query or key head; for MLA the no-position and rotary parts together.
        v_head_dim: width of a value head.
        window_tokens: tokens a query may look back on; 0 is full attention.
        window_kind: `"sliding"`, or `"chunked"` where a query sees only its own chunk of
            `window_tokens` (Llama 4), half of it on average.
        q_lora_rank: MLA query latent; 0 projects queries directly from the hidden state.
        kv_lora_rank: MLA key/value latent.
        rope_head_dim: MLA rotary key, shared by all heads and cached beside the latent.
        bias: the input projections (q, k, v; for MLA the two down-projections) have biases.
        output_bias: the output projection has one.
        qk_norm_parameters: weights of the norms on q and k, both together.
        sinks: each head has a learned attention sink (one weight per head).
        output_gate: queries come with a gate on the output, as wide as they (Qwen3-Next).
        index_top_k: tokens that attention reads at most, the best by an index; 0 reads all.
        index_heads: heads of the indexer that scores them [2]_; 0 beside an `index_top_k`
            takes over the choice of an earlier layer.
        index_head_dim: width of such a head, and of the key cached for it.

    Raises:
        ConfigError: a count is not an integer in range, or the fields contradict one another.

    References:
        .. [1] DeepSeek-V2, arXiv:2405.04434, section 2.1.
        .. [2] DeepSeek-V3.2, arXiv:2512.02556, section 2.1.
    """

    kind: Literal["gqa", "mla"]
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window_tokens: int = 0
    window_kind: Literal["sliding", "chunked"] = "sliding"
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    rope_head_dim: int = 0
    bias: bool = False
    output_bias: bool = False
    qk_norm_parameters: int = 0
    sinks: bool = False
    output_gate: bool = False
    index_top_k: int = 0
    index_heads: int = 0
    index_head_dim: int = 0

    def __post_init__(self) -> None:
        """Refuse what no layer can have."""
        require_counts(self, 1, "heads", "kv_heads", "head_dim", "v_head_dim")
        require_counts(self, 0, "index_top_k", "index_heads", "index_head_dim")
        require_counts(self, 0, "window_tokens", "q_lora_rank", "kv_lora_rank", "rope_head_dim")
        require_counts(self, 0, "qk_norm_parameters")
        require(
            self.heads % self.kv_heads == 0,
            "kv_heads",
            f"expected a divisor of the {self.heads} attention heads, got {self.kv_heads}",
        )
        if self.index_heads:
            require_counts(self, 1, "index_top_k", "index_head_dim")
        if self.index_top_k:
            require(self.kind == "mla", "index_top_k", "expected 0 without latent attention")
            require_counts(self, 1, "q_lora_rank")
        if self.kind == "mla":
            require_counts(self, 1, "kv_lora_rank", "rope_head_dim")
            require(
                self.rope_head_dim < self.head_dim,
                "rope_head_dim",
                f"expected less than the whole head's {self.head_dim}, got {self.rope_head_dim}",
            )

    @property
    def kv_elements_per_token(self) -> int:
        """Cache elements one token adds in one layer, before any window caps them."""
        if self.kind == "mla":
            return self.kv_lora_rank + self.rope_head_dim
        return self.kv_heads * (self.head_dim + self.v_head_dim)

    @property
    def index_bytes_per_token(self) -> float:
        """Cache bytes that one token adds for the indexer: an fp8 key with an fp32 scale."""
        return self.index_head_dim + 4.0 if self.index_heads else 0.0

    @property
    def activation_width(self) -> int:
        """Elements of one token at the layer's widest point: queries, keys and values."""
        gates = self.heads * self.head_dim if self.output_gate else 0
        return (self.heads + 2 * self.kv_heads) * self.head_dim + gates

    def splits_over(self, tp: NDArray[Any]) -> NDArray[np.bool_]:
        """Where heads divide over a tensor-parallel group of `tp`; KV heads may be replicated."""
        kv = self.kv_heads
        return np.asarray((self.heads % tp == 0) & ((kv % tp == 0) | (tp % kv == 0)))

    def projections(self, hidden: int) -> dict[str, int]:
        """Weights of each projection matrix, biases apart, by its usual checkpoint name."""
        output = {"o_proj": self.heads * self.v_head_dim * hidden}
        if self.kind == "gqa":
            gated = 2 if self.output_gate else 1
            return {
                "q_proj": hidden * self.heads * self.head_dim * gated,
                "k_proj": hidden * self.kv_heads * self.head_dim,
                "v_proj": hidden * self.kv_heads * self.v_head_dim,
            } | output
        query_width = self.heads * self.head_dim
        if self.q_lora_rank:
            query = {
                "q_a_proj": hidden * self.q_lora_rank,
                "q_b_proj": self.q_lora_rank * query_width,
            }
        else:
            query = {"q_proj": hidden * query_width}
        if self.index_heads:
            index_width = self.index_heads * self.index_head_dim
            query |= {
                "indexer.wq_b": self.q_lora_rank * index_width,
                "indexer.wk": hidden * self.index_head_dim,
                "indexer.weights_proj": hidden * self.index_heads,
            }
        nope_head_dim = self.head_dim - self.rope_head_dim
        return (
            query
            | {
                "kv_a_proj_with_mqa": hidden * (self.kv_lora_rank + self.rope_head_dim),
                "kv_b_proj": self.kv_lora_rank * self.heads * (nope_head_dim + self.v_head_dim),
            }
            | output
        )

    def parameters(self, hidden: int) -> int:
        """Weights of one layer's attention: projections, biases, inner norms, sinks."""
        count = sum(self.projections(hidden).values()) + self.qk_norm_parameters
        if self.kind == "mla":
            count += self.q_lora_rank + self.kv_lora_rank  # the norms on the two latents
        if self.index_heads:
            count += 2 * self.index_head_dim  # the norm on its keys has weights and biases
        if self.bias and self.kind == "gqa":
            count += self.heads * self.head_dim
            count += self.kv_heads * (self.head_dim + self.v_head_dim)
        elif self.bias:
            count += self.q_lora_rank + self.kv_lora_rank + self.rope_head_dim
        if self.output_bias:
            count += hidden
        if self.sinks:
            count += self.heads
        return count


@dataclass(frozen=True)
class FeedForward:
    """One layer's feed-forward network, dense or a mixture of experts.

    Attributes:
        intermediate: width of the dense network, or of one routed expert; 0 for a layer that
            has no network (some of Nemotron-H).
        gated: gate, up and down projections (SwiGLU); else up and down only.
        experts: routed experts; 0 is a dense network.
        top_k: routed experts each token visits.
        shared_intermediate: total width of the experts every token visits; 0 is none.
        bias: projections of the dense network or of the routed experts have biases.
        router_bias: the router adds one weight per expert (a bias, or the load-balancing
            score correction of DeepSeek-V3).
        shared_gate: a gate of one output weighs the shared experts (Qwen's).
        latent: routed experts work on a projection of the hidden state to this width, and
            their sum is projected back (Nemotron 3 Super); 0 is none.

    Raises:
        ConfigError: a count is not an integer in range, or `top_k` does not suit `experts`.
    """

    intermediate: int
    gated: bool = True
    experts: int = 0
    top_k: int = 0
    shared_intermediate: int = 0
    bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    latent: int = 0

    def __post_init__(self) -> None:
        """Refuse what no layer can have."""
        require_counts(self, 0, "intermediate", "experts", "top_k", "shared_intermediate", "latent")
        if self.experts:
            require_counts(self, 1, "intermediate")
            require(
                self.shared_intermediate > 0 or not self.shared_gate,
                "shared_gate",
                "expected shared experts that it could weigh",
            )
            require(
                1 <= self.top_k <= self.experts,
                "top_k",
                f"expected 1 to the {self.experts} experts, got {self.top_k}",
            )
        else:
            require(
                not (self.top_k or self.shared_intermediate or self.router_bias or self.latent),
                "experts",
                "expected at least 1 where routing or shared experts are given, got 0",
            )

    @property
    def is_moe(self) -> bool:
        """Whether tokens are routed to experts."""
        return self.experts > 0

    @property
    def is_absent(self) -> bool:
        """Whether the layer has no feed-forward network."""
        return self.intermediate == 0

    @property
    def matrices(self) -> int:
        """Projection matrices of one network: 3 if gated, else 2."""
        return 3 if self.gated else 2

    def _network_parameters(self, hidden: int, intermediate: int, bias: bool) -> int:
        biases = (self.matrices - 1) * intermediate + hidden if bias and intermediate else 0
        return self.matrices * hidden * intermediate + biases

    def dense_parameters(self, hidden: int) -> int:
        """Weights of the dense network; 0 for a mixture of experts."""
        return 0 if self.is_moe else self._network_parameters(hidden, self.intermediate, self.bias)

    def expert_parameters(self, hidden: int) -> int:
        """Weights of one routed expert; 0 for a dense network."""
        if not self.is_moe:
            return 0
        return self._network_parameters(self.latent or hidden, self.intermediate, self.bias)

    def routed_parameters(self, hidden: int) -> int:
        """Weights of all routed experts."""
        return self.experts * self.expert_parameters(hidden)

    def shared_parameters(self, hidden: int) -> int:
        """Weights of the experts that every token visits."""
        if not self.shared_intermediate:
            return 0
        return self._network_parameters(hidden, self.shared_intermediate, bias=False)

    def latent_parameters(self, hidden: int) -> int:
        """Weights of the projections to the experts' latent and back."""
        return 2 * hidden * self.latent

    def router_parameters(self, hidden: int) -> int:
        """Weights of the router and of the shared experts' gate; 0 for a dense network."""
        gate = hidden if self.shared_gate else 0
        return self.experts * (hidden + (1 if self.router_bias else 0)) + gate

    def parameters(self, hidden: int) -> int:
        """All weights of one layer's feed-forward network."""
        return (
            self.dense_parameters(hidden)
            + self.routed_parameters(hidden)
            + self.shared_parameters(hidden)
            + self.latent_parameters(hidden)
            + self.router_parameters(hidden)
        )

    def active_parameters(self, hidden: int) -> int:
        """Weights one token visits: `top_k` of the routed experts and all else."""
        idle = (self.experts - self.top_k) * self.expert_parameters(hidden)
        return self.parameters(hidden) - idle


@dataclass(frozen=True)
class LayerGroup:
    """Layers, consecutive or not, that share one shape; `count` of them.

    What mixes tokens is `attention`, be it a recurrence.
    """

    attention: Attention | Recurrent
    feed_forward: FeedForward
    count: int

    def __post_init__(self) -> None:
        """Refuse what no layer can have."""
        require_counts(self, 1, "count")
