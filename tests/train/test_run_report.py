"""The report of a training run: every number by hand, from a record, a checkpoint's log and plans."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nnunetv2")
pytest.importorskip("jinja2")

from flare_eval.report.charts import line_chart  # noqa: E402
from flare_eval.results import CaseAccuracy  # noqa: E402
from flare_train.cli import main  # noqa: E402
from flare_train.planning.plan import S4, make_plans  # noqa: E402
from flare_train.planning.recipe import Recipe  # noqa: E402
from flare_train.report.run_report import write_run_report  # noqa: E402
from flare_train.training.record import RunRecord, Session, Validation  # noqa: E402
from flare_train.training.schedule import Schedule  # noqa: E402
from tests.eval.test_report import Page  # noqa: E402
from tests.train.test_plan import FINGERPRINT  # noqa: E402

MACHINE = {
    "processor": "Xeon",
    "cores": "8",
    "memory": "64 GiB",
    "system": "Linux-6.1",
    "gpu": "NVIDIA A100",
    "gpus": "2",
    "cuda": "12.8",
    "python": "3.11.7",
    "torch": "2.10.0",
    "nnunetv2": "2.6.2",
}
OTHER = MACHINE | {"gpu": "none", "gpus": "0", "cuda": "none"}


def session(first, last, co2_kg=None, energy_kwh=None, machine=MACHINE):
    started = f"2026-01-01T{first:02d}:00:00+00:00"
    numbers = {"co2_kg": co2_kg, "energy_kwh": energy_kwh}
    return Session(started=started, machine=machine, first_epoch=first, last_epoch=last, **numbers)


def validation(epochs, rate, **scores):
    cases = [CaseAccuracy(case=case, source="STS", dsc=dsc, nsd={"2": nsd}) for case, (dsc, nsd) in scores.items()]
    dsc, nsd = (round(float(np.mean(numbers)), 4) for numbers in zip(*scores.values(), strict=True))
    return Validation(epochs=epochs, learning_rate=rate, dsc=dsc, nsd=nsd, cases=cases)


VALIDATIONS = [
    validation(2, 5.36e-4, STS_001=(0.2, 0.1), STS_002=(0.4, 0.3)),
    validation(3, 3.72e-4, STS_001=(0.6, 0.2), STS_002=(0.5, 0.4)),
    validation(4, 2.87e-4, STS_001=(0.3, 0.3), STS_002=(0.5, 0.5)),
]


def fold(root, sessions=(), validations=(), name="fold_0", epochs=4, **changes):
    """A fold's folder: epochs of 1,500, 3,000, 4,500, ... seconds with an hour lost before each."""
    model = root / "FlareTrainer__flare_s4__3d_fullres"
    (model / name).mkdir(parents=True)
    plans = make_plans(FINGERPRINT, "Dataset811_Test", "flare_s4", S4.features)
    (model / "plans.json").write_text(json.dumps(plans))
    content = {
        "dataset": "Dataset811_Test",
        "plans": "flare_s4",
        "configuration": "3d_fullres",
        "fold": name.removeprefix("fold_"),
        "training_cases": 29,
        "validation_cases": [],
        "plans_sha256": "0" * 64,
        "recipe": Recipe(),
        "schedule": Schedule(first=2, extension=1, last=9),
    }
    RunRecord(**content | changes, sessions=list(sessions), validations=list(validations)).save(model / name)
    starts = [1e9 + 10_000 * epoch for epoch in range(epochs)]
    logging = {
        "mean_fg_dice": [np.float32(0.1 * epoch) for epoch in range(epochs)],
        "ema_fg_dice": [np.float32(0.05 * epoch) for epoch in range(epochs)],
        "train_losses": [np.float32(0.5 - epoch / 4) for epoch in range(epochs)],
        "val_losses": [np.float32(0.6 - epoch / 4) for epoch in range(epochs)],
        "lrs": [1e-3 / (epoch + 1) for epoch in range(epochs)],
        "epoch_start_timestamps": starts,
        "epoch_end_timestamps": [start + 1500 * epoch for epoch, start in enumerate(starts, 1)],
    }
    torch.save({"current_epoch": epochs, "logging": logging}, model / name / "checkpoint_latest.pth")
    return model / name


def rows(markdown):
    lines = [line[2:-2].split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def report(folder):
    write_run_report(folder, folder.parent / "report")
    return (folder.parent / "report" / "report.md").read_text(encoding="utf-8")


def test_the_papers_tables_are_filled_from_the_run(tmp_path):
    sessions = [session(1, 2, 0.25, 1.5), session(3, 4, 0.5, 2.25)]
    found = rows(report(fold(tmp_path, sessions, VALIDATIONS)))
    for name, ours, paper in [
        ("Trained on it", "epochs 1 to 4", "epochs 1 to 5000"),
        ("CPU", "Xeon, 8 cores", "2x AMD EPYC 7542 32-Core Processor"),
        ("RAM", "64 GiB", "512GB"),
        ("GPU (number and type)", "2x NVIDIA A100", "8x NVIDIA GeForce RTX 4090"),
        ("CUDA version", "12.8", "12.6"),
        ("Specific dependencies", "nnU-Net 2.6.2", "nnU-Net 2.6.2"),
        ("Network initialization", "He (random, seed 0)", "He"),
        ("Patch size (z, y, x)", "128 x 160 x 160", "128 x 160 x 160"),
        ("Spacing (z, y, x)", "2.4 x 1.6 x 1.6 mm", "2.4 x 1.6 x 1.6 mm"),
        ("Total epochs", "4", "5000"),
        # 1,500 + 3,000 + 4,500 + 6,000 s
        ("Training time", "4.2 hours", "62 hours"),
        ("Number of model parameters", "5,602,950", "31,195,594"),
        ("The same with the encoder counted twice", "9.1M", "45.2M"),
        ("Number of MACs, one patch", "699.9G", "745.7G"),
        ("CO2 eq", "0.75 kg", "34.14 kg"),
        ("Energy", "3.75 kWh", "-"),
    ]:
        assert found[name] == [ours, paper], name
    # What the paper says of itself is this recipe.
    for name in ("Batch size", "Iterations an epoch", "Optimizer", "Initial learning rate (lr)", "Lr decay schedule"):
        assert found[name][0] == found[name][1], name


def test_stretches_and_the_best_of_them(tmp_path):
    text = report(fold(tmp_path, [session(1, 4)], VALIDATIONS))
    found = rows(text)
    # Standard deviations of two values: half their difference times the root of two.
    assert found["First stretch"] == ["2", "5.36e-04", "30.00 ± 14.14", "20.00 ± 14.14", "2", ""]
    assert found["Extension 1"] == ["3", "3.72e-04", "55.00 ± 7.07", "30.00 ± 14.14", "2", "best"]
    assert found["Extension 2"][-1] == ""
    assert "checkpoint_epoch_3.pth: DSC 55.00 %, NSD at 2 mm 30.00 %, 2 cases" in text
    assert "ended after 4 epochs: patience 1" in text
    assert "from 2 to 3 epochs at 37 % of the initial rate" in text  # (1 - 2 / 3) ** 0.9
    assert found["STS_001"][:5] == ["after 3 epochs", "STS", "scored", "0.6000", "0.2000"]


def test_other_machines_and_epochs_without_a_measurement_are_told_apart(tmp_path):
    sessions = [session(1, 1), session(2, 2, 0.25, machine=OTHER), session(3, 3), session(4, 4, 0.5)]
    weights = {"initial_weights": "/models/s4/checkpoint_best.pth", "gpus": 2}
    text = report(fold(tmp_path, sessions, **weights))
    found = rows(text)
    assert found["Trained on it"][:2] == ["epochs 1, 3 to 4", "epochs 2"]
    assert found["GPU (number and type)"][:2] == ["2x NVIDIA A100", "none"]
    assert found["CO2 eq"][0] == "0.75 kg (epochs 2, 4; the others were not measured)"
    assert found["Energy"][0] == "not measured (flare-train run --country)"
    assert found["Network initialization"][0] == "from checkpoint_best.pth"
    assert "Initial weights: /models/s4/checkpoint_best.pth." in text
    assert text.count("No stretch has been validated yet.") == 2
    assert "not ended: 4 epochs, of a stretch that ends after 5" in text


def test_the_command_writes_a_page_that_stands_alone(tmp_path, capsys):
    folder = fold(tmp_path, [session(1, 4)], VALIDATIONS)
    output = tmp_path / "out"
    assert main(["report", str(folder.parent), "-o", str(output)]) == 0
    charts = [f"charts/{name}.svg" for name in ("loss", "pseudo-dice", "learning-rate", "validation")]
    expected = [str(output / name) for name in ("report.md", "report.html", *charts)]
    assert capsys.readouterr().out.splitlines() == expected
    html = (output / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.all("svg")) == 4
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", html)
    assert ["Total epochs", "4", "5000"] in page.rows


def test_what_is_no_training_run_is_one_line_and_code_2(tmp_path, capsys):
    def line(folder):
        assert main(["report", str(folder), "-o", str(tmp_path / "out")]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        return output.err

    assert "holds flare_run.json; give a folder" in line(tmp_path / "nowhere")
    folder = fold(tmp_path)
    (folder / "checkpoint_latest.pth").unlink()
    assert "no checkpoint_latest.pth and no checkpoint_final.pth" in line(folder)
    other = folder.with_name("fold_1")
    other.mkdir()
    (other / "flare_run.json").write_text("{}")
    assert "holds 2 trained folds, fold_0, fold_1; give the folder of one" in line(folder.parent)
    assert "is not what flare-train writes" in line(other)
    assert not (tmp_path / "out").exists()


def points(chart):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in re.findall(r'points="([^"]+)"', chart.body)
    ][1::2]  # every other line is the name's key


def test_a_line_chart_places_points_on_round_axes():
    chart = line_chart("Loss", "epoch", {"a": [(1, -0.5), (4, 0.5)], "b": [(2, float("nan")), (4, 0.0)]}, marks=[2])
    # 0 to 4 over 52 to 406 units across; -0.6 to 0.6 over 210 to 44 units upwards.
    assert points(chart) == [[(140.5, 196.2), (406.0, 57.8)], [(406.0, 127.0)]]
    assert re.findall(r'<line [^>]*class="limit"', chart.body) == [
        '<line x1="229.0" y1="44.0" x2="229.0" y2="210.0" class="limit"'
    ]
    assert chart.body.count("<circle") == 3


def test_a_long_line_keeps_its_extremes():
    values = [(float(epoch), 1 / epoch) for epoch in range(1, 5001)]
    values[3210] = (3211.0, 9.0)
    chart = line_chart("Loss", "epoch", {"a": values})
    (line,) = points(chart)
    assert len(line) <= 300
    assert min(y for _, y in line) == pytest.approx(44 + (210 - 44) * 0.1, abs=0.1)  # 9 of 10
    assert "<circle" not in chart.body


@pytest.mark.parametrize("values", [[], [(1, float("nan"))], [(1, 0.0)], [(0, 5.0)]])
def test_a_chart_of_next_to_nothing_can_be_drawn(values):
    assert "nan" not in line_chart("Loss", "epoch", {"a": values}).body
