"""The picture and the page of a case: what they show, that they load nothing, and when they are written."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from flare_runtime import Session
from flare_runtime.errors import CaseError, OutputError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.png import encode_png, is_own_png
from flare_runtime.imaging.volume import Remark, Volume
from flare_runtime.options import RunOptions
from flare_runtime.pictures.lettering import text_height, text_width, write
from flare_runtime.pictures.page import Facts, make_page
from flare_runtime.pictures.page_head import is_page
from flare_runtime.pictures.preview import COLOURS, draw_preview
from flare_runtime.pictures.upright import Upright, outlines, scaled
from flare_runtime.pipeline.lesions import measure_lesions
from tests.runtime.nifti_files import blobs, write_nifti

SPACING = (5.0, 1.0, 1.0)
SCAN = blobs((20, 30, 30), 1)


def pixels_of(png: bytes):
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(png)))


def case(axes=(0, 1, 2), flips=(False, False, False)):
    """A bright corner on the patient's left, back and head side, and one lesion, stored in some orientation."""
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])  # x to the left, y to the back, z to the head: LPS
    voxels, mask = np.full((12, 30, 40), -100, np.int16), np.zeros((12, 30, 40), np.uint8)
    voxels[8:, 20:, 30:] = 200
    mask[4:7, 10:16, 12:20] = 1
    volume = Volume(voxels, Geometry(affine, SPACING, voxels.shape)).transposed(axes)
    mask = mask.transpose(axes)
    for axis, flipped in enumerate(flips):
        if flipped:
            matrix = volume.geometry.affine.copy()
            matrix[:, 3] += matrix[:, 2 - axis] * (volume.shape[axis] - 1)
            matrix[:, 2 - axis] *= -1
            geometry = Geometry(matrix, volume.spacing_mm, volume.shape)
            volume = Volume(np.flip(volume.voxels, axis), geometry)
            mask = np.flip(mask, axis)
    found = measure_lesions(mask, volume.geometry, {1: "cyst"}, scan=lambda _wanted: volume)
    return Upright(volume, mask, is_ct=True), found


@pytest.mark.parametrize("shape", [(3, 5), (4, 6, 3), (2, 7, 4)])
def test_a_png_holds_its_pixels_and_its_maker(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    png = encode_png(pixels)
    np.testing.assert_array_equal(pixels_of(png), pixels)
    assert is_own_png(png[:4096])
    assert not is_own_png(png.replace(b"flare-lite", b"other-tool"))


def test_letters_are_where_they_were_written():
    picture = np.full((40, 60, 3), 90, np.uint8)
    write(picture, "L", 5, 10)
    box = picture[5 : 5 + text_height(), 10 : 10 + text_width("L")]
    assert set(np.unique(box)) == {30, 255}
    lit = (box[..., 0] == 255)[3:-3, 3:-3]
    assert lit[:, :2].all()  # the upright of the L
    assert lit[-2:, :10].all()  # its foot
    assert not lit[:-2, 2:].any()
    picture[5 : 5 + text_height(), 10 : 10 + text_width("L")] = 90
    assert (picture == 90).all()
    write(picture, "TOO LONG FOR IT", 30, 0)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, False)])
def test_the_patient_is_upright_however_the_scan_is_stored(axes, flips):
    upright, found = case(axes, flips)
    assert upright.sides_known
    assert upright.spacing_mm == SPACING
    axial, coronal = upright.grey(0, 10), upright.grey(1, 25)
    assert axial[-1, -1] > axial[0, 0]  # left and back: at the right, below
    assert axial[0, 0] == axial[-1, 0] == axial[0, -1]
    assert coronal[0, -1] > coronal[-1, -1]  # the head is above
    z, y, x = upright.voxel(found.lesions[0].centre)
    assert upright.labels[z, y, x] == 1
    assert upright.grey(0, 0).shape == (30, 40)
    # A picture is the same to the pixel, but for the slices' numbers, which are those of the file.
    reference, _ = case()
    if not any(flips) and axes == (0, 1, 2):
        assert upright.stored_index(0, 4) == 4
    np.testing.assert_array_equal(upright.plane_labels(2, 15), reference.plane_labels(2, 15))


def test_the_picture_shows_the_lesion_and_its_sides():
    upright, found = case()
    picture = pixels_of(draw_preview(upright, found.lesions))
    assert (picture == COLOURS[0]).all(axis=-1).sum() > 100
    nowhere = Upright(Volume.of_array(upright.image.voxels, SPACING), upright.mask, is_ct=True)
    assert not nowhere.sides_known
    assert draw_preview(nowhere, found.lesions) != draw_preview(upright, found.lesions)
    empty = Upright(upright.image, np.zeros_like(upright.mask), is_ct=True)
    assert not (pixels_of(draw_preview(empty, [])) == COLOURS[0]).all(axis=-1).any()


def test_other_images_than_ct_are_shown_by_their_own_range():
    rng = np.random.default_rng(0)
    volume = Volume.of_array(rng.normal(5000, 100, (20, 30, 30)).astype(np.float32), (1.0, 1.0, 1.0))
    low, high = Upright(volume, np.zeros((20, 30, 30), np.uint8), is_ct=False).window
    assert low == pytest.approx(5000 - 233, abs=15)
    assert high == pytest.approx(5000 + 233, abs=15)
    flat = Volume.of_array(np.full((3, 3, 3), np.nan, np.float32), (1.0, 1.0, 1.0))
    assert Upright(flat, np.zeros((3, 3, 3), np.uint8), is_ct=False).grey(0, 1).max() == 0


def test_an_outline_is_the_border_within():
    labels = np.zeros((6, 7), np.uint8)
    labels[1:5, 1:6] = 1
    border = outlines(labels)
    assert border.sum() == 2 * 5 + 2 * 2
    assert not border[2:4, 2:5].any()
    np.testing.assert_array_equal(scaled(np.arange(6).reshape(2, 3), (4, 6))[::2, ::2], [[0, 1, 2], [3, 4, 5]])


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]


def test_a_page_loads_nothing_and_says_what_was_found():
    upright, found = case()
    facts = Facts("a<b>", found.lesions, found.totals, [Remark("odd", "<script>x</script>")], {"bundle_sha256": "ab12"})
    page = make_page(upright, facts)
    text = page.decode()
    assert is_page(page[:4096])
    parsed = Links(text)
    assert parsed.links == []
    assert parsed.tags.count("script") == 1
    assert not re.findall(r"https?://|@[A-Z]+@", text)
    for words in ("a&lt;b&gt;", "&lt;script&gt;x", "Not for patients", "ab12", "<td>cyst</td>", "cyst: 1, 0.72 ml"):
        assert words in text
    assert text.count("data:image/png;base64,") == 12 + 3  # slices, and outlines of those with the lesion
    assert '<tr tabindex="0" data-slice="4">' in text


def test_a_page_of_a_long_scan_is_bounded_and_holds_the_slices_of_lesions():
    mask = np.zeros((1000, 8, 8), np.uint8)
    mask[501, 2:4, 2:4] = 1
    volume = Volume.of_array(np.zeros(mask.shape, np.int16), (1.0, 1.0, 1.0))
    found = measure_lesions(mask, volume.geometry)
    text = make_page(Upright(volume, mask, is_ct=True), Facts("a", found.lesions, found.totals, [], {})).decode()
    assert '"n":501,' in text
    assert text.count('"n":') <= 151


def test_pictures_lie_beside_the_mask_and_go_with_it(tiny_bundle, tmp_path):
    (tmp_path / "in").mkdir()
    scan = write_nifti(tmp_path / "in" / "a_0000.nii.gz", SCAN)
    out = tmp_path / "out"
    options = RunOptions(device="cpu", threads=1, preview=True, page=True)
    (record,) = Session(tiny_bundle, options).run(tmp_path / "in", out)
    assert sorted(path.name for path in out.iterdir()) == ["a.html", "a.json", "a.nii.gz", "a.preview.png"]
    assert (record.preview, record.page) == (str(out / "a.preview.png"), str(out / "a.html"))
    assert record.model["bundle_sha256"] in (out / "a.html").read_text(encoding="utf-8")
    # A run without them leaves none that would be of another mask.
    (record,) = Session(tiny_bundle, RunOptions(device="cpu", threads=1)).run(tmp_path / "in", out)
    assert sorted(path.name for path in out.iterdir()) == ["a.json", "a.nii.gz"]
    assert record.preview is None
    list(Session(tiny_bundle, options).run(tmp_path / "in", out))
    # One that is refused sets them aside with the mask.
    scan.write_bytes(b"no image")
    (record,) = Session(tiny_bundle, options).run(tmp_path / "in", out)
    assert record.status == "refused"
    assert sorted(path.name for path in out.iterdir()) == [
        "a.json",
        "a.stale.html",
        "a.stale.nii.gz",
        "a.stale.preview.png",
    ]


def test_a_page_of_somebody_elses_is_left_alone(tiny_bundle, tmp_path):
    write_nifti(tmp_path / "a.nii.gz", SCAN)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.html").write_text("<!doctype html>\nmine", encoding="utf-8")
    with pytest.raises(OutputError, match="was not written by this command"):
        Session(tiny_bundle, RunOptions(device="cpu", page=True)).run(tmp_path / "a.nii.gz", tmp_path / "out")
    list(Session(tiny_bundle, RunOptions(device="cpu", threads=1)).run(tmp_path / "a.nii.gz", tmp_path / "out"))
    assert (tmp_path / "out" / "a.html").read_text(encoding="utf-8").endswith("mine")


def test_a_page_without_lesions_begins_in_the_middle():
    mask = np.zeros((9, 8, 8), np.uint8)
    volume = Volume.of_array(np.zeros(mask.shape, np.int16), (1.0, 1.0, 1.0))
    text = make_page(Upright(volume, mask, is_ct=True), Facts("a", [], (), [], {})).decode()
    assert "no lesion" in text
    assert 'max="8" value="4"' in text


def test_a_scan_that_is_gone_leaves_the_mask_without_pictures(tiny_bundle, tmp_path, monkeypatch):
    def gone(_reader, _case):
        raise CaseError("unreadable", "a.nii.gz: No such file or directory")

    write_nifti(tmp_path / "a.nii.gz", SCAN)
    monkeypatch.setattr("flare_runtime.run.serial.CaseReader.read_first", gone)
    options = RunOptions(device="cpu", threads=1, preview=True)
    (record,) = Session(tiny_bundle, options).run(tmp_path / "a.nii.gz", tmp_path / "mask.nii")
    assert (record.status, record.preview) == ("done", None)
    assert "no_pictures" in [remark.code for remark in record.remarks]
    assert not (tmp_path / "mask.preview.png").exists()
