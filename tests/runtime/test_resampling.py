"""Everything nnU-Net's resampling does with images."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flare_runtime.model.manifest import Resampling
from flare_runtime.pipeline.resampling import Resizing, new_shape, resize_image, separate_axis
from tests.runtime.dense_matrices import dense

SIDES = st.integers(1, 40)
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 0.8, 1.0, 1.5, 2.0, 2.4, 2.5, 3.0, 5.0, 7.5])] * 3)


@pytest.fixture(scope="module")
def nnunet():
    return pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")


CUBIC = Resampling(order=3)


def resize(image, resizing):
    """Run `resize_image` on an array in memory."""
    out = np.empty(resizing.new_shape, np.float32)

    def read_slab(axis, part):
        sides = [slice(None)] * 3
        sides[axis] = part
        return image[tuple(sides)].astype(np.float32)

    resize_image(read_slab, resizing, out)
    return out


def smooth(shape, seed=0):
    """Noise with edges and a plateau: what makes a cubic spline overshoot."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal(shape)
    image[tuple(slice(n // 3, 2 * n // 3 + 1) for n in shape)] += 8
    return image.astype(np.float32)


# --- which shape, which axis


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "expected"),
    [
        ((10, 10, 10), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (5, 5, 5)),
        # 2.5, 3.5 and 0.5: half to even.
        ((5, 7, 1), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (2, 4, 0)),
        ((100, 512, 512), (5.0, 0.8, 0.8), (2.5, 0.8, 1.6), (200, 512, 256)),
    ],
)
def test_new_shape_rounds_half_to_even(shape, spacing, target, expected):
    assert new_shape(shape, spacing, target) == expected


def test_new_shape_divides_before_it_multiplies():
    # 0.6 / 0.8 * 10 is 7.499999999999999 in float64, 0.6 * 10 / 0.8 is 7.5, which would round to 8.
    assert new_shape((10, 1, 33), (0.6, 1.0, 0.5), (0.8, 1.0, 2.2)) == (7, 1, 8)


@given(shape=st.tuples(SIDES, SIDES, SIDES), spacing=SPACINGS, target=SPACINGS)
def test_new_shape_is_nnunets(nnunet, shape, spacing, target):
    assert new_shape(shape, spacing, target) == tuple(nnunet.compute_new_shape(shape, spacing, target))


@pytest.mark.parametrize(
    ("spacing", "target", "force", "expected"),
    [
        ((2.5, 0.789, 0.789), (1.0, 1.0, 1.0), None, 0),
        ((2.0, 0.8, 0.8), (2.0, 0.8, 0.8), None, None),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None, None),  # a ratio of exactly 3 does not exceed 3
        ((3.0000002, 1.0, 1.0), (1.0, 1.0, 1.0), None, 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), None, 1),  # by the new spacing where the current is not anisotropic
        ((1.0, 1.0, 5.0), (5.0, 1.0, 1.0), None, 2),  # the current spacing comes first
        ((4.0, 4.0, 1.0), (5.0, 1.0, 1.0), None, None),  # two coarsest axes: off, and the new spacing is not asked
        ((1.0, 1.0, 1.0), (4.0, 4.0, 1.0), None, None),
        ((2.0, 1.0, 1.0), (1.0, 1.0, 1.0), True, 0),
        ((1.0, 1.0, 1.0), (9.0, 1.0, 1.0), True, None),  # three coarsest axes
        ((9.0, 1.0, 1.0), (9.0, 1.0, 1.0), False, None),
    ],
)
def test_separate_axis(spacing, target, force, expected):
    assert separate_axis(spacing, target, force) == expected


@given(spacing=SPACINGS, target=SPACINGS, force=st.sampled_from([None, True, False]))
@example(spacing=(7.5, 2.5, 2.5), target=(1.0, 1.0, 1.0), force=None)
@example(spacing=(2.4, 0.8, 0.8), target=(1.0, 1.0, 1.0), force=None)  # 2.4 / 0.8 is above 3 in binary
def test_separate_axis_is_nnunets(nnunet, spacing, target, force):
    separate, axis = nnunet.determine_do_sep_z_and_axis(force, spacing, target)
    assert separate_axis(spacing, target, force) == (axis if separate else None)


# --- whole images


CASES = {
    "joint, up and down": ((20, 17, 23), (31, 12, 23), (1.5, 0.7, 1.0), (1.0, 1.0, 1.0)),
    "joint, all up": ((9, 10, 11), (20, 21, 25), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)),
    "joint, all down": ((40, 33, 29), (13, 11, 9), (1.0, 1.0, 1.0), (3.0, 3.0, 3.0)),
    "separate along z": ((12, 30, 28), (25, 19, 22), (5.0, 0.8, 0.8), (2.5, 1.2, 1.0)),
    "separate along y": ((30, 11, 28), (21, 23, 22), (0.8, 5.0, 0.8), (1.2, 2.5, 1.0)),
    "separate along x": ((30, 28, 10), (21, 22, 19), (0.8, 0.8, 5.0), (1.2, 1.0, 2.5)),
    "separate by the new spacing": ((40, 20, 18), (10, 24, 21), (1.0, 1.0, 1.0), (4.0, 0.8, 0.9)),
    "separate, in plane only": ((12, 30, 28), (12, 19, 22), (5.0, 0.8, 0.8), (5.0, 1.2, 1.0)),
    "separate, along z only": ((12, 20, 18), (30, 20, 18), (5.0, 0.8, 0.8), (2.0, 0.8, 0.8)),
    "same shape": ((12, 13, 14), (12, 13, 14), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "one slice, joint": ((1, 20, 18), (1, 31, 25), (1.0, 1.0, 1.0), (1.0, 0.7, 0.7)),
    "one slice to three": ((1, 20, 18), (3, 15, 14), (3.0, 1.0, 1.0), (1.0, 1.3, 1.3)),
    "one slice, separate": ((1, 20, 18), (2, 31, 25), (5.0, 1.0, 1.0), (2.5, 0.7, 0.7)),
    "to one slice": ((5, 12, 11), (1, 12, 14), (1.0, 1.0, 1.0), (5.0, 1.0, 0.8)),
    "more rows than are multiplied at a time": ((4, 150, 97), (5, 171, 230), (1.0, 1.0, 1.0), (0.8, 0.9, 0.4)),
    "one voxel": ((1, 1, 1), (2, 3, 4), (1.0, 1.0, 1.0), (0.5, 0.4, 0.3)),
}


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_images_are_resized_as_nnunet_does(nnunet, case, order):
    old, new, spacing, target = case
    image = smooth(old)
    expected = nnunet.resample_data_or_seg_to_shape(
        image[None].astype(np.float64), new, spacing, target, order=order, order_z=0, force_separate_z=None
    )[0]
    got = resize(image, Resizing.between(old, new, spacing, target, Resampling(order=order)))
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.ptp(image))


@settings(max_examples=25)
@given(
    old=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    spacing=SPACINGS,
    target=SPACINGS,
    order_z=st.sampled_from([0, 1, 3]),
)
def test_images_of_any_shape_and_spacing_are_resized_as_nnunet_does(nnunet, old, spacing, target, order_z):
    new = tuple(min(max(n, 1), 60) for n in new_shape(old, spacing, target))
    image = smooth(old, seed=sum(old))
    expected = nnunet.resample_data_or_seg_to_shape(
        image[None].astype(np.float64), new, spacing, target, order=3, order_z=order_z, force_separate_z=None
    )[0]
    got = resize(image, Resizing.between(old, new, spacing, target, Resampling(order=3, order_z=order_z)))
    np.testing.assert_allclose(got, expected, atol=1e-4 * max(np.ptp(image), 1e-3))


def test_a_cubic_resize_never_leaves_the_range_of_the_input():
    image = np.zeros((16, 16, 16), np.float32)
    image[4:12, 4:12, 4:12] = 1
    resizing = Resizing.between((16, 16, 16), (37, 41, 35), (1.0,) * 3, (0.4,) * 3, CUBIC)
    unclipped = np.einsum("ai,bj,ck,ijk->abc", *map(dense, resizing.matrices), image, optimize=True)
    assert unclipped.max() > 1.02
    assert unclipped.min() < -0.02
    got = resize(image, resizing)
    assert (got.min(), got.max()) == (0, 1)
    np.testing.assert_allclose(got, np.clip(unclipped, 0, 1), atol=1e-5)


def test_separate_slices_are_clipped_each_to_their_own_range():
    image = np.zeros((2, 16, 16), np.float32)
    image[0, 4:12, 4:12] = 1
    image[1, 4:12, 4:12] = 10
    got = resize(image, Resizing.between((2, 16, 16), (2, 37, 41), (9.0, 1.0, 1.0), (9.0, 0.4, 0.4), CUBIC))
    assert (got[0].max(), got[1].max()) == (1, 10)


def test_same_shape_returns_the_input_bit_for_bit():
    image = smooth((9, 10, 11))
    resizing = Resizing.between((9, 10, 11), (9, 10, 11), (2.0, 1.0, 1.0), (2.1, 1.0, 1.0), CUBIC)
    assert resizing.is_identity
    assert not resizing.clips
    np.testing.assert_array_equal(resize(image, resizing), image)


def test_every_slab_is_read_once():
    read = []

    def read_slab(axis, part):
        read.append((axis, part.start, part.stop))
        sides = [19, 21, 20]
        sides[axis] = part.stop - part.start
        return np.ones(sides, np.float32)

    out = np.empty((30, 21, 11), np.float32)
    resize_image(read_slab, Resizing.between((19, 21, 20), (30, 21, 11), (1.0,) * 3, (1.0, 1.0, 2.0), CUBIC), out)
    np.testing.assert_allclose(out, 1, atol=1e-5)
    assert {axis for axis, _, _ in read} == {0}
    assert sorted(i for _, start, stop in read for i in range(start, stop)) == list(range(19))


def test_the_output_may_be_a_view_into_a_larger_array():
    image = smooth((10, 11, 12))
    resizing = Resizing.between((10, 11, 12), (14, 9, 12), (1.0,) * 3, (0.7, 1.2, 1.0), CUBIC)
    padded = np.zeros((20, 20, 20), np.float32)
    resize_image(lambda _axis, part: image[part], resizing, padded[2:16, 3:12, 4:16])
    np.testing.assert_array_equal(padded[2:16, 3:12, 4:16], resize(image, resizing))
    padded[2:16, 3:12, 4:16] = 0
    assert not padded.any()
