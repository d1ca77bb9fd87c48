"""Every door meets a few odd inputs and all that once went wrong; `make fuzz` lets it meet thousands."""

import shutil
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.campaign import Campaign, kept
from tests.fuzz.door import default_count, door_names, open_door
from tests.fuzz.stand_ins.faulty_door import FAULTS

SHORT = 100


@pytest.fixture(scope="module")
def workspace(tiny_model, tiny_bundle, tmp_path_factory) -> Path:
    """The tiny model and its bundle, which no other test uses."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(tiny_model, folder / "model")
    shutil.copytree(tiny_bundle, folder / "bundle")
    return folder


@pytest.mark.parametrize("door", door_names())
def test_odd_inputs_are_taken_or_refused(door, workspace, tmp_path):
    count = min(SHORT, default_count(door) // 100)
    tally = Campaign(door, workspace, tmp_path, keep=None).run([*kept(door), *range(count)])
    assert tally.counts.total() >= count
    assert not tally.findings, "\n".join(f"{found.task}: {found.kind}: {found.detail}" for found in tally.findings)


@pytest.mark.parametrize("door", door_names())
def test_an_input_is_determined_by_its_number(door, workspace, tmp_path):
    opened = open_door(door, workspace)
    made = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        opened.make(Random("7"), folder)
        made.append({file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()})
    assert made[0] == made[1]


def test_every_fault_is_told_and_the_first_input_of_a_cause_kept(workspace, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    made = {index: Random(f"stand_ins.faulty 0 {index}").choice(FAULTS) for index in range(50)}
    first = [next(index for index in made if made[index] == fault) for fault in FAULTS]
    second = next(index for index in made if made[index] == "traceback" and index not in first)
    campaign = Campaign("stand_ins.faulty", workspace, tmp_path / "scratch", keep=tmp_path / "kept", limit_s=0.5)
    tally = campaign.run([*first, second])
    assert tally.counts == dict.fromkeys(FAULTS, 1) | {"traceback": 2}
    assert [made[found.task] for found in tally.findings] == [*FAULTS[2:], "traceback"]
    kept_files = (tmp_path / "kept" / "stand_ins.faulty").glob("*/fault.txt")
    assert sorted(file.read_text(encoding="ascii") for file in kept_files) == sorted(FAULTS[2:])
    # Temporary files are of a worker, and go with it.
    assert not list((tmp_path / "tmp").iterdir())
    assert {path.name for path in (tmp_path / "scratch" / "0").iterdir()} == {"input", "stderr.txt"}


def test_a_kept_input_is_entered_as_it_lies(workspace, tmp_path):
    path = tmp_path / "fault.txt"
    path.write_text("traceback", encoding="ascii")
    (found,) = Campaign("stand_ins.faulty", workspace, tmp_path / "scratch").run([path]).findings
    assert (found.task, found.kind) == (path, "traceback")
    assert "ValueError: on purpose" in found.detail


def test_several_processes_meet_the_same_inputs(workspace, tmp_path):
    counts = [
        Campaign("nifti", workspace, tmp_path / str(jobs), keep=None, jobs=jobs).run(range(40)).counts
        for jobs in (1, 2)
    ]
    assert counts[0] == counts[1]
