"""Targets: the files of a rollout, by engine or orchestrator.

A target is a function from a rollout and its engine to the files that an operator applies.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.deploy.engine import Engine, Launch
from planner.deploy.flags import ADDRESS, CONFIG, HOSTFILE, LEADER, RANK, put
from planner.deploy.intent import PoolSpec, Rollout
from planner.deploy.manifests import (
    FOLDER,
    MODELS_FOLDER,
    Object,
    as_yaml,
    checkpoints,
    config_map,
    environment,
    labels,
    pod,
    pool_objects,
    replica_urls,
    router_objects,
    service,
    slug,
    workload,
)

Files = dict[str, str]
"""Content by path within the folder."""

Target = Callable[[Rollout, Engine], Files]

IN_SHELL = {
    LEADER: '"${LEADER_ADDRESS:?}"',
    RANK: '"${NODE_RANK:?}"',
    ADDRESS: '"${HOST_ADDRESS:?}"',
    CONFIG: '"$(dirname "$0")"/../config',
    HOSTFILE: '"${HOSTFILE:?}"',
}
"""What a person who starts a replica by hand must say."""


def plain(rollout: Rollout, engine: Engine) -> Files:
    """An engine by itself: a script, a configuration and a manifest per pool, and a router."""
    files: Files = {}
    for pool in rollout.pools:
        launch = engine.launch(rollout, pool)
        objects = pool_objects(rollout, engine, launch, pool)
        files[f"kubernetes/{pool.role}.yaml"] = as_yaml(objects)
        files[f"launch/{pool.role}.sh"] = script(launch, _about(pool), pool.hosts)
        files |= _config(launch)
    if rollout.disaggregated:
        urls: dict[str, list[str]] = {
            p.role: replica_urls(slug(rollout.model, p.role), p) for p in rollout.pools
        }
        launch = engine.router(rollout, urls)
        about = "the router between prefill and decode: put your replicas' addresses"
        files["kubernetes/router.yaml"] = as_yaml(router_objects(rollout, engine, launch))
        files["launch/router.sh"] = script(launch, about)
        files |= _config(launch)
    return files


def _config(launch: Launch) -> Files:
    if launch.config is None:
        return {}
    name, content = launch.config
    return {f"config/{name}": as_yaml([content])}


def _about(pool: PoolSpec) -> str:
    return f"one replica of the {pool.role} pool, {pool.spelled} on {pool.device}"


def script(launch: Launch, about: str, hosts: int = 1) -> str:
    """A shell script that starts one host of a replica."""

    def spelled(line: Sequence[str]) -> str:
        quoted = " ".join(put([shlex.quote(word) for word in line], IN_SHELL))
        return quoted.replace(" --", " \\\n  --") + ' "$@"'

    lines = ["#!/usr/bin/env bash", f"# Starts {about}.", "set -euo pipefail"]
    if hosts > 1 and not launch.by_mpi:
        lines.insert(2, f"# On each of {hosts} hosts; NODE_RANK: 0 to {hosts - 1};")
        lines.insert(3, "# LEADER_ADDRESS: the host of rank 0.")
    if launch.by_mpi:
        lines.insert(2, f"# On the first of {hosts} hosts; HOSTFILE: names them all, for mpirun.")
    if ADDRESS in launch.environment.values():
        lines.insert(2, "# HOST_ADDRESS: of this host, as the other pool's hosts reach it.")
    values = put([shlex.quote(v) for v in launch.environment.values()], IN_SHELL)
    lines += [f"export {n}={v}" for n, v in zip(launch.environment, values, strict=True)]
    if hosts > 1 and launch.worker and not launch.by_mpi:
        worker = spelled(launch.words(worker=True))
        lines += ['if [ "${NODE_RANK:?}" -gt 0 ]; then', f"exec {worker}", "fi"]
    return "\n".join([*lines, f"exec {spelled(launch.words())}"]) + "\n"


DYNAMO_VERSION = "1.6.1"

DYNAMO_RUNTIME = {
    "vllm": ("vllm-runtime", "dynamo.vllm"),
    "sglang": ("sglang-runtime", "dynamo.sglang"),
    "trtllm": ("tensorrtllm-runtime", "dynamo.trtllm"),
}
"""By engine, Dynamo's image and the module that runs it as a worker."""


def dynamo(rollout: Rollout, engine: Engine) -> Files:
    """A DynamoGraphDeployment: a frontend, and the engine as workers."""
    image, _ = DYNAMO_RUNTIME[engine.name]
    image = f"nvcr.io/nvidia/ai-dynamo/{image}:{DYNAMO_VERSION}"
    frontend: Object = {
        "name": "main",
        "image": image,
        "command": ["python3", "-m", "dynamo.frontend"],
        "args": ["--http-port", "8000", "--router-mode", "least-loaded"],
        "env": environment({}),
        "volumeMounts": [{"name": "models", "mountPath": MODELS_FOLDER}],
    }
    components: list[Object] = [
        {
            "name": "Frontend",
            "type": "frontend",
            "replicas": 1,
            "podTemplate": {"spec": {"containers": [frontend], "volumes": [checkpoints(rollout)]}},
        }
    ]
    files: Files = {}
    objects: list[Object] = []
    for pool in rollout.pools:
        launch = worker(rollout, engine, pool)
        name = slug(rollout.model, pool.role)
        template = pod(rollout, engine, launch, pool, name=name)
        main = template["spec"]["containers"][0]
        main |= {"name": "main", "image": image}
        for probe in ("ports", "startupProbe", "readinessProbe"):  # the operator's own
            main.pop(probe)
        component: Object = {
            "name": pool.role,
            "type": "worker" if pool.role == "continuous" else pool.role,
            "replicas": pool.replicas,
            "podTemplate": template,
        }
        if pool.hosts > 1:
            component["multinode"] = {"nodeCount": pool.hosts}
        components.append(component)
        if launch.config is not None:
            objects.append(config_map(name, dict([launch.config])))
            files |= _config(launch)
    graph: Object = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": slug(rollout.model)},
        "spec": {"backendFramework": engine.name, "components": components},
    }
    return {"kubernetes/dynamo.yaml": as_yaml([*objects, graph]), **files}


def worker(rollout: Rollout, engine: Engine, pool: PoolSpec) -> Launch:
    """An engine's replica as a Dynamo worker, whose hosts the operator brings together."""
    launch = engine.launch(rollout, pool)
    _, module = DYNAMO_RUNTIME[engine.name]
    flags = {n: v for n, v in launch.flags.items() if n not in ("--host", "--port")}
    if engine.name == "sglang":  # 0.5.21, which Dynamo brings, has the older spelling
        ranks = flags.pop("--attn-dp-size")
        flags |= {"--dp-size": ranks, "--enable-dp-attention": ranks > 1}
    if launch.config is not None:
        flags = {"--extra-engine-args": flags["--config"]}
    if rollout.disaggregated:
        flags["--disaggregation-mode"] = pool.role
    model = "--model-path" if engine.name == "sglang" else "--model"
    return replace(
        launch,
        command=("python3", "-m", module),
        model=(model, rollout.model),
        flags=flags,
        multi_host={},
        by_mpi=False,
    )


LLM_D_VERSION = "v0.8.0"
EPP_IMAGE = f"ghcr.io/llm-d/llm-d-inference-scheduler:{LLM_D_VERSION}"
SIDECAR_IMAGE = f"ghcr.io/llm-d/llm-d-routing-sidecar:{LLM_D_VERSION}"
BEHIND = 8200
"""Port of a decode server behind its routing sidecar."""


def llm_d(rollout: Rollout, engine: Engine) -> Files:
    """vLLM pools behind an InferencePool whose endpoint picker pairs prefill with decode."""
    files: Files = {}
    for pool in rollout.pools:
        launch = engine.launch(rollout, pool)
        name = slug(rollout.model, pool.role)
        if pool.role == "decode":
            launch = replace(launch, flags={**launch.flags, "--port": BEHIND})
        found = workload(name, rollout, engine, launch, pool)
        for template in _templates(found):
            template["metadata"]["labels"]["llm-d.ai/role"] = (
                "both" if pool.role == "continuous" else pool.role
            )
        if pool.role == "decode":
            _behind_sidecar(next(iter(_templates(found))))
        if pool.hosts > 1:
            for template in _templates(found)[1:]:
                # Only the first host of a replica answers requests.
                template["metadata"]["labels"]["app.kubernetes.io/name"] += "-worker"
        objects = [found]
        if found["kind"] == "StatefulSet":
            objects.append(service(name, labels(rollout, pool), headless=True))
        files[f"kubernetes/{pool.role}.yaml"] = as_yaml(objects)
        files[f"launch/{pool.role}.sh"] = script(launch, _about(pool), pool.hosts)
    files["kubernetes/gateway.yaml"] = as_yaml(_gateway(rollout))
    return files


def _templates(found: Object) -> list[Object]:
    """Pod templates of a workload, the first host's first."""
    spec = found["spec"]
    if found["kind"] == "LeaderWorkerSet":
        both = spec["leaderWorkerTemplate"]
        return [both["leaderTemplate"], both["workerTemplate"]]
    return [spec["template"]]


def _behind_sidecar(template: Object) -> None:
    """A routing sidecar takes requests, has their prompts computed, and passes them on."""
    (server,) = template["spec"]["containers"]
    server["ports"] = [{"name": "engine", "containerPort": BEHIND}]
    for name in ("startupProbe", "readinessProbe"):
        probe = server[name]
        server[name] = {**probe, "httpGet": {**probe["httpGet"], "port": BEHIND}}
    template["spec"]["initContainers"] = [
        {
            "name": "routing-sidecar",
            "image": SIDECAR_IMAGE,
            "args": [
                "--port=8000",
                f"--vllm-port={BEHIND}",
                "--kv-connector=nixlv2",
                "--secure-proxy=false",
            ],
            "ports": [{"name": "http", "containerPort": 8000}],
            "restartPolicy": "Always",
        }
    ]


def _picker(rollout: Rollout) -> dict[str, Any]:
    """How the endpoint picker chooses among replicas."""
    kinds = ["queue-scorer", "max-score-picker"]
    chosen: list[dict[str, Any]] = [
        {"pluginRef": "queue-scorer"},
        {"pluginRef": "max-score-picker"},
    ]
    head = {"apiVersion": "inference.networking.x-k8s.io/v1alpha1", "kind": "EndpointPickerConfig"}
    if not rollout.disaggregated:
        plugins = [{"type": kind} for kind in (*kinds, "single-profile-handler")]
        profiles = [{"name": "default", "plugins": chosen}]
        return {**head, "plugins": plugins, "schedulingProfiles": profiles}
    always = {"deciders": {"prefill": "always-disagg-pd-decider"}}
    return {
        **head,
        "plugins": [
            *({"type": kind} for kind in (*kinds, "prefill-filter", "decode-filter")),
            {"type": "disagg-headers-handler"},
            {"type": "always-disagg-pd-decider"},
            {"type": "disagg-profile-handler", "parameters": always},
        ],
        "schedulingProfiles": [
            {"name": role, "plugins": [{"pluginRef": f"{role}-filter"}, *chosen]}
            for role in ("prefill", "decode")
        ],
    }


def _gateway(rollout: Rollout) -> list[Object]:
    """The pool of endpoints, what picks among them, and the route that leads to it."""
    name, epp = slug(rollout.model), slug(rollout.model, "epp")
    selector = {"app.kubernetes.io/name": epp}
    meta = {"metadata": {"name": epp}}
    probe = {"grpc": {"port": 9003}, "periodSeconds": 10}
    picker: Object = {
        "name": "epp",
        "image": EPP_IMAGE,
        "args": [
            *("--pool-name", name, "--pool-namespace", "$(NAMESPACE)"),
            *("--grpc-port", "9002", "--grpc-health-port", "9003"),
            *("--config-file", f"{FOLDER}/picker.yaml"),
        ],
        "env": [
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}
        ],
        "ports": [{"name": "grpc", "containerPort": 9002}],
        "readinessProbe": probe,
        "volumeMounts": [{"name": "config", "mountPath": FOLDER}],
    }
    reads = {"verbs": ["get", "watch", "list"]}
    kinds = ["inferencepools", "inferenceobjectives", "inferencemodelrewrites"]
    groups = ["inference.networking.k8s.io", "inference.networking.x-k8s.io"]
    rules: list[Object] = [
        {"apiGroups": groups, "resources": kinds, **reads},
        {"apiGroups": [""], "resources": ["pods"], **reads},
    ]
    account = {"kind": "ServiceAccount", "name": epp}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": epp}
    to_pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name}
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": name},
            "spec": {
                "targetPorts": [{"number": 8000}],
                "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
                "endpointPickerRef": {"name": epp, "port": {"number": 9002}},
            },
        },
        config_map(epp, {"picker.yaml": _picker(rollout)}),
        {"apiVersion": "v1", "kind": "ServiceAccount", **meta},
        {"apiVersion": rbac, "kind": "Role", **meta, "rules": rules},
        {"apiVersion": rbac, "kind": "RoleBinding", **meta, "subjects": [account], "roleRef": role},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            **meta,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": selector},
                "template": {
                    "metadata": {"labels": selector},
                    "spec": {
                        "serviceAccountName": epp,
                        "containers": [picker],
                        "volumes": [{"name": "config", "configMap": {"name": epp}}],
                    },
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            **meta,
            "spec": {"selector": selector, "ports": [{"name": "grpc", "port": 9002}]},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name},
            "spec": {
                "parentRefs": [{"kind": "Gateway", "name": "inference-gateway"}],
                "rules": [{"backendRefs": [to_pool]}],
            },
        },
    ]


TARGETS: Mapping[str, Target] = {
    "vllm": plain,
    "sglang": plain,
    "trtllm": plain,
    "dynamo": dynamo,
    "llm-d": llm_d,
}
"""By name."""
