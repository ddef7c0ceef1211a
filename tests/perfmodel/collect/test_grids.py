"""Every slice names the columns of its family, and a model's own layers are met."""

from typing import Any

import pytest

from perfmodel.architecture import load_model
from perfmodel.collect import grids
from perfmodel.collect.adaptive import Slice
from perfmodel.database import FAMILIES

DEEPSEEK, LLAMA = "deepseek-v3", "llama-3.1-8b"


def first_key(part: Slice) -> dict[str, Any]:
    return dict(part.key(tuple(axis.coarse[0] for axis in part.axes)))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_slices_have_the_columns_of_their_family(device: str) -> None:
    parts = grids.slices(device, grids.FAMILIES, fp8=True, groups=(2, 4))
    for model in (DEEPSEEK, LLAMA):
        parts += grids.of_model(load_model(model), device, grids.FAMILIES)
    for part in parts:
        assert set(first_key(part)) == set(FAMILIES[part.family].key_names)
        for column in FAMILIES[part.family].key:
            value = first_key(part)[column.name]
            assert isinstance(value, str) == (column.kind == "text")
            assert not column.choices or value in column.choices
    assert {part.family for part in parts} == set(grids.FAMILIES)


def test_slices_are_distinct() -> None:
    for device in ("cpu", "cuda"):
        names = [str(part) for part in grids.slices(device, grids.FAMILIES, groups=(2, 4))]
        assert len(set(names)) == len(names)


def test_a_models_own_slices() -> None:
    found = grids.of_model(load_model(DEEPSEEK), "cpu", grids.FAMILIES)
    families = {part.family for part in found}
    assert families == {"gemm", "mla_context", "mla_generation", "mla_bmm", "moe"}
    experts = [part.fixed for part in found if part.family == "moe"]
    assert [fixed["routing"] for fixed in experts] == list(grids.ROUTINGS)
    assert all(fixed["hidden"] == 7168 and fixed["experts"] == 256 for fixed in experts)
    products = {(p.axes[1].coarse[0], p.axes[2].coarse[0]) for p in found if p.family == "gemm"}
    # Down and up projections of the latents, the router, the shared expert, the LM head.
    assert products >= {(2112, 7168), (24576, 1536), (32768, 512), (256, 7168), (4096, 7168)}
    assert (129280, 7168) in products


def test_attention_slices_of_a_grouped_query_model() -> None:
    found = grids.of_model(load_model(LLAMA), "cuda", grids.FAMILIES)
    assert {part.family for part in found} == {"gemm", "attention_context", "attention_generation"}
    assert (6144, 4096) in {
        (p.axes[1].coarse[0], p.axes[2].coarse[0]) for p in found if p.family == "gemm"
    }
