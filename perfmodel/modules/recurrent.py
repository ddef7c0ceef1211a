"""A recurrent layer in attention's place: projections, short convolution, scan, gated norm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perfmodel.architecture import LayerGroup, Recurrent
from perfmodel.errors import InputError
from perfmodel.layout import Layouts
from perfmodel.modules.attention import input_norm
from perfmodel.modules.base import LAYER, Call, ModuleKit, Shapes, rank_tokens, where_present
from perfmodel.operators import OperatorTime
from perfmodel.operators.base import Number
from perfmodel.precision import ACTIVATION_BYTES
from perfmodel.work import StepWork

Shape = dict[str, Number]


def recurrent(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """A gated delta net or Mamba-2 layer; its heads are split by tensor parallelism.

    Raises:
        InputError: a layout with context parallelism, which no engine has for a recurrence.
    """
    mixer, hidden = group.attention, kit.model.hidden
    assert isinstance(mixer, Recurrent)
    if (layouts.cp_a > 1).any():
        raise InputError(
            f"{kit.model.name}: recurrent layers take a sequence whole; "
            "context parallelism must be 1"
        )
    shapes = Shapes(layouts, "tp_a")
    tp = shapes["tp_a"]
    tokens = rank_tokens(work, np.ones_like(tp))
    keys, values = mixer.key_heads_on_device(tp), mixer.heads / tp
    channels = 2.0 * keys * mixer.key_dim + values * mixer.head_dim
    width = values * mixer.head_dim
    heads = (
        {"k_heads": keys, "k_dim": mixer.key_dim, "v_heads": values, "v_dim": mixer.head_dim}
        if mixer.kind == "gated_delta_net"
        else {"heads": values, "head_dim": mixer.head_dim, "state": mixer.key_dim, "groups": keys}
    )
    columns = {name: np.asarray(value, dtype=float) + 0.0 * tp for name, value in heads.items()}
    delta = mixer.kind == "gated_delta_net"
    convolution = kit.ops.delta_convolution if delta else kit.ops.mamba_convolution
    scan = kit.ops.delta_scan if delta else kit.ops.mamba_scan

    def call(name: str, time: OperatorTime) -> Call:
        return Call(name, "attention", LAYER, g, time, shapes.index)

    yield input_norm(kit, g, layouts, work)
    inputs = channels + width + (0.0 if delta else mixer.gates * values)
    yield call("recurrent_in_proj", kit.gemm("attention", tokens, inputs, hidden))
    if delta:
        # Narrow, and bf16 in every checkpoint: a product of its own.
        gates = {"m": tokens, "n": mixer.gates * values, "k": np.asarray(float(hidden))}
        yield call("recurrent_gates", kit.ops.gemm.time({"dtype": "bf16"}, gates))
    phases = (
        ("context", work.prefill_sequences, work.prefill_tokens),
        ("generation", work.decode_sequences, work.decode_tokens),
    )
    for phase, sequences, new in phases:
        if not sequences.any():
            continue
        lengths = {"batch": np.maximum(sequences, 1.0), "tokens": np.maximum(new, 1.0)}
        labels = {"phase": phase, "dtype": "bf16"}
        taps: Shape = {"channels": channels, "conv_width": float(mixer.conv_width)}
        time = convolution.time({**labels, "operation": "conv"}, {**taps, **lengths})
        yield call(f"{phase}_convolution", where_present(sequences > 0, time))
        state: Shape = {"state_element_bytes": float(mixer.state_element_bytes)}
        time = scan.time({**labels, "operation": "scan"}, {**columns, **lengths, **state})
        yield call(f"{phase}_scan", where_present(sequences > 0, time))
    yield call("gated_norm", kit.memory_pass(tokens * width * 3 * ACTIVATION_BYTES))
    yield call("output_proj", kit.gemm("attention", tokens, hidden, width))
