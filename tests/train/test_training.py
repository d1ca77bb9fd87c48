"""`flare-train run`: stretches, validation, resuming after a kill, and checkpoints that nnU-Net and we can use."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nnunetv2")

from flare_train.training.checkpoint import LATEST  # noqa: E402
from flare_train.training.record import RunRecord  # noqa: E402
from flare_train.training.schedule import learning_rate  # noqa: E402
from tests.eval.nifti_masks import cube, write  # noqa: E402
from tests.export.model_faults import Executes  # noqa: E402
from tests.processes import has_ended  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (20, 24, 24)
SPACING = (2.4, 1.6, 1.6)
EPOCHS = 40  # of tests.train.interrupted_training


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Raw and preprocessed data of seven cases, two to validate on, and the plans `toy`; nothing trained."""
    root = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    for number in range(7):
        label = cube(SHAPE, (5, 6, 6), (12, 15 + number % 3, 15))
        image = np.where(label, 60, -300) + rng.normal(0, 20, SHAPE)
        write(root / "data" / "images" / f"STS_{number:03d}_0000.nii.gz", image.astype(np.int16), SPACING)
        write(root / "data" / "labels" / f"STS_{number:03d}.nii.gz", label, SPACING)
    raw = root / "nnUNet_raw" / "Dataset812_Toy"
    flare_train(root, "inspect", root / "data", "-o", root / "facts", "--workers", 1)
    flare_train(root, "select", root / "facts" / "facts.jsonl", "-o", raw, "--validation", "STS_00[56]")
    size = ["--features", 4, 8, 8, "--patch", 16, 16, 16]
    flare_train(root, "plan", 812, *size, "--name", "toy", "--workers", 1)
    return root


def environment(root, results="nnUNet_results"):
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    return {**os.environ, **folders, "nnUNet_results": str(root / results), "nnUNet_n_proc_DA": "0"}


def python(root, *arguments, results="nnUNet_results", code=0):
    """Run a module in a process of its own: nnU-Net reads the names of its folders at import."""
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(root, results), capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == code, done.stderr
    return done


def flare_train(root, *arguments, **options):
    return python(root, "flare_train.cli", *arguments, **options)


def fold_folder(root, results="nnUNet_results"):
    return root / results / "Dataset812_Toy" / "FlareTrainer__toy__3d_fullres" / "fold_0"


def content(checkpoint):
    return torch.load(checkpoint, map_location="cpu", weights_only=False)


LENGTH = ["--epochs", 1, "--last", 1, "--iterations", 1, "--val-iterations", 1, "--workers", 1, "--augmenters", 0]
SHORT = ["run", 812, "--plans", "toy", "--epochs", 2, "--extension", 1, "--last", 3, "--patience", 9]
SHORT += ["--iterations", 2, "--val-iterations", 1, "--workers", 1, "--augmenters", 0]


@pytest.fixture(scope="module")
def trained(toy):
    """The output of the command that trains two epochs and one more, and the folder of the fold."""
    return flare_train(toy, *SHORT, results="short"), fold_folder(toy, "short")


def test_every_epoch_and_validation_is_told(trained):
    lines = trained[0].stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("epoch")] == [
        "epoch 1 of 2",
        "epoch 2 of 2",
        "epoch 3 of 3",
    ]
    assert [line.split(":")[0] for line in lines if line.startswith("validation")] == [
        "validation after 2 epochs",
        "validation after 3 epochs",
    ]
    assert "nnU-Net" not in trained[0].stdout, "nnU-Net's own lines belong into its log file"


def test_the_record_holds_recipe_sessions_and_scores(trained):
    record = RunRecord.load(trained[1])
    assert (record.dataset, record.plans, record.fold, record.training_cases) == ("Dataset812_Toy", "toy", "0", 5)
    assert [(session.first_epoch, session.last_epoch) for session in record.sessions] == [(1, 2), (3, 3)]
    assert [validation.epochs for validation in record.validations] == [2, 3]
    for validation in record.validations:
        assert [case.case for case in validation.cases] == ["STS_005", "STS_006"]
        assert validation.dsc == pytest.approx(np.mean([case.dsc for case in validation.cases]), abs=5e-5)
        masks = sorted(path.name for path in (trained[1] / f"validation_epoch_{validation.epochs}").glob("*.nii.gz"))
        assert masks == ["STS_005.nii.gz", "STS_006.nii.gz"]


def test_an_extension_trains_at_the_rate_of_the_longer_curve(trained):
    rates = content(trained[1] / "checkpoint_final.pth")["logging"]["lrs"]
    expected = [learning_rate(1e-3, 0, 2), learning_rate(1e-3, 1, 2), learning_rate(1e-3, 2, 3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_the_networks_of_all_stretches_are_kept_for_any_nnunet(trained):
    kept = content(trained[1] / "checkpoint_epoch_3.pth")
    final = content(trained[1] / "checkpoint_final.pth")
    assert kept["trainer_name"] == "nnUNetTrainer"
    assert kept["optimizer_state"] is None
    assert kept["current_epoch"] == 3
    assert all(torch.equal(value, final["network_weights"][name]) for name, value in kept["network_weights"].items())
    earlier = content(trained[1] / "checkpoint_epoch_2.pth")["network_weights"]
    assert any(not torch.equal(value, earlier[name]) for name, value in kept["network_weights"].items())


def test_the_printed_command_makes_a_bundle_of_the_best_network(trained, tmp_path):
    best = RunRecord.load(trained[1]).best
    line = trained[0].stdout.splitlines()[-1]
    expected = f"flare-export {trained[1].parent} --fold 0 --checkpoint checkpoint_epoch_{best.epochs}.pth -o BUNDLE"
    assert line == expected
    from flare_export.cli import main

    assert main([*line.split()[1:-1], str(tmp_path / "bundle")]) == 0


def test_a_run_that_is_over_does_nothing_and_a_longer_one_goes_on(toy, trained):
    before = (trained[1] / "checkpoint_final.pth").stat().st_mtime_ns
    again = flare_train(toy, *SHORT, results="short").stdout
    assert again.splitlines() == trained[0].stdout.splitlines()[-1:]
    assert (trained[1] / "checkpoint_final.pth").stat().st_mtime_ns == before


def test_another_recipe_is_refused_and_named(toy, trained):
    done = flare_train(toy, *SHORT, "--learning-rate", 0.5, results="short", code=2)
    assert done.stderr.count("\n") == 1
    assert "was begun otherwise: recipe was" in done.stderr


def test_fold_all_validates_on_a_data_set_of_its_own_and_begins_with_given_weights(toy, trained):
    weights = ["--initial-weights", trained[1] / "checkpoint_epoch_3.pth", "--learning-rate", 1e-12]
    which = ["run", 812, "--plans", "toy", "--fold", "all", "--validation", toy / "data"]
    output = flare_train(toy, *which, *LENGTH, *weights, results="all").stdout
    folder = fold_folder(toy, "all").with_name("fold_all")
    assert "validation after 1 epochs" in output
    assert len(RunRecord.load(folder).validations[0].cases) == 7
    theirs, ours = (content(path)["network_weights"] for path in (weights[1], folder / "checkpoint_final.pth"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plans", "nowhere"], "there is no such plan"),
        (["--fold", "3"], "has 1, counted from 0"),
        (["--gpus", "7"], "7 GPUs were asked for"),
        (["--country", "Atlantis"], "codecarbon knows no such country"),
        (["--epochs", "9", "--last", "4"], "a schedule of 9 epochs"),
        (["--initial-weights", "nowhere.pth", *LENGTH], "there is no such checkpoint"),
    ],
)
def test_what_cannot_be_trained_is_one_line(toy, arguments, words):
    code = 5 if "--gpus" in arguments else 2
    done = flare_train(toy, "run", 812, "--plans", "toy", *arguments, code=code)
    assert done.stderr.splitlines()[-1].startswith("flare-train: ")
    assert words in done.stderr.splitlines()[-1]


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_good_network(toy):
    length = ["--epochs", 3, "--last", 3, "--iterations", 2, "--val-iterations", 1, "--workers", 1, "--augmenters", 0]
    which = ["run", 812, "--plans", "toy", "--fold", 0, "--seed", 3]
    done = flare_train(toy, *which, *length, "--learning-rate", 1e30, results="nan", code=4)
    assert "weights that are no numbers" in done.stderr.splitlines()[-1]
    assert not (fold_folder(toy, "nan") / "checkpoint_final.pth").exists()


def test_two_processes_do_not_train_one_fold(toy):
    folder = fold_folder(toy, "locked")
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        done = flare_train(toy, *SHORT, results="locked", code=2)
    assert "another process is training there" in done.stderr.splitlines()[-1]


def test_plans_with_a_trap_are_not_trained(toy):
    made = toy / "nnUNet_preprocessed" / "Dataset812_Toy"
    plans = json.loads((made / "toy.json").read_text(encoding="utf-8"))
    plans["configurations"]["3d_fullres"]["n_conv_per_stage_encoder"] = [2, 2]
    (made / "trap.json").write_text(json.dumps(plans), encoding="utf-8")
    assert "nnU-Net ignores them" in flare_train(toy, "run", 812, "--plans", "trap", code=4).stderr


def test_weights_of_another_network_are_refused_by_name(toy, trained):
    flare_train(toy, "plan", 812, "--features", 4, 8, 8, 8, "--patch", 16, 16, 16, "--name", "deep", "--workers", 1)
    weights = ["--initial-weights", trained[1] / "checkpoint_epoch_3.pth"]
    done = flare_train(toy, "run", 812, "--plans", "deep", *LENGTH, *weights, results="other", code=2)
    assert "its network is another: decoder.encoder.stages.3" in done.stderr.splitlines()[-1]


def test_a_checkpoint_that_runs_a_command_is_not_gone_on_from(toy, trained):
    folder = fold_folder(toy, "hostile")
    shutil.copytree(fold_folder(toy, "short").parent, folder.parent)
    torch.save(
        content(folder / "checkpoint_final.pth") | {"logging": Executes(f"touch {toy}/executed")}, folder / LATEST
    )
    done = flare_train(toy, *SHORT, results="hostile", code=3)
    assert re.fullmatch(r"flare-train: .*checkpoint_latest\.pth: refused, it holds posix\.system[^\n]*\n", done.stderr)
    assert not (toy / "executed").exists()


def test_a_plan_made_anew_under_the_same_name_is_not_taken_for_the_old_one(toy, trained):
    made = toy / "nnUNet_preprocessed" / "Dataset812_Toy" / "toy.json"
    before = made.read_bytes()
    plans = json.loads(before)
    plans["configurations"]["3d_fullres"]["batch_size"] = 3
    made.write_text(json.dumps(plans), encoding="utf-8")
    try:
        done = flare_train(toy, *SHORT, results="short", code=2)
    finally:
        made.write_bytes(before)
    assert "was begun otherwise: plans_sha256 was" in done.stderr


def test_a_kill_leaves_no_augmentation_process_and_no_lock(toy):
    """Of a run with augmentation processes, which are forks of the one that is killed."""
    command = [sys.executable, "-m", "flare_train.cli", *map(str, SHORT), "--epochs", "500", "--last", "500"]
    environ = {**environment(toy, "orphans"), "nnUNet_n_proc_DA": "2"}
    command[command.index("--augmenters") + 1] = "2"
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert any(line.startswith("epoch 1 ") for line in process.stdout)
        children = children_of(process.pid)
        assert len(children) >= 3, "two processes augment for training and one for validation"
        process.kill()
        process.wait()
    deadline = time.monotonic() + 120
    while not all(map(has_ended, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [Path(f"/proc/{child}/cmdline").read_text() for child in children if not has_ended(child)]
    assert not left
    resumed = [*SHORT, "--epochs", 1, "--extension", 500, "--last", 1]
    assert "flare-export" in flare_train(toy, *resumed, results="orphans").stdout


def children_of(process):
    """The processes whose parent it is."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(status.parent.name))
    return found


@pytest.fixture(scope="module")
def interrupted(toy):
    """The folders of the same training, once left alone and once killed ten times."""
    python(toy, "tests.train.interrupted_training", 0, results="alone")
    killed = python(toy, "tests.train.interrupted_training", 10, results="killed").stdout
    return fold_folder(toy, "alone"), fold_folder(toy, "killed"), killed


@pytest.mark.slow
def test_ten_kills_change_nothing(interrupted):
    alone, killed, output = interrupted
    assert output.count("killed after") == 10, output
    first, second = (content(folder / "checkpoint_final.pth") for folder in (alone, killed))
    assert first["current_epoch"] == second["current_epoch"] == EPOCHS
    for name, value in first["network_weights"].items():
        assert torch.equal(value, second["network_weights"][name]), name
    for name in ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs"):
        assert len(second["logging"][name]) == EPOCHS
        np.testing.assert_array_equal(first["logging"][name], second["logging"][name])
    ours, theirs = (RunRecord.load(folder) for folder in (killed, alone))
    assert [validation.epochs for validation in ours.validations] == [20, 30, 40]
    assert [v.dsc for v in ours.validations] == [v.dsc for v in theirs.validations]
    assert ours.sessions[0].first_epoch == 1
    assert ours.sessions[-1].last_epoch == EPOCHS
    assert json.loads((killed.parent / "plans.json").read_text(encoding="utf-8"))["plans_name"] == "toy"
