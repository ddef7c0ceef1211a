"""Synthetic architectures: what a recipe solves to, and what is said of an impossible one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import Attention, ModelArchitecture, catalog, load_model
from perfmodel.errors import ConfigError
from perfmodel.recipe import Recipe
from perfmodel.recipe_solver import TOLERANCE, from_recipe
from perfmodel.units import parse_quantity


def solve(**fields: Any) -> ModelArchitecture:
    return from_recipe(Recipe.model_validate(fields))


def refused(**fields: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        solve(**fields)
    return caught.value


@settings(max_examples=40, deadline=None)
@given(
    size=st.floats(5e9, 2e13),
    experts=st.sampled_from([0, 8, 16, 64, 256]),
    top_k=st.integers(1, 8),
    shared=st.integers(0, 2),
    dense=st.integers(0, 3),
    attention=st.sampled_from(["gqa", "mla"]),
    kv_heads=st.sampled_from([1, 2, 4, 8, 6]),
    tied=st.booleans(),
)
def test_any_recipe_is_met_within_one_percent(
    size: float,
    experts: int,
    top_k: int,
    shared: int,
    dense: int,
    attention: str,
    kv_heads: int,
    tied: bool,
) -> None:
    sparse = {"top_k": top_k, "shared_experts": shared, "dense_layers": dense} if experts else {}
    model = solve(
        parameters=size,
        experts=experts,
        attention=attention,
        kv_heads=kv_heads,
        tied_embeddings=tied,
        **sparse,
    )
    assert model.parameters() == pytest.approx(size, rel=TOLERANCE)
    assert model.hidden % (256 if model.hidden >= 2048 else 128) == 0
    for group in model.groups:
        mixer, network = group.attention, group.feed_forward
        assert isinstance(mixer, Attention)
        assert mixer.heads % 8 == 0
        assert network.intermediate % 128 == 0
        assert network.experts in (0, experts)
    assert model.is_moe == bool(experts)
    assert model.layers > dense * bool(experts)


@settings(max_examples=25, deadline=None)
@given(
    size=st.floats(1e11, 5e12),
    share=st.floats(0.004, 0.3),
    experts=st.sampled_from([16, 64, 256]),
    top_k=st.integers(1, 4),
)
def test_active_parameters_are_met_or_what_is_possible_is_named(
    size: float, share: float, experts: int, top_k: int
) -> None:
    recipe = Recipe(
        parameters=size, experts=experts, top_k=top_k, active_parameters=max(share * size, 1e8)
    )
    try:
        model = from_recipe(recipe)
    except ConfigError as error:
        said = str(error)
        found = re.search(r"^active_parameters: .+ (.+ .) to (.+) \(nearest to .+: (.+)\)", said)
        assert found is not None
        least, most, nearest = (parse_quantity(text, "parameters") for text in found.groups())
        # At least the experts' share of all weights is active.
        assert least > 0.98 * size * top_k / experts
        assert least <= nearest <= most
        assert share * size != pytest.approx(nearest, rel=0.9 * TOLERANCE)
    else:
        assert model.active_parameters() == pytest.approx(share * size, rel=TOLERANCE)
        assert model.parameters() == pytest.approx(size, rel=TOLERANCE)


def test_proportions_of_published_models_come_out() -> None:
    # Llama 3 8B has 32 layers of 4,096 and networks 14,336 wide (arXiv:2407.21783, table 3).
    small = solve(parameters="8B")
    (group,) = small.groups
    assert (small.hidden, group.attention.heads) == (4096, 32)
    assert small.layers == pytest.approx(32, abs=1)
    assert group.feed_forward.intermediate == pytest.approx(14_336, rel=0.05)
    # Mixtral 8x22B has 39 of 141 B active.
    mixtral = solve(parameters="141B", experts=8, top_k=2)
    assert mixtral.active_parameters() == pytest.approx(39e9, rel=0.05)


def test_pinned_fields_are_kept() -> None:
    # DeepSeek-V3's own choices leave its experts' width: 2,048 (arXiv:2412.19437, section 4.2).
    model = solve(
        parameters="671.03B",
        experts=256,
        top_k=8,
        shared_experts=1,
        dense_layers=3,
        layers=61,
        hidden_size=7168,
        heads=128,
        attention="mla",
        vocabulary=129_280,
    )
    assert [(g.count, g.feed_forward.intermediate) for g in model.groups] == [
        (3, 18432),
        (58, 2048),
    ]
    real = load_model("deepseek-v3")
    assert model.parameters() == pytest.approx(real.parameters(), rel=1e-4)
    assert model.active_parameters() == pytest.approx(real.active_parameters(), rel=1e-3)


def test_shipped_pairs_have_equal_parameters() -> None:
    for size, count in (("405b", 405e9), ("1.8t", 1.8e12)):
        dense, moe = (load_model(f"synthetic/{kind}-{size}") for kind in ("dense", "moe"))
        assert dense.parameters() == pytest.approx(count, rel=TOLERANCE)
        assert moe.parameters() == pytest.approx(count, rel=TOLERANCE)
        assert moe.is_moe
        assert not dense.is_moe
        assert all("no such model exists" in m.notes[0] for m in (dense, moe))
        assert catalog()[moe.name].published_parameters == count


def test_precision_covers_every_module() -> None:
    model = solve(parameters="100B", experts=16, precision="fp8")
    assert model.weight_format("routed_experts") == model.weight_format("attention") == "fp8"
    assert model.weight_format("embedding") == "bf16"
    assert "synthetic moe-100B" in model.name


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"experts": 8, "active_parameters": "200B"}, "active_parameters", "at most the 100 B"),
        ({"experts": 8, "active_parameters": "5B"}, "active_parameters", "expected from 25"),
        ({"active_parameters": "50B"}, "active_parameters", "all parameters of a dense"),
        ({"experts": 4, "top_k": 5}, "top_k", "at most the 4 experts"),
        ({"top_k": 2}, "top_k", "none without experts"),
        ({"shared_experts": 2}, "shared_experts", "none without experts"),
        ({"experts": 4, "layers": 3, "dense_layers": 3}, "dense_layers", "fewer than the 3"),
        ({"heads": 20, "kv_heads": 8}, "kv_heads", "a divisor of the 20 heads"),
        ({"hidden_size": 65536, "layers": 100}, "parameters", "hidden_size 65,536 and layers 100"),
        ({"hidden_size": 512, "layers": 2}, "parameters", "leave one of them free"),
        ({"vocabulary": 2**24, "hidden_size": 4096}, "parameters", "vocabulary 16,777,216"),
        ({"aspect": 1e-3}, "parameters", "within a factor of 4 of aspect 0.001"),
    ],
)
def test_impossible_recipes_are_refused(fields: dict[str, Any], field: str, said: str) -> None:
    error = refused(parameters="100B", **fields)
    assert error.field == field
    assert said in error.problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("parameters: 1.8X", "2: parameters: unknown unit 'X'"),
        ("parameters: 5", "2: parameters: expected from 100M"),
        ("experts: many", "2: experts: expected a whole number, got 'many'"),
        ("layers: 0", "2: layers: Input should be greater than or equal to 1"),
        ("ffn_ratio: yes", "2: ffn_ratio: expected a number"),
        ("attention: linear", "2: attention: Input should be 'gqa' or 'mla'"),
        ("precision: fp7", "2: precision: unknown format 'fp7'"),
        ("width: 3", "2: width: unknown field"),
        ("experts: 16\nactive_parameters: 2T", "3: active_parameters: expected at most the 100 B"),
    ],
)
def test_a_bad_file_names_line_and_field(tmp_path: Path, line: str, said: str) -> None:
    first = "name: mine" if line.startswith("parameters") else "parameters: 100B"
    path = tmp_path / "mine.yaml"
    path.write_text(f"{first}\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_model(path)
    assert f"{path}:{said}" in str(caught.value)


def test_recipes_are_found_on_the_search_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nparameters: 30B\n")
    assert load_model("mine", [tmp_path]) == load_model(tmp_path / "mine.yaml")
    (tmp_path / "empty.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match="this field is required"):
        load_model(tmp_path / "empty.yaml")
