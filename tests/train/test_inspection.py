"""What inspection finds out about a case, and every kind of bad file by name."""

import os
import signal

import msgspec
import numpy as np
import pytest

from flare_runtime.errors import DeviceError
from flare_train.data.cases import TrainingCase, find_cases
from flare_train.data.inspection import CaseFacts, inspect_case, inspect_cases
from flare_train.data.summary import draw, summarise, table
from tests.eval.nifti_masks import SPACING, cube, write
from tests.runtime.nifti_files import write_nifti

SHAPE = (8, 12, 12)
LABEL = cube(SHAPE, (1, 1, 1), (3, 5, 5)) | cube(SHAPE, (5, 8, 8), (6, 9, 9))
IMAGE = np.where(LABEL, 60, -900).astype(np.int16)


@pytest.fixture
def dataset(tmp_path):
    def add(stem, image=IMAGE, label=LABEL, **of_label):
        if image is not None:
            write(tmp_path / "images" / f"{stem}_0000.nii.gz", image)
        if label is not None:
            write(tmp_path / "labels" / f"{stem}.nii.gz", label, **of_label)
        return tmp_path

    return add


def facts_of(root):
    return {case.stem: inspect_case(case) for case in find_cases(root)}


def test_a_sound_case(dataset):
    facts = facts_of(dataset("STS_001"))["STS_001"]
    assert facts.problems == []
    assert (facts.shape, facts.spacing_mm) == (SHAPE, SPACING)
    # 2 x 4 x 4 voxels and one, of 1 mm3.
    assert facts.lesions_mm3 == [32.0, 1.0]
    assert facts.foreground_percentiles_hu == [60.0, 60.0, 60.0]
    assert len(facts.foreground_hu) == 33


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"label": None}, "missing_label"),
        ({"image": None}, "missing_image"),
        ({"label": LABEL[:-1]}, "geometry"),
        ({"origin": (4.0, 0.0, 0.0)}, "geometry"),
        ({"label": LABEL * 3}, "not_binary"),
        ({"label": LABEL * 0.5}, "not_binary"),
        ({"label": np.zeros_like(LABEL)}, "empty_label"),
    ],
)
def test_a_bad_case_is_named(dataset, options, problem):
    dataset("STS_002")
    facts = facts_of(dataset("STS_001", **options))["STS_001"]
    assert problem in facts.problems
    assert all("STS_001" in message for message in facts.messages)


def test_a_truncated_file_is_named_and_the_others_go_on(dataset):
    root = dataset("STS_001")
    dataset("STS_002")
    path = root / "images" / "STS_001_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    facts = facts_of(root)
    assert facts["STS_001"].problems == ["truncated_image"]
    assert facts["STS_002"].problems == []


def test_links_in_a_circle_devices_and_pipes_are_named(dataset):
    root = dataset("STS_001")
    for stem, make in {
        "STS_002": lambda path: path.symlink_to(path.name),
        "STS_003": lambda path: path.symlink_to("/dev/zero"),
        "STS_004": os.mkfifo,
    }.items():
        dataset(stem, label=None)
        make(root / "labels" / f"{stem}.nii.gz")
    facts = facts_of(root)
    assert {stem: case.problems for stem, case in facts.items()} == {
        "STS_001": [],
        "STS_002": ["unreadable_label"],
        "STS_003": ["not_a_file_label"],
        "STS_004": ["not_a_file_label"],
    }


@pytest.mark.filterwarnings("error")
def test_enormous_intensities_can_be_written_down(dataset):
    image = np.where(np.indices(SHAPE).sum(axis=0) % 2, 3e38, -3e38).astype(np.float32)
    facts = facts_of(dataset("STS_001", image=image))["STS_001"]
    assert np.isfinite(facts.foreground_percentiles_hu).all()
    assert msgspec.json.decode(msgspec.json.encode(facts), type=CaseFacts) == facts


@pytest.mark.parametrize("fields", [{"quatern_b": 1}, {"pixdim": [0, 1.5, -2, 3, 0, 0, 0, 0]}, {"qform_code": -1}])
def test_grids_are_compared_whatever_is_in_their_headers(tmp_path, fields):
    for path in (tmp_path / "images" / "a_0000.nii.gz", tmp_path / "labels" / "a.nii.gz"):
        path.parent.mkdir()
        write_nifti(path, LABEL.astype(np.uint8), sform_code=0, **fields)
    assert facts_of(tmp_path)["a"].problems == []


def test_several_processes_find_what_one_finds(dataset):
    for number in range(3):
        root = dataset(f"STS_{number:03d}")
    cases = find_cases(root)
    assert list(inspect_cases(cases, 2)) == list(inspect_cases(cases, 1))


class Deadly:
    """A path that kills the process which asks for it, as the kernel does where memory runs out."""

    def __fspath__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_one_line(dataset):
    cases = [*find_cases(dataset("STS_001")), TrainingCase("STS_002", "STS", Deadly(), None)]
    with pytest.raises(DeviceError, match="use fewer --workers"):
        list(inspect_cases(cases, 2))


def test_the_summary_by_hand(dataset):
    dataset("STS_001")
    dataset("STS_002", image=IMAGE + 30)
    root = dataset("LIDC-IDRI-0001", label=None)
    summary = summarise(list(facts_of(root).values()))
    assert list(summary) == ["LIDC", "STS", "all"]
    sts = summary["STS"]
    assert (sts["cases"], sts["sound_cases"], sts["lesions"]) == (2, 2, 4)
    assert sts["lesion_mm3"] == [1.0, 16.5, 32.0]
    assert sts["lesions_a_case"] == [2.0, 2.0, 2.0]
    assert sts["foreground_hu"] == [60.0, 75.0, 90.0]
    assert sts["spacing_mm"]["z"] == [2.0, 2.0, 2.0]
    assert summary["LIDC"]["problems"] == {"missing_label": 1}
    assert summary["all"]["cases"] == 3
    head, rows = table(summary)
    assert all(len(row) == len(head) for row in rows)
    assert "60 / 75 / 90" in rows[1]


def test_the_plot_is_a_picture_even_of_a_set_without_labels(dataset, tmp_path):
    root = dataset("a", label=None)
    (tmp_path / "plot.png").write_bytes(draw(list(facts_of(root).values())))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
