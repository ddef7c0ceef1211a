"""The shape of a vision encoder: its layers, its weights, and what it makes of an image.

Plain values and integer arithmetic. An encoder takes an image as one sequence of patches, or
as several (tiles); attention inside each goes both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.checks import require, require_counts
from perfmodel.errors import InputError

MOST_PIXELS = 65_536
"""Width or height of an image, at most."""

_MOST_ASPECT = 200
"""Longer over shorter side, at most, as Qwen's image processor has it."""


@dataclass(frozen=True)
class ImageLoad:
    """What one image is to the encoder and to the language model.

    Attributes:
        sequences: of patches, each attended to on its own.
        patches: of one sequence, a class token included.
        tokens: that the language model reads, delimiters included.
    """

    sequences: int
    patches: int
    tokens: int


@dataclass(frozen=True)
class PatchGrid:
    """An image resized to whole merged patches, within bounds on its pixels (Qwen's VL models).

    Attributes:
        patch: pixels of a patch's side.
        merge: patches per side that are merged into one token.
        delimiters: tokens before and after an image.
    """

    patch: int
    merge: int
    least_pixels: int
    most_pixels: int
    delimiters: int = 2

    def of_size(self, width: int, height: int) -> ImageLoad:
        """An image of so many pixels; each side is rounded to the nearest merged patch [1]_.

        Raises:
            InputError: one side is more than 200 times the other.

        References:
            .. [1] `smart_resize` of transformers' Qwen2-VL image processor.
        """
        if max(width, height) > _MOST_ASPECT * min(width, height):
            raise InputError(f"expected sides within a factor of {_MOST_ASPECT}")
        unit = self.patch * self.merge
        rows, columns = (max(round(side / unit), 1) for side in (height, width))
        pixels = rows * columns * unit**2
        if pixels > self.most_pixels:
            shrink = sqrt(width * height / self.most_pixels)
            rows, columns = (max(floor(s / shrink / unit), 1) for s in (height, width))
        elif pixels < self.least_pixels:
            grow = sqrt(self.least_pixels / (width * height))
            rows, columns = (ceil(side * grow / unit) for side in (height, width))
        return self.of_tokens(rows * columns + self.delimiters)

    def of_tokens(self, tokens: int) -> ImageLoad:
        """An image that the language model reads as so many tokens."""
        merged = max(tokens - self.delimiters, 1)
        return ImageLoad(1, merged * self.merge**2, tokens)


@dataclass(frozen=True)
class PaddedGrid:
    """An image shrunk to a number of patches at most, and padded to whole merged ones (Kimi).

    Attributes:
        most_patches: of an image.
        most_patches_per_side: of its width, and of its height.
    """

    patch: int
    merge: int
    most_patches: int
    most_patches_per_side: int
    delimiters: int = 4

    def of_size(self, width: int, height: int) -> ImageLoad:
        """An image of so many pixels; it is never enlarged."""
        across, down = (max(side // self.patch, 1) for side in (width, height))
        scale = min(
            1.0,
            sqrt(self.most_patches / (across * down)),
            *(self.most_patches_per_side * self.patch / side for side in (width, height)),
        )
        unit = self.patch * self.merge
        rows, columns = (ceil(max(int(side * scale), 1) / unit) for side in (height, width))
        return self.of_tokens(rows * columns + self.delimiters)

    def of_tokens(self, tokens: int) -> ImageLoad:
        """An image that the language model reads as so many tokens."""
        merged = max(tokens - self.delimiters, 1)
        return ImageLoad(1, merged * self.merge**2, tokens)


@dataclass(frozen=True)
class Tiles:
    """An image cut into square tiles, with one more of the whole where there are several (Llama 4).

    Attributes:
        tile: pixels of a tile's side.
        most_tiles: of an image, that of the whole apart.
        patches: of a tile, the class token included.
        tile_tokens: that the language model reads of a tile.
    """

    tile: int
    most_tiles: int
    patches: int
    tile_tokens: int

    def of_size(self, width: int, height: int) -> ImageLoad:
        """An image of so many pixels, on the canvas of tiles that fits it best [1]_.

        The least enlargement that fills a canvas, else the least reduction; of equal ones the
        smallest canvas.

        References:
            .. [1] `get_best_fit` of transformers' Llama 4 image processor.
        """
        canvases = [
            (rows, columns)
            for rows in range(1, self.most_tiles + 1)
            for columns in range(1, self.most_tiles // rows + 1)
        ]
        scale = {(r, c): min(c * self.tile / width, r * self.tile / height) for r, c in canvases}
        larger = [s for s in scale.values() if s >= 1.0]
        chosen = min(larger) if larger else max(scale.values())
        fitting = [canvas for canvas in canvases if scale[canvas] == chosen]
        rows, columns = min(fitting, key=lambda canvas: canvas[0] * canvas[1])
        return self._of_tiles(rows * columns)

    def of_tokens(self, tokens: int) -> ImageLoad:
        """An image that the language model reads as so many tokens."""
        sequences = max(round(tokens / (self.tile_tokens + 1)), 1)
        return ImageLoad(sequences, self.patches, tokens)

    def _of_tiles(self, tiles: int) -> ImageLoad:
        """Tiles are followed by a separator each; the image has a start, an end and a mark."""
        sequences = tiles + (tiles > 1)
        separators = tiles if tiles > 1 else 0
        return ImageLoad(sequences, self.patches, sequences * self.tile_tokens + separators + 3)


@dataclass(frozen=True)
class VisionEncoder:
    """A vision transformer and the projector to the language model.

    Attributes:
        layers: of the transformer.
        hidden: width of its residual stream.
        heads: of its attention; keys and values have as many.
        intermediate: width of its networks.
        gated: those have a gate beside the up projection.
        layer_norms: norms have biases beside weights (else RMS norms).
        patch_elements: pixel values of one patch, all channels and frames.
        patches_per_token: patches merged into one token.
        images: how an image becomes patches and tokens.
        projections: inputs and outputs of the products that one token takes from the last
            layer to the language model.
        extra_parameters: weights beside layers and projections: embeddings, other norms, the
            projections' biases.
        window_patches: patches that attention of windowed layers is confined to.
        windowed_layers: so many of the layers.
        output_width: elements of one token's embedding, deeper features included.

    Raises:
        ConfigError: a count is not an integer in range, or the fields contradict one another.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    gated: bool
    layer_norms: bool
    patch_elements: int
    patches_per_token: int
    images: PatchGrid | PaddedGrid | Tiles
    projections: tuple[tuple[int, int], ...]
    extra_parameters: int
    output_width: int
    window_patches: int = 0
    windowed_layers: int = 0

    def __post_init__(self) -> None:
        """Refuse what no encoder can have."""
        require_counts(self, 1, "layers", "hidden", "heads", "intermediate", "output_width")
        require_counts(self, 1, "patch_elements", "patches_per_token")
        require_counts(self, 0, "window_patches", "windowed_layers", "extra_parameters")
        require(
            self.hidden % self.heads == 0,
            "heads",
            f"expected a divisor of the hidden size {self.hidden}, got {self.heads}",
        )
        require(
            self.windowed_layers <= self.layers
            and bool(self.window_patches) >= bool(self.windowed_layers),
            "windowed_layers",
            f"expected at most the {self.layers} layers, with a window",
        )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    def shards(self, tp: NDArray[Any]) -> NDArray[np.float64]:
        """Over how many devices of a tensor-parallel group the layers split: as heads divide."""
        return np.gcd(np.asarray(tp, dtype=np.int64), self.heads).astype(float)

    @property
    def up_projections(self) -> int:
        """Products from the residual stream into a network: two if gated."""
        return 2 if self.gated else 1

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer; all its projections have biases."""
        up = self.up_projections * self.intermediate
        attention = 4 * self.hidden * self.hidden + 4 * self.hidden
        network = (up + self.intermediate) * self.hidden + up + self.hidden
        return attention + network + 2 * self.hidden * (2 if self.layer_norms else 1)

    @property
    def unsplit_parameters(self) -> int:
        """Weights that tensor parallelism does not split: all beside the layers."""
        products = sum(inputs * outputs for inputs, outputs in self.projections)
        return products + self.patch_elements * self.hidden + self.extra_parameters

    def parameters(self) -> int:
        """All weights of the encoder and its projector."""
        return self.layers * self.layer_parameters + self.unsplit_parameters
