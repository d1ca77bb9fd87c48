"""Results are whole or absent, whatever happens while they are written."""

import gzip
import os
import subprocess
import sys
from threading import Thread

import nibabel as nib
import numpy as np
import pytest

from flare_runtime.errors import OutputError
from flare_runtime.files.commit_lock import committing
from flare_runtime.files.output import check_folder, check_folders, make_folder, replacing
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Template, Volume
from flare_runtime.imaging.write import write_mask
from tests.runtime.nifti_files import noise, sform_fields, write_nifti

SHAPE = (6, 7, 8)
GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def random_mask(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def source_template(tmp_path, **fields):
    return read_volume(write_nifti(tmp_path / "source.nii", noise(SHAPE), **fields)).template


# --- replacing


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "result.json"
    target.write_bytes(b"old")
    with replacing(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error, old):
    target = tmp_path / "result.json"
    if old is not None:
        target.write_bytes(old)

    def write():
        with replacing(target) as file:
            file.write(b"half of it")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(tmp_path) == ([] if old is None else ["result.json"])
    assert old is None or target.read_bytes() == old


def test_no_file_takes_its_name_while_the_final_steps_are_taken(tmp_path):
    def write():
        with replacing(tmp_path / "a.json") as file:
            file.write(b"new")

    with committing:
        thread = Thread(target=write)
        thread.start()
        thread.join(0.2)
        assert not (tmp_path / "a.json").exists()
    thread.join()
    assert (tmp_path / "a.json").read_bytes() == b"new"


def test_a_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"), replacing(tmp_path / "missing" / "a.json"):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("elsewhere")], ids=["pipe", "link"])
def test_what_is_no_file_is_not_replaced(tmp_path, make):
    make(tmp_path / "a.json")
    before = (tmp_path / "a.json").lstat()
    with pytest.raises(OutputError, match=r"a\.json: is a "), replacing(tmp_path / "a.json") as file:
        file.write(b"new")
    assert (tmp_path / "a.json").lstat() == before
    assert names(tmp_path) == ["a.json"]


def test_a_folder_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match=r"a\.json: is a folder"), replacing(tmp_path / "a.json") as file:
        file.write(b"new")
    assert names(tmp_path) == ["a.json"]
    assert names(tmp_path / "a.json") == []


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from flare_runtime.errors import OutputError
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.write import write_mask
from flare_runtime.files.json_file import write_json

source, target = Path(sys.argv[1]), Path(sys.argv[2])
template = read_volume(source).template
mask = np.random.default_rng(0).integers(0, 256, (40, 50, 60)).astype(np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    if target.suffix == ".json":
        write_json(target, {"numbers": list(range(20_000))})
    else:
        write_mask(target, mask, template)
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "record.json"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path, name, old):
    source = write_nifti(tmp_path / "source.nii", noise(SHAPE))
    folder = tmp_path / "out"
    folder.mkdir()
    if old is not None:
        (folder / name).write_bytes(old)
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, source, folder / name], capture_output=True, text=True, check=False
    )
    assert result.stdout == f"{folder / name}: cannot be written (File too large)\n", result.stderr
    assert names(folder) == ([] if old is None else [name])
    assert old is None or (folder / name).read_bytes() == old


# --- masks


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_a_mask_comes_back_with_the_geometry_of_the_image(tmp_path, name, version, endianness):
    tilt = np.deg2rad(16.5)
    columns = np.diag([1.5, 2.0, 3.0]) + 0.0
    columns[1:, 1] = 2 * np.array([np.cos(tilt), np.sin(tilt)])
    columns[1:, 2] = 3 * np.array([-np.sin(tilt), np.cos(tilt)])
    columns[0, 1] += 0.004  # a hint of shear, which must survive
    source = write_nifti(
        tmp_path / "source.nii",
        noise(SHAPE),
        version=version,
        endianness=endianness,
        qform_code=2,
        quatern_b=np.sin(tilt / 2),
        pixdim=[-1, 1.5, 2, 3, 7, 0, 0, 0],
        xyzt_units=2 | 8,
        **sform_fields(columns, offset=(0.1, -200.25, 31.75)),
    )
    volume = read_volume(source)
    mask = random_mask()
    write_mask(tmp_path / name, mask, volume.template)

    written = read_volume(tmp_path / name)
    np.testing.assert_array_equal(written.voxels, mask)
    assert written.voxels.dtype == np.uint8
    assert written.spacing_mm == volume.spacing_mm
    assert [remark.code for remark in written.remarks] == ["sheared"]
    before, after = nib.load(source).header, nib.load(tmp_path / name).header
    for field in GEOMETRY:
        assert after[field].tobytes() == before[field].tobytes(), field


@pytest.mark.parametrize("fields", [{}, {"sform_code": 0}, {"qform_code": 0}, {"pixdim": [-1, 1.5, 2, 3, 0, 0, 0, 0]}])
def test_simpleitk_sees_mask_and_image_on_one_grid(tmp_path, fields):
    itk = pytest.importorskip("SimpleITK")
    source = write_nifti(tmp_path / "source.nii.gz", noise(SHAPE), **fields)
    mask = random_mask()
    write_mask(tmp_path / "mask.nii.gz", mask, read_volume(source).template)
    image, written = itk.ReadImage(str(source)), itk.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(itk.GetArrayFromImage(written), mask)
    assert written.GetPixelID() == itk.sitkUInt8
    assert written.GetSpacing() == image.GetSpacing()
    assert written.GetOrigin() == image.GetOrigin()
    assert written.GetDirection() == image.GetDirection()


def test_a_transposed_mask_is_written_in_its_own_order(tmp_path):
    mask = random_mask((8, 7, 6)).transpose(2, 1, 0)
    write_mask(tmp_path / "mask.nii", mask, source_template(tmp_path))
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii").voxels, mask)


def oblique():
    """Voxels of 1.5 x 2 x 3 mm (x, y, z), tilted by 30 degrees about x and mirrored in y."""
    cosine, sine = np.sqrt(3) / 2, 0.5
    columns = np.array([[1, 0, 0], [0, -cosine, -sine], [0, -sine, cosine]]) @ np.diag([1.5, 2.0, 3.0])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, (10, 20, 30)
    return Geometry(affine, (3.0, 2.0, 1.5), SHAPE)


def test_a_mask_of_an_image_that_is_no_nifti_file_lies_where_its_geometry_says(tmp_path):
    itk = pytest.importorskip("SimpleITK")
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 3, 4] = 7
    write_mask(tmp_path / "mask.nii.gz", mask, Template(oblique(), source={"of": "another format"}))
    # Voxel (x, y, z) = (4, 3, 2) by hand: 10 + 4 * 1.5; 20 - 3 * 2 * cos - 2 * 3 * sin; 30 - 3 * 2 * sin + 2 * 3 * cos.
    root = np.sqrt(3)
    expected = (16, 20 - 3 * root - 3, 30 - 3 + 3 * root)
    image = nib.load(tmp_path / "mask.nii.gz")
    assert np.argwhere(image.get_fdata() == 7).tolist() == [[4, 3, 2]]
    np.testing.assert_allclose(image.affine @ (4, 3, 2, 1), (*expected, 1), atol=1e-5)
    np.testing.assert_allclose(image.get_qform() @ (4, 3, 2, 1), (*expected, 1), atol=1e-5)
    written = itk.ReadImage(str(tmp_path / "mask.nii.gz"))
    left_posterior = written.TransformIndexToPhysicalPoint((4, 3, 2))
    np.testing.assert_allclose(left_posterior, (-expected[0], -expected[1], expected[2]), atol=1e-5)
    assert itk.GetArrayFromImage(written)[2, 3, 4] == 7
    assert oblique().difference(read_volume(tmp_path / "mask.nii.gz").geometry) is None


def test_a_mask_of_an_image_whose_place_is_unknown_says_so(tmp_path):
    write_mask(tmp_path / "mask.nii", random_mask(), Volume.of_array(random_mask(), (3.0, 2.0, 1.5)).template)
    written = read_volume(tmp_path / "mask.nii")
    assert ([remark.code for remark in written.remarks], written.spacing_mm) == (["no_orientation"], (3.0, 2.0, 1.5))


def test_a_side_longer_than_nifti_1_can_count_makes_a_nifti_2_file(tmp_path):
    mask = np.zeros((3, 3, 40_000), np.uint8)
    mask[1, 1, 39_999] = 1
    write_mask(tmp_path / "mask.nii.gz", mask, Volume.of_array(mask, (1.0, 1.0, 0.01)).template)
    image = nib.load(tmp_path / "mask.nii.gz")
    assert isinstance(image, nib.Nifti2Image)
    assert np.argwhere(image.get_fdata()).tolist() == [[39_999, 1, 1]]


def test_a_mask_names_no_patient(tmp_path):
    source = write_nifti(tmp_path / "source.nii", noise(SHAPE), descrip=b"Doe^Jane", db_name=b"Doe")
    write_mask(tmp_path / "mask.nii", random_mask(), read_volume(source).template)
    assert b"Doe" not in (tmp_path / "mask.nii").read_bytes()


def test_the_same_mask_is_written_to_the_same_bytes(tmp_path):
    template = source_template(tmp_path)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_mask(tmp_path / name, random_mask(), template)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_larger_than_the_writers_chunks_is_whole(tmp_path):
    mask = np.zeros((9, 1000, 1000), np.uint8)
    mask[4, 100:200, 300:400] = 1
    mask[8, -1, -1] = 2
    template = read_volume(write_nifti(tmp_path / "source.nii.gz", np.zeros(mask.shape, np.uint8))).template
    write_mask(tmp_path / "mask.nii.gz", mask, template)
    assert gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())[352:] == mask.tobytes()
    assert (tmp_path / "mask.nii.gz").stat().st_size < mask.size / 100


# --- folders


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


def test_a_file_in_the_folders_place_is_an_output_error(tmp_path):
    (tmp_path / "a").write_bytes(b"file")
    (tmp_path / "link").symlink_to("nowhere")
    for folder, why in (("a", "it is no folder"), ("a/b", "Not a directory"), ("link", "it is no folder")):
        with pytest.raises(OutputError, match=rf"{folder}: cannot be written to \({why}\)"):
            check_folder(tmp_path / folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written to"):
        check_folder(tmp_path)


# --- many folders


def test_of_many_folders_the_one_around_them_is_made_and_the_others_are_looked_at(tmp_path):
    (tmp_path / "out" / "b" / "file").parent.mkdir(parents=True)
    (tmp_path / "out" / "b" / "file").touch()
    check_folders([f"{tmp_path}/out/{name}" for name in ("a", "b", "c/d/e")])
    check_folders([f"{tmp_path}/new/deep"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b"]
    assert (tmp_path / "new" / "deep").is_dir()
    with pytest.raises(OutputError, match=r"out/b/file: cannot be written to \(it is no folder\)"):
        check_folders([f"{tmp_path}/out/{name}" for name in ("a", "b/file/x", "b/y")])
    make_folder(tmp_path / "out" / "c" / "d")
    make_folder(tmp_path / "out" / "c" / "d")
    with pytest.raises(OutputError, match=r"b/file/x: cannot be written to"):
        make_folder(tmp_path / "out" / "b" / "file" / "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a").chmod(0o555)
    with pytest.raises(OutputError, match=r"out/a: cannot be written to \(permission denied\)"):
        check_folders([f"{tmp_path}/out/a/b", f"{tmp_path}/out/c"])
