"""The README of a deployment: what each file does, what must hold, what is not the plan's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perfmodel.engine import ENGINES as PROFILES
from perfmodel.hardware import is_amd
from planner.deploy.engine import Engine
from planner.deploy.intent import Gap, Rollout
from planner.deploy.manifests import DEVICE_LABEL, RDMA, SSH_SECRET, networked, slug

RUN_BY = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "dynamo": "NVIDIA Dynamo",
    "llm-d": "llm-d",
}

NEEDS = {
    "dynamo": "Dynamo's operator, with its CRDs (`nvidia.com/v1beta1`), must be installed.",
    "llm-d": "The Gateway API, its inference extension (InferencePool v1) and a Gateway named "
    "`inference-gateway` must be installed.",
}


def readme(
    rollout: Rollout, engine: Engine, target: str, gaps: Sequence[Gap], files: Iterable[str]
) -> str:
    """The README as Markdown."""
    lines = [
        f"# {rollout.model} on {RUN_BY[target]}",
        "",
        f"A {rollout.kind} fleet as planned, for {engine.title} {engine.version}, whose flags were "
        "checked.",
        "",
        "| pool | replicas | devices of each | layout | batch per rank | precision |",
        "|---|---|---|---|---|---|",
    ]
    for pool in rollout.pools:
        chunk = f" + chunks of {pool.chunk_tokens}" if pool.chunk_tokens else ""
        drafts = f", {pool.draft_tokens} drafted" if pool.drafting else ""
        hosts = f" on {pool.hosts} hosts" if pool.hosts > 1 else ""
        lines.append(
            f"| {pool.role} | {pool.replicas} | {pool.world} x {pool.device}{hosts} | "
            f"`{pool.spelled}` | {pool.batch}{chunk}{drafts} | {pool.precision} |"
        )
    lines += ["", "## Files", "", *(f"- `{name}`: {_purpose(name, rollout)}" for name in files)]
    lines += ["", "## To apply", "", *_steps(rollout, target)]
    if gaps:
        lines += ["", "## Not as planned", ""]
        lines += [f"- {gap.what}. Instead: {gap.nearest}." for gap in gaps]
    conditions = [c for pool in rollout.pools for c in engine.conditions(rollout, pool)]
    conditions += _assumptions(rollout, engine)
    lines += ["", "## What must hold for the plan's figures", "", *(f"- {c}" for c in conditions)]
    return "\n".join(lines) + "\n"


def _purpose(name: str, rollout: Rollout) -> str:
    folder, _, file = name.partition("/")
    part = file.rsplit(".", 1)[0]
    if folder == "config":
        return f"what `trtllm-serve` reads ({part})"
    if folder == "launch":
        return f"starts {'the router' if part == 'router' else f'one {part} replica'} by hand"
    if part == "models":
        return "the claim for checkpoints, and the job that downloads them"
    if part == "router":
        return "sends each request to a prefill and then to a decode replica; the service"
    if part == "gateway":
        return "the InferencePool, what picks an endpoint for each request, and the route"
    if part == "dynamo":
        return "the DynamoGraphDeployment: frontend and workers"
    return f"the {part} pool's replicas{'' if rollout.disaggregated else ' and their service'}"


def _steps(rollout: Rollout, target: str) -> list[str]:
    steps = [
        f"kubectl label node NODE {DEVICE_LABEL}={device}   # nodes with this device"
        for device in rollout.devices
    ]
    steps.append("kubectl create secret generic hf-token --from-literal=token=...   # if gated")
    several = any(pool.hosts > 1 for pool in rollout.pools)
    if several and rollout.engine == "trtllm" and target == "trtllm":
        steps.append(
            f"kubectl create secret generic {SSH_SECRET} --from-file=id_rsa "
            "--from-file=authorized_keys=id_rsa.pub"
        )
    steps += [
        "kubectl apply -f kubernetes/models.yaml   # a storage class that all nodes can mount",
        f"kubectl wait --for=condition=complete job/{slug(rollout.model, 'download')} --timeout=6h",
        "kubectl apply -f kubernetes/",
    ]
    lines = ["```sh", *steps, "```", ""]
    if target in NEEDS:
        lines.append(NEEDS[target])
    elif several:
        lines.append("LeaderWorkerSet (`leaderworkerset.x-k8s.io/v1`) must be installed.")
    name = slug(rollout.model)
    at = {"dynamo": f"`http://{name}-frontend:8000/v1`", "llm-d": "the Gateway"}
    where = at.get(target, f"`http://{name}:8000/v1`")
    lines.append(f"Requests then go to {where}, for the model `{rollout.model}`.")
    return lines


def _assumptions(rollout: Rollout, engine: Engine) -> list[str]:
    found = [
        f"Requests of up to {rollout.longest_prompt:,} prompt tokens and {rollout.longest:,} in "
        "all are accepted; raise the limit if yours are longer.",
        "Image tags are those of the versions checked: pin your own registry's.",
    ]
    if any(is_amd(pool.device) for pool in rollout.pools):
        found.append(f"The image is {engine.title}'s for CUDA: put its ROCm image in its place.")
    if any(networked(rollout, pool) for pool in rollout.pools):
        found.append(
            f"Traffic between hosts goes over RDMA: pods ask for `{RDMA}`; name your cluster's "
            "resource (`vpc.amazonaws.com/efa`, ...) in its place. Without one, remove it: they "
            "fall back to TCP, and transfers take longer than planned."
        )
    if engine.name == "trtllm" and any(pool.hosts > 1 for pool in rollout.pools):
        found.append("MPI reaches other hosts by SSH: the image must hold its server and client.")
    if any(pool.hosts > 1 and pool.rack for pool in rollout.pools):
        found.append(
            "NVLink between trays of a rack needs an IMEX channel in every pod: a ComputeDomain "
            "of NVIDIA's DRA driver for each replica, whose claim the pods name."
        )
    if rollout.planned != rollout.engine:
        found.append(
            f"The plan's times are {PROFILES[rollout.planned].title}'s; {engine.title} may be "
            "faster or slower."
        )
    if rollout.is_moe and any(pool.dispatched for pool in rollout.pools) and engine.name == "vllm":
        found.append(
            "The plan exchanges tokens by DeepEP's kernels or by gathering, whichever is faster; "
            "`--all2all-backend` chooses."
        )
    if rollout.redundant and not rollout.balanced:
        found.append("Spare copies of experts are not placed without a load balancer.")
    return found
