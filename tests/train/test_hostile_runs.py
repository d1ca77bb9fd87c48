"""What is wrong with a run's folder, a plan or a list of cases is said in lines, soon, and nothing of it is run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from time import process_time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nnunetv2")
pytest.importorskip("jinja2")

from flare_export.errors import ModelError  # noqa: E402
from flare_export.source.checkpoint import load_checkpoint  # noqa: E402
from flare_train.cli import main  # noqa: E402
from flare_train.data.nnunet_folders import DatasetFolders  # noqa: E402
from flare_train.planning.preprocessing import check_preprocessed  # noqa: E402
from flare_train.training.record import FILE  # noqa: E402
from flare_train.training.trainer import FlareTrainer  # noqa: E402
from flare_train.training.validation import validate  # noqa: E402
from tests.export.hostile_models import DATASETS, NETWORKS, PLANS  # noqa: E402
from tests.export.model_faults import Executes, json_fault, set_entry  # noqa: E402
from tests.model_folders import write_model_folder  # noqa: E402
from tests.train.test_run_report import VALIDATIONS, fold, session  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = Executes("touch executed")
NAME = "checkpoint_latest.pth"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a fold that can be reported on."""
    return fold(tmp_path_factory.mktemp("sound"), [session(1, 4)], VALIDATIONS)


@pytest.fixture
def folder(sound, tmp_path, monkeypatch):
    """A copy of it, in which the test may do what it likes."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(sound.parent, tmp_path / "model")) / sound.name


def changed(path, value):
    """Change an entry of a checkpoint."""

    def apply(folder):
        content = torch.load(folder / NAME, weights_only=False)
        set_entry(content, path, value)
        torch.save(content, folder / NAME)

    return apply


def recorded(path, value):
    return json_fault(FILE, path, value)


def planned(path, value):
    return lambda folder: json_fault("plans.json", f"configurations/3d_fullres/{path}", value)(folder.parent)


RUNS = {
    "a checkpoint that runs a command": changed("logging", HOSTILE),
    "an empty checkpoint": lambda folder: (folder / NAME).write_bytes(b""),
    "a checkpoint that is a pipe": lambda folder: (folder / NAME).unlink() or os.mkfifo(folder / NAME),
    "a checkpoint of a list": lambda folder: torch.save([1], folder / NAME),
    "no epoch": lambda folder: torch.save({"logging": {}}, folder / NAME),
    "an epoch as a word": changed("current_epoch", "abc"),
    "an epoch of 1e9": changed("current_epoch", 10**9),
    "a log of a list": changed("logging", [1]),
    "a log without losses": changed("logging/train_losses", None),
    "losses that are words": changed("logging/train_losses", ["a", "b", "c", "d"]),
    "losses that are too large": changed("logging/train_losses", [10**400] * 4),
    "a log that is a tensor": changed("logging", torch.zeros(3)),
    "losses that are a tensor": changed("logging/train_losses", torch.zeros(4, 2)),
    "fewer losses than epochs": changed("logging/train_losses", [1.0]),
    "times of another number": changed("logging/epoch_end_timestamps", []),
    "a record that is no JSON": lambda folder: (folder / FILE).write_bytes(b"{"),
    "a record that is not UTF-8": lambda folder: (folder / FILE).write_bytes(b'{"dataset": "\xff"}'),
    "a record nested deeply": lambda folder: (folder / FILE).write_bytes(b'{"a":' * 100_000),
    "a schedule of nothing": recorded("schedule/extension", 0),
    "a schedule of words": recorded("schedule/first", "two"),
    "a case without its surface Dice": recorded("validations/0/cases/0/nsd", {}),
    "another configuration": recorded("configuration", "2d"),
    "no batch size": planned("batch_size", None),
    "a million stages": planned("architecture/arch_kwargs/n_stages", 10**6),
    "a patch of 1e9": planned("patch_size", [10**9] * 3),
    "a patch of two sides": planned("patch_size", [16, 16]),
    "plans that are a pipe": lambda folder: PLANS["plans are a pipe"](folder.parent),
    "plans nested deeply": lambda folder: PLANS["plans are nested deeply"](folder.parent),
}


@pytest.mark.parametrize("fault", RUNS)
def test_a_hostile_run_is_refused(fault, folder, tmp_path, capfd):
    RUNS[fault](folder)
    started = process_time()
    code = main(["report", str(folder), "-o", "report"])
    taken_s = process_time() - started
    out, err = capfd.readouterr()
    assert code in (2, 3), err
    assert re.fullmatch(r"flare-train: [^\n]+\n", err)
    assert not out
    assert taken_s < 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "change",
    [
        changed("logging/val_losses", [float("nan")] * 4),
        changed("logging/train_losses", [float("inf"), 1.0, -float("inf"), 1e308]),
        changed("logging/epoch_end_timestamps", [float("inf")] * 4),
        recorded("recipe/learning_rate", 1e308),
        recorded("sessions/0/machine", {"gpus": "\x1b[31m"}),
    ],
)
def test_an_odd_run_is_reported_on(change, folder, capfd):
    change(folder)
    assert main(["report", str(folder), "-o", "report"]) == 0
    assert not capfd.readouterr().err


@pytest.mark.parametrize("reader", ["export", "lint", "resume", "validate", "begin"])
def test_a_hostile_pickle_is_refused_and_not_run(reader, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = write_model_folder(tmp_path / "model")
    file = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    torch.save(content | {"logging": HOSTILE}, file)
    match reader:
        case "lint":
            assert main(["lint", str(model / "plans.json"), "--checkpoint", str(file)]) == 3
            assert re.fullmatch(r"flare-train: .*posix\.system[^\n]*\n", capfd.readouterr().err)
        case "resume":
            with pytest.raises(ModelError, match=r"posix\.system"):
                FlareTrainer.load_checkpoint(FlareTrainer.__new__(FlareTrainer), str(file))
        case "validate":
            with pytest.raises(ModelError, match=r"posix\.system"):
                validate(model, "0", file.name, [], tmp_path / "out", torch.device("cpu"))
        case _:
            with pytest.raises(ModelError, match=r"posix\.system"):
                load_checkpoint(file, "0")
    assert not (tmp_path / "executed").exists()


def test_properties_that_run_a_command_are_refused(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    plans = json.loads((write_model_folder(tmp_path / "model") / "plans.json").read_text(encoding="utf-8"))
    data = tmp_path / plans["configurations"]["3d_fullres"]["data_identifier"]
    data.mkdir()
    dataset = DatasetFolders("Dataset001_Toy", 1, tmp_path, tmp_path)
    (data / "case.pkl").write_bytes(pickle.dumps({"class_locations": {1: torch.zeros(3, 4).numpy()}, "spacing": [1.0]}))
    check_preprocessed(dataset, plans)
    (data / "other.pkl").write_bytes(pickle.dumps({"class_locations": HOSTILE}))
    with pytest.raises(ModelError, match=r"other\.pkl: .*posix\.system"):
        check_preprocessed(dataset, plans)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("fault", PLANS | NETWORKS)
def test_any_plans_can_be_looked_at(fault, tmp_path, monkeypatch, capfd):
    """Findings, one a line, or one line where there is nothing to look at."""
    monkeypatch.chdir(tmp_path)
    folder = write_model_folder(tmp_path / "model")
    (PLANS | NETWORKS)[fault](folder)
    started = process_time()
    code = main(["lint", str(folder / "plans.json")])
    err = capfd.readouterr().err
    assert process_time() - started < 5
    if code in (0, 4):
        assert all(line.startswith(("error: ", "warning: ")) for line in err.splitlines())
    else:
        assert (code, err.count("\n")) in ((2, 1), (3, 1)), err


FACTS = {
    "no JSON": b"{",
    "not UTF-8": b'{"stem": "\xff", "source": "x"}',
    "nested deeply": b'{"a":' * 100_000,
    "a list": b"[]",
    "no stem": b'{"source": "x"}',
    "a stem that is a number": b'{"stem": 1, "source": "x"}',
    "a stem that climbs": b'{"stem": "../../outside", "source": "x", "image": "/etc/passwd", "label": "/etc/passwd"}',
    "an empty stem": b'{"stem": "", "source": "x"}',
    "problems that are a text": b'{"stem": "a", "source": "x", "problems": "none"}',
    "volumes of NaN": b'{"stem": "a", "source": "x", "lesions_mm3": [NaN]}',
}


@pytest.mark.parametrize("fault", [*FACTS, "a pipe", "a folder", "missing"])
def test_hostile_facts_are_refused(fault, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    file = Path("facts.jsonl")
    match fault:
        case "a pipe":
            os.mkfifo(file)
        case "a folder":
            file.mkdir()
        case "missing":
            pass
        case _:
            file.write_bytes(FACTS[fault])
    assert main(["select", "facts.jsonl", "-o", "raw"]) == 2
    assert re.fullmatch(r"flare-train: [^\n]+\n", capfd.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} <= {"facts.jsonl"}


_PLAN_EACH = """
import contextlib, io, sys
from pathlib import Path
from flare_train.cli import main
from tests.export.hostile_models import DATASETS
sound = Path("dataset.json").read_bytes()
raw = Path("nnUNet_raw/Dataset811_Test")
for fault in [*DATASETS, "no file ending"]:
    (raw / "dataset.json").unlink(missing_ok=True)
    (raw / "dataset.json").write_bytes(sound)
    if fault in DATASETS:
        DATASETS[fault](raw)
    else:
        (raw / "dataset.json").write_bytes(sound.replace(b"file_ending", b"file_beginning"))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(sys.stderr):
        code = main(["plan", "811", "--workers", "1"])
    print(code, errors.getvalue().count("\\n"), fault, flush=True)
"""


def test_hostile_data_sets_are_not_planned(tmp_path):
    """In a process of its own: nnU-Net reads the names of its folders once, at import."""
    model = write_model_folder(tmp_path / "model")
    raw = tmp_path / "nnUNet_raw" / "Dataset811_Test"
    raw.mkdir(parents=True)
    shutil.move(model / "dataset.json", tmp_path)
    folders = {name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    done = subprocess.run(
        [sys.executable, "-c", _PLAN_EACH],
        cwd=tmp_path,
        env={**os.environ, **folders, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = {line.split(" ", 2)[2]: line.split(" ", 2)[:2] for line in done.stdout.splitlines()}
    assert set(found) > set(DATASETS)
    # What is sound there and only cannot be exported has no cases.
    assert {fault: answer for fault, answer in found.items() if answer not in (["3", "1"], ["2", "1"])} == {}
