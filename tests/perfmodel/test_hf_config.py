"""Reading Hugging Face configurations: weight formats, and what bad files are told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.architecture import ModelArchitecture, from_config, load_model
from perfmodel.errors import ConfigError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
    "vocab_size": 1000,
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def write(folder: Path, content: object, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_algo": "W4A16_AWQ"}, "int4"),
        ({}, "bf16"),
    ],
)
def test_quantization_config(description: dict[str, Any], expected: str) -> None:
    assert from_config(LLAMA | {"quantization_config": description}).quantization == expected


def test_plain_exclusion_of_a_gate_spares_the_gate_projection() -> None:
    description = {"quant_method": "fp8", "modules_to_not_convert": ["gate", "lm_head"]}
    model = from_config(MIXTRAL | {"quantization_config": description})
    assert model.quantized_modules == {"attention", "experts"}
    description["modules_to_not_convert"] = ["model.layers.*.self_attn"]
    model = from_config(MIXTRAL | {"quantization_config": description})
    assert model.quantized_modules == {"experts"}
    assert model.notes == ()


def test_hf_quant_config_beside_is_honoured(tmp_path: Path) -> None:
    write(tmp_path, LLAMA)
    content = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["*self_attn*"]}}
    write(tmp_path, content, "hf_quant_config.json")
    model = load_model(tmp_path)
    assert (model.quantization, sorted(model.quantized_modules)) == ("nvfp4", ["ffn"])
    write(tmp_path, LLAMA | {"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(ConfigError, match=r"nvfp4 here, but fp8 in .*config\.json"):
        load_model(tmp_path)


# Windows and dense layers among sparse ones.


@pytest.mark.parametrize(
    ("change", "windows"),
    [
        ({"model_type": "mistral", "sliding_window": 512}, {512: 2}),
        ({"model_type": "mistral", "sliding_window": None}, {0: 2}),
        ({"model_type": "qwen3", "sliding_window": 512}, {0: 2}),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 512,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            {0: 1, 512: 1},
        ),
        (
            {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64},
            {0: 1, 64: 1},
        ),
    ],
)
def test_windows(change: dict[str, Any], windows: dict[int, int]) -> None:
    groups = from_config(LLAMA | change).groups
    assert {g.attention.window_tokens: g.count for g in groups} == windows


def test_dense_layers_among_sparse_ones() -> None:
    config = LLAMA | {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [1],
    }
    groups = from_config(config).groups
    assert {g.feed_forward.is_moe: g.count for g in groups} == {False: 5, True: 3}


# Bad fields and files.


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"hidden_size": None}, "hidden_size", "required; expected an integer from 1"),
        ({"hidden_size": 0}, "hidden_size", "got 0"),
        ({"hidden_size": -64}, "hidden_size", "got -64"),
        ({"hidden_size": 64.0}, "hidden_size", r"got 64\.0"),
        ({"hidden_size": "64"}, "hidden_size", 'got "64"'),
        ({"hidden_size": True}, "hidden_size", "got true"),
        ({"vocab_size": 10**40}, "vocab_size", "expected an integer from 1 to"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers", "to 10,000"),
        ({"num_hidden_layers": []}, "num_hidden_layers", r"got \[\]"),
        ({"num_key_value_heads": 3}, "num_key_value_heads", "divisor of num_attention_heads = 8"),
        ({"num_key_value_heads": 16}, "num_key_value_heads", "from 1 to 8"),
        ({"num_attention_heads": 6}, "head_dim", "6 heads don't divide 64"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings", "expected true or false"),
        ({"torch_dtype": "int3"}, "torch_dtype", "expected one of"),
        ({"model_type": None}, "model_type", "required; supported model types: .*llama"),
        ({"model_type": "rwkv7"}, "model_type", "'rwkv7' .* not supported yet"),
        ({"layer_types": ["full_attention"]}, "layer_types", "expected 2 .one per layer., got 1"),
        ({"layer_types": ["linear_attention"] * 2}, "layer_types", "'linear_attention' is not"),
        ({"index_topk": 2048}, "index_topk", "not supported yet: sparse attention"),
        ({"ssm_state_size": 128}, "ssm_state_size", "not supported yet: Mamba"),
        ({"linear_num_value_heads": 32}, "linear_num_value_heads", "linear attention"),
        ({"text_config": 3}, "text_config", "expected an object"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "quant_method", "'aqlm' is not"),
        ({"quantization_config": {"quant_algo": "MIXED_PRECISION"}}, "quant_algo", "MIXED"),
        ({"quantization_config": {"bits": 4}}, "quant_method", "required"),
        (
            {"quantization_config": {"quant_method": "fp8", "ignore": ["re:("]}},
            "ignore",
            "no regular expression",
        ),
    ],
)
def test_bad_fields_are_named_with_their_line(
    tmp_path: Path, change: dict[str, Any], field: str, says: str
) -> None:
    path = write(tmp_path, LLAMA | change)
    with pytest.raises(ConfigError, match=says) as caught:
        from_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert field in message.split(": ")[1]
    if f'"{field}"' in path.read_text():
        text = path.read_text()
        line = text[: text.index(f'"{field}"')].count("\n") + 1
        assert message.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("field", [key for key in LLAMA if key != "torch_dtype"])
def test_a_lacking_field_is_refused_or_has_a_defined_default(field: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != field}
    if field == "num_key_value_heads":
        assert from_config(config).groups[0].attention.kv_heads == 8  # multi-head attention
        return
    with pytest.raises(ConfigError, match=field):
        from_config(config)


def test_top_k_beyond_the_experts_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_experts_per_tok: expected an integer from 1 to 4"):
        from_config(MIXTRAL | {"num_experts_per_tok": 5})


def test_field_inside_text_config_is_named_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^text_config\.hidden_size: .* got 0"):
        from_config({"model_type": "llama4", "text_config": LLAMA | {"hidden_size": 0}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{\n "a": 1,\n}', r":3:1: not valid JSON"),
        ("", r":1:1: not valid JSON"),
        ("[1]", r"expected a JSON object, got \[1\]"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[" * 100_000, "not valid JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_model(path)
    assert str(caught.value).startswith(str(path))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_model(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        from_config(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ConfigError, match="UTF-8"):
        load_model(tmp_path / "latin.json")


def test_config_error_survives_a_process_boundary() -> None:
    error = ConfigError("expected 1", source="f.json:3", field="a.b")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "f.json:3: a.b: expected 1"
    assert (copy.source, copy.field) == ("f.json:3", "a.b")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
QUANTIZATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
    "ignore": ["lm_head", "re:.*self_attn.*"],
    "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    "bits": 4,
    "quant_algo": None,
}
OPTIONAL = ("layer_types", "sliding_window", "head_dim", "text_config", "quantization_config")


@given(st.sampled_from([*MIXTRAL, *OPTIONAL]), st.sampled_from([*QUANTIZATION]), json_values)
def test_any_value_in_any_field_gives_a_model_or_a_config_error(
    field: str, inner_field: str, value: Any
) -> None:
    quantized = MIXTRAL | {"quantization_config": QUANTIZATION | {inner_field: value}}
    for config in (MIXTRAL | {field: value}, quantized):
        try:
            assert isinstance(from_config(config), ModelArchitecture)
        except ConfigError as error:
            assert str(error)  # noqa: PT017
