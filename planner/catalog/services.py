"""A catalog: services, each a query, and what they share.

A catalog is a YAML file, or a folder of query files each of which is a service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perfmodel.documents import Document, read_yaml, validate
from perfmodel.errors import ConfigError
from planner.query import Query

ANYWHERE = ""
"""The region of services and inventories that name none."""

HostCount = Annotated[int, Field(ge=0)]


class ServiceEntry(BaseModel):
    """A service as a catalog file writes it; further fields are those of a query."""

    model_config = ConfigDict(extra="allow", frozen=True)

    query: str | None = Field(default=None, description="A query file, relative to the catalog.")
    like: str | None = Field(
        default=None, description="Another service, whose fields it has but for those it gives."
    )
    region: str = Field(default=ANYWHERE, description="Where its devices must be.")


class CatalogFile(BaseModel):
    """The services of a fleet, and what they share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[str, Any] = Field(
        default={}, description="Fields of every query, such as devices, engine, runtime."
    )
    services: dict[str, ServiceEntry] = Field(min_length=1, description="Services by name.")
    inventory: dict[str, HostCount | dict[str, HostCount]] = Field(
        default={},
        description="Devices at hand by type, for all services together, or by type and region; "
        "unlimited where not given.",
    )
    headroom: float = Field(
        default=0.0, ge=0, description="Share by which more than the demand is planned for."
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

    @field_validator("services", mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError("expected a mapping of names to services, got a list")
        return value


@dataclass(frozen=True)
class Service:
    """A service.

    Attributes:
        source: the file, with line, that says so.
    """

    name: str
    query: Query
    region: str = ANYWHERE
    source: str = ""


@dataclass(frozen=True)
class Catalog:
    """Services, and what they share.

    Attributes:
        inventory: devices at most by (device type, region).
        together: groups of services that must run on the same device types.
    """

    services: tuple[Service, ...]
    inventory: Mapping[tuple[str, str], int]
    spare_hosts: int = 0
    share_hosts: bool = True
    together: tuple[tuple[str, ...], ...] = ()


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
        (device, region): count
        for device, counts in file.inventory.items()
        for region, count in (counts.items() if isinstance(counts, dict) else ((ANYWHERE, counts),))
    }
    catalog = Catalog(tuple(services), inventory, file.spare_hosts, file.share_hosts, file.together)
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
    for ancestor in _ancestry(name, file, document):
        entry = file.services[ancestor]
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
    try:
        parsed = Query.model_validate(fields, context={"folder": folder})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{where}: {field}: {message}") from None
    if file.headroom and parsed.workload.qps != "max":
        more = parsed.workload.qps * (1.0 + file.headroom)
        workload = parsed.workload.model_copy(update={"qps": more})
        parsed = parsed.model_copy(update={"workload": workload})
    return Service(name, parsed, region or ANYWHERE, where)


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
