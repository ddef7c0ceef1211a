"""How well are whole steps predicted from operators measured on this very machine?

    python experiments/accuracy_own_machine.py --device cpu [--store DIR] [--budget 600]
        [--model llama|moe-mla]

Collects operator tables (or takes those of `--store`), predicts prefill and decode steps of a
model with the estimator, runs the same steps in plain PyTorch, and prints both. The model is of
Llama's architecture, or of DeepSeek's: latent attention and routed experts. Nothing is fitted to
the steps. The collection's grid is generic; `--model-slices` adds the model's own widths and
heads, as a user who knows what will run may. Run it on an idle machine; where that cannot be
had, with OMP_NUM_THREADS=1, which times the thread alone. Saves numbers and figure.
Bar on a CPU: at most 10 % median error.

Needs PyTorch: pip install 'llm-fleet-planner[collect]'.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import agreement

from perfmodel.allocator import keep_freed_memory
from perfmodel.architecture import ModelArchitecture
from perfmodel.breakdown import breakdown
from perfmodel.collect import collect
from perfmodel.database import PerfStore
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.hf_config import from_config
from perfmodel.layout import parse_layout
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork

RESULTS = Path(__file__).parent / "results"
NAME = "own_machine"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}
# On a CPU large enough that its weights do not stay in a cache, small enough to run.
CPU_MODEL = LLAMA | {
    "hidden_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
    "vocab_size": 32000,
}
CUDA_MODEL = LLAMA | {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
}
CPU_MOE_MODEL = DEEPSEEK | {
    "hidden_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1024,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "vocab_size": 32000,
}
CUDA_MOE_MODEL = DEEPSEEK | {
    "hidden_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 14336,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 64,
    "num_experts_per_tok": 8,
    "vocab_size": 128256,
}
COMMON = ("gemm", "elementwise")
FAMILIES = {
    "llama": (*COMMON, "attention_generation", "attention_context"),
    "moe-mla": (*COMMON, "mla_generation", "mla_bmm", "moe", "mla_context"),
}
"""What the steps of each model consist of: the budget is not spent on the rest."""

ROUTING = "uniform"
"""A router of random weights chooses for each token anew, with no favourites."""

CPU_CASES = {
    "decode": [(b, n) for b in (1, 2, 4, 8, 16) for n in (128, 512, 2048)],
    "prefill": [(1, 128), (1, 512), (1, 2048), (2, 512), (4, 128), (4, 512), (8, 128), (16, 128)],
}
CUDA_CASES = {
    "decode": [(b, n) for b in (1, 2, 4, 8, 16) for n in (512, 2048, 8192)],
    "prefill": [(1, 512), (1, 2048), (1, 8192), (4, 512), (4, 2048), (16, 512)],
}
SETTLE_S = 1.0


@dataclass(frozen=True)
class Row:
    """One step: `tokens` per sequence new (prefill) or cached (decode)."""

    phase: str
    batch: int
    tokens: int
    predicted_s: float
    measured_s: float
    spread: float
    known_by: str

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1.0


def device_files(store: Path) -> list[str]:
    """Names of the devices that were collected into a folder."""
    return sorted(path.stem for path in store.glob("*.yaml"))


def timed(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Median time of a step, and the half-width between quartiles relative to it."""
    import torch

    if device == "cuda":
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        run = graph.replay
    # Of one thread, the time it had a core: other processes' turns are not the step's.
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    begin = time.perf_counter()
    run()
    times: list[float] = []
    while len(times) < 5 or (len(times) < 25 and time.perf_counter() - begin < 4.0):
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    quartiles = statistics.quantiles(times, n=4)
    middle = statistics.median(times)
    return middle, (quartiles[2] - quartiles[0]) / (2.0 * middle)


def predict(step: StepModel, phase: str, batch: int, tokens: int) -> tuple[float, str]:
    """The estimator's time of a step, and what shares of it are measured."""
    if phase == "prefill":
        work = StepWork.of(prefill_sequences=batch, prefill_tokens=tokens)
    else:
        work = StepWork.of(decode_sequences=batch, context_tokens=tokens)
    layout = parse_layout("attn:TP1 ffn:TP1 PP1")
    seconds = float(step.time(layout, work).latency_s[0, 0])
    shares: dict[str, float] = {}
    for operator in breakdown(step, layout, work).operators:
        kind = str(getattr(operator.kind, "name", operator.kind)).lower()
        shares[kind] = shares.get(kind, 0.0) + operator.total_s / seconds
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return seconds, ", ".join(f"{kind} {share:.0%}" for kind, share in ordered if share >= 0.005)


def configuration(model: str, device: str) -> dict[str, Any]:
    """The test model of a kind, of a size that suits the device."""
    if model == "llama":
        return CUDA_MODEL if device == "cuda" else CPU_MODEL
    return CUDA_MOE_MODEL if device == "cuda" else CPU_MOE_MODEL


def compare(device: str, store: Path, config: dict[str, Any]) -> list[Row]:
    """Predict and measure every case."""
    import torch
    from deepseek_in_torch import DeepSeek
    from llama_in_torch import Llama

    names = device_files(store)
    if len(names) != 1:
        raise SystemExit(f"{store}: expected the collection of one device, got {names}")
    hardware = load_device(names[0], [store])
    tables = PerfStore([store], shipped=False)
    model: ModelArchitecture = from_config(config, "test model")
    engine = engine_profile("pytorch")
    operators = Operators(hardware, engine.name, tables)
    step = StepModel(model, hardware, engine, Precision(), operators, ROUTING)
    cases = CUDA_CASES if device == "cuda" else CPU_CASES
    torch.set_grad_enabled(False)
    if device == "cpu":
        keep_freed_memory()  # as the collection did
    batch = max(b for part in cases.values() for b, _ in part)
    longest = max(n for part in cases.values() for _, n in part) + 1
    kind = Llama if config["model_type"] == "llama" else DeepSeek
    network = kind(config, device, batch, longest)
    rows = []
    for phase, shapes in cases.items():
        for count, tokens in shapes:
            new, start = (tokens, 0) if phase == "prefill" else (1, tokens - 1)
            ids = torch.randint(config["vocab_size"], (count, new), device=device)
            measured, spread = timed(lambda ids=ids, at=start: network.step(ids, at), device)
            predicted, known_by = predict(step, phase, count, tokens)
            rows.append(Row(phase, count, tokens, predicted, measured, spread, known_by))
    return rows


def summary(rows: list[Row]) -> dict[str, Any]:
    """Median and worst absolute error, of all and by phase."""
    errors = [abs(row.error) for row in rows]
    by_phase = {
        phase: statistics.median(abs(row.error) for row in rows if row.phase == phase)
        for phase in dict.fromkeys(row.phase for row in rows)
    }
    return {
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "median_by_phase": by_phase,
        "median_spread": statistics.median(row.spread for row in rows),
    }


def show(rows: list[Row], totals: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"{'phase':8}{'batch':>6}{'tokens':>8}{'predicted':>12}{'measured':>12}{'error':>8}", end=""
    )
    print(f"{'repeats':>9}  known by")
    for row in rows:
        print(
            f"{row.phase:8}{row.batch:6}{row.tokens:8}{row.predicted_s * 1e3:9.2f} ms"
            f"{row.measured_s * 1e3:9.2f} ms{row.error:+8.1%}{row.spread:9.1%}  {row.known_by}"
        )
    print(f"median error {totals['median_error']:.1%}, worst {totals['worst_error']:.1%}", end="; ")
    print(", ".join(f"{p} {e:.1%}" for p, e in totals["median_by_phase"].items()), end="; ")
    print(f"repeats of one step differ by {totals['median_spread']:.1%}")


def save(rows: list[Row], totals: dict[str, Any], folder: Path, name: str) -> None:
    """Write the numbers, and the figure of simulated against measured steps."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"rows": [asdict(row) | {"error": row.error} for row in rows], **totals}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    points = [
        {
            "phase": row.phase,
            "batch": row.batch,
            "measured": row.measured_s * 1e3,
            "simulated": row.predicted_s * 1e3,
        }
        for row in rows
    ]
    agreement.chart(points, "step", "batch", "phase").save(str(folder / f"{name}.svg"))


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=tuple(FAMILIES), default="llama")
    parser.add_argument("--store", type=Path, help="folder of a collection; made if it has none")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of collecting")
    parser.add_argument("--model-slices", action="store_true", help="add the model's own shapes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    config = configuration(options.model, options.device)
    store = options.store or Path(tempfile.mkdtemp(prefix="own_machine_"))
    if not device_files(store):
        models = [from_config(config, "test model")] if options.model_slices else []
        report = collect(
            options.device,
            store,
            name=NAME,
            families=FAMILIES[options.model],
            budget_s=options.budget,
            models=models,
            progress=lambda share, text: print(
                f"\r{share:4.0%} {text[:90]:90}", end="", file=sys.stderr
            ),
        )
        print(file=sys.stderr)
        for family, found in report.families.items():
            print(f"{family}: {found}", file=sys.stderr)
        # The collector's pool goes before the model comes.
        gc.collect()
        time.sleep(SETTLE_S)
    rows = compare(options.device, store, config)
    totals = summary(rows)
    show(rows, totals)
    save(rows, totals, options.output, f"accuracy_own_machine_{options.device}_{options.model}")


if __name__ == "__main__":
    main()
