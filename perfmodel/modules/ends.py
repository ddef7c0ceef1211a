"""The ends of the pipeline, and what passes between its stages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perfmodel.layout import Layouts
from perfmodel.modules.base import BOUNDARY, EMBEDDING, HEAD, Call, ModuleKit, Shapes, rank_tokens
from perfmodel.operators import Group
from perfmodel.precision import ACTIVATION_BYTES
from perfmodel.work import StepWork


def ends(kit: ModuleKit, layouts: Layouts, work: StepWork) -> Iterator[Call]:
    """Embedding, LM head, and the activations sent from stage to stage."""
    hidden, vocab = kit.model.hidden, kit.model.vocab
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tp = Group(shapes["tp_a"], np.ones_like(shapes["tp_a"]))
    tokens = rank_tokens(work, shapes["cp_a"])
    collectives = kit.ops.collectives
    embedding = kit.memory_pass(tokens * hidden * 2 * ACTIVATION_BYTES)
    yield Call("embedding", "ends", EMBEDDING, 0, embedding, shapes.index)
    reduce = collectives.all_reduce(tp, tokens * hidden * ACTIVATION_BYTES)
    yield Call("embedding_all_reduce", "communication", EMBEDDING, 0, reduce, shapes.index)
    sampled = np.maximum(work.sampled, 1.0) + 0 * shapes["tp_a"]
    head = kit.gemm("lm_head", sampled, vocab / shapes["tp_a"], hidden)
    yield Call("lm_head", "ends", HEAD, 0, head, shapes.index)
    logits = collectives.all_gather(tp, sampled * vocab * ACTIVATION_BYTES)
    yield Call("logits_all_gather", "communication", HEAD, 0, logits, shapes.index)
    if (layouts.pp > 1).any():
        # The slowest boundary sets the pace: a pipeline larger than a link's domain leaves it
        # somewhere. Latency counts that boundary for every stage, so it is an upper bound.
        at = Shapes(layouts, "world", "cp_a")
        tokens = rank_tokens(work, at["cp_a"])
        send = collectives.send(at["world"] - 1, tokens * hidden * ACTIVATION_BYTES)
        yield Call("pipeline_send", "communication", BOUNDARY, 0, send, at.index)


def draft_projection(kit: ModuleKit, layouts: Layouts, work: StepWork) -> Iterator[Call]:
    """What joins a hidden state and an embedding: norms of both, and a bf16 product.

    Engines do not split it over tensor parallelism.
    """
    hidden = kit.model.hidden
    shapes = Shapes(layouts, "cp_a")
    tokens = rank_tokens(work, shapes["cp_a"])
    yield Call("input_projection_norms", "ends", HEAD, 0, kit.norm(tokens), shapes.index)
    product = kit.ops.gemm.time({"dtype": "bf16"}, {"m": tokens, "n": hidden, "k": 2.0 * hidden})
    yield Call("input_projection", "ends", HEAD, 0, product, shapes.index)
