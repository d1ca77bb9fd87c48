"""Of partially labelled sources, what is far from the labelled lesions is ignored, in the loss and nowhere else."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from flare_runtime.errors import OutputError, UsageError
from flare_runtime.imaging.read import read_volume
from flare_train.data.cases import MADE_LABELS, find_cases
from flare_train.data.inspection import CaseFacts, inspect_case
from flare_train.data.partial_labels import IGNORE, with_ignored
from flare_train.data.selection import MANIFEST, SelectionRules, original_labels, select, write_raw_dataset
from tests.eval.nifti_masks import cube, write

SHAPE = (12, 20, 20)
SPACING = (2.0, 1.0, 0.5)
LESION = cube(SHAPE, (5, 9, 9), (7, 11, 11))
ROOT = Path(__file__).resolve().parents[2]


def test_the_known_region_by_hand():
    lesion = np.zeros((3, 3, 7), bool)
    lesion[1, 1, 3] = True
    # 5 mm: one voxel up or down, but not beside that one; along y 4 mm; along x 2 and 4 mm.
    label = with_ignored(lesion, (5.0, 4.0, 2.0), 5.0)
    assert label[:, 1, 3].tolist() == [0, 1, 0]
    assert label[0, 0, 3] == label[0, 1, 2] == IGNORE
    assert label[1].tolist() == [[2, 2, 0, 0, 0, 2, 2], [2, 0, 0, 1, 0, 0, 2], [2, 2, 0, 0, 0, 2, 2]]


def test_spacings_in_single_precision_do_not_lose_the_rim():
    lesion = np.zeros((1, 1, 60), bool)
    lesion[0, 0, 0] = True
    label = with_ignored(lesion, (1.0, 1.0, float(np.float32(0.8))), 20.0)
    assert np.count_nonzero(label == 0) == 25


@pytest.mark.parametrize("count", [1, 3, 80])
def test_it_is_the_distance_to_the_nearest_lesion_however_many_there_are(count):
    rng = np.random.default_rng(count)
    lesion = np.zeros((20, 40, 40), bool)
    lesion[tuple(rng.integers(0, lesion.shape, (count, 3)).T)] = True
    label = with_ignored(lesion, SPACING, 6.0)
    distance = distance_transform_edt(~lesion, sampling=SPACING)
    np.testing.assert_array_equal(label, np.where(lesion, 1, np.where(distance <= 6.0, 0, IGNORE)))


def test_without_a_lesion_nothing_is_known():
    assert (with_ignored(np.zeros((2, 3, 4), bool), SPACING, 20.0) == IGNORE).all()


@pytest.fixture
def facts(tmp_path):
    """Two cases of a source, one to validate on, and one of another source."""
    found = []
    for stem, source in (("STS_000", "STS"), ("STS_001", "STS"), ("MSD_lung_000", "MSD lung")):
        image = write(tmp_path / "data" / f"{stem}_0000.nii.gz", np.full(SHAPE, 40, np.int16), SPACING, (7, 8, 9))
        label = write(tmp_path / "data" / f"{stem}.nii.gz", LESION, SPACING, (7, 8, 9))
        found.append(CaseFacts(stem=stem, source=source, image=str(image), label=str(label)))
    return found


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw" / "Dataset001_Test"


def make(facts, raw, beyond_mm=3.0, workers=1, **options):
    options = {"partial": ["STS"], "validation": ["STS_001"], **options}
    choices = select(facts, SelectionRules(ignore_beyond_mm=beyond_mm, **options))
    write_raw_dataset(choices, raw, workers)
    return choices


def made(raw):
    return sorted((raw / MADE_LABELS).iterdir()) if (raw / MADE_LABELS).exists() else []


def test_only_training_cases_of_the_source_get_a_made_label(facts, raw):
    make(facts, raw)
    assert [path.name.rpartition("-")[0] for path in made(raw)] == ["STS_000"]
    assert all(path.is_symlink() for path in (raw / "labelsTr").iterdir())
    links = {path.name: path.resolve().parent.name for path in (raw / "labelsTr").iterdir()}
    assert links == {"STS_000.nii.gz": MADE_LABELS, "STS_001.nii.gz": "data", "MSD_lung_000.nii.gz": "data"}
    dataset = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    assert dataset["labels"] == {"background": 0, "lesion": 1, "ignore": 2}


def test_a_made_label_has_the_geometry_and_the_lesions_of_the_original(facts, raw):
    make(facts, raw)
    ours, theirs = (nibabel.load(path) for path in (raw / "labelsTr" / "STS_000.nii.gz", facts[0].label))
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    for key in ("pixdim", "qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(ours.header[key], theirs.header[key])
    label = read_volume(raw / "labelsTr" / "STS_000.nii.gz").voxels
    np.testing.assert_array_equal(label, with_ignored(LESION == 1, SPACING, 3.0))
    assert np.unique(label).tolist() == [0, 1, 2]


def test_several_processes_make_what_one_makes(facts, raw, tmp_path):
    make(facts, raw, workers=2, validation=())
    make(facts, tmp_path / "one", validation=())
    assert [path.name for path in made(raw)] == [path.name for path in made(tmp_path / "one")]
    assert [path.read_bytes() for path in made(raw)] == [path.read_bytes() for path in made(tmp_path / "one")]


def test_labels_are_kept_rebuilt_and_removed_as_the_selection_goes(facts, raw):
    make(facts, raw)
    (first,) = made(raw)
    written = first.stat().st_mtime_ns
    make(facts, raw)
    assert [(path, path.stat().st_mtime_ns) for path in made(raw)] == [(first, written)]
    make(facts, raw, beyond_mm=5.0)
    (second,) = made(raw)
    assert second != first
    write(Path(facts[0].label), cube(SHAPE, (0, 0, 0), (3, 3, 3)), SPACING)
    make(facts, raw, beyond_mm=5.0)
    (third,) = made(raw)
    assert third != second
    assert (raw / "labelsTr" / "STS_000.nii.gz").resolve() == third.resolve()
    assert read_volume(third).voxels[0, 0, 0] == 1
    make(facts, raw, partial=())
    assert not (raw / MADE_LABELS).exists()
    assert (raw / "labelsTr" / "STS_000.nii.gz").resolve() == Path(facts[0].label)
    assert "ignore" not in json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["labels"]


@pytest.mark.parametrize("name", ["STS_000.nii.gz", "notes.txt"])
def test_files_of_others_are_never_removed(facts, raw, name):
    make(facts, raw)
    (raw / MADE_LABELS / name).write_text("precious")
    for partial in (["STS"], []):
        with pytest.raises(OutputError, match="was not made by"):
            make(facts, raw, partial=partial)
    assert (raw / MADE_LABELS / name).read_text(encoding="utf-8") == "precious"
    (raw / MADE_LABELS / name).unlink()
    (raw / "labelsTr" / "mine.nii.gz").write_text("precious")
    with pytest.raises(OutputError, match="is no link"):
        make(facts, raw)


def test_what_is_gone_or_broken_is_said(facts, raw):
    Path(facts[0].label).write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"STS_000.*inspect the data set again"):
        make(facts, raw)
    Path(facts[0].label).unlink()
    with pytest.raises(OutputError, match="is not there any more"):
        make(facts, raw)
    assert not made(raw)


def test_the_manifest_names_the_originals(facts, raw):
    make(facts, raw)
    lines = [json.loads(line) for line in (raw / MANIFEST).read_text(encoding="utf-8").splitlines()]
    assert [(line["label"], line["ignore_beyond_mm"]) for line in lines] == [
        (facts[0].label, 3.0),
        (facts[1].label, None),
        (facts[2].label, None),
    ]
    assert original_labels(raw) == {case.stem: Path(case.label) for case in facts}
    assert original_labels(raw.parent) == {}


def test_a_look_through_the_data_set_finds_every_case_once(facts, raw):
    make(facts, raw)
    assert [case.stem for case in find_cases(raw)] == ["MSD_lung_000", "STS_000", "STS_001"]
    (problem,) = {p for case in find_cases(raw) for p in inspect_case(case).problems}
    assert problem == "not_binary"


def test_a_partial_source_without_a_lesion_teaches_nothing(facts):
    facts[0].problems.append("empty_label")
    facts[2].problems.append("empty_label")
    kept = [c.stem for c in select(facts, SelectionRules(partial=["STS"], empty_labels=True)) if c.kept]
    assert kept == ["STS_001", "MSD_lung_000"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partial": ["STS", "Lung"]}, "no case is of Lung; the sources are MSD lung, STS"),
        ({"ignore_beyond_mm": 0.0}, "distance above 0"),
        ({"ignore_beyond_mm": float("nan")}, "distance above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(facts, options, words):
    with pytest.raises(UsageError, match=words):
        select(facts, SelectionRules(**options))


def test_a_case_that_a_cap_drops_has_no_label_made(facts):
    choices = select(facts, SelectionRules(partial=["STS"], cap=1))
    assert sum(choice.partial for choice in choices) == 1
    assert not any(choice.partial for choice in choices if not choice.kept)


def test_a_fold_is_scored_against_the_originals(facts, raw, tmp_path):
    pytest.importorskip("nnunetv2")
    from flare_train.data.nnunet_folders import DatasetFolders
    from flare_train.training.run import Run
    from flare_train.training.session import validation_cases

    make(facts, raw, validation=())
    preprocessed = tmp_path / "preprocessed"
    preprocessed.mkdir()
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["STS_000", "MSD_lung_000"]}]))
    cases = validation_cases(Run(DatasetFolders(raw.name, 1, raw, preprocessed), "plans", fold="0"))
    assert [(case.stem, case.label) for case in cases] == [
        ("MSD_lung_000", Path(facts[2].label)),
        ("STS_000", Path(facts[0].label)),
    ]


def test_plans_of_before_the_labels_changed_are_refused(facts, raw, tmp_path):
    from flare_train.data.nnunet_folders import DatasetFolders
    from flare_train.planning.preprocessing import preprocess

    make(facts, raw)
    (tmp_path / "plans.json").write_text("{}")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lesion": 1}}))
    with pytest.raises(UsageError, match="plan again"):
        preprocess(DatasetFolders(raw.name, 1, raw, tmp_path), "plans", 1)


def test_the_exporter_counts_no_output_for_what_is_ignored(tmp_path):
    pytest.importorskip("torch")
    from flare_export.source.model_folder import ModelFolder
    from tests.model_folders import write_model_folder

    folder = ModelFolder.read(write_model_folder(tmp_path, labels={"background": 0, "lesion": 1, "ignore": IGNORE}))
    assert folder.outputs == 2
    assert folder.network(folder.checkpoints[0]).decoder.seg_layers[-1].out_channels == 2


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """The trainer on one case, most of which is ignored; its patches hold some of that and some of the rest."""
    torch = pytest.importorskip("torch")
    nnunet_trainer = pytest.importorskip("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    from flare_train.training.trainer import FlareTrainer
    from tests.model_folders import make_plans
    from tests.train.preprocessed_cases import write_case

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        if isinstance(getattr(nnunet_trainer, name), str | None):  # before 2.8 it was read at import
            monkeypatch.setattr(nnunet_trainer, name, str(tmp_path / name))
    plans = make_plans(features=(4, 8, 8, 8))
    plans["continue_training"] = False
    shape = (32, 32, 32)
    label = with_ignored(cube(shape, (14, 14, 14), (18, 18, 18)) == 1, (1.0, 1.0, 1.0), 4.0)
    folder = tmp_path / "nnUNet_preprocessed" / plans["dataset_name"] / "nnUNetPlans_3d_fullres"
    write_case(folder, "case", label, ignore=True)
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1, "ignore": IGNORE},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    trainer = FlareTrainer(plans, "3d_fullres", "all", dataset, torch.device("cpu"))
    trainer.initialize()
    return trainer


def test_what_is_ignored_moves_neither_loss_nor_weights(trainer):
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # nnU-Net draws from the global generator
    loader, _ = trainer.get_dataloaders()
    seen = []
    loss = trainer.loss

    def spy(outputs, targets):
        for output in outputs:
            output.retain_grad()
        seen.append((outputs, targets, loss(outputs, targets)))
        return seen[0][2]

    trainer.loss = spy
    trainer.network.train()
    trainer.train_step(next(loader))
    ((outputs, targets, value),) = seen
    assert len(outputs) == 3
    assert all(output.shape[1] == 2 for output in outputs), "background and lesion"
    for output, target in zip(outputs[:2], targets[:2], strict=True):  # nnU-Net gives the coarsest no weight
        ignored = (target == IGNORE).expand_as(output)
        assert ignored.any()
        assert not ignored.all()
        assert output.grad[ignored].abs().max() == 0
        assert output.grad[~ignored].abs().max() > 0
    with torch.no_grad():
        masks = [target == IGNORE for target in targets]
        nonsense = [torch.where(mask, 9 - 5 * output, output) for output, mask in zip(outputs, masks, strict=True)]
        assert loss(nonsense, targets) == value
        known = [torch.where(mask, output, 9 - 5 * output) for output, mask in zip(outputs, masks, strict=True)]
        assert loss(known, targets) != value


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Raw data of four cases whose second lesion, of 300 HU, nobody labelled; selected as partial, and planned."""
    root = tmp_path_factory.mktemp("partial")
    rng = np.random.default_rng(0)
    shape, spacing = (20, 32, 32), (2.4, 1.6, 1.6)
    labelled, other = cube(shape, (4, 4, 4), (9, 12, 12)), cube(shape, (13, 22, 22), (18, 29, 29))
    for number in range(4):
        image = np.select([labelled == 1, other == 1], [60, 300], -300) + rng.normal(0, 20, shape)
        write(root / "data" / "images" / f"STS_{number:03d}_0000.nii.gz", image.astype(np.int16), spacing)
        write(root / "data" / "labels" / f"STS_{number:03d}.nii.gz", labelled, spacing)
    flare_train(root, "inspect", root / "data", "-o", root / "facts", "--workers", 1)
    options = ["--partial", "STS", "--ignore-beyond", 8, "--workers", 1]
    raw = root / "nnUNet_raw" / "Dataset813_Partial"
    told = flare_train(root, "select", root / "facts" / "facts.jsonl", "-o", raw, *options)
    assert "4 of them with labels that leave out what is beyond 8 mm of a lesion" in told
    size = ["--features", 4, 8, 8, "--patch", 16, 16, 16]
    flare_train(root, "plan", 813, *size, "--name", "toy", "--workers", 1)
    return root


def flare_train(root, *arguments):
    """Run the command in a process of its own: nnU-Net reads the names of its folders at import."""
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    command = [sys.executable, "-m", "flare_train.cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **folders}, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_images_are_normalised_by_the_lesions_alone(toy):
    plans = json.loads((toy / "nnUNet_preprocessed" / "Dataset813_Partial" / "toy.json").read_text(encoding="utf-8"))
    statistics = plans["foreground_intensity_properties_per_channel"]["0"]
    assert statistics["mean"] == pytest.approx(60, abs=2)
    assert statistics["std"] == pytest.approx(20, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [[], ["--small-lesions", "--augmenters", 1]])
def test_a_network_is_trained_on_it_and_exported(toy, tmp_path, sampling):
    from flare_export.cli import main

    shutil.rmtree(toy / "nnUNet_results", ignore_errors=True)
    length = ["--epochs", 2, "--last", 2, "--iterations", 3, "--val-iterations", 1, "--workers", 1, "--augmenters", 0]
    told = flare_train(toy, "run", 813, "--plans", "toy", "--fold", "all", *length, *sampling)
    loss = float(re.search(r"epoch 2 of 2: loss (\S+),", told).group(1))
    assert -1 < loss < 3
    assert main([*told.splitlines()[-1].split()[1:-1], str(tmp_path / "bundle")]) == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["labels"] == [{"name": "lesion", "values": [1]}]
