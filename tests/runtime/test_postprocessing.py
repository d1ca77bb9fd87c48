"""Components are removed as nnU-Net's postprocessing removes them, and within bounds of time and memory."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.model.manifest import PostprocessingStep
from flare_runtime.pipeline import components, postprocessing
from flare_runtime.pipeline.postprocessing import Postprocessing
from tests.runtime.manifests import make_manifest

ISOTROPIC = (1.0, 1.0, 1.0)


def applied(mask: np.ndarray, *groups: tuple[int, ...]) -> np.ndarray:
    out = mask.copy()
    Postprocessing(keep_largest=groups).apply(out, ISOTROPIC)
    return out


def row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_the_largest_component_stays_by_hand():
    mask = row(1, 0, 1, 1, 0, 2, 2, 2, 0, 2)
    np.testing.assert_array_equal(applied(mask, (1,)), row(0, 0, 1, 1, 0, 2, 2, 2, 0, 2))
    np.testing.assert_array_equal(applied(mask, (1,), (2,)), row(0, 0, 1, 1, 0, 2, 2, 2, 0, 0))
    np.testing.assert_array_equal(applied(mask, (1, 2)), row(0, 0, 0, 0, 0, 2, 2, 2, 0, 0))


def test_labels_of_one_group_hold_each_other_together():
    np.testing.assert_array_equal(applied(row(1, 2, 0, 2, 2, 2), (1, 2)), row(0, 0, 0, 2, 2, 2))
    np.testing.assert_array_equal(applied(row(1, 2, 1, 2, 0, 2, 2, 2), (1, 2)), row(1, 2, 1, 2, 0, 0, 0, 0))


def test_components_of_one_size_all_stay():
    np.testing.assert_array_equal(applied(row(1, 1, 0, 1, 0, 1, 1), (1,)), row(1, 1, 0, 0, 0, 1, 1))


def test_corners_connect():
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    mask[2, 0, 2] = 1  # touches the second at a corner
    np.testing.assert_array_equal(applied(mask, (1,)), mask)


def test_nothing_is_removed_where_nothing_is_asked_for_or_there():
    mask = row(1, 0, 1, 1)
    Postprocessing().apply(mask, ISOTROPIC)
    np.testing.assert_array_equal(mask, row(1, 0, 1, 1))
    np.testing.assert_array_equal(applied(row(0, 0), (1,)), row(0, 0))
    np.testing.assert_array_equal(applied(row(1, 0), (2,)), row(1, 0))


def test_components_below_a_volume_go_label_by_label():
    mask = row(1, 2, 2, 0, 1, 1, 1, 0, 2)
    # A voxel of 2 x 1 x 0.1 mm holds 0.2 mm3.
    for least_mm3, expected in (
        (0.2, mask),
        (0.4, row(0, 2, 2, 0, 1, 1, 1, 0, 0)),
        (0.6, row(0, 0, 0, 0, 1, 1, 1, 0, 0)),
        (0.61, row(0, 0, 0, 0, 0, 0, 0, 0, 0)),
        (1e308, row(0, 0, 0, 0, 0, 0, 0, 0, 0)),
    ):
        out = mask.copy()
        Postprocessing(values=(1, 2), min_volume_mm3=least_mm3).apply(out, (2.0, 1.0, 0.1))
        np.testing.assert_array_equal(out, expected, err_msg=str(least_mm3))


@pytest.mark.parametrize("many_runs", [10**9, 0], ids=["runs", "voxels"])
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.05, 0.3, 0.7]),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    groups=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True), min_size=1, max_size=3),
)
def test_masks_are_those_of_nnunets_postprocessing(many_runs, seed, share, shape, groups):
    theirs = pytest.importorskip("nnunetv2.postprocessing.remove_connected_components")
    rng = np.random.default_rng(seed)
    mask = (rng.integers(1, 4, shape) * (rng.random(shape) < share)).astype(np.uint8)
    function = theirs.remove_all_but_largest_component_from_segmentation
    regions = [{"labels_or_regions": tuple(group) if len(group) > 1 else group[0]} for group in groups]
    expected = theirs.apply_postprocessing(mask, [function] * len(groups), regions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_MANY_RUNS", many_runs)
        patch.setattr(components, "_VOXELS_A_RUN", 10**9)
        np.testing.assert_array_equal(applied(mask, *map(tuple, groups)), expected)


NOISE = """
import resource, sys, time
import numpy as np
import scipy.ndimage
from flare_runtime.pipeline.postprocessing import Postprocessing
if sys.argv[1] == "lattice":
    mask = np.zeros((80, 256, 256), np.uint8)
    mask[::2, ::2, ::2] = 1
    mask[0, 0, 1] = 1
else:
    mask = np.random.default_rng(0).choice(np.array([0, 1], np.uint8), (80, 256, 256))
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
Postprocessing(keep_largest=((1,),)).apply(mask, (1.0, 1.0, 1.0))
taken = time.process_time() - started
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / mask.size, taken, mask.sum())
"""


@pytest.mark.parametrize(("noise", "left"), [("lattice", 3), ("half", None)])
def test_noise_takes_bounded_memory_and_time(noise, left):
    done = subprocess.run([sys.executable, "-c", NOISE, noise], capture_output=True, text=True, check=True, timeout=300)
    bytes_a_voxel, taken_s, voxels = (float(word) for word in done.stdout.split())
    assert bytes_a_voxel < postprocessing.BYTES_A_VOXEL
    assert taken_s < 5
    assert left is None or voxels == left


def test_what_a_model_and_a_person_ask_for_is_done_in_this_order():
    labels = [{"name": "whole", "values": [1, 2]}, {"name": "core", "values": [2]}]
    content = {"labels": labels, "regions_class_order": [1, 2], "postprocessing": [{"keep_largest": [1, 2]}]}
    manifest = make_manifest(**content)
    assert manifest.postprocessing == (PostprocessingStep(keep_largest=(1, 2)),)
    own = Postprocessing.of(manifest, None, None)
    assert (own.keep_largest, str(own), bool(own)) == (((1, 2),), "largest component of 1, 2", True)
    of_labels = Postprocessing.of(manifest, "label", 5)
    assert of_labels.keep_largest == ((1, 2), (1, 2), (2,))
    assert str(of_labels).endswith("largest component of 2; components of at least 5 mm3")
    assert Postprocessing.of(manifest, "foreground", None).keep_largest == ((1, 2), (1, 2))
    without = make_manifest(**{**content, "postprocessing": []})
    assert (str(Postprocessing.of(without, None, None)), bool(Postprocessing.of(without, None, None))) == (
        "none",
        False,
    )
