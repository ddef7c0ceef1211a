"""Reading catalogs: what services inherit, and what is said of bad ones."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml

from perfmodel.errors import ConfigError
from planner.catalog import load_catalog

CatalogFile = Callable[..., Path]


def test_services_have_the_defaults_and_what_they_say(catalog_file: CatalogFile) -> None:
    path = catalog_file(
        services={
            "chat": {"workload": {"qps": 5}, "region": "eu"},
            "search": {"like": "chat", "slo": {"ttft": "1s"}},
        },
        headroom=0.2,
        inventory={"h100_sxm": {"eu": 16, "us": 8}, "h200_sxm": 4},
    )
    catalog, errors = load_catalog(path)
    assert errors == []
    chat, search = catalog.services
    assert chat.query.workload.qps == pytest.approx(6.0)
    assert chat.query.workload.input_tokens.mean == 1000
    assert (chat.region, search.region) == ("eu", "eu")
    assert search.query.slo.ttft is not None
    assert search.query.slo.ttft.seconds == 1.0
    assert search.query.slo.ttit is None
    assert search.query.workload == chat.query.workload
    assert catalog.inventory == {
        ("h100_sxm", "eu"): 16,
        ("h100_sxm", "us"): 8,
        ("h200_sxm", ""): 4,
    }


def test_what_a_service_gives_itself_counts_more_than_what_it_is_like(
    catalog_file: CatalogFile,
) -> None:
    path = catalog_file(
        services={
            "chat": {"workload": {"qps": 5, "input_tokens": 700}, "slo": {"ttit": "20ms"}},
            "more": {"like": "chat", "workload": {"qps": 50}, "region": "eu"},
            "most": {"like": "more", "workload": {"qps": 500}, "slo": {"ttit": "10ms"}},
        },
    )
    catalog, errors = load_catalog(path)
    assert errors == []
    assert [s.query.workload.qps for s in catalog.services] == [5, 50, 500]
    assert [s.query.workload.input_tokens.mean for s in catalog.services] == [700] * 3
    assert [s.query.slo.ttit and s.query.slo.ttit.seconds for s in catalog.services] == [
        0.02,
        0.02,
        0.01,
    ]
    assert [s.region for s in catalog.services] == ["", "eu", "eu"]


def test_a_query_file_beside_the_catalog(catalog_file: CatalogFile, tmp_path: Path) -> None:
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump({"workload": {"qps": 7}, "engine": "vllm"}))
    catalog, _ = load_catalog(catalog_file(services={"chat": {"query": "chat.yaml"}}))
    (chat,) = catalog.services
    assert chat.query.workload.qps == 7
    assert chat.query.engine == "vllm"
    assert chat.query.model == "Qwen/Qwen3-8B"


def test_a_folder_of_queries(tmp_path: Path) -> None:
    examples = Path(__file__).parents[3] / "examples"
    catalog, errors = load_catalog(examples)
    assert errors == []
    assert [s.name for s in catalog.services] == sorted(f.stem for f in examples.glob("*.yaml"))
    with pytest.raises(ConfigError, match="no query files"):
        load_catalog(tmp_path)


def test_one_bad_service_leaves_the_others(catalog_file: CatalogFile) -> None:
    path = catalog_file(services={"good": {}, "bad": {"workload": {"qps": -1}}})
    catalog, errors = load_catalog(path)
    assert [s.name for s in catalog.services] == ["good"]
    (error,) = errors
    assert "catalog.yaml:" in str(error)
    assert "services.bad: workload.qps" in str(error)


def test_a_word_that_yaml_takes_for_a_boolean(catalog_file: CatalogFile) -> None:
    path = catalog_file(services={"a": {"kv_transfer": {"overlap": False}}})
    (error,) = load_catalog(path)[1]
    assert "services.a: kv_transfer.overlap: Input should be 'none' or 'layerwise'" in str(error)
    assert "put one that is meant in quotes" in str(error)
    # Norway.
    path = catalog_file(services={"a": {"region": False}})
    with pytest.raises(ConfigError, match=r"services\.a\.region: .*quotes"):
        load_catalog(path)


def test_two_files_of_one_name_are_one_service(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "examples" / "safety_llama3_8b.yaml"
    for name in ("a.yaml", "a.yml"):
        (tmp_path / name).write_text(example.read_text())
    catalog, (error,) = load_catalog(tmp_path)
    assert [s.name for s in catalog.services] == ["a"]
    assert "a.yml: a second service of the name a" in str(error)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"services": {"a": {"like": "b"}, "b": {"like": "a"}}}, "in a circle: a -> b -> a"),
        ({"services": {"a": {"like": "a"}}}, "in a circle: a -> a"),
        ({"services": {"a": {"like": "c"}}}, "no service is called 'c'"),
    ],
)
def test_services_that_cannot_be_like_others(
    catalog_file: CatalogFile, fields: dict[str, Any], said: str
) -> None:
    _, errors = load_catalog(catalog_file(**fields))
    assert any(said in str(error) and ":" in str(error) for error in errors)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"services": {}}, "at least one"),
        ({"services": [{"name": "a"}]}, "expected a mapping of names"),
        ({"services": {"a": {}}, "inventory": {"h100_sxm": -8}}, "greater than or equal to 0"),
        ({"services": {"a": {}}, "inventory": {"h100_sxm": {"eu": -8}}}, "greater than or equal"),
        ({"services": {"a": {}}, "inventory": {"h100_sxm": True}}, "a valid integer"),
        ({"services": {"a": {}}, "headroom": -0.1}, "greater than or equal to 0"),
        ({"services": {"a": {}}, "headroom": inf}, "finite number"),
        ({"services": {"a": {"region": "total"}}}, "a: expected another name of a region"),
        ({"services": {"a": {}}, "inventory": {"h100_sxm": {"": 8}}}, "at least 1 character"),
        ({"services": {"a": {}}, "together": [["a", "x"]]}, "no service is called 'x'"),
        ({"services": {"a": {}}, "spare": 1}, "unknown field"),
    ],
)
def test_bad_catalogs(catalog_file: CatalogFile, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_catalog(catalog_file(**fields))
    assert said in str(error.value)
    assert "catalog.yaml:" in str(error.value)


def test_a_service_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text("services:\n  a: {}\n  b: {}\n  a: {}\n")
    with pytest.raises(ConfigError, match=r"catalog.yaml:4: services.a: given twice"):
        load_catalog(path)
