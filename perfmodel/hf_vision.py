"""The vision encoders of Hugging Face configurations.

One function per family, each following the family's reference implementation in `transformers`
(Kimi's: in the model's own repository); bounds on the size of images are those of the
family's published preprocessor configuration, which is a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from perfmodel.config_fields import Fields
from perfmodel.vision_shapes import PaddedGrid, PatchGrid, Tiles, VisionEncoder

_COLOURS = 3


def read_vision(outer: Fields, text_hidden: int) -> VisionEncoder | None:
    """The encoder that a configuration describes; None without one, or of an unknown family.

    Args:
        text_hidden: width of the language model, into which the encoder projects.

    Raises:
        ConfigError: a field of the encoder is missing or wrong.
    """
    fields, read = outer.nested("vision_config"), FAMILIES.get(outer.string("model_type"))
    if fields is None or read is None:
        return None
    return read(fields, text_hidden)


def _merger(norm: int, merged: int, output: int) -> int:
    """Weights beside the two products that merge patches: a norm and two biases."""
    return norm + merged + output


def _qwen_2_5(fields: Fields, text_hidden: int) -> VisionEncoder:
    """RMS norms, gated networks, windows in most layers; patches embedded without bias."""
    hidden, layers = fields.count("hidden_size"), fields.count("depth")
    patch, merge = fields.count("patch_size"), fields.count("spatial_merge_size")
    merged = hidden * merge**2
    window = fields.count("window_size") // patch
    full = fields.counts("fullatt_block_indexes")
    return VisionEncoder(
        layers=layers,
        hidden=hidden,
        heads=fields.count("num_heads"),
        intermediate=fields.count("intermediate_size"),
        gated=True,
        layer_norms=False,
        patch_elements=_COLOURS * fields.count("temporal_patch_size") * patch**2,
        patches_per_token=merge**2,
        images=PatchGrid(patch, merge, least_pixels=56 * 56, most_pixels=28 * 28 * 16_384),
        projections=((merged, merged), (merged, text_hidden)),
        extra_parameters=_merger(hidden, merged, text_hidden),
        output_width=text_hidden,
        window_patches=window * window,
        windowed_layers=layers - len(full),
    )


def _qwen_3(fields: Fields, text_hidden: int) -> VisionEncoder:
    """Layer norms, plain networks; features of some layers enter the language model's too."""
    hidden = fields.count("hidden_size")
    patch, merge = fields.count("patch_size"), fields.count("spatial_merge_size")
    merged = hidden * merge**2
    deeper = len(fields.counts("deepstack_visual_indexes"))
    embedded = hidden * (1 + fields.count("num_position_embeddings"))
    one = ((merged, merged), (merged, text_hidden))
    return VisionEncoder(
        layers=fields.count("depth"),
        hidden=hidden,
        heads=fields.count("num_heads"),
        intermediate=fields.count("intermediate_size"),
        gated=False,
        layer_norms=True,
        patch_elements=_COLOURS * fields.count("temporal_patch_size") * patch**2,
        patches_per_token=merge**2,
        images=PatchGrid(patch, merge, least_pixels=65_536, most_pixels=16_777_216),
        projections=one * (1 + deeper),
        extra_parameters=embedded
        + _merger(2 * hidden, merged, text_hidden)
        + deeper * _merger(2 * merged, merged, text_hidden),
        output_width=text_hidden * (1 + deeper),
    )


def _kimi(fields: Fields, text_hidden: int) -> VisionEncoder:
    """MoonViT: as Qwen's, with a norm before the merger and a grid of learned positions."""
    hidden, patch = fields.count("vt_hidden_size"), fields.count("patch_size")
    rows, columns = fields.counts("merge_kernel_size", minimum=1) or (2, 2)
    if rows != columns:
        fields.fail("merge_kernel_size", f"expected a square, got {rows} x {columns}")
    merged = hidden * rows * columns
    positions = fields.count("init_pos_emb_height") * fields.count("init_pos_emb_width")
    return VisionEncoder(
        layers=fields.count("vt_num_hidden_layers"),
        hidden=hidden,
        heads=fields.count("vt_num_attention_heads"),
        intermediate=fields.count("vt_intermediate_size"),
        gated=False,
        layer_norms=True,
        patch_elements=_COLOURS * patch**2,
        patches_per_token=rows * columns,
        images=PaddedGrid(patch, rows, most_patches=16_384, most_patches_per_side=512),
        projections=((merged, merged), (merged, text_hidden)),
        # Beside the merger: the patches' bias, positions, and the norm after the last layer.
        extra_parameters=hidden * (1 + positions + 2) + _merger(2 * hidden, merged, text_hidden),
        output_width=text_hidden,
    )


def _llama_4(fields: Fields, text_hidden: int) -> VisionEncoder:
    """Square tiles with a class token, pixel shuffle, two products and a projector."""
    hidden, patch = fields.count("hidden_size"), fields.count("patch_size")
    tile = fields.count("image_size")
    ratio = fields.data.get("pixel_shuffle_ratio", 0.5)
    if not isinstance(ratio, float) or not 0 < ratio <= 1:
        fields.fail(
            "pixel_shuffle_ratio", f"expected a number above 0 and at most 1, got {ratio!r}"
        )
    patches = (tile // patch) ** 2
    merged = round(1.0 / ratio**2)
    shuffled, middle = hidden * merged, fields.count("projector_input_dim")
    output = fields.count("projector_output_dim")
    return VisionEncoder(
        layers=fields.count("num_hidden_layers"),
        hidden=hidden,
        heads=fields.count("num_attention_heads"),
        intermediate=fields.count("intermediate_size"),
        gated=False,
        layer_norms=True,
        patch_elements=_COLOURS * patch**2,
        patches_per_token=merged,
        images=Tiles(tile, most_tiles=16, patches=patches + 1, tile_tokens=patches // merged),
        projections=((shuffled, middle), (middle, output), (output, text_hidden)),
        # The class token, positions, and norms before and after the layers.
        extra_parameters=hidden * (1 + (patches + 1) + 4),
        output_width=text_hidden,
    )


FAMILIES: dict[str, Callable[[Fields, int], VisionEncoder]] = {
    "kimi_k25": _kimi,
    "llama4": _llama_4,
    "qwen2_5_vl": _qwen_2_5,
    "qwen3_5": _qwen_3,
    "qwen3_5_moe": _qwen_3,
    "qwen3_vl": _qwen_3,
    "qwen3_vl_moe": _qwen_3,
}
