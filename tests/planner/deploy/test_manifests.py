"""Manifests against Kubernetes' schemas, and the recorded fields of custom resources."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployed import ENGINE_NAMES, pool_of, rollout_of, rollouts
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.deploy import ENGINES
from planner.deploy.intent import layout_row
from planner.deploy.manifests import slug
from planner.deploy.targets import TARGETS
from planner.deploy.write import write_folder

KUBERNETES = "1.34"
CUSTOM = {
    (table["apiVersion"], table["kind"]): table["fields"]
    for path in Path(__file__).parent.glob("crd_*.json")
    for table in [json.loads(path.read_text())]
}
PYTHON = {
    "integer": int,
    "string": str,
    "boolean": bool,
    "array": list,
    "object": dict,
    "map": dict,
}


def valid_pod(template: dict[str, Any]) -> None:
    metadata = {**template.get("metadata", {}), "name": "one"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def valid_custom(value: Any, fields: dict[str, str], path: str = "") -> None:
    for name, inner in value.items():
        whole = f"{path}.{name}" if path else name
        kind = fields[whole]
        if kind == "pod":
            valid_pod(inner)
            continue
        if kind in PYTHON:
            assert isinstance(inner, PYTHON[kind]), whole
        if kind == "object":
            valid_custom(inner, fields, whole)
        for item in inner if kind == "array" else ():
            if isinstance(item, dict):
                valid_custom(item, fields, f"{whole}[]")


def valid(document: dict[str, Any]) -> None:
    fields = CUSTOM.get((document["apiVersion"], document["kind"]))
    if fields is None:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    else:
        fields = {"apiVersion": "string", "kind": "string", "metadata": "map", **fields}
        valid_custom(document, fields)


def names(documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(d["kind"], d["metadata"]["name"]) for d in documents]


def consistent(documents: list[dict[str, Any]]) -> None:
    """Every service finds pods; every mount has a volume, every volume its configuration."""
    labelled = []
    maps = {name for kind, name in names(documents) if kind == "ConfigMap"}
    for document in documents:
        spec = document.get("spec", {})
        templates = [c["podTemplate"] for c in spec.get("components", [])]
        templates += [spec["template"]] if "template" in spec else []
        templates += [
            t for n, t in spec.get("leaderWorkerTemplate", {}).items() if n.endswith("Template")
        ]
        for template in templates:
            labelled.append(template.get("metadata", {}).get("labels", {}))
            pod = template["spec"]
            volumes = {volume["name"] for volume in pod.get("volumes", [])}
            for volume in pod.get("volumes", []):
                assert volume.get("configMap", {}).get("name") in {None, *maps}
            for container in pod["containers"]:
                assert {m["name"] for m in container.get("volumeMounts", [])} <= volumes
        if "selector" in spec and "template" in spec:
            wanted = spec["selector"]["matchLabels"].items()
            assert wanted <= spec["template"]["metadata"]["labels"].items()
    for document in documents:
        if document["kind"] == "Service":
            selector = dict(document["spec"]["selector"])
            selector.pop("leaderworkerset.sigs.k8s.io/worker-index", None)
            assert any(selector.items() <= labels.items() for labels in labelled)
    assert len(set(names(documents))) == len(documents)


@pytest.mark.parametrize(
    ("target", "engine"),
    [*((n, n) for n in ENGINE_NAMES), *(("dynamo", n) for n in ENGINE_NAMES), ("llm-d", "vllm")],
)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_manifests_are_valid(target: str, engine: str, data: st.DataObject) -> None:
    rollout = data.draw(rollouts(engine))
    files = TARGETS[target](rollout, ENGINES[engine])
    documents = [
        document
        for name, text in files.items()
        if name.startswith("kubernetes/")
        for document in yaml.safe_load_all(text)
    ]
    for document in documents:
        valid(document)
    consistent(documents)


def test_a_wrong_manifest_is_refused() -> None:
    files = TARGETS["vllm"](rollout_of("vllm", pool_of(layout_row())), ENGINES["vllm"])
    deployment, _ = yaml.safe_load_all(files["kubernetes/continuous.yaml"])
    valid(deployment)
    deployment["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(deployment)


def test_a_router_knows_every_replica() -> None:
    pools = [pool_of(layout_row(), role=role, replicas=3) for role in ("prefill", "decode")]
    for engine in ENGINE_NAMES:
        files = TARGETS[engine](rollout_of(engine, *pools), ENGINES[engine])
        text = files["kubernetes/router.yaml"]
        for role in ("prefill", "decode"):
            for i in range(3):
                name = slug("Qwen/Qwen3-30B-A3B", role)
                assert f"{name}-{i}.{name}:8000" in text


def test_mpi_starts_the_ranks_of_all_hosts() -> None:
    pool = pool_of(layout_row(tp_a=16, tp_f=16))
    files = TARGETS["trtllm"](rollout_of("trtllm", pool), ENGINES["trtllm"])
    assert "mpirun" in files["launch/continuous.sh"]
    assert "-n 16" in files["launch/continuous.sh"]
    workload = list(yaml.safe_load_all(files["kubernetes/continuous.yaml"]))[1]
    both = workload["spec"]["leaderWorkerTemplate"]
    (start,) = both["leaderTemplate"]["spec"]["containers"][0]["args"]
    assert "slots=8" in start
    assert "trtllm-llmapi-launch trtllm-serve serve" in start
    assert both["workerTemplate"]["spec"]["containers"][0]["args"] == ["exec /usr/sbin/sshd -D"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    from perfmodel.errors import ConfigError

    write_folder(tmp_path / "new", {"launch/a.sh": "x", "README.md": "y"})
    assert (tmp_path / "new/README.md").read_text() == "y"
    assert (tmp_path / "new/launch/a.sh").stat().st_mode & stat.S_IXUSR
    with pytest.raises(ConfigError, match="already there"):
        write_folder(tmp_path / "new", {"README.md": "z"})
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="already there"):
        write_folder(tmp_path / "file", {"README.md": "z"})
    with pytest.raises(ConfigError, match="cannot be written"):
        write_folder(tmp_path / "file" / "inside", {"README.md": "z"})
    assert (tmp_path / "new/README.md").read_text() == "y"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new"]
