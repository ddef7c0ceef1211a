"""Model architectures: what a language model is made of, and where to get one.

| name | is |
|---|---|
| `Attention`, `FeedForward` | the two halves of a decoder layer |
| `Recurrent` | what some layers have in place of attention |
| `LayerGroup` | layers that share one shape, and how many |
| `ModelArchitecture` | a whole model: groups, vocabulary, weight format, counts |
| `Drafter` | a small model that drafts tokens for it |
| `VisionEncoder`, `ImageLoad` | what images go through first, and what one is to it |
| `from_config` | reads a Hugging Face `config.json` |
| `load_model` | finds a model by catalog name, alias or path |
| `catalog`, `CatalogEntry` | the models shipped, with their published sizes |
| `QUANTIZATION_GROUP`, `QUANTIZABLE` | which modules a checkpoint's weight format covers |
"""

from __future__ import annotations

from perfmodel.hf_config import from_config
from perfmodel.layer_shapes import Attention, FeedForward, LayerGroup
from perfmodel.model_catalog import CatalogEntry, catalog, load_model
from perfmodel.model_shapes import QUANTIZABLE, QUANTIZATION_GROUP, Drafter, ModelArchitecture
from perfmodel.recurrent_shapes import Recurrent
from perfmodel.vision_shapes import ImageLoad, VisionEncoder

__all__ = [
    "QUANTIZABLE",
    "QUANTIZATION_GROUP",
    "Attention",
    "CatalogEntry",
    "Drafter",
    "FeedForward",
    "ImageLoad",
    "LayerGroup",
    "ModelArchitecture",
    "Recurrent",
    "VisionEncoder",
    "catalog",
    "from_config",
    "load_model",
]
