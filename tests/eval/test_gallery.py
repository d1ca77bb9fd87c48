"""Which cases the gallery shows, and how it cuts them out and turns them."""

import io

import numpy as np
import pytest
from matplotlib.image import imread
from msgspec.structs import replace

from flare_eval.report.gallery import Shown, best_and_worst, draw_case, lesion_cube, pictures
from flare_eval.report.upright import Upright
from flare_eval.results import Accuracy, CaseAccuracy
from flare_runtime.compute.box import Box
from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Volume
from tests.eval.nifti_masks import cube, write
from tests.runtime.nifti_files import write_nifti

SHAPE = (20, 24, 28)
LESION = cube(SHAPE, (8, 4, 6), (12, 10, 14))


def scored(case, dsc, reference_ml=1.0, prediction_ml=1.0):
    return CaseAccuracy(
        case=case, source="other", dsc=dsc, nsd={"2": dsc}, reference_ml=reference_ml, prediction_ml=prediction_ml
    )


def accuracy(*cases, method="M"):
    return Accuracy(method=method, tolerances_mm=[2.0], official=False, cases=list(cases))


def names(cases):
    return [case.case for case in cases]


def test_best_come_down_and_worst_come_up():
    result = accuracy(*(scored(f"c{n}", n / 10) for n in (3, 1, 5, 2, 4, 0)))
    best, worst = best_and_worst([result], 2)
    assert (names(best), names(worst)) == (["c5", "c4"], ["c0", "c1"])


@pytest.mark.parametrize(
    ("count", "best", "worst"), [(1, ["c0"], []), (3, ["c2", "c1"], ["c0"]), (4, ["c3", "c2"], ["c0", "c1"])]
)
def test_few_cases_are_shown_once(count, best, worst):
    found = best_and_worst([accuracy(*(scored(f"c{n}", n / 10) for n in range(count)))], 4)
    assert tuple(map(names, found)) == (best, worst)


def test_of_equal_failures_the_largest_lesion_comes_first():
    result = accuracy(scored("small", 0.0, 1), scored("large", 0.0, 9), scored("x", 0.5), scored("y", 0.6))
    assert names(best_and_worst([result], 2)[1]) == ["large", "small"]


def test_cases_without_any_lesion_or_score_are_left_out():
    result = accuracy(scored("empty", 1.0, 0.0, 0.0), scored("seen", 0.4), CaseAccuracy(case="bad", source="other"))
    assert [names(cases) for cases in best_and_worst([result], 4)] == [["seen"], []]


def test_several_methods_are_ranked_by_their_mean():
    first = accuracy(scored("a", 0.9), scored("b", 0.5), scored("c", 0.4), method="first")
    second = accuracy(scored("a", 0.1), scored("b", 0.7), method="second")
    best, worst = best_and_worst([first, second], 1)
    # Means of 0.5, 0.6 and 0.4: the last case has one method alone.
    assert (names(best), names(worst)) == (["b"], ["c"])
    assert list(best[0].scores) == ["first", "second"]


def test_the_cut_is_a_cube_in_millimetres_that_may_reach_beyond_the_image():
    mask = cube((100, 300, 300), (50, 140, 148), (54, 160, 152))
    # The lesion is 16 x 20 x 4 mm, so the cut is the smallest one of 160 mm: 40 slices of 4 mm, 160 rows and columns.
    assert lesion_cube(mask, (4.0, 1.0, 1.0)) == Box.between((32, 70, 70), (72, 230, 230))
    # 240 mm and a margin of 40 mm either side.
    large = cube((100, 300, 300), (0, 30, 0), (10, 270, 10))
    assert lesion_cube(large, (1.0, 1.0, 1.0)) == Box.between((-155, -10, -155), (165, 310, 165))


def test_the_cut_follows_the_lesion_with_the_largest_section():
    mask = cube((40, 600, 600), (10, 500, 500), (12, 540, 540)) | cube((40, 600, 600), (0, 20, 20), (40, 30, 30))
    assert lesion_cube(mask, (1.0, 1.0, 1.0))[1:] == (slice(440, 600), slice(440, 600))


def test_an_empty_mask_is_cut_in_the_middle():
    assert lesion_cube(np.zeros((400, 400, 400), np.uint8), (1.0, 1.0, 1.0)).z == slice(120, 281)


def test_arrays_are_turned_to_left_back_and_head():
    # The array's axes (z, y, x) go to the right, the feet and the front, with 3, 2 and 1 mm.
    affine = np.array([[0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]])
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[3, 0, 5] = 1  # right end, head end, front end
    turn = Upright(Volume(voxels, Geometry(affine, (3.0, 2.0, 1.0), (4, 5, 6))))
    assert turn.known
    turned = turn.turned(voxels)
    assert turned.shape == (5, 6, 4)
    assert turned[4, 0, 0] == 1
    assert turn.spacing((3.0, 2.0, 1.0)) == (2.0, 1.0, 3.0)


@pytest.fixture
def case(tmp_path):
    write(tmp_path / "images" / "a_0000.nii.gz", np.where(LESION, 100, -50).astype(np.int16))
    return CaseAccuracy(
        case="a",
        source="other",
        dsc=0.5,
        nsd={"2": 0.5},
        reference_ml=1.0,
        reference=str(write(tmp_path / "a.nii.gz", LESION)),
        prediction=str(write(tmp_path / "mask" / "a.nii.gz", np.roll(LESION, 2, axis=1))),
    )


def colours_of(png):
    pixels = (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int).reshape(-1, 3)
    return pixels[np.ptp(pixels, axis=1) > 60]


def shown(**scores):
    return Shown("a", scores)


def test_a_picture_shows_both_outlines(case, tmp_path):
    png, problems = draw_case(shown(M=case), tmp_path / "images")
    assert png.startswith(b"\x89PNG")
    assert problems == []
    both = len(colours_of(png))
    case.prediction = ""
    # Without a prediction the reference's outline alone is left.
    assert 0 < len(colours_of(draw_case(shown(M=case), tmp_path / "images")[0])) < both


def test_every_method_has_a_row_and_one_without_a_mask_a_reason(case, tmp_path):
    alone, _ = draw_case(shown(M=case), tmp_path / "images")
    other = replace(case, prediction=str(write(tmp_path / "other" / "a.nii.gz", np.roll(LESION, 3, axis=2))))
    two, _ = draw_case(shown(M=case, other=other), tmp_path / "images")
    height, width = imread(io.BytesIO(two)).shape[:2]
    assert (height - imread(io.BytesIO(alone)).shape[0], width) == (410, 1300)
    assert len(colours_of(two)) > 1.8 * len(colours_of(alone))
    other.prediction = str(tmp_path / "gone.nii.gz")
    png, (problem,) = draw_case(shown(M=case, other=other), tmp_path / "images")
    assert imread(io.BytesIO(png)).shape == imread(io.BytesIO(alone)).shape
    assert problem.startswith("other: ")
    assert "gone.nii.gz" in problem


@pytest.mark.parametrize("known", [True, False])
def test_sides_are_marked_where_they_are_known(monkeypatch, case, tmp_path, known):
    if not known:
        write_nifti(tmp_path / "images" / "a_0000.nii.gz", LESION.astype(np.int16) * 100, sform_code=0, qform_code=0)
    texts = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda _, x, y, text, **how: texts.append((x < 0.5, text)))
    draw_case(shown(M=case), tmp_path / "images")
    marks = [(left, text) for left, text in texts if len(text) == 1]
    sides = [(True, "R"), (False, "L"), (True, "R"), (False, "L"), (True, "A"), (False, "P")]
    assert marks == (sides if known else [])


def test_an_absent_image_or_mask_is_a_picture_with_a_reason(case, tmp_path):
    (found,) = pictures([accuracy(case)], tmp_path / "nowhere", 4)
    assert found.png is None
    assert str(tmp_path / "nowhere") in found.problems[0]
    case.prediction = str(tmp_path / "gone.nii.gz")
    (found,) = pictures([accuracy(case)], tmp_path / "images", 4)
    assert (found.png, found.rank) == (None, "best 1")
    assert "gone.nii.gz" in found.problems[0]


def test_other_grids_are_no_picture(case, tmp_path):
    case.prediction = str(write(tmp_path / "mask" / "other.nii.gz", LESION[1:]))
    with pytest.raises(CaseError, match="measure"):
        draw_case(shown(M=case), tmp_path / "images")
