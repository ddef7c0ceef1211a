"""Hugging Face `config.json` files read into `ModelArchitecture`.

What can't be counted rightly is refused, never guessed: an operator that isn't modelled, a
model type that `perfmodel.hf_layers` doesn't spell out, a weight format that
`perfmodel.checkpoint_format` doesn't know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.checkpoint_format import read_checkpoint_format
from perfmodel.config_fields import Fields, read_json
from perfmodel.errors import ConfigError
from perfmodel.hf_hybrid_layers import HYBRID_FAMILIES, KINDS, UNDERSTOOD
from perfmodel.hf_layers import ATTENTION_KINDS, FAMILIES
from perfmodel.hf_vision import read_vision
from perfmodel.layer_shapes import LayerGroup
from perfmodel.model_shapes import ModelArchitecture
from perfmodel.units import format_parameters
from perfmodel.vision_shapes import VisionEncoder

# `transformers` gives these a vision tower even where the file describes none.
_ALWAYS_MULTIMODAL = {"llama4"}

_FAMILIES = FAMILIES | HYBRID_FAMILIES

# Fields that mark an operator whose cost and state this project doesn't model, but for the
# families whose reader understands it.
_UNSUPPORTED_FIELDS = {
    "index_topk": "sparse attention (a learned index selects the keys)",
    "sparse_attention_config": "sparse attention",
    "compress_ratios": "compressed sparse attention",
    "linear_attn_config": "linear attention",
    "linear_num_value_heads": "linear attention",
    "full_attention_interval": "linear attention",
    "hybrid_override_pattern": "Mamba (state-space) layers",
    "layers_block_type": "Mamba (state-space) layers",
    "mamba_num_heads": "Mamba (state-space) layers",
    "ssm_state_size": "Mamba (state-space) layers",
    "state_size": "Mamba (state-space) layers",
    "block_configs": "layers that each have a shape of their own (architecture search)",
    "num_kv_shared_layers": "layers that share one key/value cache",
}


def from_config(
    config: str | Path | Mapping[str, Any],
    name: str | None = None,
    quantization_file: str | Path | None = None,
) -> ModelArchitecture:
    """Read a Hugging Face configuration.

    Args:
        config: a `config.json`, or its parsed content.
        name: what to call the model; by default what the file says of itself
            (`_name_or_path`), else the file's folder or stem.
        quantization_file: ModelOpt's `hf_quant_config.json`, if the checkpoint has one.

    Returns:
        The language model, with its vision encoder apart; `notes` names other towers and
        speculative layers left out.

    Raises:
        ConfigError: the file can't be read, lacks a field or has a wrong one, or describes
            an architecture or a weight format that isn't supported.
    """
    if isinstance(config, Mapping):
        outer = Fields(config)
        name = name or outer.string("_name_or_path") or "unnamed model"
    else:
        path = Path(config)
        outer = read_json(path)
        name = name or _name_from(path)
    producer = read_json(Path(quantization_file)) if quantization_file else None
    try:
        return _build(outer, name, producer)
    except ConfigError as error:
        # Contradictions between fields are found by the shapes, which know of no file.
        raise error.in_source(outer.source) from None


def _name_from(path: Path) -> str:
    stem = path.resolve().parent.name if path.name == "config.json" else path.stem
    return stem.replace("--", "/")


def _build(outer: Fields, name: str, producer: Fields | None) -> ModelArchitecture:
    text = outer.nested("text_config") or outer
    _refuse_unsupported(outer, text)
    layers = _FAMILIES[_model_type(outer, text)](text)
    format_ = read_checkpoint_format(outer, text, producer, layers, text.count("hidden_size"))
    vision = read_vision(outer, text.count("hidden_size"))
    counts = Counter(layers)
    position = {shape: index for index, shape in enumerate(counts)}
    groups = tuple(
        LayerGroup(attention, feed_forward, count)
        for (attention, feed_forward), count in counts.items()
    )
    return ModelArchitecture(
        name=name,
        hidden=text.count("hidden_size"),
        vocab=text.count("vocab_size"),
        tied_embeddings=text.flag("tie_word_embeddings", outer.flag("tie_word_embeddings")),
        groups=groups,
        max_context_tokens=text.count("max_position_embeddings"),
        quantization=format_.name,
        quantized_modules=format_.modules,
        kv_quantization=format_.kv,
        notes=(*_left_out(outer, text, vision), *format_.notes),
        draft_modules=_draft_modules(text),
        layer_pattern=tuple(position[layer] for layer in layers),
        vision=vision,
    )


def _left_out(outer: Fields, text: Fields, vision: VisionEncoder | None) -> tuple[str, ...]:
    notes = [
        f"The checkpoint's {tower} encoder is not counted."
        for tower in ("vision", "audio")
        if outer.has(f"{tower}_config") and not (vision and tower == "vision")
    ]
    if vision is not None:
        notes.append(
            f"The vision encoder's {format_parameters(vision.parameters())} weights are apart "
            "from the counts: loaded and run where the workload has images."
        )
    if not notes and outer.string("model_type") in _ALWAYS_MULTIMODAL:
        notes.append("The checkpoint's vision encoder is not counted.")
    if drafts := _draft_modules(text):
        notes.append(f"Multi-token-prediction modules ({drafts}) are not counted as parameters.")
    return tuple(notes)


def _draft_modules(text: Fields) -> int:
    names = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")
    return max(text.count(name, 0, minimum=0) for name in names)


def _refuse_unsupported(outer: Fields, text: Fields) -> None:
    model_type = text.string("model_type") or outer.string("model_type")
    understood = UNDERSTOOD.get(model_type, frozenset())
    kinds = (*ATTENTION_KINDS, *KINDS.get(model_type, ()))
    for fields in (text, outer):
        for field, what in _UNSUPPORTED_FIELDS.items():
            # 0, false and [] switch a feature off.
            if fields.data.get(field) and field not in understood:
                fields.fail(field, f"not supported yet: {what}")
    for kind in text.strings("layer_types"):
        if kind not in kinds:
            known = ", ".join(kinds)
            text.fail("layer_types", f"{kind!r} is not supported yet; supported: {known}")
    if any(kind != 1 for kind in text.counts("attn_type_list")):
        text.fail("attn_type_list", "linear attention (type 0) is not supported yet")


def _model_type(outer: Fields, text: Fields) -> str:
    model_type = text.string("model_type") or outer.string("model_type")
    if model_type in _FAMILIES:
        return model_type
    architectures = ", ".join(outer.strings("architectures")) or "unnamed"
    supported = f"supported model types: {', '.join(sorted(_FAMILIES))}"
    if not model_type:
        outer.fail("model_type", f"this field is required; {supported}")
    owner = text if text.has("model_type") else outer
    owner.fail("model_type", f"{model_type!r} ({architectures}) is not supported yet; {supported}")
