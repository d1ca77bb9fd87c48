"""Where the patient lies: with the air and the table around left out, and nothing of the patient."""

import numpy as np
import pytest

from flare_runtime import Segmenter, Volume
from flare_runtime.backends.selection import choose
from flare_runtime.errors import UsageError
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.body import MARGIN_MM, body_box
from tests.runtime.manifests import ArithmeticNetwork, memory_bundle

CT = {"name": "CT", "normalisation": {"scheme": "ct", "lower": -1000.0, "upper": 1000.0, "mean": 0.0, "std": 100.0}}


def patient(shape=(30, 120, 140), spacing=(4.0, 2.0, 2.0), *, stored_offset=0):
    """Return a scan in air with a body in rows 30 to 80 and columns 40 to 100, on a thin table at row 95."""
    voxels = np.full(shape, -1000, np.int16)
    voxels[:, 30:80, 40:100] = 40
    voxels[:, 40:60, 50:70] = -850  # a lung
    voxels[:, 95:98, 10:130] = 200
    return Volume.of_array(voxels - stored_offset, spacing, intercept=float(stored_offset))


def sides(box):
    return [(side.start, side.stop) for side in box]


@pytest.mark.parametrize("stored_offset", [0, -1024])
def test_the_box_holds_the_body_and_a_margin_and_leaves_the_table_out(stored_offset):
    z, y, x = sides(body_box(patient(stored_offset=stored_offset)))
    margin = int(MARGIN_MM / 2)
    assert z == (0, 30)
    for (start, stop), (first, last) in (((y), (30, 80)), ((x), (40, 100))):
        assert first - margin - 4 <= start <= first - margin
        assert last + margin <= stop <= last + margin + 4
    assert y[1] < 95


def test_both_legs_belong_to_the_body():
    volume = patient()
    volume.voxels[:, :, 60:80] = -1000
    volume.voxels[:, 95:98] = -1000
    _, _, x = sides(body_box(volume))
    assert x[0] <= 40 - 8
    assert x[1] >= 100 + 8


@pytest.mark.parametrize("shape", [(30, 120, 140), (1, 120, 140)])
def test_a_small_limb_beside_the_trunk_stays_and_so_does_one_that_the_edge_cuts(shape):
    volume = patient(shape)
    volume.voxels[:, 50:60, 120:130] = 0
    volume.voxels[:, 40:80, :4] = 0
    volume.voxels[:, 95:98] = -1000
    _, _, x = sides(body_box(volume))
    assert x[0] == 0
    assert x[1] >= 138


def test_a_small_specimen_is_a_body_too():
    voxels = np.full((10, 60, 60), -1000, np.int16)
    voxels[4:6, 20:40, 20:40] = 0
    z, y, x = sides(body_box(Volume.of_array(voxels, (1.0, 1.0, 1.0))))
    assert z == (0, 10)
    assert y == x == (0, 60)  # the margin of 16 mm and a coarse voxel on either side


def test_a_single_slice_has_a_body():
    assert body_box(patient((1, 120, 140))) is not None


def test_air_has_no_body():
    assert body_box(Volume.of_array(np.full((5, 40, 40), -1000, np.int16), (2.0, 2.0, 2.0))) is None


def segment(crop, volume):
    network = ArithmeticNetwork()
    bundle = memory_bundle(channels=[CT], spacing_mm=[4.0, 2.0, 2.0], patch=[16, 24, 24])
    return Segmenter(bundle, network, RunOptions(crop=crop)).segment(volume), network.calls


def test_the_patients_mask_is_the_same_for_fewer_tiles():
    volume = patient()
    everything, all_tiles = segment("nonzero", volume)
    body, fewer_tiles = segment("body", volume)
    assert fewer_tiles < 0.5 * all_tiles
    table = everything.mask.copy()
    table[:, :90] = 0
    assert table.any()
    np.testing.assert_array_equal(body.mask, everything.mask - table)


def test_where_no_body_is_found_all_is_searched():
    air = Volume.of_array(np.full((20, 40, 40), -1000, np.int16), (4.0, 2.0, 2.0))
    assert segment("body", air)[1] == segment("nonzero", air)[1]


def test_body_crop_needs_hounsfield_units():
    bundle = memory_bundle(channels=[{"name": "MR", "normalisation": {"scheme": "zscore"}}])
    with pytest.raises(UsageError, match="--crop body is for CT; this model takes MR"):
        choose(bundle, RunOptions(crop="body"))
    with pytest.raises(UsageError, match="choose one of nonzero, body"):
        RunOptions(crop="tight")
