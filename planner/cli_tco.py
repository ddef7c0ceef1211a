"""The `planner tco` command: what owning devices costs, beside renting them."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli_shared import SearchPath, console, fail


def tco(
    devices: Annotated[list[str], typer.Argument(help="Devices, by name or file.")],
    stated: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An assumption as in a query's `costs` (capex: of a device), NAME=VALUE; "
            "repeatable.",
        ),
    ] = None,
    search_path: SearchPath = None,
) -> None:
    """Build up the hourly price of owned devices, and say when owning beats renting.

    Example: planner tco h100_sxm --set electricity=0.06 --set utilization=70%
    """
    from perfmodel.errors import InputError
    from perfmodel.hardware import load_device
    from planner.costs import costs_of, stated_costs
    from planner.tco_report import print_tco

    try:
        own = stated_costs(stated or [])
        found = [load_device(name, search_path or []) for name in devices]
        print_tco([(device, costs_of(device.name, None, own)) for device in found], console())
    except InputError as error:
        fail(str(error))
