"""Probabilities one class after the other: those of all classes at once, in half precision and bounded memory."""

import io
import logging
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.fingerprints import sha256_of
from flare_runtime.cases.input_folder import find_images
from flare_runtime.compute.box import Box
from flare_runtime.compute.device import HOST
from flare_runtime.errors import OutputError
from flare_runtime.files.output import StagedFile
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.probabilities import encode_probabilities, is_probabilities
from flare_runtime.imaging.read import read_volume
from flare_runtime.model.manifest import Resampling
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.probability_maps import CoarseScores, ProbabilityMaps, unseen_boxes
from flare_runtime.pipeline.resampling import Resizing
from flare_runtime.pipeline.restoring import restore_probabilities
from flare_runtime.run.serial import segment_cases
from flare_runtime.segmenter import Segmenter
from tests.runtime.manifests import ArithmeticNetwork, memory_bundle
from tests.runtime.nifti_files import write_nifti
from tests.runtime.strict_device import StrictDevice

OLD, NEW = (6, 8, 9), (20, 12, 15)
RESIZING = Resizing.between(OLD, NEW, (2.0, 1.0, 1.0), (0.6, 0.66, 0.6), Resampling(order=1))
GEOMETRY = Geometry(np.diag([0.6, 0.66, 0.6, 1]), (0.6, 0.66, 0.6), NEW)


def copies(maps):
    return [one.copy() for one in maps]


@pytest.mark.parametrize("device", [HOST, StrictDevice()], ids=["host", "device"])
@pytest.mark.parametrize("decoder", [Decoder(2), Decoder(4), Decoder(3, (1, 2, 3)), Decoder(1, (1,))])
def test_maps_are_all_probabilities_rounded(decoder, device):
    scores = (8 * np.random.default_rng(0).standard_normal((decoder.channels, *OLD))).astype(np.float32)
    expected = decoder.background(NEW)
    restore_probabilities(scores, RESIZING, decoder, expected)
    coarse = CoarseScores(device.upload(scores), RESIZING, device, lambda whole: whole)
    maps = copies(ProbabilityMaps(decoder, GEOMETRY, coarse))
    assert {one.dtype for one in maps} == {np.dtype(np.float16)}
    np.testing.assert_allclose(np.stack(maps).astype(np.float32), expected, atol=3e-4)


@pytest.mark.parametrize(("decoder", "first"), [(Decoder(3), 1), (Decoder(3, (1, 2, 3)), 0)])
def test_where_the_network_did_not_look_is_background(decoder, first):
    nothing = copies(ProbabilityMaps(decoder, GEOMETRY, None))
    assert [one.min() for one in nothing] == [one.max() for one in nothing] == [first, 0, 0]
    scores = np.full((decoder.channels, *OLD), 5, np.float32)
    seen = Box.between((2, 0, 0), (4, 8, 9))
    unseen = unseen_boxes(seen.shifted((1, 1, 1)), Box.between((1, 1, 1), (7, 9, 10)), NEW)
    maps = copies(ProbabilityMaps(decoder, GEOMETRY, CoarseScores(scores, RESIZING, HOST, lambda whole: whole, unseen)))
    # Slices 7 to 12 of 20 lie wholly within 2 to 4 of 6.
    assert (maps[0][:7] == first).all()
    assert (maps[0][13:] == first).all()
    assert (maps[1][7:13] > 0.3).all()
    assert not maps[1][:7].any()


@pytest.mark.parametrize(("decoder", "bytes_a_voxel"), [(Decoder(3), 6), (Decoder(3, (1, 2, 3)), 2)])
def test_one_map_is_in_memory(decoder, bytes_a_voxel):
    shape = (64, 256, 256)
    resizing = Resizing.between((8, 32, 32), shape, (2.0, 2.0, 2.0), (0.25, 0.25, 0.25), Resampling(order=1))
    scores = np.zeros((decoder.channels, 8, 32, 32), np.float32)
    geometry = Geometry(None, (0.25, 0.25, 0.25), shape)
    tracemalloc.start()
    try:
        maps = ProbabilityMaps(decoder, geometry, CoarseScores(scores, resizing, HOST, lambda whole: whole))
        encode_probabilities(io.BytesIO(), maps, 3, geometry)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    blocks = 7 << 20  # while one of 16 x 64 x 256 voxels is interpolated
    assert peak < bytes_a_voxel * np.prod(shape) + blocks


def test_a_file_holds_probabilities_and_their_place():
    file = io.BytesIO()
    maps = [np.full(NEW, value, np.float16) for value in (0.25, 0.75)]
    encode_probabilities(file, iter(maps), 2, GEOMETRY)
    assert is_probabilities(file.getvalue()[:4096])
    assert not is_probabilities(b"PK\3\4" + bytes(100))
    strange = io.BytesIO()
    np.savez(strange, probabilities=maps[0])  # as any other program may
    assert not is_probabilities(strange.getvalue()[:4096])
    content = np.load(io.BytesIO(file.getvalue()))
    assert sorted(content) == ["affine", "probabilities", "written_by"]
    np.testing.assert_array_equal(content["probabilities"], maps)
    np.testing.assert_array_equal(content["affine"], GEOMETRY.affine)
    again = io.BytesIO()
    encode_probabilities(again, maps, 2, GEOMETRY)
    assert again.getvalue() == file.getvalue()


def test_other_voxels_fill_the_same_space():
    grid = Geometry(
        np.array([[-2.0, 0, 0, 20], [0, 3, 0, 0], [0, 0, 5, 100], [0, 0, 0, 1]]), (5.0, 3.0, 2.0), (4, 6, 8)
    )
    coarse = grid.resampled((2, 6, 16))
    assert (coarse.spacing_mm, coarse.shape) == ((10.0, 3.0, 1.0), (2, 6, 16))
    # The first voxel now reaches from 20 + 1 to 20 mm along x, and from 100 - 2.5 to 100 + 7.5 mm along z.
    np.testing.assert_allclose(coarse.affine[:3, 3], [20.5, 0, 102.5])
    np.testing.assert_allclose(coarse.affine[:3, :3], np.diag([-1, 3, 10]))


RAW = {"name": "raw", "normalisation": {"scheme": "none"}}


@pytest.fixture
def run(tmp_path):
    """A function that segments a folder with some options and returns the record of its one case."""

    def segment(grid="input", *, crop="nonzero", **changes):
        options = RunOptions(probabilities=grid, crop=crop)
        bundle = memory_bundle(**{"channels": [RAW], "spacing_mm": (1.0, 1.0, 1.0), **changes})
        segmenter = Segmenter(bundle, ArithmeticNetwork(), options)
        cases = find_cases(tmp_path / "in", tmp_path / "out", 1, probabilities=grid is not None)
        (record,) = segment_cases(segmenter, cases)
        return record

    (tmp_path / "in").mkdir()
    return segment


def scan(path, value=2.0, spacing_mm=(1.0, 1.0, 1.0)):
    """Write an image of -1 with a box of `value`."""
    voxels = np.full((12, 14, 16), -1, np.float32)
    voxels[2:6, 3:9, 4:12] = value
    return write_nifti(path, voxels, spacing_mm=spacing_mm)


def results(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_probabilities_come_and_go_with_the_mask(tmp_path, run, caplog, monkeypatch):
    source = scan(tmp_path / "in" / "a_0000.nii.gz")
    record = run()
    file = tmp_path / "out" / "a.probabilities.npz"
    assert results(tmp_path) == ["a.json", "a.nii.gz", file.name]
    assert (record.probabilities, record.probabilities_sha256) == (str(file), sha256_of(file))
    content, mask = np.load(file), read_volume(tmp_path / "out" / "a.nii.gz")
    expected = 1 / (1 + np.exp(-np.where(mask.voxels, 4.0, -2.0)))
    np.testing.assert_allclose(content["probabilities"], [1 - expected, expected], atol=1e-3)
    np.testing.assert_allclose(content["affine"], mask.geometry.affine)

    # A later run on the folder takes them for no case, and has no word on them.
    scan(tmp_path / "out" / "b.nii")
    caplog.set_level("WARNING", "flare_runtime")
    monkeypatch.setattr(logging.getLogger("flare_runtime"), "propagate", True)  # which the command ends
    assert find_images(tmp_path / "out", tmp_path) == [tmp_path / "out" / "b.nii"]
    assert caplog.messages == [f"{tmp_path / 'out'}: left out 1 mask of earlier runs"]
    (tmp_path / "out" / "b.nii").unlink()

    run()  # replaces them
    assert results(tmp_path) == ["a.json", "a.nii.gz", file.name]
    assert run(None).probabilities is None
    assert results(tmp_path) == ["a.json", "a.nii.gz"]
    run()
    source.write_bytes(b"no image")
    assert run().status == "refused"
    assert results(tmp_path) == ["a.json", "a.stale.nii.gz", "a.stale.probabilities.npz"]


def test_a_file_of_somebody_else_is_neither_replaced_nor_removed(tmp_path, run):
    scan(tmp_path / "in" / "a_0000.nii.gz")
    (tmp_path / "out").mkdir()
    theirs = tmp_path / "out" / "a.probabilities.npz"
    np.savez(theirs, other=np.zeros(3))
    before = theirs.read_bytes()
    with pytest.raises(OutputError, match=r"a\.probabilities\.npz: was not written by this command"):
        run()
    assert run(None).status == "done"
    assert theirs.read_bytes() == before


def test_what_is_set_aside_replaces_nothing_of_somebody_else(tmp_path, run):
    source = scan(tmp_path / "in" / "a_0000.nii.gz")
    run()
    theirs = tmp_path / "out" / "a.stale.probabilities.npz"
    np.savez(theirs, probabilities=np.zeros(3))
    before = theirs.read_bytes()
    source.write_bytes(b"no image")
    record = run()
    assert record.status == "refused"
    assert "a.stale.probabilities.npz: was not written by this command" in record.message
    assert theirs.read_bytes() == before


@pytest.mark.parametrize("blocked", ["mask", "probabilities", "record"])
def test_where_one_cannot_be_written_none_is_there(tmp_path, run, blocked, monkeypatch):
    scan(tmp_path / "in" / "a_0000.nii.gz")
    end = {"mask": ".nii.gz", "probabilities": ".npz", "record": ".json"}[blocked]
    take_name = StagedFile.take_name

    def fails(self):
        if self.target.name.endswith(end):
            raise OSError(28, "No space left on device")
        take_name(self)

    monkeypatch.setattr(StagedFile, "take_name", fails)
    record = run()
    assert record.status == "failed"
    assert not [name for name in results(tmp_path) if name != "a.json"]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_on_the_networks_grid_they_lie_where_the_mask_does(tmp_path, run, reader):
    scan(tmp_path / "in" / "a_0000.nii.gz")
    # The network's axes are x, z, y of the file, at 1, 2 and 0.5 mm; the second reader turns x and y round.
    model = {"spacing_mm": (1.0, 2.0, 0.5), "transpose_forward": (2, 0, 1), "reader": reader}
    run("input", **model)
    content, mask = np.load(tmp_path / "out" / "a.probabilities.npz"), read_volume(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(content["probabilities"][1] > 0.5, mask.voxels)
    run("network", **model)
    content, mask = np.load(tmp_path / "out" / "a.probabilities.npz"), nib.load(tmp_path / "out" / "a.nii.gz")
    probabilities = content["probabilities"][1]
    assert probabilities.shape == (16, 6, 28)
    centres = []
    for array, affine in ((probabilities.T, content["affine"]), (mask.get_fdata(), mask.affine)):
        voxels = np.argwhere(array > 0.5)
        centres.append(affine[:3] @ (*voxels.mean(axis=0), 1))
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-6)


def test_outside_of_the_body_is_background(tmp_path, run):
    voxels = np.full((40, 40, 120), -1000, np.float32)
    voxels[:, 5:35, 5:35] = 50
    write_nifti(tmp_path / "in" / "a_0000.nii.gz", voxels, spacing_mm=(2.0, 2.0, 2.0))
    ct = {"scheme": "ct", "lower": -1000.0, "upper": 1000.0, "mean": 0.0, "std": 100.0}
    channel = {"name": "CT", "normalisation": ct}
    run(crop="body", channels=[channel], spacing_mm=(2.0, 2.0, 2.0))
    probabilities = np.load(tmp_path / "out" / "a.probabilities.npz")["probabilities"]
    assert (probabilities[0][..., 60:] == 1).all()
    assert not probabilities[1][..., 60:].any()
    assert (probabilities[1][:, 6:34, 6:34] > 0.6).all()
    bundle = memory_bundle(channels=[channel], spacing_mm=(2.0, 2.0, 2.0))
    segmenter = Segmenter(bundle, ArithmeticNetwork(), RunOptions(crop="body"))
    whole = segmenter.segment(tmp_path / "in" / "a_0000.nii.gz", probabilities=True).probabilities
    np.testing.assert_allclose(whole, probabilities.astype(np.float32), atol=1e-3)
