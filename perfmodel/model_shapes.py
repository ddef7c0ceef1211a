"""The shape of a whole language model, and how many weights and cache bytes it takes.

Plain values and integer arithmetic; nothing here knows of files, devices or layouts.
A `*_parameters(group)` method counts one layer of the group; what takes no group counts
the whole, unsharded model.
"""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.checks import require, require_counts
from perfmodel.layer_shapes import Attention, LayerGroup
from perfmodel.precision import Precision
from perfmodel.recurrent_shapes import Recurrent
from perfmodel.vision_shapes import VisionEncoder

#: Keys of `ModelArchitecture.parameters_by_module`, each with the name under which
#: `quantized_modules` speaks of it. Embedding, LM head, router and norms stay in the
#: bf16 in every checkpoint format read here.
QUANTIZATION_GROUP: dict[str, str] = {
    "embedding": "",
    "attention": "attention",
    "dense_ffn": "ffn",
    "shared_experts": "ffn",
    "routed_experts": "experts",
    "router": "",
    "norms": "",
    "lm_head": "",
}

#: What `ModelArchitecture.quantized_modules` may hold.
QUANTIZABLE: frozenset[str] = frozenset(QUANTIZATION_GROUP.values()) - {""}


@dataclass(frozen=True)
class ModelArchitecture:
    """A decoder-only language model, as far as inference performance depends on it.

    Attributes:
        name: what reports call it, e.g. `"meta-llama/Llama-3.1-70B"`.
        hidden: width of the residual stream.
        vocab: rows of the embedding table.
        tied_embeddings: the LM head reuses the embedding table.
        groups: layers by shape, none twice.
        max_context_tokens: longest sequence the model accepts.
        quantization: weight format of the checkpoint's quantized modules: `bf16` (none),
            `fp8` (one scale per tensor or channel), `fp8_block` (one per tile), `mxfp4`,
            `nvfp4`, `int4`, `int8`; names as in `perfmodel.precision.FORMATS`.
        quantized_modules: which of `attention`, `ffn` (dense and shared experts) and
            `experts` (routed) have that format; the others, and always embedding, router,
            norms and LM head, are bf16.
        kv_quantization: cache format the checkpoint was calibrated for; `bf16` if it names none.
        notes: what the counts leave out or round, one sentence each.
        draft_modules: multi-token-prediction modules of the checkpoint, which engines can
            speculate with; their weights are not counted.
        drafter: a model of its own that drafts tokens for this one, if any, likewise.
        layer_pattern: for each layer in order, the position of its group in `groups` (a
            pipeline stage holds consecutive layers); by default one group after the other.
        vision: its vision encoder, whose weights are not counted among `parameters`; None
            without one.

    Raises:
        ConfigError: a count is not a positive integer, two groups have one shape, or the
            pattern does not hold each group as often as the group counts.
    """

    name: str
    hidden: int
    vocab: int
    tied_embeddings: bool
    groups: tuple[LayerGroup, ...]
    max_context_tokens: int
    quantization: str = "bf16"
    quantized_modules: frozenset[str] = frozenset()
    kv_quantization: str = "bf16"
    notes: tuple[str, ...] = ()
    layer_pattern: tuple[int, ...] = ()
    draft_modules: int = 0
    drafter: Drafter | None = None
    vision: VisionEncoder | None = None

    def __post_init__(self) -> None:
        """Refuse what no model can have."""
        require_counts(self, 1, "hidden", "vocab", "max_context_tokens")
        shapes = {(group.attention, group.feed_forward) for group in self.groups}
        require(bool(self.groups), "groups", "expected at least one layer group")
        require(len(shapes) == len(self.groups), "groups", "expected one group per layer shape")
        in_order = tuple(i for i, group in enumerate(self.groups) for _ in range(group.count))
        if not self.layer_pattern:
            object.__setattr__(self, "layer_pattern", in_order)  # the way in for a frozen value
        require(
            sorted(self.layer_pattern) == list(in_order),
            "layer_pattern",
            "expected each group's position as often as the group counts",
        )
        unknown = self.quantized_modules - QUANTIZABLE
        require(
            not unknown,
            "quantized_modules",
            f"expected some of attention, ffn, experts, got {sorted(unknown)}",
        )

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return sum(group.count for group in self.groups)

    @property
    def draft_group(self) -> int:
        """Position of the group whose layers a multi-token-prediction module's layer is like.

        That of the last layer with attention over the whole context; of the last layer where
        there is none.
        """
        whole = [
            isinstance(group.attention, Attention) and not group.attention.window_tokens
            for group in self.groups
        ]
        return next((g for g in reversed(self.layer_pattern) if whole[g]), self.layer_pattern[-1])

    @property
    def draft_projection_parameters(self) -> int:
        """Weights with which such a module joins a hidden state and a token's embedding."""
        return 2 * self.hidden * self.hidden

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(group.feed_forward.is_moe for group in self.groups)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding table."""
        return self.vocab * self.hidden

    @property
    def lm_head_parameters(self) -> int:
        """Weights the LM head adds; 0 where it reuses the embedding table."""
        return 0 if self.tied_embeddings else self.vocab * self.hidden

    @property
    def norm_parameters(self) -> int:
        """Weights of the norms on the residual stream, the final one included.

        Every decoder layer normalises the input of its attention, and of its FFN if it has one.
        """
        norms = sum(group.count * (1 + (not group.feed_forward.is_absent)) for group in self.groups)
        return (norms + 1) * self.hidden

    def attention_parameters(self, group: LayerGroup) -> int:
        """Attention weights of one layer of `group`."""
        return group.attention.parameters(self.hidden)

    def dense_ffn_parameters(self, group: LayerGroup) -> int:
        """Dense feed-forward weights of one layer of `group`; 0 if it has experts."""
        return group.feed_forward.dense_parameters(self.hidden)

    def routed_parameters(self, group: LayerGroup) -> int:
        """Weights of all routed experts of one layer of `group`."""
        return group.feed_forward.routed_parameters(self.hidden)

    def shared_parameters(self, group: LayerGroup) -> int:
        """Weights of the shared experts of one layer of `group`, and around its routed ones."""
        ffn = group.feed_forward
        return ffn.shared_parameters(self.hidden) + ffn.latent_parameters(self.hidden)

    def router_parameters(self, group: LayerGroup) -> int:
        """Router weights of one layer of `group`."""
        return group.feed_forward.router_parameters(self.hidden)

    def parameters_by_module(self) -> dict[str, int]:
        """Weights of the whole model by module; the keys are those of `QUANTIZATION_GROUP`."""
        counts = dict.fromkeys(QUANTIZATION_GROUP, 0)
        counts["embedding"] = self.embedding_parameters
        counts["lm_head"] = self.lm_head_parameters
        counts["norms"] = self.norm_parameters
        for group in self.groups:
            counts["attention"] += group.count * self.attention_parameters(group)
            counts["dense_ffn"] += group.count * self.dense_ffn_parameters(group)
            counts["routed_experts"] += group.count * self.routed_parameters(group)
            counts["shared_experts"] += group.count * self.shared_parameters(group)
            counts["router"] += group.count * self.router_parameters(group)
        return counts

    def parameters(self) -> int:
        """All weights of the model (what `notes` names is left out)."""
        return sum(self.parameters_by_module().values())

    def active_parameters(self, *, with_embedding: bool = False) -> int:
        """Weights one token is multiplied with.

        Args:
            with_embedding: count the input embedding too. It is a look-up of one row, not a
                multiplication, yet some model cards count the whole table; default no.
                A tied table is counted once in any case, as the LM head.
        """
        count = self.norm_parameters + self.vocab * self.hidden
        if with_embedding and not self.tied_embeddings:
            count += self.embedding_parameters
        for group in self.groups:
            layer = self.attention_parameters(group)
            layer += group.feed_forward.active_parameters(self.hidden)
            count += group.count * layer
        return count

    def weight_format(self, module: str) -> str:
        """The checkpoint's format of a module, `module` as in `parameters_by_module`.

        Raises:
            KeyError: no such module.
        """
        quantized = QUANTIZATION_GROUP[module] in self.quantized_modules
        return self.quantization if quantized else "bf16"

    @property
    def is_recurrent(self) -> bool:
        """Whether any layer keeps a state in place of keys and values."""
        return any(isinstance(group.attention, Recurrent) for group in self.groups)

    def kv_bytes_per_token(self, kv_bytes_per_element: float) -> float:
        """Cache bytes one token adds over all layers, before windows cap them.

        Args:
            kv_bytes_per_element: 2 for bf16, 1 for fp8.
        """
        total = 0.0
        for group in self.groups:
            elements = group.attention.kv_elements_per_token * kv_bytes_per_element
            total += group.count * (elements + group.attention.index_bytes_per_token)
        return total

    @property
    def state_bytes(self) -> float:
        """Bytes of one sequence's recurrent states over all layers, whatever its length."""
        return float(
            sum(
                group.count * group.attention.state_bytes
                for group in self.groups
                if isinstance(group.attention, Recurrent)
            )
        )

    def kv_bytes(self, context_tokens: int, kv_bytes_per_element: float) -> float:
        """Cache bytes of one sequence of `context_tokens`, windowed layers capped, states added."""
        total = self.state_bytes
        for group in self.groups:
            window = group.attention.window_tokens or context_tokens
            kept_tokens = min(window, context_tokens)
            elements = group.attention.kv_elements_per_token * kv_bytes_per_element
            total += group.count * kept_tokens * (elements + group.attention.index_bytes_per_token)
        return total


@dataclass(frozen=True)
class Drafter:
    """A draft model beside a target.

    Attributes:
        precision: number formats of its weights and cache.
        split: over the target's tensor-parallel group; otherwise whole on one device.
    """

    model: ModelArchitecture
    precision: Precision
    split: bool = True
