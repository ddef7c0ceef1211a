"""Interpolation in measured tables: known answers, exact nodes, edges, holes, slices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perfmodel.database.grid import RatioTable, Rows

FloatArray = NDArray[np.float64]
NO_SLICE = np.zeros(1, dtype=np.intp)

axis = st.lists(st.integers(1, 10_000), min_size=1, max_size=5, unique=True).map(sorted)
ratios = st.floats(1.0, 2.9)  # closer together than an outlier and its neighbours


def table(points: list[tuple[float, ...]], values: list[float]) -> RatioTable:
    rows = Rows(np.zeros((len(points), 0)), np.array(points, dtype=float), np.array(values))
    return RatioTable.build(rows, [])


def at(grid: RatioTable, *point: float) -> tuple[float, bool]:
    ratio, inside = grid.lookup(NO_SLICE, [np.array([value]) for value in point])
    return float(ratio[0]), bool(inside[0])


@st.composite
def full_grids(draw: st.DrawFn) -> tuple[list[list[int]], list[tuple[int, ...]], list[float]]:
    axes = [draw(axis) for _ in range(draw(st.integers(1, 3)))]
    points = list(product(*axes))
    return axes, points, [draw(ratios) for _ in points]


@settings(deadline=None)  # a busy machine is no failure
@given(full_grids())
def test_nodes_are_reproduced(
    grid: tuple[list[list[int]], list[tuple[int, ...]], list[float]],
) -> None:
    _, points, values = grid
    built = table(points, values)
    for point, value in zip(points, values, strict=True):
        ratio, inside = at(built, *point)
        assert ratio == pytest.approx(value, rel=1e-9)
        assert inside


@given(full_grids(), st.data())
def test_between_nodes_the_ratio_stays_within_them(
    grid: tuple[list[list[int]], list[tuple[int, ...]], list[float]], data: st.DataObject
) -> None:
    axes, points, values = grid
    point = [data.draw(st.floats(0.1 * a[0], 10 * a[-1])) for a in axes]
    ratio, inside = at(table(points, values), *point)
    assert min(values) * (1 - 1e-9) <= ratio <= max(values) * (1 + 1e-9)
    within = all(
        a[0] * (1 - 1e-9) <= x <= a[-1] * (1 + 1e-9) for a, x in zip(axes, point, strict=True)
    )
    assert inside == within


def test_halfway_in_octaves_is_the_geometric_mean() -> None:
    built = table([(1,), (4,)], [2.0, 8.0])
    assert at(built, 2) == (pytest.approx(4.0), True)
    assert at(built, 2**0.5)[0] == pytest.approx(2.0 * 4.0**0.25)


def test_a_power_law_is_exact_everywhere_inside() -> None:
    points = list(product([1, 8, 64], [16, 128]))
    built = table(points, [m**0.5 * n**-0.25 for m, n in points])
    for m, n in product([1.7, 8, 33], [16, 50, 100]):
        assert at(built, m, n)[0] == pytest.approx(m**0.5 * n**-0.25)


@given(full_grids(), st.floats(1.0, 1000.0))
def test_outside_the_hull_the_edge_ratio_is_held(
    grid: tuple[list[list[int]], list[tuple[int, ...]], list[float]], factor: float
) -> None:
    axes, points, values = grid
    built = table(points, values)
    top, bottom = [a[-1] for a in axes], [a[0] for a in axes]
    assert at(built, *(x * factor for x in top))[0] == pytest.approx(at(built, *top)[0])
    assert at(built, *(x / factor for x in bottom))[0] == pytest.approx(at(built, *bottom)[0])


def test_the_hull_edge_is_continuous_and_flagged() -> None:
    built = table([(1,), (2,), (8,)], [3.0, 5.0, 4.0])
    assert at(built, 8 * (1 - 1e-7))[0] == pytest.approx(at(built, 8 * (1 + 1e-7))[0], rel=1e-5)
    assert at(built, 8)[1]
    assert not at(built, 8.1)[1]
    assert not at(built, 0.9)[1]


@given(full_grids(), st.data())
def test_every_point_of_the_hull_edge_is_approached_from_both_sides(
    grid: tuple[list[list[int]], list[tuple[int, ...]], list[float]], data: st.DataObject
) -> None:
    axes, points, values = grid
    built = table(points, values)
    edge = [data.draw(st.floats(a[0], a[-1])) for a in axes]
    d = data.draw(st.integers(0, len(axes) - 1))
    edge[d] = data.draw(st.sampled_from([axes[d][0], axes[d][-1]]))
    step = np.array([1.0 - 1e-9, 1.0 + 1e-9])
    ratio, _ = built.lookup(
        NO_SLICE, [x * step if i == d else np.full(2, x) for i, x in enumerate(edge)]
    )
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-4)


def test_a_hole_between_measurements_is_inside_and_interpolated() -> None:
    points = [p for p in product([1, 2, 4], [1, 2, 4]) if p != (2, 2)]
    built = table(points, [float(m * n) for m, n in points])
    assert at(built, 2, 2) == (pytest.approx(4.0), True)


def test_a_missing_corner_is_filled_by_the_nearest_and_outside() -> None:
    points = [p for p in product([1, 2, 4], [1, 2, 4]) if p != (4, 4)]
    built = table(points, [float(m * n) for m, n in points])
    ratio, inside = at(built, 4, 4)
    assert ratio == pytest.approx(8.0)
    assert not inside
    assert not at(built, 3, 3)[1]
    assert at(built, 1.5, 1.5)[1]
    assert at(built, 4, 2)[1]


def test_a_jump_at_one_size_is_carried_over_to_a_hole_from_its_neighbours() -> None:
    # A step in m that every n shows; half of it would be lost on the line along m.
    step = {1.0: 1.0, 2.0: 1.0, 3.0: 2.0, 4.0: 2.0, 8.0: 2.0}
    ns = [1.0, 2.0, 4.0, 8.0, 16.0]
    whole = {(m, n): r * n**0.1 for m, r in step.items() for n in ns}
    known = {point: value for point, value in whole.items() if point != (3.0, 4.0)}
    built = table(list(known), list(known.values()))
    assert at(built, 3, 4) == (pytest.approx(whole[3.0, 4.0], rel=1e-3), True)


def test_a_jump_along_the_diagonal_is_followed_at_a_hole() -> None:
    # A kernel changes where the work of a * b does: every line along an axis cuts the step.
    sides = [float(2**i) for i in range(8)]
    whole = {(a, b): 1.5 if a * b == 128 else 1.0 for a, b in product(sides, sides)}
    known = {point: value for point, value in whole.items() if point != (8.0, 16.0)}
    built = table(list(known), list(known.values()))
    assert at(built, 8, 16) == (pytest.approx(1.5, rel=1e-3), True)


def test_one_disturbed_measurement_moves_the_hole_beside_it_little() -> None:
    sides = [float(2**i) for i in range(8)]
    values = {point: 1.0 for point in product(sides, sides) if point != (8.0, 8.0)}
    values[8.0, 16.0] = 2.5
    built = table(list(values), list(values.values()))
    # The line through it would lie at 2.5**0.5.
    assert 1.0 <= at(built, 8, 8)[0] < 1.2


def test_a_jump_of_another_format_is_carried_over_to_a_hole() -> None:
    def jumping(key: float, points: list[float], level: float) -> Rows:
        # Each slice jumps at a place of its own: only its relative knows where.
        jumps = {1.0: 4, 2.0: 9, 4.0: 6, 8.0: 12}
        values = [level * (1.0 if np.log2(x) < jumps[key] else 1.6) for x in points]
        return Rows(np.full((len(points), 1), key), np.array(points)[:, None], np.array(values))

    def joined(parts: list[Rows]) -> Rows:
        return Rows(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.coordinates for part in parts]),
            np.concatenate([part.ratio for part in parts]),
        )

    axis = [float(2**i) for i in range(16)]
    keys = [1.0, 2.0, 4.0, 8.0]
    own = joined([jumping(k, [x for x in axis if k != 2.0 or x != 2.0**9], 1.0) for k in keys])
    other = joined([jumping(k, axis, 3.0) for k in keys])
    built = RatioTable.build(own, [1.0], relatives=[other])
    ratio, inside = built.lookup(np.array([1]), [np.array([2.0**9])])
    assert ratio[0] == pytest.approx(1.6, rel=0.01)
    assert inside[0]


def test_relatives_say_how_a_slice_goes_on_past_its_end() -> None:
    def rows(sizes: int, level: float) -> Rows:
        x = 2.0 ** np.arange(sizes)
        return Rows(np.ones((sizes, 1)), x[:, None], level * (1.0 + np.arange(sizes) % 2))

    last = Rows(np.full((1, 1), 2.0), np.array([[256.0]]), np.ones(1))  # the grid reaches so far
    own = rows(6, 1.0)
    own = Rows(*(np.concatenate([getattr(own, n), getattr(last, n)]) for n in vars(own)))
    for relatives, expected in (([], 2.0), ([rows(10, 3.0)], 1.0)):
        built = RatioTable.build(own, [1.0], relatives=relatives)
        ratio, inside = built.lookup(np.array([0]), [np.array([256.0])])
        assert ratio[0] == pytest.approx(expected, rel=0.05)
        assert not inside[0]


def test_beside_a_disturbed_measurement_a_relative_keeps_its_usual_distance() -> None:
    i, x = np.arange(16), 2.0 ** np.arange(16.0)
    steps = 1.0 + 0.2 * (i * 5 % 7 > 2)
    disturbed = np.where(i == 6, 1.8, 1.0) * steps
    kept = i != 7
    keys = np.append(np.ones(15), 9.0)[:, None]  # another slice keeps the hole on the grid
    own = Rows(keys, np.append(x[kept], x[7])[:, None], np.append(disturbed[kept], 1.0))
    other = Rows(np.ones((16, 1)), x[:, None], 3.0 * steps)
    built = RatioTable.build(own, [1.0], relatives=[other])
    # The line through the disturbed one, with the other's step on it, would lie at 1.8**0.5.
    ratio, inside = built.lookup(np.array([0]), [x[7:8]])
    assert ratio[0] == pytest.approx(steps[7], rel=0.02)
    assert inside[0]


def test_other_tables_are_asked_where_holes_are_many() -> None:
    x = 2.0 ** np.arange(100.0)
    asked = []

    def others() -> list[Rows]:
        asked.append(True)
        return []

    for holes, expected in ((0, 0), (1, 0), (10, 1)):
        asked.clear()
        kept = np.delete(x, 5 + 7 * np.arange(holes))
        keys, points = np.repeat([1.0, 2.0], [len(kept), len(x)]), np.concatenate([kept, x])
        rows = Rows(keys[:, None], points[:, None], np.ones(len(points)))
        RatioTable.build(rows, [1.0], others=others)
        assert len(asked) == expected


def test_relatives_off_the_grid_are_ignored() -> None:
    points = np.array([[1.0], [2.0], [8.0]])
    own = Rows(np.ones((3, 1)), points, np.array([1.0, 2.0, 3.0]))
    off = Rows(np.full((3, 1), 5.0), points * 3.0, np.array([9.0, 9.0, 9.0]))
    alone, beside = (RatioTable.build(own, [1.0], relatives=r) for r in ([], [off]))
    assert np.array_equal(alone.log_ratio, beside.log_ratio)


def test_a_similar_slice_is_read_where_it_does_the_same_work() -> None:
    # Steps at key * x = 2**12; with a shift of one, the other slice knows where.
    axis = [float(2**i) for i in range(16)]
    keys = [float(2**i) for i in range(5)]
    cells = [(k, x) for k, x in product(keys, axis) if (k, x) != (4.0, 1024.0)]
    rows = Rows(
        np.array([[k] for k, _ in cells]),
        np.array([[x] for _, x in cells]),
        np.array([1.5 if k * x == 4096.0 else 1.0 for k, x in cells]),
    )
    built = RatioTable.build(rows, [1.0], shifts=np.ones((1, 1)))
    assert built.lookup(np.array([2]), [np.array([1024.0])])[0][0] == pytest.approx(1.5, rel=1e-3)


@given(full_grids(), st.data())
def test_holes_keep_the_other_nodes_and_invent_no_new_extremes(
    grid: tuple[list[list[int]], list[tuple[int, ...]], list[float]], data: st.DataObject
) -> None:
    _, points, values = grid
    kept = [data.draw(st.booleans()) for _ in points]
    kept[0] = True
    left = [v for v, k in zip(values, kept, strict=True) if k]
    built = table([p for p, k in zip(points, kept, strict=True) if k], left)
    for point, value, keep in zip(points, values, kept, strict=True):
        ratio, inside = at(built, *point)
        if keep:
            assert ratio == pytest.approx(value, rel=1e-9)
            assert inside
        assert min(left) * (1 - 1e-9) <= ratio <= max(left) * (1 + 1e-9)


def test_repeated_rows_count_once_by_their_median() -> None:
    built = table([(1,), (1,), (1,), (2,)], [2.0, 3.0, 100.0, 5.0])
    assert at(built, 1)[0] == pytest.approx(3.0)


def test_one_point_serves_everywhere() -> None:
    built = table([(16,)], [2.5])
    assert at(built, 16) == (pytest.approx(2.5), True)
    assert at(built, 4000) == (pytest.approx(2.5), False)


def test_a_zero_coordinate_is_a_category_of_its_own() -> None:
    built = table([(0,), (1,), (2,)], [2.0, 4.0, 8.0])
    assert at(built, 0) == (pytest.approx(2.0), True)


NO_SHIFT = np.zeros((1, 1))


def blended(
    built: RatioTable, key: float, at: float, shifts: FloatArray = NO_SHIFT
) -> tuple[float, bool]:
    blend = built.blend(np.array([[key]]), shifts)
    ratio, inside = built.lookup_blend(blend, [np.array([[at]])])
    return ratio.item(), bool(inside.item())


def sliced(keys: list[float], values: dict[float, list[float]], axis: list[float]) -> RatioTable:
    rows = Rows(
        np.repeat(keys, len(axis))[:, None],
        np.array(axis * len(keys))[:, None],
        np.array([values[key][i] for key in keys for i in range(len(axis))]),
    )
    return RatioTable.build(rows, [1.0])


@given(
    st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True),
    st.data(),
)
def test_slices_are_exact_and_a_blend_stays_within_them(
    keys: list[int], data: st.DataObject
) -> None:
    axis = [1.0, 4.0, 32.0]
    values = {float(k): [data.draw(ratios) for _ in axis] for k in keys}
    built = sliced([float(k) for k in keys], values, axis)
    for key, row in values.items():
        for x, value in zip(axis, row, strict=True):
            assert blended(built, key, x) == (pytest.approx(value, rel=1e-9), True)
    every = [v for row in values.values() for v in row]
    key, x = data.draw(st.floats(0.5, 1000.0)), data.draw(st.floats(0.5, 64.0))
    ratio, _ = blended(built, key, x)
    assert min(every) * (1 - 1e-9) <= ratio <= max(every) * (1 + 1e-9)


def test_halfway_between_two_slices_is_their_geometric_mean_and_not_measured() -> None:
    built = sliced([2.0, 8.0], {2.0: [2.0, 2.0], 8.0: [8.0, 8.0]}, [1.0, 4.0])
    assert blended(built, 4.0, 2.0) == (pytest.approx(4.0), False)
    assert blended(built, 2.0 * (1 + 1e-6), 2.0)[0] == pytest.approx(2.0, rel=1e-6)


def ragged(values: dict[float, dict[float, float]]) -> RatioTable:
    rows = [(key, x, v) for key, row in values.items() for x, v in row.items()]
    key, x, v = np.array(rows).T
    return RatioTable.build(Rows(key[:, None], x[:, None], v), [1.0])


def test_a_slice_that_broke_off_at_once_is_blended_from_its_neighbours() -> None:
    axis = [float(4**i) for i in range(8)]
    whole = {2.0: dict.fromkeys(axis, 2.0), 8.0: dict.fromkeys(axis, 8.0)}
    built = ragged(whole | {4.0: {1.0: 1.0}})
    for x in (1.0, 16.0, axis[-1]):
        assert blended(built, 4.0, x) == (pytest.approx(4.0), False)
        assert blended(built, 2.0, x) == (pytest.approx(2.0), True)


def test_a_slice_that_ends_a_little_early_or_has_many_points_stays() -> None:
    axis = [float(2**i) for i in range(13)]
    whole = {2.0: dict.fromkeys(axis, 2.0), 8.0: dict.fromkeys(axis, 8.0)}
    for early in ([128.0], [*axis[:6], 40.0]):  # 5 octaves; 6.7 octaves, but half the points
        built = ragged(whole | {4.0: dict.fromkeys(early, 3.0)})
        assert blended(built, 4.0, early[-1]) == (pytest.approx(3.0), True)


def test_of_slices_that_are_all_short_none_is_left_out() -> None:
    keys = np.array([[1.0], [2.0]])
    coordinates = np.array([[1.0, 2.0**20], [2.0**20, 1.0]])
    built = RatioTable.build(Rows(keys, coordinates, np.array([2.0, 3.0])), [1.0])
    assert len(built.keys) == 2


def test_a_slice_is_read_where_it_does_the_same_work() -> None:
    # Ratios that depend on key * x alone: with a shift of one they carry over exactly.
    axis = [float(2**i) for i in range(8)]
    values = {k: [1.0 + np.log2(k * x) / 10.0 for x in axis] for k in (1.0, 4.0)}
    built = sliced([1.0, 4.0], values, axis)
    similar = np.ones((1, 1))
    assert blended(built, 2.0, 8.0, similar)[0] == pytest.approx(1.0 + np.log2(16.0) / 10.0)


def test_rows_with_and_without_a_slice_of_their_own_mix_in_one_call() -> None:
    built = sliced([2.0, 8.0], {2.0: [2.0, 4.0], 8.0: [8.0, 16.0]}, [1.0, 4.0])
    blend = built.blend(np.array([[2.0], [4.0], [8.0]]), NO_SHIFT)
    whole = [[2.0, 4.0], [4.0, 8.0], [8.0, 16.0]]
    for at in (np.array([1.0, 4.0]), np.array([[1.0, 4.0]]), np.tile([1.0, 4.0], (3, 1))):
        ratio, inside = built.lookup_blend(blend, [at])
        assert ratio == pytest.approx(np.array(whole))
        assert inside.tolist() == [[True, True], [False, False], [True, True]]


def test_one_row_of_keys_serves_many_of_coordinates() -> None:
    built = sliced([2.0, 8.0], {2.0: [2.0, 4.0], 8.0: [8.0, 16.0]}, [1.0, 4.0])
    ratio, _ = built.lookup_blend(
        built.blend(np.array([[4.0]]), NO_SHIFT), [np.array([[1.0], [4.0], [2.0]])]
    )
    assert ratio == pytest.approx(np.array([[4.0], [8.0], [32.0**0.5]]))


@settings(deadline=None)  # a busy machine is no failure
@given(full_grids())
def test_a_slice_does_not_leak_into_another(
    grid: tuple[list[list[int]], list[tuple[int, ...]], list[float]],
) -> None:
    _, points, values = grid
    alone = table(points, values)
    rows = Rows(
        np.repeat([[1.0], [2.0]], len(points), axis=0),
        np.array(points * 2, dtype=float),
        np.array(values + [v * 7 for v in values]),
    )
    twice = RatioTable.build(rows, [1.0])
    for point in points:
        coordinates = [np.array([float(x)]) for x in point]
        both, _ = twice.lookup(np.array([0, 1]), coordinates)
        assert both == pytest.approx([at(alone, *point)[0], 7 * at(alone, *point)[0]])


def test_lookup_broadcasts_slices_and_coordinates() -> None:
    keys = np.array([[1.0], [1.0], [2.0], [2.0]])
    coordinates = np.array([[1.0], [4.0], [1.0], [4.0]])
    built = RatioTable.build(Rows(keys, coordinates, np.array([1.0, 2.0, 3.0, 4.0])), [1.0])
    ratio, inside = built.lookup(np.array([[0], [1]]), [np.array([[1.0, 4.0, 8.0]])])
    assert ratio == pytest.approx(np.array([[1.0, 2.0, 2.0], [3.0, 4.0, 4.0]]))
    assert inside.tolist() == [[True, True, False]] * 2
    assert built.floor(0) == 1.0


def test_a_point_far_above_both_neighbours_is_taken_for_an_outlier() -> None:
    points = [(1.0,), (2.0,), (4.0,), (8.0,)]
    spiked = table(points, [2.0, 20.0, 2.0, 2.0])
    assert at(spiked, 2)[0] == pytest.approx(2.0)
    rising = table(points, [2.0, 5.0, 20.0, 2.0])
    assert at(rising, 2)[0] == pytest.approx(5.0)
    edge = table(points, [20.0, 2.0, 2.0, 2.0])
    assert at(edge, 1)[0] == pytest.approx(20.0)
