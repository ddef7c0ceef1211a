"""What a model is made of, as text for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfmodel.architecture import Attention, LayerGroup, ModelArchitecture
from perfmodel.units import format_parameters


def print_model(model: ModelArchitecture, console: Console) -> None:
    """Print a model's layers by shape, its weights by module, and its notes."""
    console.print(Text(model.name, style="bold"))
    console.print(
        Text(
            f"{format_parameters(model.parameters())} parameters, "
            f"{format_parameters(model.active_parameters())} active; {model.layers} layers, "
            f"hidden size {model.hidden:,}, vocabulary {model.vocab:,}, "
            f"context to {model.max_context_tokens:,} tokens; weights {model.quantization}"
        )
    )
    console.print()
    console.print(_layers(model))
    console.print()
    console.print(_weights(model))
    if (vision := model.vision) is not None:
        windows = f", {vision.windowed_layers} of them windowed" if vision.windowed_layers else ""
        console.print(
            Text(
                f"\nvision encoder: {vision.layers} layers{windows}, "
                f"hidden size {vision.hidden:,}, {vision.heads} heads of {vision.head_dim}, "
                f"networks {vision.intermediate:,} wide, "
                f"{vision.patches_per_token} patches per token"
            )
        )
    for note in model.notes:
        console.print(Text(f"\n{note}"))


def _layers(model: ModelArchitecture) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, justify in (("layers", "right"), ("attention", "left"), ("network", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    for group in model.groups:
        table.add_row(str(group.count), _mixer(group), _network(group))
    return table


def _mixer(group: LayerGroup) -> str:
    mixer = group.attention
    if not isinstance(mixer, Attention):
        return f"{mixer.kind.replace('_', ' ')}, {mixer.heads} heads of {mixer.head_dim}"
    text = f"{mixer.kind}, {mixer.heads} heads of {mixer.head_dim}"
    text += f", {mixer.kv_heads} KV heads" if mixer.kind == "gqa" else " (latent cache)"
    if mixer.window_tokens:
        text += f", {mixer.window_kind} window of {mixer.window_tokens:,}"
    return text


def _network(group: LayerGroup) -> str:
    network = group.feed_forward
    if network.is_absent:
        return "none"
    if not network.is_moe:
        return f"dense, {network.intermediate:,} wide"
    text = f"{network.experts} experts {network.intermediate:,} wide, {network.top_k} per token"
    if network.shared_intermediate:
        text += f", shared ones {network.shared_intermediate:,} wide"
    return text


def _weights(model: ModelArchitecture) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("module", "weights", "format"):
        table.add_column(name, justify="right" if name == "weights" else "left")
    for module, count in model.parameters_by_module().items():
        if count:
            name = module.replace("_", " ")
            table.add_row(name, format_parameters(count), model.weight_format(module))
    return table
