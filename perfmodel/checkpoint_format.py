"""The weight format a checkpoint is stored in, and which of its modules have it.

Read from a configuration's `quantization_config` (Hugging Face, compressed-tensors,
ModelOpt) or from ModelOpt's separate `hf_quant_config.json`. Embeddings, LM head, router
and norms are taken as bf16 whatever the file says, as every engine keeps them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from perfmodel.config_fields import Fields
from perfmodel.layer_shapes import Attention, FeedForward
from perfmodel.recurrent_shapes import Recurrent

Layer = tuple[Attention | Recurrent, FeedForward]

# Lists of modules left unquantized, by the names that producers give the list.
_EXCLUSION_FIELDS = ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers")

_DTYPES = {"bfloat16", "float16", "float32"}

_MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "INT8_SQ": "int8",
    "NVFP4": "nvfp4",
    "W4A16_AWQ": "int4",
}

# A module quantized in part counts as quantized from this share of its weights on. High,
# so that rounding errs towards more memory: the larger format is the one assumed.
_MOSTLY = 0.9


@dataclass(frozen=True)
class CheckpointFormat:
    """What a checkpoint's weights and cache are stored in.

    Attributes:
        name: weight format of the quantized modules; `bf16` if there are none.
        modules: those modules, some of `attention`, `ffn` and `experts`.
        kv: cache format; `bf16` if the checkpoint names none.
        notes: where the checkpoint is mixed more finely than `modules` can say.
    """

    name: str = "bf16"
    modules: frozenset[str] = frozenset()
    kv: str = "bf16"
    notes: tuple[str, ...] = ()


def read_checkpoint_format(
    outer: Fields, text: Fields, producer: Fields | None, layers: Sequence[Layer], hidden: int
) -> CheckpointFormat:
    """Read a checkpoint's format.

    Args:
        outer: the whole configuration.
        text: the part that describes the language model; may be `outer` itself.
        producer: ModelOpt's `hf_quant_config.json`, if the checkpoint has one.
        layers: the model's layers in order.
        hidden: width of the residual stream.

    Raises:
        ConfigError: the format isn't supported, or the two descriptions disagree.
    """
    inner = outer.nested("quantization_config") or text.nested("quantization_config")
    separate = producer.nested("quantization") if producer else None
    if producer and separate is None:
        producer.fail("quantization", "this field is required; expected an object")
    if inner is None and separate is None:
        return CheckpointFormat(notes=_dtype_notes(outer, text))
    names = [_format_name(description) for description in (inner, separate) if description]
    if inner and separate and names[0] != names[1]:
        separate.fail(
            "quant_algo", f"{names[1]} here, but {names[0]} in {inner.source or 'config'}"
        )
    descriptions = [description for description in (separate, inner) if description]
    exclusions = _Exclusions()
    for description in descriptions:
        for field in _EXCLUSION_FIELDS:
            exclusions.add(description, field)
    modules, notes = _quantized_modules(names[0], exclusions, layers, hidden)
    kv = next((kv for kv in map(_kv_format, descriptions) if kv), "bf16")
    return CheckpointFormat(names[0] if modules else "bf16", modules, kv, notes)


def _dtype_notes(outer: Fields, text: Fields) -> tuple[str, ...]:
    for fields in (text, outer):
        for field in ("dtype", "torch_dtype"):
            dtype = fields.string(field)
            if dtype and dtype not in _DTYPES:
                fields.fail(field, f"expected one of {', '.join(sorted(_DTYPES))}, got {dtype!r}")
            if dtype == "float32":
                return ("The checkpoint is float32; engines load it as bf16.",)
            if dtype:
                # float16 costs and computes as bf16 does, so the two share a name.
                return ()
    return ("The configuration names no dtype; bf16 is assumed.",)


def _unsupported(fields: Fields, field: str, what: str) -> NoReturn:
    fields.fail(field, f"weight format {what} is not supported yet")


def _format_name(description: Fields) -> str:
    method = description.string("quant_method")
    algorithm = description.string("quant_algo")
    if algorithm:
        if algorithm not in _MODELOPT:
            _unsupported(description, "quant_algo", repr(algorithm))
        return _MODELOPT[algorithm]
    match method:
        case "fp8":
            return "fp8_block" if description.has("weight_block_size") else "fp8"
        case "fbgemm_fp8":
            return "fp8"
        case "mxfp4":
            return "mxfp4"
        case "gptq" | "awq":
            bits = description.count("bits")
            if bits not in (4, 8):
                _unsupported(description, "bits", f"{method} with {bits} bits")
            return f"int{bits}"
        case "compressed-tensors" | "modelopt":
            return _config_groups_format(description)
        case "":
            description.fail("quant_method", "this field is required (or quant_algo)")
        case _:
            _unsupported(description, "quant_method", repr(method))


def _config_groups_format(description: Fields) -> str:
    groups = description.nested("config_groups")
    if groups is None:
        description.fail("config_groups", "this field is required; expected an object")
    names = set()
    for key in groups.data:
        group = groups.nested(key)
        weights = group.nested("weights") if group else None
        if weights is not None:
            names.add(_tensor_format(weights))
    if len(names) != 1:
        found = " and ".join(sorted(names)) or "nothing"
        description.fail("config_groups", f"expected one weight format for all, got {found}")
    return names.pop()


def _tensor_format(weights: Fields) -> str:
    bits, kind = weights.count("num_bits"), weights.string("type", "int")
    group_size = weights.count("group_size", 0, minimum=-1)
    if kind == "float" and bits == 8:
        return "fp8_block" if weights.string("strategy") == "block" else "fp8"
    if kind == "float" and bits == 4 and group_size in (16, 32):
        return "nvfp4" if group_size == 16 else "mxfp4"
    if kind == "int" and bits in (4, 8):
        return f"int{bits}"
    _unsupported(weights, "num_bits", f"{kind} of {bits} bits in groups of {group_size}")


def _kv_format(description: Fields) -> str:
    algorithm = description.data.get("kv_cache_quant_algo") or description.data.get(
        "kv_cache_scheme"
    )
    if not algorithm:
        return ""
    if algorithm == "FP8":
        return "fp8"
    scheme = description.nested("kv_cache_scheme") if isinstance(algorithm, dict) else None
    if scheme is not None and scheme.count("num_bits") == 8:
        return "fp8" if scheme.string("type") == "float" else "int8"
    field = "kv_cache_quant_algo" if description.has("kv_cache_quant_algo") else "kv_cache_scheme"
    description.fail(field, f"cache format {algorithm!r} is not supported yet")


def _quantized_modules(
    name: str, exclusions: _Exclusions, layers: Sequence[Layer], hidden: int
) -> tuple[frozenset[str], tuple[str, ...]]:
    total: dict[str, int] = {}
    quantized: dict[str, int] = {}
    for module, spellings, weights in _matrices(layers, hidden):
        total[module] = total.get(module, 0) + weights
        if not any(exclusions.match(spelling) for spelling in spellings):
            quantized[module] = quantized.get(module, 0) + weights
    modules, notes = set(), []
    for module, weights in total.items():
        share = quantized.get(module, 0) / weights
        if share >= _MOSTLY:
            modules.add(module)
        if 0 < share < 1:
            taken = name if share >= _MOSTLY else "bf16"
            notes.append(f"{share:.1%} of {module} weights are {name}; all are taken as {taken}.")
    return frozenset(modules), tuple(notes)


def _matrices(layers: Sequence[Layer], hidden: int) -> Iterator[tuple[str, list[str], int]]:
    """Each weight matrix: its module, the names checkpoints may give it, its weights.

    One routed expert stands for all of its layer.
    """
    if any(isinstance(mixer, Recurrent) and mixer.kind == "mamba2" for mixer, _ in layers):
        yield from _block_matrices(layers, hidden)
        return
    for index, (attention, feed_forward) in enumerate(layers):
        layer = f"model.layers.{index}"
        for projection, weights in attention.projections(hidden).items():
            if isinstance(attention, Recurrent):
                names = _FUSED.get(projection, (projection,))
                yield "attention", [f"{layer}.linear_attn.{name}" for name in names], weights
            else:
                yield "attention", [f"{layer}.self_attn.{projection}"], weights
        for matrix in ("gate_proj", "up_proj", "down_proj"):
            weights = hidden * feed_forward.intermediate
            if not feed_forward.is_moe:
                yield "ffn", [f"{layer}.mlp.{matrix}"], weights
                continue
            experts = [
                f"{layer}.{block}.experts.0.{matrix}"
                for block in ("mlp", "block_sparse_moe", "feed_forward")
            ]
            yield "experts", experts, weights
            if feed_forward.shared_intermediate:
                shared = [f"{layer}.mlp.shared_experts.{matrix}"]
                shared.append(f"{layer}.mlp.shared_expert.{matrix}")
                shared.append(f"{layer}.feed_forward.shared_expert.{matrix}")
                yield "ffn", shared, hidden * feed_forward.shared_intermediate


# One matrix here, by the names under which checkpoints of several releases store it.
_FUSED = {
    "in_proj_qkv": ("in_proj_qkv", "in_proj_qkvz"),
    "in_proj_z": ("in_proj_z", "in_proj_qkvz"),
    "in_proj_ba": ("in_proj_ba", "in_proj_b", "in_proj_a"),
}


def _block_matrices(layers: Sequence[Layer], hidden: int) -> Iterator[tuple[str, list[str], int]]:
    """As `_matrices`, of Nemotron-H: mixers and networks are numbered one by one."""
    block = 0
    for mixer, network in layers:
        for projection, weights in mixer.projections(hidden).items():
            yield "attention", [f"model.layers.{block}.mixer.{projection}"], weights
        block += 1
        if network.is_absent:
            continue
        name = f"model.layers.{block}.mixer"
        block += 1
        for matrix in ("up_proj", "down_proj"):
            width = network.intermediate
            if not network.is_moe:
                yield "ffn", [f"{name}.{matrix}"], hidden * width
                continue
            yield "experts", [f"{name}.experts.0.{matrix}"], (network.latent or hidden) * width
            if network.shared_intermediate:
                shared = hidden * network.shared_intermediate
                yield "ffn", [f"{name}.shared_experts.{matrix}"], shared
        for matrix in ("fc1_latent_proj", "fc2_latent_proj") if network.latent else ():
            yield "ffn", [f"{name}.{matrix}"], hidden * network.latent


class _Exclusions:
    """Names of modules left unquantized: exact, parents, wildcards, or `re:` expressions."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._expressions: dict[str, re.Pattern[str]] = {}

    def add(self, description: Fields, field: str) -> None:
        """Add the patterns listed in a field; a wrong expression raises `ConfigError`."""
        wildcards = []
        for pattern in description.strings(field):
            # Multimodal checkpoints put the decoder deeper; from "layers." on all agree.
            start = pattern.find("layers.")
            decoder = pattern if start < 0 else f"model.{pattern[start:]}"
            if pattern.startswith("re:"):
                try:
                    self._expressions[pattern] = re.compile(pattern[3:])
                except re.error as error:
                    description.fail(field, f"{pattern!r} is no regular expression: {error}")
            elif any(character in decoder for character in "*?["):
                wildcards += [fnmatch.translate(decoder), fnmatch.translate(f"{decoder}.*")]
            else:
                self._names.add(decoder)
        if wildcards:  # in one expression, since checkpoints list a few for every layer
            self._expressions[field] = re.compile("|".join(wildcards))

    def match(self, name: str) -> bool:
        """Whether `name` itself, a parent of it, or one of its parts is left out."""
        parts = name.split(".")
        if self._names.intersection(parts):
            return True
        parents = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        if any(parent in self._names for parent in parents):
            return True
        return any(expression.match(name) for expression in self._expressions.values())
