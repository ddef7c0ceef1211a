"""Catalogs of services: solved one by one, and as one fleet.

| name | what |
|---|---|
| `load_catalog` | services, and what they share, from a file or a folder |
| `run_batch` | a result per service, on any `concurrent.futures` executor |
| `local_processes`, `dask_cluster` | executors |
| `plan_fleet` | which plan each service takes, and the hosts of all together |
| `plan_over_time` | the same where demand changes: replicas and hosts by slot |
"""

from planner.catalog.batch import (
    Result,
    Settings,
    digest_of,
    read_result,
    run_batch,
    write_result,
)
from planner.catalog.executors import dask_cluster, local_processes
from planner.catalog.fleet import (
    NOTHING,
    CatalogFleet,
    Choices,
    Current,
    open_choices,
    plan_fleet,
    read_current,
    write_fleet,
)
from planner.catalog.over_time import plan_over_time
from planner.catalog.placing import check_devices
from planner.catalog.schedule_plan import ScheduledFleet
from planner.catalog.services import Catalog, Service, load_catalog

__all__ = [
    "NOTHING",
    "Catalog",
    "CatalogFleet",
    "Choices",
    "Current",
    "Result",
    "ScheduledFleet",
    "Service",
    "Settings",
    "check_devices",
    "dask_cluster",
    "digest_of",
    "load_catalog",
    "local_processes",
    "open_choices",
    "plan_fleet",
    "plan_over_time",
    "read_current",
    "read_result",
    "run_batch",
    "write_fleet",
    "write_result",
]
