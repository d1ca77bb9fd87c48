"""nnU-Net's readers of NIfTI against this runtime's rules: what is read, and masks as they are written back."""

import contextlib
import io
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from flare_export import cli
from flare_export.errors import ModelError
from flare_export.source.plans import reader
from flare_runtime.imaging.orientation import ORIENTATIONS, orientation_of
from flare_runtime.imaging.read import read_volume
from flare_runtime.model.manifest import Manifest, Reader
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.reader_rules import ReaderRules
from flare_runtime.segmenter import Segmenter
from tests.model_folders import make_plans, write_model_folder
from tests.runtime.manifests import make_manifest
from tests.runtime.nifti_files import sform_fields, write_nifti

pytest.importorskip("nnunetv2")

FOUR: tuple[Reader, ...] = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
SHAPE = (4, 5, 6)  # z, y, x


def quiet_reader(name: str) -> Any:
    """Return nnU-Net's reader of that name."""
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

        return recursive_find_reader_writer_by_name(name)()


def rules_of(name: str) -> ReaderRules:
    channel = {"name": "MR", "normalisation": {"scheme": "none"}}
    manifest: Manifest = make_manifest(reader=name, channels=[channel])
    return ReaderRules.of(manifest, any_spacing=True)


def columns_of(code: str, sides: tuple[float, float, float], degrees: tuple[float, float, float]) -> Any:
    """Return the columns of an affine whose axes x, y, z point to `code`, then turned a little."""
    columns = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        columns["LRPAIS".index(letter) // 2, axis] = sides[axis] * (1 if letter in "RAS" else -1)
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ columns


def compare_with_nnunet(name: str, path: Path, out: Path) -> None:
    """Compare what nnU-Net's reader makes of a file, and of a mask that is as its reading, with this runtime's."""
    theirs = quiet_reader(name)
    with contextlib.redirect_stdout(io.StringIO()):
        image, properties = theirs.read_images([str(path)])
    rules = rules_of(name)
    volume = read_volume(path, plausible=rules.plausible)
    (read,) = rules.volumes([volume])
    np.testing.assert_array_equal(read.intensities(read.voxels), image[0])
    assert read.spacing_mm == tuple(properties["spacing"])

    seg = np.arange(image[0].size).reshape(image[0].shape) % 251
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.write_seg(seg.astype(np.uint8), str(out), properties)
    mask = np.zeros(volume.shape, np.uint8)
    rules.turn(volume.geometry).view(mask)[...] = seg
    np.testing.assert_array_equal(mask, np.asarray(nib.load(out).dataobj).T)


@pytest.mark.parametrize(("name", "code"), product(FOUR, ["LPS", "RAS", "PSR", "ASL", "LIP", "SRA"]))
def test_scans_are_read_and_masks_written_as_nnunet_does(name: str, code: str, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
    form = sform_fields(columns_of(code, (0.75, 1.5, 2.5), (0, 0, 0)))
    path = write_nifti(tmp_path / "a.nii.gz", voxels, spacing_mm=(2.5, 1.5, 0.75), scl_slope=2, scl_inter=-9, **form)
    compare_with_nnunet(name, path, tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("name", FOUR)
def test_so_are_scans_without_an_orientation(name: str, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
    path = write_nifti(tmp_path / "a.nii", voxels, sform_code=0, qform_code=0)
    compare_with_nnunet(name, path, tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("unit", [0, 1, 3])
def test_so_are_scans_in_other_units(name: str, unit: int, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
    path = write_nifti(tmp_path / "a.nii", voxels, xyzt_units=unit, qform_code=0)
    compare_with_nnunet(name, path, tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("name", FOUR[:2])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("scaling", [(1, 0), (2, -1024)])
def test_so_are_voxels_that_are_no_numbers(name: str, kind: str, scaling: tuple[int, int], tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(0, 300, SHAPE).astype(kind)
    voxels[:2, 1], voxels[3, 2], voxels[:, :, 5] = np.nan, np.inf, -np.inf
    path = write_nifti(tmp_path / "a.nii", voxels, scl_slope=scaling[0], scl_inter=scaling[1])
    compare_with_nnunet(name, path, tmp_path / "mask.nii.gz")


@settings(max_examples=40)
@given(
    name=st.sampled_from(FOUR),
    code=st.sampled_from(sorted(ORIENTATIONS)),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    sides=st.tuples(*[st.floats(0.25, 10, width=32)] * 3),
)
def test_so_is_any_oblique_scan(
    name: str,
    code: str,
    degrees: tuple[float, float, float],
    sides: tuple[float, float, float],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("oblique")
    columns = columns_of(code, sides, degrees)
    unit = np.sort(np.abs(columns / np.linalg.norm(columns, axis=0)), axis=0)
    if (unit[2] - unit[1]).min() < 1e-3:
        return  # axes halfway between two of the patient's, which rounding decides
    voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
    path = write_nifti(folder / "a.nii", voxels, spacing_mm=sides[::-1], qform_code=0, **sform_fields(columns))
    assert orientation_of(read_volume(path).geometry.affine) == "".join(nib.aff2axcodes(nib.load(path).affine))  # type: ignore[arg-type]
    compare_with_nnunet(name, path, folder / "mask.nii.gz")


# --- the export


@pytest.mark.parametrize("name", FOUR)
def test_the_readers_of_nifti_are_known(name: str) -> None:
    assert reader({**make_plans(), "image_reader_writer": name}) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Tiff3DIO", "reads TIFF"),
        ("NaturalImage2DIO", "pictures, which are 2D"),
        ("MyReader", "is none of nnU-Net's"),
        ("", "is none of nnU-Net's"),
    ],
)
def test_others_are_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(ModelError, match=why) as caught:
        reader({**make_plans(), "image_reader_writer": name})
    assert repr(name) in str(caught.value)


def test_nnunet_has_no_other_readers() -> None:
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    known = {*FOUR, "Tiff3DIO", "NaturalImage2DIO"}
    assert {one.__name__ for one in LIST_OF_IO_CLASSES} < known


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and its bundle, both of SimpleITKIO."""
    place = tmp_path_factory.mktemp("exported")
    model = write_model_folder(place / "model", features=(4, 8), patch=(16, 16, 16), background_bias=1.0)
    assert cli.main([str(model), "-o", str(place / "bundle"), "--orientation", "LPS"]) == 0
    return place


def test_the_bundle_says_how_the_training_was_stored(exported: Path) -> None:
    written = json.loads((exported / "bundle" / "manifest.json").read_text())
    assert written["training_orientation"] == "LPS"
    assert "reader" not in written  # SimpleITKIO is what a bundle without it means, in older runtimes too
    assert cli.main([str(exported / "model"), "-o", str(exported / "other"), "--orientation", "LPX"]) == 2


CASES: dict[str, tuple[Reader, str, float]] = {  # name: (reader, orientation of the scan, share of NaN)
    "turned by nibabel": ("NibabelIOWithReorient", "PSR", 0),
    "turned by SimpleITK, with NaN": ("SimpleITKIOWithReorient", "ASL", 0.1),
    "as stored, half of it NaN": ("SimpleITKIO", "PSR", 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_whole_masks_are_those_of_nnunet(name: str, exported: Path, tmp_path: Path) -> None:
    wanted, code, share = CASES[name]
    shutil.copytree(exported / "model", tmp_path / "model")
    shutil.copytree(exported / "bundle", tmp_path / "bundle")
    plans = json.loads((tmp_path / "model" / "plans.json").read_text())
    (tmp_path / "model" / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": wanted}))
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps({**manifest, "reader": wanted}))

    rng = np.random.default_rng(0)
    scan = np.kron(rng.normal(40, 250, (6, 5, 7)), np.ones((4, 4, 4))).astype(np.float32)
    scan[rng.random(scan.shape) < share] = np.nan
    columns = columns_of(code, (1.5, 1.5, 2.5), (0, 0, 0))
    path = tmp_path / "scan_0000.nii.gz"
    write_nifti(path, scan, spacing_mm=(2.5, 1.5, 1.5), qform_code=0, **sform_fields(columns))

    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(tmp_path / "model"), ("0",))
        predictor.predict_from_files_sequential([[str(path)]], [str(tmp_path / "expected")])
    expected = np.asarray(nib.load(tmp_path / "expected.nii.gz").dataobj).T  # type: ignore[attr-defined]
    result = Segmenter.load(tmp_path / "bundle", RunOptions("cpu", precision="fp32")).segment(path)
    assert 0.05 < expected.mean() < 0.95
    assert (result.mask == expected).mean() >= 0.999
    codes = [remark.code for remark in result.remarks]
    assert codes == ["orientation"] * (wanted == "SimpleITKIO") + ["nonfinite"] * (share > 0)
