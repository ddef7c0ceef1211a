"""Kubernetes objects: what runs a pool's replicas, and how it is reached."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from planner.deploy.engine import Engine, Launch
from planner.deploy.flags import CONFIG, HOSTFILE, LEADER, RANK, put
from planner.deploy.intent import PORT, PoolSpec, Rollout
from planner.target import is_amd

Object = dict[str, Any]

FOLDER = "/etc/planner"
"""Where a pool's configuration file lies in its container."""

IN_POD = {
    LEADER: "$(LWS_LEADER_ADDRESS)",
    RANK: "$(LWS_WORKER_INDEX)",
    CONFIG: FOLDER,
    HOSTFILE: "/tmp/hosts",
}
"""What a LeaderWorkerSet tells the hosts of a replica."""

DEVICE_LABEL = "planner/device"
"""Label of nodes by which a pool finds its devices."""

SSH_SECRET = "planner-mpi-ssh"
"""Secret with the key pair by which MPI reaches a replica's other hosts."""

PYTHON_IMAGE = "python:3.12-slim"
"""In which routers are installed that are packages."""

SERVED_AFTER = 120
"""Probes (of 30 s) after which a server that still loads weights is given up: one hour."""


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


def container(engine: Engine, launch: Launch, pool: PoolSpec, *, worker: bool = False) -> Object:
    """The container of one host of a replica."""
    line = put(launch.words(worker=worker), IN_POD)
    count = {gpu_resource(pool.device): pool.devices_per_host}
    found: Object = {
        "name": engine.name,
        "image": engine.image,
        "command": line[: len(launch.command)],
        "args": line[len(launch.command) :],
        "env": environment(launch),
        "resources": {"limits": count},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if launch.config is not None:
        found["volumeMounts"].append({"name": "config", "mountPath": FOLDER})
    if not worker:
        probe = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 30}
        found["ports"] = [{"name": "http", "containerPort": PORT}]
        found["startupProbe"] = {**probe, "failureThreshold": SERVED_AFTER}
        found["readinessProbe"] = probe
    if launch.by_mpi:
        found["volumeMounts"].append({"name": "ssh", "mountPath": "/root/.ssh", "readOnly": True})
        found["command"], found["args"] = ["bash", "-c"], [_by_mpi(pool, line, worker)]
    return found


def environment(launch: Launch) -> list[Object]:
    """The launch's variables; where NIXL listens is the pod's own address."""
    named = [{"name": name, "value": value} for name, value in launch.environment.items()]
    token = {"name": "hf-token", "key": "token", "optional": True}
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}}
    address: Object = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    if "VLLM_NIXL_SIDE_CHANNEL_PORT" in launch.environment:
        return [secret, *named, {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", **address}]
    return [secret, *named]


def _by_mpi(pool: PoolSpec, line: Sequence[str], worker: bool) -> str:
    """A worker waits for MPI; the first host lists all of them, waits for them, and starts."""
    if worker:
        return "exec /usr/sbin/sshd -D"
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
    volumes: list[Object] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if launch.config is not None:
        volumes.append({"name": "config", "configMap": {"name": name}})
    if launch.by_mpi:
        secret = {"secretName": SSH_SECRET, "defaultMode": 0o600}
        volumes.append({"name": "ssh", "secret": secret})
    return {
        "metadata": {"labels": labels(rollout, pool)},
        "spec": {
            "nodeSelector": {DEVICE_LABEL: pool.device},
            "containers": [container(engine, launch, pool, worker=worker)],
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


def as_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    """Objects as YAML documents of one file."""
    return yaml.dump_all(objects, sort_keys=False, width=100, default_flow_style=False)
