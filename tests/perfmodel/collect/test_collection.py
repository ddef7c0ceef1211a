"""A whole collection, on a machine made of formulas."""

import hashlib
import json
from pathlib import Path

import pytest
from formula_bench import BANDWIDTH, FormulaBench, formula_s
from measured_points import check_measured_points

from perfmodel.collect import collect
from perfmodel.collect.collection import Progress
from perfmodel.collect.journal import RowId, row_id
from perfmodel.collect.measure import Key, Machine, Sample, UnavailableError
from perfmodel.collect.results import Report
from perfmodel.database import PerfStore
from perfmodel.engine import ENGINES, PYTORCH, engine_profile
from perfmodel.errors import InputError
from perfmodel.hardware import load_device
from perfmodel.operators import Kind, Operators
from perfmodel.operators.collective import NcclCollective

WANTED = ("gemm", "attention_generation")


def run(folder: Path, bench: FormulaBench, progress: Progress | None = None) -> Report:
    return collect(
        "cpu", folder, name="own", families=WANTED, bench=bench, progress=progress, budget_s=120.0
    )


def test_tables_are_readable_and_estimates_use_them(tmp_path: Path) -> None:
    shares: list[float] = []
    report = run(tmp_path, FormulaBench(), lambda share, text: shares.append(share))
    store = PerfStore([tmp_path], shipped=False)
    assert store.families("own", "pytorch") == ["gemm", "attention_generation"]
    device = load_device("own", [tmp_path])
    assert device.sources["memory_bandwidth"].startswith("measured with PyTorch")
    time = Operators(device, "pytorch", store).gemm.time(
        {"dtype": "bf16"}, {"m": [[24.0]], "n": [[3000.0]], "k": [[2048.0]]}
    )
    truth = formula_s("gemm", {"m": 24, "n": 3000, "k": 2048})
    assert time.seconds[0, 0] == pytest.approx(truth, rel=0.05)
    assert time.kind[0, 0] == Kind.MEASURED
    assert report.families["gemm"].reached
    assert report.families["gemm"].p90_error is not None
    assert report.families["gemm"].p90_error <= 0.05
    assert shares[-1] == 1.0
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_manifest_names_every_table_with_its_checksum(tmp_path: Path) -> None:
    run(tmp_path, FormulaBench())
    folder = tmp_path / "own" / "pytorch"
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert sorted(manifest["tables"]) == sorted(WANTED)
    for entry in manifest["tables"].values():
        data = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    assert manifest["torch"] == FormulaBench.version


def test_an_interrupt_loses_nothing(tmp_path: Path) -> None:
    whole = FormulaBench()
    run(tmp_path / "whole", whole)
    first = FormulaBench(fail_after=100)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", first)
    second = FormulaBench()
    report = run(tmp_path / "parts", second)
    assert report.measured == len(second.rows)
    # What is measured in two calls is exactly what is measured in one.
    assert _ids(first.rows + second.rows) == _ids(whole.rows)
    third = FormulaBench()
    run(tmp_path / "parts", third)
    assert third.rows == []


def test_without_resuming_everything_is_measured_again(tmp_path: Path) -> None:
    first, again = FormulaBench(), FormulaBench()
    run(tmp_path, first)
    collect("cpu", tmp_path, name="own", families=WANTED, bench=again, resume=False, budget_s=120.0)
    assert _ids(again.rows) == _ids(first.rows)


def _ids(rows: list[tuple[str, Key]]) -> list[RowId]:
    # The order depends on the clock: families share the time evenly.
    return sorted(row_id(family, key) for family, key in rows)


def test_no_row_beats_the_peaks(tmp_path: Path) -> None:
    class Fast(FormulaBench):
        def measure(self, family, key):  # type: ignore[no-untyped-def]
            sample = super().measure(family, key)
            assert sample is not None
            return type(sample)(sample.time_s / 4.0, 0.0, 3, "k")

    report = run(tmp_path, Fast())
    assert report.machine.memory_bandwidth_bytes_per_s > BANDWIDTH
    device = load_device("own", [tmp_path])
    store = PerfStore([tmp_path], shipped=False)
    operators = Operators(device, "pytorch", store)
    frame = store.table("own", "pytorch", "gemm")
    assert frame is not None
    columns = {name: frame[name].to_numpy().astype(float) for name in ("m", "n", "k")}
    floor = operators.gemm.roofline({"dtype": "bf16"}, columns)
    assert (frame["time_s"].to_numpy() >= floor.compute_s).all()
    assert (frame["time_s"].to_numpy() >= floor.bandwidth_s).all()


def test_budget_is_kept_and_said(tmp_path: Path) -> None:
    report = collect(
        "cpu", tmp_path, name="own", families=("gemm",), bench=FormulaBench(), budget_s=1e-4
    )
    assert report.families == {}
    assert any("no row" in note for note in report.notes)


def test_what_is_not_collected_is_noted(tmp_path: Path) -> None:
    families = ("mamba2", "collective", "quantize", "kv_transfer")
    report = collect(
        "cpu", tmp_path, name="own", families=families, bench=FormulaBench(), budget_s=5.0
    )
    assert report.notes == (
        "mamba2: not collected; estimates are extrapolated or analytic",
        "collective: not measurable on a single device; ask for more (world)",
        "quantize: not collected, no operator model reads it",
        "kv_transfer: a cpu has no such link",
    )


def test_collectives_are_measured_over_powers_of_two_and_used(tmp_path: Path) -> None:
    report = collect(
        "cpu",
        tmp_path,
        name="own",
        families=("collective",),
        bench=FormulaBench(),
        budget_s=60.0,
        world=6,
    )
    store = PerfStore([tmp_path], shipped=False)
    frame = store.table("own", "pytorch", "collective")
    assert frame is not None
    assert sorted(set(frame["devices"])) == [2, 4]
    device = load_device("own", [tmp_path])
    assert report.machine.peers == device.fast_link.span == 4
    check_measured_points(store, NcclCollective(device, "pytorch", store))
    assert NcclCollective(device, "vllm", store).table_engine == "nccl"


LATENT_AND_EXPERTS = ("mla_context", "mla_generation", "mla_bmm", "moe")


def test_estimates_use_latent_attention_and_experts(tmp_path: Path) -> None:
    collect(
        "cpu",
        tmp_path,
        name="own",
        families=LATENT_AND_EXPERTS,
        bench=FormulaBench(),
        budget_s=300.0,
        error_bound=0.5,
    )
    store = PerfStore([tmp_path], shipped=False)
    operators = Operators(load_device("own", [tmp_path]), "pytorch", store)
    models = {
        model.family: model
        for model in (
            operators.mla_context,
            operators.mla_generation,
            operators.mla_absorb,
            operators.experts,
        )
    }
    for family in LATENT_AND_EXPERTS:
        check_measured_points(store, models[family])


def test_what_is_unavailable_is_tried_again(tmp_path: Path) -> None:
    class Lost(FormulaBench):
        def measure(self, family: str, key: Key) -> Sample | None:
            raise UnavailableError("cores are busy")

    first = run(tmp_path, Lost())
    assert first.families == {}
    (note,) = (note for note in first.notes if note.startswith("gemm: ") and "timed now" in note)
    assert note.endswith("shapes could not be timed now; call again (cores are busy)")
    assert run(tmp_path, FormulaBench()).families["gemm"].reached


def test_a_machine_too_busy_to_be_probed_is_refused(tmp_path: Path) -> None:
    class Busy(FormulaBench):
        def machine(self) -> Machine:
            raise UnavailableError("cores are busy")

    with pytest.raises(InputError, match="cannot be timed now: cores are busy"):
        run(tmp_path, Busy())
    assert run(tmp_path, FormulaBench()).families["gemm"].reached


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "A B"}, "device name"),
        ({"name": "h100_sxm"}, "a shipped device has it.* such as my_h100_sxm"),
        ({"families": ("gem",)}, "unknown operator family 'gem'"),
        ({"budget_s": 0.0}, "must be positive"),
        ({"world": 0}, "at least one device"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"name": "own", "bench": FormulaBench(), **arguments}
    with pytest.raises(InputError, match=message):
        collect("cpu", tmp_path, **given)  # type: ignore[arg-type]


def test_the_collectors_engine_is_not_a_serving_one() -> None:
    assert engine_profile("pytorch") is PYTORCH
    assert "pytorch" not in ENGINES
