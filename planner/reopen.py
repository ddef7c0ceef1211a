"""A fleet of a plan file, evaluated again: its query and decisions are read, all else derived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from perfmodel.layout import parse_layout
from perfmodel.precision import Precision
from planner.assess import role_of
from planner.choice import Choice, Pool, make_choice
from planner.encoder import apart, beside, encoder_pool
from planner.plan import incomplete
from planner.problem import alternatives, resolve
from planner.query import Query
from planner.sweep import Space
from planner.transfer import transfer_s


@dataclass(frozen=True)
class Reopened:
    """A fleet of a plan.

    Attributes:
        fleet: as the plan file has it.
        space: in which it lies.
        qps: that it serves.
    """

    fleet: dict[str, Any]
    space: Space
    choice: Choice
    qps: float


def reopen(
    data: dict[str, Any],
    source: str,
    which: int = 0,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
) -> Reopened:
    """One of a plan's fleets (0: the best), its candidates estimated anew.

    Raises:
        InputError: the plan lacks a field, or what it decides is not feasible any more.
    """
    try:
        query = Query.model_validate(data["query"])
        fleets = [data["best"], *data["alternatives"]]
        if which >= len(fleets):
            raise InputError(f"--fleet {which}: the plan has fleets 0 to {len(fleets) - 1}")
        fleet = fleets[which]
        problem = resolve(query, search_path)
        tier = (fleet.get("prefix") or {}).get("tier", "device")
        under = {p.traffic.prefix_tier: p for p in alternatives(problem)}
        space = Space(under[tier], store)
        qps = float(fleet["qps"])
        encoder = None
        if images := fleet.get("encoder"):
            receiver = fleet["pools"][0]["device"]
            count = int(images["replicas"])
            encoder = encoder_pool(space, images["device"], receiver, count, qps)
            if encoder is None:
                raise InputError(f"{source}: {images['device']} can't encode the query's images")
            space = beside(apart(space), encoder)
        pools = [_pool(space, pool) for pool in fleet["pools"]]
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise incomplete(source, error) from None
    moving = 0.0
    if len(pools) == 2:
        moving = float(transfer_s(space.problem, pools[0].one, pools[1].one)[0, 0])
    choice = make_choice(pools, moving, encoder)
    if choice is None:
        raise InputError(f"{source}: the fleet exceeds the query's inventory")
    return Reopened(fleet, space, choice, qps)


def _pool(space: Space, data: dict[str, Any]) -> Pool:
    """A pool of a plan file, evaluated again."""
    problem = space.problem
    offer = next((o for o in problem.offers if o.device.name == data["device"]), None)
    if offer is None:
        raise InputError(f"device {data['device']} is not among the query's")
    layouts = parse_layout(data["layout"])
    precision = Precision(**data["precision"])
    found = space.evaluate(role_of(data["role"]), offer, precision, layouts)
    chunk = data["chunk_tokens"] or 0
    drafts = data.get("draft_tokens") or 0
    match = np.flatnonzero(
        (found.batch == data["batch"]) & (found.chunk == chunk) & (found.drafts == drafts)
    )
    if len(match) == 0:
        raise InputError(
            f"{data['role']} {data['layout']} at batch {data['batch']} does not fit or does not "
            "meet the SLO with the operator tables at hand"
        )
    return Pool(found, int(match[0]), int(data["replicas"]))
