"""Assumptions on costs: their spellings, the shipped ones, and which of several holds."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from perfmodel.errors import ConfigError
from perfmodel.hardware import device_names
from planner.costs import COSTS, NAMES, STATED, Costs, costs_of, defaults, stated_costs
from planner.query_costs import AMOUNTS, CostChoice, OwnedChoice


@pytest.mark.parametrize(
    ("name", "spelled", "value"),
    [
        ("electricity", "0.08 USD/kWh", 0.08),
        ("electricity", "0.08 $/kWh", 0.08),
        ("electricity", 0.08, 0.08),
        ("electricity", 0, 0.0),
        ("hosting", "150 USD/kW-month", 150.0),
        ("staff", "200 USD/year", 200.0),
        ("carbon", "0.35 kg/kWh", 350.0),
        ("carbon", "350gCO2e/kWh", 350.0),
        ("residual", "12%", 0.12),
        ("interest", "9 % per year", 0.09),
        ("availability", "95%", 0.95),
        ("amortization", "5 years", 5.0),
        ("amortization", "30 months", 2.5),
        ("pue", "1.2", 1.2),
    ],
)
def test_spellings(name: str, spelled: Any, value: float) -> None:
    assert getattr(CostChoice.model_validate({name: spelled}), name) == value
    assert getattr(OwnedChoice.model_validate({name: spelled}), name) == value


@pytest.mark.parametrize(
    ("name", "spelled", "said"),
    [
        ("electricity", -0.01, "an amount from 0 such as 0.08 USD/kWh"),
        ("electricity", "8 cents", "unknown unit 'cents'"),
        ("electricity", True, "0.08 USD/kWh"),
        ("electricity", "1e999", "0.08 USD/kWh"),
        ("electricity", ".nan", "0.08 USD/kWh"),
        ("electricity", [0.1], "0.08 USD/kWh"),
        ("residual", "110%", "a share from 0 to 1"),
        ("interest", 9, "a share per year from 0 to 1"),
        ("utilization", 0, "a share above 0"),
        ("amortization", "0 years", "a time above 0"),
        ("pue", 0.9, "a factor from 1"),
        ("coffee", 1, "Extra inputs"),
    ],
)
def test_amounts_that_are_none(name: str, spelled: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        CostChoice.model_validate({name: spelled})


def test_every_assumption_has_a_field_a_unit_and_a_shipped_figure_with_its_source() -> None:
    assumptions, capex = defaults()
    assert set(assumptions) == set(NAMES) == set(CostChoice.model_fields)
    assert set(AMOUNTS) == set(OwnedChoice.model_fields)
    assert set(NAMES.values()) == set(Costs.__dataclass_fields__) - {"capex_usd", "sources"}
    for _, source in (*assumptions.values(), *capex.values()):
        assert re.fullmatch(r".{20,} \(20\d\d(-\d\d){0,2}\)", source)
    assert set(capex) <= set(device_names())


def test_shipped_capex_is_what_its_source_adds_up_to() -> None:
    """`$A / n = $B; ... $C` in each source: the figure is B and C together."""
    for entry in yaml.safe_load(COSTS.read_text())["capex"].values():
        total = float(entry["value"].removesuffix(" USD"))
        host = re.search(r"\$([\d,.]+)( million)?[^$/]*?/ (\d+)\b", entry["source"])
        assert host is not None
        price = float(host[1].replace(",", "")) * (1e6 if host[2] else 1.0)
        network = re.findall(r"\$([\d,]+)(?= \()", entry["source"])[-1]
        expected = price / int(host[3]) + float(network.replace(",", ""))
        assert total == pytest.approx(expected, abs=1.0)


def test_a_device_over_the_query_over_the_shipped() -> None:
    shared = CostChoice.model_validate({"pue": 1.2, "interest": "5%"})
    own = OwnedChoice.model_validate({"pue": 1.1, "capex": 20_000})
    costs = costs_of("h100_sxm", shared, own)
    assert (costs.pue, costs.interest_per_year, costs.capex_usd) == (1.1, 0.05, 20_000)
    shipped = defaults()[0]
    assert costs.amortization_years == shipped["amortization"][0]
    said = costs.assumptions()
    assert list(said) == list(AMOUNTS)
    stated = {name for name, entry in said.items() if entry["source"] == STATED}
    assert stated == {"pue", "interest", "capex"}
    assert said["residual"]["unit"] == "share"


def test_of_a_rented_device_only_energy_matters() -> None:
    costs = costs_of("mi300x", None, None)
    assert costs.capex_usd is None
    assert set(costs.assumptions()) == {
        *("pue", "carbon", "host_power", "idle_power", "prefill_power", "decode_power")
    }


def test_a_capex_that_nobody_gives() -> None:
    with pytest.raises(ConfigError, match="no purchase price of mi300x") as error:
        costs_of("mi300x", None, OwnedChoice())
    assert error.value.field == "capex"
    assert costs_of("mi300x", None, OwnedChoice(capex=1.0)).capex_usd == 1.0


def test_idle_above_busy() -> None:
    with pytest.raises(ConfigError, match="idle_power, 90%, is above decode_power, 86%") as error:
        costs_of("h100_sxm", CostChoice(idle_power=0.9), None)
    assert error.value.field == "idle_power"
    with pytest.raises(ConfigError, match="idle_power, 26%, is above prefill_power") as error:
        costs_of("h100_sxm", CostChoice(prefill_power=0.1), None)
    assert error.value.field == "prefill_power"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pue", "expected NAME=VALUE"),
        ("tea=1", "expected NAME=VALUE with a name of capex"),
        ("pue=0.1", "pue: expected a factor from 1"),
    ],
)
def test_stated_costs_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stated_costs([text])


def test_stated_costs() -> None:
    stated = stated_costs(["capex=3000 USD", "utilization=70%"])
    assert (stated.capex, stated.utilization, stated.pue) == (3000.0, 0.7, None)
