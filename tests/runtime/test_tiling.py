"""Where tiles lie, how they are weighted, and that blending gives back what went in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.compute.box import Box
from flare_runtime.pipeline.tiling import Blend, TileGrid, gaussian_profile, padded_shape, tile_starts

STEPS = st.sampled_from([0.25, 0.3, 0.5, 0.7, 1.0])


@st.composite
def axes(draw, most=150):
    tile = draw(st.integers(1, 48))
    return draw(st.integers(tile, tile + most)), tile


@pytest.fixture(scope="module")
def nnunet():
    return pytest.importorskip("nnunetv2.inference.sliding_window_prediction")


@pytest.mark.parametrize(
    ("size", "tile", "step", "expected"),
    [
        (64, 64, 0.5, [0]),
        (110, 64, 0.5, [0, 23, 46]),  # nnU-Net's own example
        (96, 64, 0.5, [0, 32]),
        (97, 64, 0.5, [0, 16, 33]),  # 16.5 rounds half to even
        (99, 64, 0.5, [0, 18, 35]),  # 17.5 as well
        (10, 4, 1.0, [0, 3, 6]),
        (1, 1, 0.5, [0]),
    ],
)
def test_tile_starts(size, tile, step, expected):
    assert tile_starts(size, tile, step) == expected


@given(axis=axes(), step=STEPS)
def test_tile_starts_are_nnunets(nnunet, axis, step):
    size, tile = axis
    (theirs,) = nnunet.compute_steps_for_sliding_window((size,), (tile,), step)
    # A tile of one voxel would be computed at its place twice, for the same scores.
    assert tile_starts(size, tile, step) == (sorted(set(theirs)) if tile == 1 else theirs)


@given(axis=axes(), step=STEPS)
def test_tiles_cover_every_voxel_and_stay_inside(axis, step):
    size, tile = axis
    starts = tile_starts(size, tile, step)
    covered = np.zeros(size, int)
    for start in starts:
        covered[start : start + tile] += 1
    assert covered.min() >= 1
    assert (starts[0], starts[-1]) == (0, size - tile)
    assert starts == sorted(starts)


def test_a_grid_is_the_product_of_its_axes():
    grid = TileGrid.covering((6, 4, 5), (4, 4, 4), 0.5)
    assert grid.starts == ([0, 2], [0], [0, 1])
    assert len(grid) == 4
    assert [tuple((side.start, side.stop) for side in box) for box in grid] == [
        ((0, 4), (0, 4), (0, 4)),
        ((0, 4), (0, 4), (1, 5)),
        ((2, 6), (0, 4), (0, 4)),
        ((2, 6), (0, 4), (1, 5)),
    ]


@pytest.mark.parametrize(
    ("shape", "patch", "padded", "inner"),
    [
        ((10, 10, 10), (4, 4, 4), (10, 10, 10), (slice(0, 10),) * 3),
        ((3, 4, 7), (8, 8, 8), (8, 8, 8), (slice(2, 5), slice(2, 6), slice(0, 7))),
        ((1, 20, 2), (8, 8, 8), (8, 20, 8), (slice(3, 4), slice(0, 20), slice(3, 5))),
    ],
)
def test_padding_puts_the_odd_voxel_above(shape, patch, padded, inner):
    assert padded_shape(shape, patch) == padded
    assert Box.centred(shape, padded) == inner


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    patch=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
)
def test_padding_is_nnunets(shape, patch):
    padding = pytest.importorskip("acvl_utils.cropping_and_padding.padding")
    image = np.arange(1, np.prod(shape) + 1, dtype=float).reshape(1, *shape)
    expected, undo = padding.pad_nd_image(image, patch, "constant", {"constant_values": 0}, True)
    padded = padded_shape(shape, patch)
    ours = np.zeros((1, *padded))
    Box.centred(shape, padded).cut(ours)[...] = image
    np.testing.assert_array_equal(ours, expected)
    assert tuple(undo[1:]) == Box.centred(shape, padded)


@pytest.mark.parametrize("patch", [(16, 16, 16), (8, 15, 20), (1, 4, 9), (28, 128, 160)])
def test_weights_are_nnunets_gaussian(nnunet, patch):
    torch = pytest.importorskip("torch")
    expected = nnunet.compute_gaussian(
        tuple(patch), 1 / 8, value_scaling_factor=10, dtype=torch.float64, device=torch.device("cpu")
    ).numpy()
    z, y, x = (gaussian_profile(side) for side in patch)
    np.testing.assert_allclose(10 * z[:, None, None] * y[:, None] * x, expected, rtol=1e-9)


@pytest.mark.parametrize("tile", [1, 2, 5, 16, 33, 160])
def test_a_profile_peaks_with_one_at_the_middle_and_never_reaches_zero(tile):
    profile = gaussian_profile(tile)
    assert profile.shape == (tile,)
    assert profile.argmax() == tile // 2
    assert profile.max() == 1
    assert profile.min() > 0


def blend_of(grid, shape, tiles):
    blend = Blend(tiles[0].shape[0], shape, grid)
    for box, tile in zip(grid, tiles, strict=True):
        blend.add(box, tile.copy())
    return blend.mean()


@given(
    patch=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    more=st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12)),
    step=STEPS,
)
def test_tiles_cut_from_an_image_blend_back_to_it(patch, more, step):
    shape = tuple(p + m for p, m in zip(patch, more, strict=True))
    image = np.random.default_rng(sum(shape)).standard_normal((2, *shape)).astype(np.float32)
    grid = TileGrid.covering(shape, patch, step)
    mean = blend_of(grid, shape, [box.cut(image) for box in grid])
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, image, rtol=1e-5, atol=1e-5)


def test_disagreeing_tiles_are_averaged_by_weight():
    shape, patch = (13, 9, 21), (8, 6, 8)
    rng = np.random.default_rng(1)
    grid = TileGrid.covering(shape, patch, 0.5)
    tiles = [rng.standard_normal((3, *patch)).astype(np.float32) for _ in grid]
    z, y, x = (gaussian_profile(side) for side in patch)
    weight = z[:, None, None] * y[:, None] * x
    total, weights = np.zeros((3, *shape)), np.zeros(shape)
    for box, tile in zip(grid, tiles, strict=True):
        box.cut(total)[...] += weight * tile
        weights[box] += weight
    np.testing.assert_allclose(blend_of(grid, shape, tiles), total / weights, rtol=1e-4, atol=1e-5)


def test_two_tiles_along_one_axis_by_hand():
    # Tiles of 2 at 0 and 1 with weights w0 < w1 = 1: the middle voxel is (1 * a + w0 * b) / (1 + w0).
    grid = TileGrid.covering((1, 1, 3), (1, 1, 2), 0.5)
    assert grid.starts == ([0], [0], [0, 1])
    w0, w1 = gaussian_profile(2)
    assert w1 == 1
    tiles = [np.full((1, 1, 1, 2), value, np.float32) for value in (3, 6)]
    middle = (1 * 3 + w0 * 6) / (1 + w0)
    np.testing.assert_allclose(blend_of(grid, (1, 1, 3), tiles)[0, 0, 0], [3, middle, 6], rtol=1e-6)
