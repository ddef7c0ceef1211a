"""Kubernetes objects: what runs a pool's replicas, and how it is reached."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from perfmodel.hardware import is_amd
from planner.deploy.engine import Engine, Launch
from planner.deploy.flags import ADDRESS, CONFIG, HOSTFILE, LEADER, RANK, put
from planner.deploy.intent import PORT, STARTUP_S, PoolSpec, Rollout

Object = dict[str, Any]

FOLDER = "/etc/planner"
"""Where a pool's configuration file lies in its container."""

IN_POD = {
    LEADER: "$(LWS_LEADER_ADDRESS)",
    RANK: "$(LWS_WORKER_INDEX)",
    ADDRESS: "$(POD_ADDRESS)",
    CONFIG: FOLDER,
    HOSTFILE: "/tmp/hosts",
}
"""What a LeaderWorkerSet tells the hosts of a replica, and Kubernetes a pod."""

DEVICE_LABEL = "planner/device"
"""Label of nodes by which a pool finds its devices."""

SSH_SECRET = "planner-mpi-ssh"
"""Secret with the key pair by which MPI reaches a replica's other hosts."""

PYTHON_IMAGE = "python:3.12-slim"
"""In which routers are installed that are packages."""

MODELS_FOLDER = "/models"
"""Where servers see the claim that holds checkpoints."""

RDMA = "rdma/ib"
"""Resource by which a pod gets the host's network adapters, as the RDMA shared device plugin and
llm-d's guides name it."""


def slug(*parts: str) -> str:
    """A DNS label: of `Qwen/Qwen3-8B` and `prefill`, `qwen3-8b-prefill`."""
    text = "-".join(part.rsplit("/", 1)[-1] for part in parts).lower()
    return re.sub(r"[^a-z0-9]+", "-", text)[-45:].strip("-")


def gpu_resource(device: str) -> str:
    """The resource that a node's device plugin offers."""
    return "amd.com/gpu" if is_amd(device) else "nvidia.com/gpu"


def labels(rollout: Rollout, pool: PoolSpec) -> dict[str, str]:
    """By which services find a pool's pods."""
    return {"app.kubernetes.io/name": slug(rollout.model), "planner/role": pool.role}


def networked(rollout: Rollout, pool: PoolSpec) -> bool:
    """Whether a pool's devices talk to those of other hosts."""
    return pool.hosts > 1 or rollout.disaggregated


def container(
    rollout: Rollout, engine: Engine, launch: Launch, pool: PoolSpec, *, worker: bool = False
) -> Object:
    """The container of one host of a replica."""
    line = put(launch.words(worker=worker), IN_POD)
    resources: Object = {"limits": {gpu_resource(pool.device): pool.devices_per_host}}
    found: Object = {
        "name": engine.name,
        "image": engine.image,
        "command": line[: len(launch.command)],
        "args": line[len(launch.command) :],
        "env": environment(launch.environment),
        "resources": resources,
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            {"name": "models", "mountPath": MODELS_FOLDER},
        ],
    }
    if networked(rollout, pool):
        resources["limits"][RDMA] = 1
        found["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}
    if rollout.prefix_tier == "host" and pool.role != "decode":
        gib = math.ceil(rollout.prefix_host_bytes * pool.devices_per_host / 2**30)
        resources["requests"] = {"memory": f"{gib}Gi"}
    if launch.config is not None:
        found["volumeMounts"].append({"name": "config", "mountPath": FOLDER})
    if not worker:
        health = {"path": "/health", "port": PORT}
        probe = {"httpGet": health, "periodSeconds": 30, "timeoutSeconds": 10}
        found["ports"] = [{"name": "http", "containerPort": PORT}]
        found["startupProbe"] = {**probe, "failureThreshold": STARTUP_S // 30}
        found["readinessProbe"] = probe
    if launch.by_mpi:
        found["volumeMounts"].append({"name": "ssh", "mountPath": "/root/.ssh", "readOnly": True})
        found["command"], found["args"] = ["bash", "-c"], [_by_mpi(pool, line, worker)]
    return found


def environment(variables: Mapping[str, str]) -> list[Object]:
    """Variables, after those that they may name and where checkpoints lie."""
    token = {"name": "hf-token", "key": "token", "optional": True}
    values = put(list(variables.values()), IN_POD)
    own: Object = {"name": "POD_ADDRESS"}
    own["valueFrom"] = {"fieldRef": {"fieldPath": "status.podIP"}}
    return [
        {"name": "HF_HOME", "value": MODELS_FOLDER},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}},
        *([own] if ADDRESS in variables.values() else []),
        *({"name": name, "value": value} for name, value in zip(variables, values, strict=True)),
    ]


def _by_mpi(pool: PoolSpec, line: Sequence[str], worker: bool) -> str:
    """A worker waits for MPI; the first host lists all of them, waits for them, and starts."""
    if worker:
        return "mkdir -p /run/sshd && exec /usr/sbin/sshd -D"
    slots, hosts = pool.devices_per_host, pool.hosts
    return f"""set -eu
first=${{LWS_LEADER_ADDRESS%%.*}} domain=${{LWS_LEADER_ADDRESS#*.}}
echo "$LWS_LEADER_ADDRESS slots={slots}" > {IN_POD[HOSTFILE]}
for i in $(seq 1 {hosts - 1}); do
  host=$first-$i.$domain
  until ssh -o StrictHostKeyChecking=no "$host" true; do sleep 5; done
  echo "$host slots={slots}" >> {IN_POD[HOSTFILE]}
done
exec {shlex.join(line)}
"""


def pod(
    rollout: Rollout,
    engine: Engine,
    launch: Launch,
    pool: PoolSpec,
    *,
    worker: bool = False,
    name: str = "",
) -> Object:
    """The pod template of one host of a replica."""
    volumes: list[Object] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        checkpoints(rollout),
    ]
    if launch.config is not None:
        volumes.append({"name": "config", "configMap": {"name": name}})
    if launch.by_mpi:
        secret = {"secretName": SSH_SECRET, "defaultMode": 0o600}
        volumes.append({"name": "ssh", "secret": secret})
    return {
        "metadata": {"labels": labels(rollout, pool)},
        "spec": {
            "nodeSelector": {DEVICE_LABEL: pool.device},
            "tolerations": [{"key": gpu_resource(pool.device), "operator": "Exists"}],
            "containers": [container(rollout, engine, launch, pool, worker=worker)],
            "volumes": volumes,
        },
    }


def workload(name: str, rollout: Rollout, engine: Engine, launch: Launch, pool: PoolSpec) -> Object:
    """What keeps a pool's replicas running.

    Replicas on several hosts are a LeaderWorkerSet; those that a router must tell apart a
    StatefulSet, whose pods have names of their own; others a Deployment.
    """
    first = pod(rollout, engine, launch, pool, name=name)
    if pool.hosts > 1:
        return {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": name},
            "spec": {
                "replicas": pool.replicas,
                "leaderWorkerTemplate": {
                    "size": pool.hosts,
                    "restartPolicy": "RecreateGroupOnPodRestart",
                    "leaderTemplate": first,
                    "workerTemplate": pod(rollout, engine, launch, pool, worker=True, name=name),
                },
            },
        }
    spec: Object = {
        "replicas": pool.replicas,
        "selector": {"matchLabels": labels(rollout, pool)},
        "template": first,
    }
    kind = "Deployment"
    if rollout.disaggregated:
        kind = "StatefulSet"
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    else:  # a fleet of the planned size has no devices to spare for pods of both versions
        spec["strategy"] = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def service(name: str, selector: Mapping[str, str], *, headless: bool = False) -> Object:
    """One address for all pods of a selector; headless: one for each."""
    spec: Object = {
        "selector": dict(selector),
        "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
    }
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def config_map(name: str, files: Mapping[str, Mapping[str, Any]]) -> Object:
    """Configuration files, mounted as a folder."""
    data = {file: as_yaml([content]) for file, content in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def replica_urls(name: str, pool: PoolSpec) -> list[str]:
    """Addresses of the replicas of a StatefulSet or LeaderWorkerSet."""
    return [f"http://{name}-{i}.{name}:{PORT}" for i in range(pool.replicas)]


def pool_objects(rollout: Rollout, engine: Engine, launch: Launch, pool: PoolSpec) -> list[Object]:
    """A pool's replicas, their configuration, and the service that leads to them."""
    name = slug(rollout.model, pool.role)
    objects = [workload(name, rollout, engine, launch, pool)]
    if launch.config is not None:
        objects.insert(0, config_map(name, dict([launch.config])))
    selector = labels(rollout, pool)
    if pool.hosts > 1:
        selector["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
    if not rollout.disaggregated:
        objects.append(service(slug(rollout.model), selector))
    elif pool.hosts == 1:  # a LeaderWorkerSet brings its own
        objects.append(service(name, selector, headless=True))
    return objects


def router_objects(rollout: Rollout, engine: Engine, launch: Launch) -> list[Object]:
    """The router before a disaggregated fleet, and the service that leads to it."""
    name = slug(rollout.model, "router")
    line = put(launch.words(), IN_POD)
    selector = {"app.kubernetes.io/name": slug(rollout.model), "planner/role": "router"}
    one: Object = {
        "name": "router",
        "image": engine.image,
        "command": line[: len(launch.command)],
        "args": line[len(launch.command) :],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 10},
    }
    if engine.router_package is not None:
        start = f"pip install -q {engine.router_package} && exec {shlex.join(line)}"
        one |= {"image": PYTHON_IMAGE, "command": ["bash", "-c"], "args": [start]}
    spec: Object = {"containers": [one]}
    objects: list[Object] = []
    if launch.config is not None:
        objects.append(config_map(name, dict([launch.config])))
        one["volumeMounts"] = [{"name": "config", "mountPath": FOLDER}]
        spec["volumes"] = [{"name": "config", "configMap": {"name": name}}]
    return [
        *objects,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": selector},
                "template": {"metadata": {"labels": selector}, "spec": spec},
            },
        },
        service(slug(rollout.model), selector),
    ]


def checkpoints(rollout: Rollout) -> Object:
    """The volume with the checkpoints."""
    claim = {"claimName": slug(rollout.model, "models")}
    return {"name": "models", "persistentVolumeClaim": claim}


def checkpoint_objects(rollout: Rollout) -> list[Object]:
    """The claim for checkpoints, and the job that fills it, once for all servers."""
    drafters = {pool.drafting.model for pool in rollout.pools if pool.drafting}
    names = [rollout.model, *sorted(name for name in drafters if name)]
    fetch = "; ".join(f"hf download {shlex.quote(name)}" for name in names)
    gib = math.ceil(1.5 * rollout.checkpoint_bytes / 2**30) + 16
    mount = {"name": "models", "mountPath": MODELS_FOLDER}
    one: Object = {
        "name": "download",
        "image": PYTHON_IMAGE,
        "command": ["bash", "-c"],
        "args": [f"set -eu; pip install -q huggingface_hub; {fetch}"],
        "env": environment({}),
        "volumeMounts": [mount],
    }
    pod_spec = {
        "restartPolicy": "OnFailure",
        "containers": [one],
        "volumes": [checkpoints(rollout)],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": slug(rollout.model, "models")},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": f"{gib}Gi"}},
            },
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": slug(rollout.model, "download")},
            "spec": {"backoffLimit": 4, "template": {"spec": pod_spec}},
        },
    ]


class _Plain(yaml.SafeDumper):
    """Writes a value that stands in two places twice, and lines as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Plain.add_representer(str, _Plain.represent_str)


def as_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    """Objects as YAML documents of one file."""
    return yaml.dump_all(objects, None, _Plain, sort_keys=False, width=100)
