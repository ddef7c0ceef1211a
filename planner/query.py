"""The query: what a user asks, as a YAML file validated by pydantic.

`planner schema` prints these fields; their descriptions are the documentation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from perfmodel.documents import read_yaml, validate
from perfmodel.engine import ENGINES, PYTORCH, QUERY_ENGINES
from planner.query_choices import (
    ModelChoice,
    Routing,
    Strict,
    SyntheticModel,
    resolve_path,
)
from planner.query_costs import PRICE, CostChoice, OwnedChoice
from planner.query_serving import (
    ExecutionChoice,
    KvTransferChoice,
    PrecisionChoice,
    PrefixCacheChoice,
    Runtime,
    SearchChoice,
    SpeculationChoice,
)
from planner.query_workload import Slo, Workload
from planner.target import OWN_ENGINE, RuntimeTarget, engine_of


class DeviceChoice(Strict):
    """A candidate device."""

    name: str = Field(description="Shipped name, or path to a device YAML file.")
    usd_per_device_hour: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="USD per device-hour; the shipped price list's default if not given.",
    )
    cost: OwnedChoice | None = Field(
        default=None,
        description="The device is owned: its price is built from these costs; `{}` for the "
        "shipped figures.",
    )
    inventory: int | None = Field(
        default=None, ge=1, description="Devices at hand at most; unlimited if not given."
    )
    host_devices: int | None = Field(
        default=None,
        ge=1,
        description="Devices rented together; the device file's host if not given.",
    )

    time_factor: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="What the estimated times of its steps are multiplied by, where they are known "
        "to be off: 1.8 for a device that takes 1.8 times as long. No operator falls below its "
        "roofline.",
    )

    @field_validator(
        "usd_per_device_hour", "inventory", "host_devices", "time_factor", mode="before"
    )
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, got {value!r}")
        return value

    @field_validator("usd_per_device_hour", mode="before")
    @classmethod
    def _price(cls, value: Any) -> Any:
        return PRICE.read(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_price(self) -> DeviceChoice:
        if self.cost is not None and self.usd_per_device_hour is not None:
            raise ValueError("expected usd_per_device_hour (rented) or cost (owned), got both")
        return self


def _read_device(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Query(Strict):
    """The cheapest fleet that serves this model under this SLO: the question."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: ModelChoice = Field(
        description="A model of the catalog (`planner models`), path to a config.json or to a "
        "recipe (.yaml), or {recipe: {parameters: 1.8T, experts: 16}}: a synthetic one."
    )
    workload: Workload
    slo: Slo = Field(default=Slo(), description="Latency objectives; none for offline work.")
    devices: tuple[Annotated[DeviceChoice, BeforeValidator(_read_device)], ...] = Field(
        min_length=1, description="Candidate devices: names, or mappings with price and limits."
    )
    costs: CostChoice = Field(
        default=CostChoice(),
        description="What owning and powering devices costs: of owned ones the price, of all "
        "energy and carbon.",
    )
    runtime: tuple[Runtime, ...] = Field(
        default=("continuous", "disaggregated"),
        min_length=1,
        description="`continuous`, `disaggregated`, or both (a list, or `both`).",
    )
    encoder: Literal["colocated", "disaggregated", "auto"] = Field(
        default="auto",
        description="Where `images` are encoded: `colocated` on the devices that take the prompt, "
        "`disaggregated` on a pool of their own, `auto` on whichever is cheaper.",
    )
    engine: str = Field(
        default="trtllm",
        description=f"Whose operator tables to use: {', '.join(ENGINES)}, or {PYTORCH.name} for "
        "tables of `planner perfdb collect`.",
    )
    target: RuntimeTarget | None = Field(
        default=None,
        description="Where the plan will be deployed (`planner deploy`): only what this runtime "
        "can express is searched, and `engine` is its own if not given.",
    )
    corrections: str | None = Field(
        default=None,
        description="Engines' constants fitted to your own measurements (`planner calibrate`); "
        "the shipped ones if not given.",
    )
    routing: Routing = Field(
        default="power_law_1.01",
        description="How tokens spread over experts: as in a measured table (`power_law_1.01`, "
        "`power_law_1.2`; with `_eplb`, after a load balancer placed the busy ones; `balanced`, "
        "its ideal), or a stated distribution.",
    )
    precision: PrecisionChoice = PrecisionChoice()
    speculation: SpeculationChoice | None = Field(
        default=None,
        description="Drafting tokens with the checkpoint's multi-token-prediction module or a "
        "draft model; none if not given.",
    )
    execution: ExecutionChoice = ExecutionChoice()
    prefix_cache: PrefixCacheChoice = PrefixCacheChoice()
    kv_transfer: KvTransferChoice = KvTransferChoice()
    search: SearchChoice = SearchChoice()

    @model_validator(mode="before")
    @classmethod
    def _of_target(cls, data: Any) -> Any:
        """What a target implies where the query does not say."""
        if not isinstance(data, dict) or data.get("target") is None:
            return data
        implied = {}
        if data["target"] in OWN_ENGINE and data.get("engine") is None:
            implied["engine"] = OWN_ENGINE[data["target"]]
        if data.get("encoder", "auto") == "auto":
            implied["encoder"] = "colocated"
        return {**data, **implied}

    @field_validator("runtime", mode="before")
    @classmethod
    def _runtimes(cls, value: Any) -> Any:
        if value == "both":
            return ["continuous", "disaggregated"]
        return [value] if isinstance(value, str) else value

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        if value not in QUERY_ENGINES:
            known = ", ".join(QUERY_ENGINES)
            raise ValueError(f"unknown engine {value!r}; expected one of {known}")
        return value

    @field_validator("model")
    @classmethod
    def _beside_query(cls, value: ModelChoice, info: ValidationInfo) -> ModelChoice:
        if isinstance(value, SyntheticModel):
            return value
        return resolve_path(value, info, (".json", ".yaml", ".yml"))

    @field_validator("corrections")
    @classmethod
    def _corrections_beside_query(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value and resolve_path(value, info, (".yaml", ".yml"))

    @field_validator("routing")
    @classmethod
    def _counts_beside_query(cls, value: Routing, info: ValidationInfo) -> Routing:
        if isinstance(value, str) or value.file is None:
            return value
        return value.model_copy(update={"file": resolve_path(value.file, info, (".csv", ".json"))})

    @field_validator("devices")
    @classmethod
    def _distinct(
        cls, value: tuple[DeviceChoice, ...], info: ValidationInfo
    ) -> tuple[DeviceChoice, ...]:
        names = [device.name for device in value]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"given twice: {', '.join(repeated)}")
        return tuple(
            device.model_copy(update={"name": resolve_path(device.name, info, (".yaml", ".yml"))})
            for device in value
        )

    @model_validator(mode="after")
    def _bounded(self) -> Query:
        if self.workload.qps == "max" and any(d.inventory is None for d in self.devices):
            raise ValueError("workload.qps: `max` needs an inventory for every device")
        if self.prefix_cache != PrefixCacheChoice() and not self.workload.prefix_cache_hit:
            raise ValueError("prefix_cache: expected a workload.prefix_cache_hit above zero")
        return self

    @model_validator(mode="after")
    def _expressible(self) -> Query:
        if self.target is None:
            return self
        engine = engine_of(self.target, self.engine)
        if engine == PYTORCH.name:
            raise ValueError(f"target: {self.target} runs {', '.join(ENGINES)}, not {engine}")
        if self.encoder == "disaggregated":
            raise ValueError(f"encoder: pools that encode images are not written for {self.target}")
        if self.execution.sequence_parallelism:
            raise ValueError("execution.sequence_parallelism: no engine written for has it still")
        if self.kv_transfer.overlap == "layerwise" and engine != "trtllm":
            raise ValueError(f"kv_transfer.overlap: {ENGINES[engine].title} sends no single layers")
        return self


def load_query(path: Path | str, *, target: str | None = None) -> Query:
    """Read and validate a query file.

    Args:
        target: in place of the file's own.

    Raises:
        ConfigError: file, line, field and what was expected, one line per mistake.
    """
    document = read_yaml(Path(path))
    if target is not None and isinstance(document.data, dict):
        document = replace(document, data={**document.data, "target": target})
    return validate(document, Query)
