"""NRRD and MetaImage: read as SimpleITK reads them, but that nothing may be missing or wrong."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime import cli
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_grid, read_volume
from tests.runtime.nifti_files import blobs, write_nifti

sitk = pytest.importorskip("SimpleITK")

FORMATS = ("nrrd", "mha")
TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
SHAPE = (5, 7, 9)
ANGLE = np.radians(20)
DIRECTION = (np.cos(ANGLE), -np.sin(ANGLE), 0, np.sin(ANGLE), np.cos(ANGLE), 0, 0, 0, -1)


def image_of(dtype="int16"):
    voxels = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.75, 1.5, 2.25))
    image.SetOrigin((-11.5, 20.25, 30))
    image.SetDirection(DIRECTION)
    return image


def written(folder, suffix, *, dtype="int16", compressed=False):
    path = folder / f"scan.{suffix}"
    sitk.WriteImage(image_of(dtype), str(path), compressed)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("compressed", [False, True])
def test_an_image_is_read_as_simpleitk_reads_it(suffix, dtype, compressed, tmp_path):
    path = written(tmp_path, suffix, dtype=dtype, compressed=compressed)
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    assert volume.voxels.dtype == dtype
    corner = [side - 1 for side in SHAPE[::-1]]
    for voxel in ((0, 0, 0), corner, (corner[0], 0, 0), (0, corner[1], 0)):
        place = np.array(image.TransformIndexToPhysicalPoint([int(one) for one in voxel])) * (-1, -1, 1)
        assert np.allclose(volume.geometry.affine @ (*voxel, 1), (*place, 1), atol=1e-5)
    assert read_grid(path) == volume.grid
    assert not volume.remarks


def test_axes_of_other_spaces_and_byte_orders(tmp_path):
    path = written(tmp_path, "nrrd")
    data = path.read_bytes()
    place = data.index(b"\n\n") + 2
    text, voxels = data[:place], np.frombuffer(data[place:], "<i2")
    expected = read_volume(path)
    text = text.replace(b"endian: little", b"endian: big")
    for space, flips in ((b"right-anterior-superior", (-1, -1)), (b"LAS", (1, -1))):
        path.write_bytes(text.replace(b"left-posterior-superior", space) + voxels.astype(">i2").tobytes())
        volume = read_volume(path)
        assert np.array_equal(volume.voxels, expected.voxels)
        assert np.allclose(volume.geometry.affine, np.diag([*flips, 1, 1]) @ expected.geometry.affine)
    mha = written(tmp_path, "mha")
    data = mha.read_bytes()
    place = data.index(b"LOCAL\n") + 6
    text = data[:place].replace(b"OrderMSB = False", b"OrderMSB = True")
    mha.write_bytes(text + np.frombuffer(data[place:], "<i2").astype(">i2").tobytes())
    assert np.array_equal(read_volume(mha).voxels, expected.voxels)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compressed", [False, True])
def test_wherever_a_file_ends_early_it_is_refused(suffix, compressed, tmp_path):
    path = written(tmp_path, suffix, compressed=compressed)
    data = path.read_bytes()
    for kept in (*range(0, len(data) - 1, 7), len(data) - 1):
        path.write_bytes(data[:kept])
        with pytest.raises(CaseError):
            read_volume(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_flipped_bit_of_compressed_voxels_is_refused(suffix, tmp_path):
    path = written(tmp_path, suffix, compressed=True)
    data = path.read_bytes()
    begin = data.index(b"\n\n" if suffix == "nrrd" else b"LOCAL\n") + 12  # behind the flags of the stream's own header
    for place in range(begin, len(data), 11):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(CaseError, match="anew"):
            read_volume(path)


REFUSED = {
    "nrrd": [
        (b"NRRD0004", b"NIRR0004", "not_nrrd"),
        (b"encoding: raw", b"encoding: ascii", "unsupported_type"),
        (b"type: short", b"type: block", "unsupported_type"),
        (b"endian: little", b"data file: other.raw", "unsupported_type"),
        (b"kinds: domain domain domain", b"byte skip: 4", "unsupported_type"),
        (b"space: left-posterior-superior", b"space: scanner-xyz", "bad_orientation"),
        (b"space origin: ", b"space offset: ", "bad_orientation"),
        (b"space origin: (-11.5", b"space origin: (nan", "bad_orientation"),
        (b"sizes: 9 7 5", b"sizes: 9 7 0", "bad_dimensions"),
        (b"sizes: 9 7 5", b"sizes: 9 35", "bad_dimensions"),
        (b"sizes: 9 7 5", b"sizes: 9 7 -5", "bad_dimensions"),
        (b"sizes: 9 7 5", b"sizes: 9 7 5\nsizes: 9 7 4", "corrupt"),
        (b"dimension: 3", b"dimension: 2", "bad_dimensions"),
        (b"dimension: 3", b"content: CT", "bad_dimensions"),
        (b"endian: little", b"content: CT", "unsupported_type"),
        (b"endian: little", b"endian: middle", "unsupported_type"),
        (b"sizes: 9 7 5", b"sizes: 99999 99999 99999", "too_large"),
        (b"sizes: 9 7 5", b"sizes: 900 700 5", "truncated"),
    ],
    "mha": [
        (b"ObjectType", b"#bjectType", "not_metaimage"),
        (b"LOCAL", b"other.raw", "unsupported_type"),
        (b"ElementType = MET_SHORT", b"ElementType = MET_SHORT_ARRAY", "unsupported_type"),
        (b"AnatomicalOrientation = ", b"ElementNumberOfChannels = 3", "unsupported_type"),
        (b"BinaryData = True", b"BinaryData = False", "unsupported_type"),
        (b"TransformMatrix = ", b"TransformMatrix = 1 ", "bad_orientation"),
        (b"ElementSpacing = 0.75", b"ElementSpacing = 0", "bad_orientation"),
        (b"ElementSpacing = 0.75", b"ElementSpacing = -0.75", "bad_spacing"),
        (b"DimSize = 9 7 5", b"DimSize = 9 7", "bad_dimensions"),
        (b"DimSize = 9 7 5", b"DimSize = 9 7 5\nDimSize = 9 7 4", "corrupt"),
        (b"NDims = 3", b"NDims = 2", "bad_dimensions"),
    ],
}


@pytest.mark.parametrize(
    ("suffix", "old", "new", "reason"), [(name, *row) for name in REFUSED for row in REFUSED[name]]
)
def test_what_is_not_read_is_refused(suffix, old, new, reason, tmp_path):
    path = written(tmp_path, suffix)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    with pytest.raises(CaseError, match=r"scan\.") as caught:
        read_volume(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("suffix", FORMATS)
@given(data=st.data())
def test_any_change_is_read_or_refused(suffix, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    sound = written(folder, suffix, compressed=True).read_bytes()
    text = sound.index(b"\n\n" if suffix == "nrrd" else b"LOCAL\n") + 8
    place = data.draw(st.integers(0, text))
    changed = sound[:place] + data.draw(st.binary(max_size=8)) + sound[place + data.draw(st.integers(0, 8)) :]
    path = folder / f"scan.{suffix}"
    path.write_bytes(changed)
    with suppress(CaseError):
        assert read_volume(path, 10_000).voxels.ndim == 3


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_command_segments_it_as_nifti(suffix, tmp_path, tiny_bundle):
    scan = blobs((12, 16, 18))
    image = sitk.GetImageFromArray(scan)
    image.SetSpacing((1.5, 1.5, 2.5))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / f"scan_0000.{suffix}"))
    write_nifti(tmp_path / "in" / "same.nii", scan, spacing_mm=(2.5, 1.5, 1.5))
    options = ["-m", str(tiny_bundle), "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    assert cli.main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *options]) == 0
    scans = [read_volume(tmp_path / "out" / f"{name}.nii.gz") for name in ("scan", "same")]
    assert np.array_equal(scans[0].voxels, scans[1].voxels)
    assert scans[0].voxels.any()
    assert json.loads((tmp_path / "out" / "scan.json").read_bytes())["status"] == "done"
