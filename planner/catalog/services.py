"""A catalog: services, each a query, and what they share.

A catalog is a YAML file, or a folder of query files each of which is a service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    field_validator,
)

from perfmodel.documents import Document, message, read_yaml, validate
from perfmodel.errors import ConfigError
from planner.catalog.demand import Demand, DemandChoice, demand_over_time
from planner.catalog.renting import Autoscaling, DevicePrices
from planner.query import Query

ANYWHERE = ""
"""The region of services that name none, and of inventories over all regions."""

TOTAL = "total"
"""What an inventory over all regions is called beside those of single ones."""

HostCount = Annotated[int, Field(ge=0, strict=True)]

Region = Annotated[str, Field(min_length=1)]


class ServiceEntry(BaseModel):
    """A service as a catalog file writes it; further fields are those of a query."""

    model_config = ConfigDict(extra="allow", frozen=True)

    query: str | None = Field(default=None, description="A query file, relative to the catalog.")
    like: str | None = Field(
        default=None, description="Another service, whose fields it has but for those it gives."
    )
    region: str = Field(default=ANYWHERE, description="Where its devices must be.")
    demand: Annotated[DemandChoice | None, SkipValidation] = Field(
        default=None,
        description="Demand over time, instead of `workload.qps` or to scale it; read with the "
        "service, so that a mistake in it stops no other.",
    )


class CatalogFile(BaseModel):
    """The services of a fleet, and what they share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[str, Any] = Field(
        default={}, description="Fields of every query, such as devices, engine, runtime."
    )
    services: dict[str, ServiceEntry] = Field(min_length=1, description="Services by name.")
    inventory: dict[str, HostCount | dict[Region, HostCount]] = Field(
        default={},
        description="Devices at hand by type, in all regions together (`h100_sxm: 24`), by region, "
        "or both (`h100_sxm: {total: 24, eu: 16, us: 16}`); unlimited where not given.",
    )
    headroom: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Share by which more than the demand is planned for.",
    )
    spare_hosts: int = Field(
        default=0,
        ge=0,
        description="Hosts of each type in use, in each region, whose loss the fleet survives.",
    )
    share_hosts: bool = Field(
        default=True, description="Replicas of different services may lie on one host."
    )
    together: tuple[tuple[str, ...], ...] = Field(
        default=(), description="Groups of services that must run on the same device types."
    )
    prices: dict[str, DevicePrices] = Field(
        default={},
        description="Prices by device type, reserved and on demand; a type not named is had on "
        "demand at its query's price.",
    )
    autoscaling: Autoscaling = Field(
        default=Autoscaling(), description="How replicas follow demand over time."
    )

    @field_validator("services", mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError("expected a mapping of names to services, got a list")
        return value

    @field_validator("services")
    @classmethod
    def _regions(cls, services: dict[str, ServiceEntry]) -> dict[str, ServiceEntry]:
        for name, service in services.items():
            if service.region == TOTAL:
                raise ValueError(
                    f"{name}: expected another name of a region: inventories mean all by {TOTAL}"
                )
        return services


@dataclass(frozen=True)
class Service:
    """A service.

    Attributes:
        query: whose demand is that of the busiest slot, where it changes over time.
        source: the file, with line, that says so.
    """

    name: str
    query: Query
    region: str = ANYWHERE
    source: str = ""
    demand: Demand | None = None


@dataclass(frozen=True)
class Catalog:
    """Services, and what they share.

    Attributes:
        inventory: devices at most by (device type, region); of `ANYWHERE`, in all together.
        together: groups of services that must run on the same device types.
        prices: by device type.
        sources: file and line of fields of its own, by their names.
    """

    services: tuple[Service, ...]
    inventory: Mapping[tuple[str, str], int]
    spare_hosts: int = 0
    share_hosts: bool = True
    together: tuple[tuple[str, ...], ...] = ()
    prices: Mapping[str, DevicePrices] = field(default_factory=dict)
    autoscaling: Autoscaling = field(default_factory=Autoscaling)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def over_time(self) -> bool:
        """Whether anything depends on the time of day."""
        return bool(self.prices) or any(s.demand is not None for s in self.services)


def load_catalog(path: Path) -> tuple[Catalog, list[ConfigError]]:
    """Read a catalog, and what is wrong with single services of it.

    Raises:
        ConfigError: the catalog as a whole cannot be used.
    """
    if path.is_dir():
        return _read_folder(path)
    document = read_yaml(path)
    file = validate(document, CatalogFile)
    services, errors = [], []
    for name in file.services:
        try:
            services.append(_service(name, file, document))
        except ConfigError as error:
            errors.append(error)
    _check_names(file, document)
    inventory = {
        (device, ANYWHERE if region == TOTAL else region): count
        for device, counts in file.inventory.items()
        for region, count in (counts.items() if isinstance(counts, dict) else ((TOTAL, counts),))
    }
    catalog = Catalog(
        tuple(services),
        inventory,
        file.spare_hosts,
        file.share_hosts,
        file.together,
        file.prices,
        file.autoscaling,
        {
            f"{field}.{name}": document.where((field, name))
            for field in ("prices", "inventory")
            for name in getattr(file, field)
        },
    )
    return catalog, errors


def _read_folder(path: Path) -> tuple[Catalog, list[ConfigError]]:
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    if not files:
        raise ConfigError(f"{path}: no query files (*.yaml) in this folder")
    services: dict[str, Service] = {}
    errors = []
    for file in files:
        try:
            if file.stem in services:
                raise ConfigError(f"{file}: a second service of the name {file.stem}")
            query = validate(read_yaml(file), Query)
            services[file.stem] = Service(file.stem, query, source=f"{file}:1")
        except ConfigError as error:
            errors.append(error)
    return Catalog(tuple(services.values()), {}), errors


def _service(name: str, file: CatalogFile, document: Document) -> Service:
    """A service with all that it inherits."""
    where = document.where(("services", name))
    fields: dict[str, Any] = {}
    region: str | None = None
    query: str | None = None
    demanding: str | None = None
    nearer: str | None = None
    for ancestor in _ancestry(name, file, document):
        entry = file.services[ancestor]
        if demanding is None and entry.demand is not None:
            demanding = ancestor
        if demanding is None and "qps" in _mapping(entry.__pydantic_extra__, "workload"):
            nearer = nearer or ancestor
        fields = _over(fields, entry.__pydantic_extra__ or {})
        query = query or entry.query
        region = region or entry.region
    folder = document.path.parent
    if query is not None:
        own = read_yaml(folder / query)
        if not isinstance(own.data, dict):
            raise ConfigError(f"{own.path}:1: expected a mapping of a query's fields")
        fields = _over(fields, own.data)
    fields = _over(fields, file.defaults)
    demand: Demand | None = None
    if demanding is not None:
        demand = _demand(demanding, file, fields, document)
        if nearer is not None and not _choice(demanding, file, document).scaled_by_workload:
            raise ConfigError(
                f"{document.where(('services', nearer, 'workload', 'qps'))}: {demanding} states "
                "demand of its own scale; expected a demand of this service instead"
            )
        fields = _over({"workload": {"qps": demand.peak}}, fields)
    try:
        parsed = Query.model_validate(fields, context={"folder": folder})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{where}: {field}: {message(problem)}") from None
    if file.headroom and parsed.workload.qps != "max":
        more = parsed.workload.qps * (1.0 + file.headroom)
        if demand is not None:
            demand = demand.scaled(1.0 + file.headroom)
            more = demand.peak
        workload = parsed.workload.model_copy(update={"qps": more})
        parsed = parsed.model_copy(update={"workload": workload})
    return Service(name, _priced(parsed, file, where), region or ANYWHERE, where, demand)


def _demand(owner: str, file: CatalogFile, fields: Mapping[str, Any], document: Document) -> Demand:
    """A service's demand over time, as it or the one that it is like states it."""
    where = ("services", owner, "demand")
    choice = _choice(owner, file, document)
    qps = _mapping(fields, "workload").get("qps")
    number = isinstance(qps, int | float) and not isinstance(qps, bool) and 0 < qps < inf
    if qps is not None and not number:
        raise ConfigError(
            f"{document.where(where)}: expected workload.qps to be a number beside it, got {qps!r}"
        )
    try:
        return demand_over_time(choice, qps, file.autoscaling.slot, document.path.parent)
    except ValueError as error:
        raise ConfigError(f"{document.where(where)}: {error}") from None


def _choice(owner: str, file: CatalogFile, document: Document) -> DemandChoice:
    try:
        return DemandChoice.model_validate(file.services[owner].demand)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ("services", owner, "demand", *problem["loc"])
        raise ConfigError(f"{document.where(field)}: {message(problem)}") from None


def _mapping(fields: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """A field that should be a mapping; nothing where it is none."""
    value = (fields or {}).get(name)
    return value if isinstance(value, dict) else {}


def _priced(query: Query, file: CatalogFile, where: str) -> Query:
    """The query at the catalog's prices: what is not reserved costs no less."""
    devices = []
    for device in query.devices:
        prices = file.prices.get(device.name) or file.prices.get(Path(device.name).stem)
        if prices and device.cost is not None:
            raise ConfigError(
                f"{where}: {device.name} has a cost (owned), and rented prices in the catalog; "
                "expected one of them"
            )
        price = {"usd_per_device_hour": prices.least} if prices else {}
        devices.append(device.model_copy(update=price))
    return query.model_copy(update={"devices": tuple(devices)})


def _ancestry(name: str, file: CatalogFile, document: Document) -> list[str]:
    """A service, the one it is like, and so on."""
    chain = [name]
    while (other := file.services[chain[-1]].like) is not None:
        where = document.where(("services", chain[-1], "like"))
        if other not in file.services:
            raise ConfigError(f"{where}: no service is called {other!r}")
        if other in chain:
            raise ConfigError(f"{where}: services in a circle: {' -> '.join([*chain, other])}")
        chain.append(other)
    return chain


def _check_names(file: CatalogFile, document: Document) -> None:
    for i, group in enumerate(file.together):
        for j, name in enumerate(group):
            if name not in file.services:
                where = document.where(("together", i, j))
                raise ConfigError(f"{where}: no service is called {name!r}")


def _over(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both, the first's where both have one; mappings inside likewise."""
    merged = dict(second)
    for key, value in first.items():
        below = merged.get(key)
        both = isinstance(value, dict) and isinstance(below, dict) and key == "workload"
        merged[key] = _over(value, below) if both else value  # type: ignore[arg-type]
    return merged
