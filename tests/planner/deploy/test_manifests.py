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
from planner.deploy.intent import Drafting, layout_row
from planner.deploy.manifests import as_yaml, checkpoint_objects, slug
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
    assert both["workerTemplate"]["spec"]["containers"][0]["args"] == [
        "mkdir -p /run/sshd && exec /usr/sbin/sshd -D"
    ]


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


def test_checkpoints_are_fetched_once_for_all_servers() -> None:
    pools = [
        pool_of(layout_row(), role=role, drafting=Drafting(2, "Qwen/Qwen3-0.6B", 1))
        for role in ("prefill", "decode")
    ]
    rollout = rollout_of("vllm", *pools)
    claim, job = checkpoint_objects(rollout)
    for document in (claim, job):
        valid(document)
    assert claim["spec"]["resources"]["requests"]["storage"] == "100Gi"  # 1.5 x 60 GB, and 16 GiB
    (one,) = job["spec"]["template"]["spec"]["containers"]
    for name in ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-0.6B"):
        assert f"hf download {name}" in one["args"][0]
    for target in TARGETS:
        files = TARGETS[target](rollout, ENGINES["vllm"])
        text = "".join(t for name, t in files.items() if name.startswith("kubernetes/"))
        servers = text.count("claimName: " + claim["metadata"]["name"])
        assert servers == (3 if target == "dynamo" else 2)  # its frontend reads tokenizers
        assert text.count("name: HF_HOME") == servers


def test_hosts_that_talk_to_each_other_have_network_adapters() -> None:
    alone, wide = pool_of(layout_row()), pool_of(layout_row(tp_a=16, tp_f=16))
    for pool, asks in ((alone, False), (wide, True)):
        text = TARGETS["vllm"](rollout_of("vllm", pool), ENGINES["vllm"])
        assert ("rdma/ib" in text["kubernetes/continuous.yaml"]) == asks


def test_a_fleet_is_updated_without_devices_to_spare() -> None:
    files = TARGETS["vllm"](rollout_of("vllm", pool_of(layout_row())), ENGINES["vllm"])
    deployment, _ = yaml.safe_load_all(files["kubernetes/continuous.yaml"])
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_manifests_read_plainly() -> None:
    """No anchors; commands of several lines as lines; and they load as they were."""
    shared = {"a": 1}
    text = as_yaml([{"x": shared, "y": shared, "run": "set -eu\nexec it\n", "port": "8000"}])
    assert "&" not in text
    assert "\n  exec it\n" in text
    assert yaml.safe_load(text) == {
        "x": shared,
        "y": shared,
        "run": "set -eu\nexec it\n",
        "port": "8000",
    }
