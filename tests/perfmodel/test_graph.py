import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.graph import COMMUNICATION, COMPUTE, HOST, IDLE, Node, repeat, run


def chain(*seconds, stream=COMPUTE, lane="a"):
    return [Node(f"{lane}{i}", stream, lane, s) for i, s in enumerate(seconds)]


def test_a_chain_on_one_stream_takes_the_sum():
    timeline = run(chain(1.0, 2.0, 4.0))
    assert timeline.makespan == 7.0
    assert [float(s) for s in timeline.start] == [0.0, 1.0, 3.0]


def test_a_chain_over_two_streams_takes_the_sum_too():
    nodes = [
        Node("qkv", COMPUTE, "a", 3.0),
        Node("all_reduce", COMMUNICATION, "a", 2.0),
        Node("ffn", COMPUTE, "a", 5.0),
    ]
    assert run(nodes).makespan == 10.0


def test_a_branch_runs_beside_the_chain_and_is_joined():
    nodes = [
        Node("router", COMPUTE, "a", 1.0),
        Node("dispatch", COMMUNICATION, "a", 4.0),
        Node("shared", COMPUTE, "shared", 3.0, joins=("a",)),
        Node("experts", COMPUTE, "a", 2.0, joins=("shared",)),
    ]
    # `shared` joins the lane after the dispatch: it waits for it.
    assert run(nodes).makespan == 10.0
    nodes[1], nodes[2] = nodes[2], nodes[1]
    timeline = run(nodes)
    # Launched before it, it runs beside it.
    assert [float(e) for e in timeline.end] == [1.0, 4.0, 5.0, 7.0]


def test_two_micro_batches_hide_each_others_communication():
    """By hand: compute 1 and 2, communication 2 and 1, two micro-batches.

    compute        A1 . B1 ......... A3-5 B5-7
    communication     A1-3 B3-5         A5-6 B7-8
    """
    nodes = [
        Node("A.attention", COMPUTE, "A", 1.0),
        Node("A.dispatch", COMMUNICATION, "A", 2.0),
        Node("B.attention", COMPUTE, "B", 1.0),
        Node("B.dispatch", COMMUNICATION, "B", 2.0),
        Node("A.experts", COMPUTE, "A", 2.0),
        Node("A.combine", COMMUNICATION, "A", 1.0),
        Node("B.experts", COMPUTE, "B", 2.0),
        Node("B.combine", COMMUNICATION, "B", 1.0),
    ]
    timeline = run(nodes)
    assert [float(e) for e in timeline.end] == [1.0, 3.0, 2.0, 5.0, 5.0, 6.0, 7.0, 8.0]
    assert timeline.makespan == 8.0
    assert timeline.busy(COMPUTE) == timeline.busy(COMMUNICATION) == 6.0
    # Layer upon layer the streams take 6 each, and neither fills the other's gaps wholly.
    repetition = repeat(nodes, 50)
    assert len(repetition.ends) < 5
    assert repetition.period_s >= 6.0
    assert repetition.after(50) == pytest.approx(full(nodes, 50))


def test_a_host_that_launches_slowly_sets_the_pace():
    def launched(count, launch_s, kernel_s):
        nodes = []
        for i in range(count):
            nodes.append(Node(f"launch{i}", HOST, "host", launch_s))
            nodes.append(Node(f"kernel{i}", COMPUTE, "a", kernel_s, joins=("host",)))
        return nodes

    assert run(launched(10, 5.0, 2.0)).makespan == 52.0
    assert run(launched(10, 2.0, 5.0)).makespan == 52.0
    # A captured graph is launched once.
    captured = [Node("launch", HOST, "host", 5.0), *launched(10, 0.0, 2.0)]
    assert run(captured).makespan == 25.0


@given(
    stages=st.lists(st.floats(0.1, 10), min_size=1, max_size=6),
    batches=st.integers(1, 8),
)
def test_a_pipeline_is_filled_once_and_then_runs_at_its_slowest_stage(stages, batches):
    """`sum + (m - 1) max`: the makespan of m equal jobs in a permutation flow shop."""
    nodes = [
        Node(f"{s}.{m}", f"stage{s}", f"batch{m}", seconds)
        for m in range(batches)
        for s, seconds in enumerate(stages)
    ]
    expected = sum(stages) + (batches - 1) * max(stages)
    assert run(nodes).makespan == pytest.approx(expected)


@given(stages=st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
def test_as_many_micro_batches_as_stages_come_round_every_so_many_paces(stages):
    """Decode: a micro-batch's next token waits for all stages; `phases.decode` says pp paces."""
    count = len(stages)
    nodes = [
        Node(f"{s}.{m}", f"stage{s}", f"batch{m}", seconds)
        for m in range(count)
        for s, seconds in enumerate(stages)
    ]
    assert repeat(nodes, 40).period_s == pytest.approx(count * max(stages))


def full(nodes, count):
    return run(list(nodes) * count).makespan


seconds = st.floats(0.01, 10.0)


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 10))
    streams, lanes = [COMPUTE, COMMUNICATION, HOST], ["A", "B", "C"]
    return [
        Node(
            str(i),
            draw(st.sampled_from(streams)),
            draw(st.sampled_from(lanes)),
            np.array(draw(st.lists(seconds, min_size=2, max_size=2))),
            tuple(draw(st.lists(st.sampled_from(lanes), max_size=2, unique=True))),
        )
        for i in range(size)
    ]


@given(graph=graphs(), count=st.integers(1, 40))
def test_what_is_repeated_ends_when_it_ends_node_by_node(graph, count):
    expected = full(graph, count)
    assert repeat(graph, count).after(count) == pytest.approx(expected, rel=1e-6)


@given(graph=graphs())
def test_bounds_and_order(graph):
    timeline = run(graph)
    for stream in (COMPUTE, COMMUNICATION, HOST):
        assert np.all(timeline.makespan >= timeline.busy(stream) * (1 - 1e-12))
    for lane in "ABC":
        work = sum((n.seconds for n in graph if n.lane == lane), np.zeros(2))
        assert np.all(timeline.makespan >= work * (1 - 1e-12))
    total = sum((n.seconds for n in graph), np.zeros(2))
    assert np.all(timeline.makespan <= total * (1 + 1e-12))


@given(graph=graphs(), slower=st.integers(0, 9), factor=st.floats(1.0, 3.0))
def test_a_slower_operator_never_ends_a_graph_sooner(graph, slower, factor):
    at = slower % len(graph)
    node = graph[at]
    changed = list(graph)
    changed[at] = Node(node.name, node.stream, node.lane, node.seconds * factor, node.joins)
    assert np.all(run(changed).makespan >= run(graph).makespan)


def test_nothing_takes_no_time():
    assert run([]).makespan == 0.0
    assert IDLE.end == 0.0
    assert repeat([], 3).after(3) == 0.0
    assert repeat(chain(1.0), 0).after(0) == 0.0
