"""Several classes: by hand, as nnU-Net's own evaluation counts them, and by the names that people know."""

import csv
import json
import multiprocessing.dummy
import shlex
import shutil
import sys
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_eval.accuracy.classes import score_classes
from flare_eval.accuracy.label_set import LabelSet, read_label_set
from flare_eval.cli import main
from flare_eval.results import Accuracy, LabelClass, load
from flare_runtime.errors import UsageError
from tests.eval.nifti_masks import SPACING, ball, cube, write

SHAPE = (10, 12, 14)
ORGANS = {"background": 0, "spleen": 2, "liver": 1, "kidney": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [3, 2], "edge": 3, "alone": [1], "ignore": 4}
IGNORING = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "ignore": 4}
TOLERANCE = 2.0
COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"


def random_labels(seed, most):
    """Return blocks of labels from 0 to `most`, some of them changed."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, most + 1, (4, 4, 5), np.uint8).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    labels = blocks[: SHAPE[0], : SHAPE[1], : SHAPE[2]].copy()
    labels[generator.random(SHAPE) < 0.05] = 0
    return labels


def dataset(folder, labels, **more):
    path = folder / "dataset.json"
    path.write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}, **more}))
    return path


def classes(**values):
    return LabelSet(tuple(LabelClass(name=name, values=of, key=str(of[0])) for name, of in values.items()))


def test_every_class_by_the_rules_of_the_challenge():
    reference = cube(SHAPE, (1, 1, 1), (5, 5, 5)) + 2 * cube(SHAPE, (6, 6, 6), (9, 9, 9))
    prediction = cube(SHAPE, (1, 1, 1), (5, 5, 3)) + 3 * cube(SHAPE, (6, 6, 6), (9, 9, 9))
    labels = classes(half=(1,), lost=(2,), invented=(3,), absent=(4,), both=(1, 2))
    half, lost, invented, absent, both = score_classes(reference, prediction, labels, SPACING, (TOLERANCE,))
    assert (half.tp, half.fp, half.fn, half.tn) == (32, 0, 32, 10 * 12 * 14 - 64)
    assert half.dsc == 0.6667
    for score in (lost, invented):
        assert (score.dsc, score.nsd) == (0.0, {"2": 0.0})
    assert (absent.dsc, absent.nsd) == (1.0, {"2": 1.0})
    assert np.isnan(absent.overlap)
    assert (both.tp, both.fn) == (32, 32 + 27)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([None, 4]))
def test_any_classes_are_what_their_masks_alone_give(seed, ignore):
    reference, prediction = random_labels(seed, 4), random_labels(seed + 1, 4)
    prediction[: SHAPE[0] // 2] = reference[: SHAPE[0] // 2]
    labels = LabelSet(classes(a=(1,), b=(2, 3), c=(3,), all_but_four=(0, 1, 2, 3)).classes, ignore)
    counted = np.ones(SHAPE, bool) if ignore is None else reference != ignore
    for label, score in zip(
        labels.classes, score_classes(reference, prediction, labels, SPACING, (TOLERANCE,)), strict=True
    ):
        a, b = ((np.isin(image, label.values) & counted).T for image in (reference, prediction))
        dsc = surface_distance.compute_dice_coefficient(a, b)
        assert score.dsc == round(dsc, 4)
        distances = surface_distance.compute_surface_distances(a, b, SPACING[::-1])
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE)
        assert score.nsd["2"] == (round(nsd, 4) if dsc >= 0.2 else 0)


def nnunet_summary(truth, masks, labels, monkeypatch, tmp_path):
    """Return what nnU-Net's own evaluation writes, its pool of processes made one of threads."""
    evaluation = pytest.importorskip("nnunetv2.evaluation.evaluate_predictions")
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    monkeypatch.setattr(evaluation, "multiprocessing", SimpleNamespace(get_context=lambda _: multiprocessing.dummy))
    regions = any(isinstance(value, list) for value in labels.values())
    manager = LabelManager(labels, [1, 2, 3, 4] if regions else None)
    scored = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    target = tmp_path / "theirs.json"
    evaluation.compute_metrics_on_folder(
        str(truth), str(masks), str(target), SimpleITKIO(), ".nii.gz", scored, manager.ignore_label, 1
    )
    return target.read_text()


@pytest.mark.parametrize("labels", [ORGANS, REGIONS, IGNORING], ids=["classes", "regions", "ignoring"])
def test_the_summary_is_nnunets_own(tmp_path, monkeypatch, labels):
    for case in range(3):
        most = 4 if "ignore" in labels else 3
        # The last case holds no kidney: nnU-Net's mean leaves such cases out.
        change = (lambda image: np.where(image == 3, 0, image)) if case == 2 else (lambda image: image)
        write(tmp_path / "truth" / f"{case}.nii.gz", change(random_labels(case, most)))
        write(tmp_path / "masks" / f"{case}.nii.gz", change(random_labels(10 + case, 3)))
    arguments = ["--labels", dataset(tmp_path, labels), "--nnunet-summary", tmp_path / "ours.json", "--workers", 1]
    paths = ["--reference", tmp_path / "truth", "--prediction", tmp_path / "masks", "-o", tmp_path / "out"]
    assert main(["accuracy", *map(str, [*paths, *arguments])]) == 0
    theirs = nnunet_summary(tmp_path / "truth", tmp_path / "masks", labels, monkeypatch, tmp_path)
    assert (tmp_path / "ours.json").read_text() == theirs


@pytest.fixture
def folders(tmp_path):
    reference = cube(SHAPE, (1, 1, 1), (5, 5, 5)) + 2 * cube(SHAPE, (6, 6, 6), (9, 9, 9))
    for case in ("a", "b"):
        write(tmp_path / "truth" / f"{case}.nii.gz", reference)
        write(tmp_path / "masks" / f"{case}.nii.gz", reference if case == "a" else np.minimum(reference, 1))
    return tmp_path


def score(folders, *arguments):
    paths = ["--reference", folders / "truth", "--prediction", folders / "masks", "-o", folders / "out"]
    return main(["accuracy", *map(str, [*paths, "--workers", 1, *arguments])])


def test_classes_are_in_the_table_the_csv_and_the_json(folders, capsys):
    assert score(folders, "--labels", dataset(folders, ORGANS)) == 0
    table = capsys.readouterr().out
    # b's spleen is called liver: of 64 voxels and 91, 64 are shared; 0 of the spleen; no kidney in either.
    liver = round(128 / 155, 4)
    assert f"| liver | masks | {50 * (1 + liver):.2f} ± " in table
    assert "| spleen | masks | 50.00 ± 70.71 | 50.00 ± 70.71 | 2 | 50.00 |" in table
    assert "| kidney | masks | 100.00 ± 0.00 | 100.00 ± 0.00 | 0 | - |" in table
    head, first, second = csv.reader((folders / "out" / "masks" / "accuracy.csv").open())
    assert head == ["Name", *(f"{name}_{what}" for what in ("DSC", "NSD") for name in ("liver", "spleen", "kidney"))]
    assert first == ["a.nii.gz", *["1.0"] * 6]
    assert second[:4] == ["b.nii.gz", str(liver), "0.0", "1.0"]
    case = load(Accuracy, folders / "out" / "masks").cases[1]
    assert case.dsc == round((liver + 0 + 1) / 3, 4)


def test_a_missing_case_counts_as_0_in_every_class_and_not_in_nnunets_mean(folders, capsys):
    (folders / "masks" / "b.nii.gz").unlink()
    assert score(folders, "--labels", dataset(folders, ORGANS), "--nnunet-summary", folders / "summary.json") == 4
    table = capsys.readouterr().out
    assert "| kidney | masks | 50.00 ± 70.71 | 50.00 ± 70.71 | 0 | - |" in table
    assert "| liver | masks | 50.00 ± 70.71 | 50.00 ± 70.71 | 1 | 100.00 |" in table
    assert len(json.loads((folders / "summary.json").read_text())["metric_per_case"]) == 1


def test_measuring_scores_classes_too(folders, capsys):
    for case in ("a", "b"):
        shutil.copy(folders / "truth" / f"{case}.nii.gz", folders / f"{case}_0000.nii.gz")
    copy = f"copy={shlex.quote(sys.executable)} -c {shlex.quote(COPY)} {{input_file}} {{output_file}}"
    options = ["-i", folders, "-o", folders / "out", "--reference", folders / "truth"]
    arguments = ["--labels", dataset(folders, ORGANS), "--run", copy]
    assert main(["efficiency", *map(str, [*options, *arguments])]) == 0
    assert "| spleen | copy | 100.00 ± 0.00 |" in capsys.readouterr().out


def test_without_names_several_labels_are_refused_with_what_to_do(folders, capsys):
    assert score(folders) == 4
    assert "a: bad_reference: a.nii.gz: holds 2; " in capsys.readouterr().err


def test_names_come_from_a_bundle_its_manifest_or_a_model_folder(tmp_path, tiny_bundle, tiny_model):
    expected = LabelSet((LabelClass(name="lesion", values=(1,), key="1"),))
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for file in tiny_bundle.iterdir():
            archive.write(file, file.name)
    for path in (tiny_bundle, tiny_bundle / "manifest.json", tmp_path / "bundle.zip", tiny_model):
        found = read_label_set(path)
        assert [(label.values, label.key) for label in found.classes] == [((1,), "1")], path
        assert found.ignore == expected.ignore


def test_regions_of_a_bundle_have_nnunets_keys(tmp_path, tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    manifest["labels"] = [{"name": "whole", "values": [1, 2]}, {"name": "core", "values": [2]}]
    manifest["regions_class_order"] = [1, 2]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    assert [(label.name, label.key) for label in read_label_set(path).classes] == [("whole", "(1, 2)"), ("core", "2")]


def test_many_classes_take_no_copy_of_the_volume():
    labels = np.zeros((200, 128, 128), np.uint8)
    for at in range(13):
        labels[10 * at + 20 : 10 * at + 29, 9 * at : 9 * at + 8, 20:40] = at + 1
    names = classes(**{f"class {at}": (at,) for at in range(1, 14)})
    tracemalloc.start()
    score_classes(labels, labels, names, SPACING, (TOLERANCE,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < labels.nbytes, f"{peak / labels.nbytes:.1f} times the volume"


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "{}",
        '{"labels": {"0": "background", "1": "liver"}}',
        '{"labels": {"background": 0}}',
        '{"labels": {"background": 0, "liver": 300}}',
        '{"labels": {"liver": []}}',
        '{"labels": {"liver": true}}',
    ],
)
def test_what_names_no_labels_is_one_line_and_code_2(folders, capsys, content):
    path = folders / "names.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"names\.json"):
        read_label_set(path)
    assert score(folders, "--labels", path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_summary_is_of_one_method_and_replaces_no_input(folders, capsys):
    summary = folders / "summary.json"
    assert score(folders, "--prediction", f"B={folders / 'truth'}", "--nnunet-summary", summary) == 2
    assert "one method" in capsys.readouterr().err
    target = folders / "truth" / "a.nii.gz"
    before = target.read_bytes()
    assert score(folders, "--nnunet-summary", target) == 6
    assert target.read_bytes() == before


def test_a_ball_is_scored_as_in_a_volume_of_its_own():
    small, spacing = ball((9, 9, 9), (4, 4, 4), 3), (1.0, 1.0, 1.0)
    large = np.zeros((30, 31, 32), np.uint8)
    large[10:19, 11:20, 12:21] = 7 * small
    moved = np.roll(large, 1, axis=2)
    whole = score_classes(large, moved, classes(seven=(7,)), spacing, (0.5, 1.0))
    alone = score_classes(
        np.pad(small, 2), np.roll(np.pad(small, 2), 1, axis=2), classes(one=(1,)), spacing, (0.5, 1.0)
    )
    assert (whole[0].dsc, whole[0].nsd) == (alone[0].dsc, alone[0].nsd)
