"""Which cases are kept, why the others are not, and the links that nnU-Net reads."""

import json

import pytest

from flare_eval.sources import PSEUDO_LABELLED
from flare_runtime.errors import OutputError, UsageError
from flare_train.data.inspection import CaseFacts
from flare_train.data.selection import SelectionRules, select, write_manifest, write_raw_dataset


def facts(stem, source="STS", problems=()):
    return CaseFacts(
        stem=stem,
        source=source,
        problems=list(problems),
        image=f"/data/{stem}_0000.nii.gz",
        label=f"/data/{stem}.nii.gz",
    )


CASES = [
    facts("good"),
    facts("drawn", PSEUDO_LABELLED),
    facts("torn", problems=["truncated_image"]),
    facts("bare", problems=["empty_label"]),
    facts("both", problems=["empty_label", "geometry"]),
    facts("held_out"),
    facts("FLARE23Ts_0001", "FLARE23 validation"),
]


def reasons(choices):
    return {choice.stem: choice.reason for choice in choices}


def test_every_case_has_its_reason():
    choices = select(CASES, SelectionRules(exclude=["held_out"]))
    assert reasons(choices) == {
        "good": "",
        "drawn": "pseudo label",
        "torn": "truncated_image",
        "bare": "empty_label",
        "both": "empty_label, geometry",
        "held_out": "excluded by name",
        "FLARE23Ts_0001": "validation set",
    }
    assert [choice.stem for choice in choices if choice.kept] == ["good"]


def test_a_name_for_two_cases_is_refused():
    with pytest.raises(UsageError, match="good: names two cases"):
        select([facts("good"), facts("other"), facts("good")])


def test_options_keep_what_the_paper_leaves_out():
    kept = {
        choice.stem for choice in select(CASES, SelectionRules(pseudo_labels=True, empty_labels=True)) if choice.kept
    }
    assert kept == {"good", "drawn", "bare", "held_out"}


def test_a_cap_is_for_each_source_and_grows_without_exchanging_cases():
    cases = [facts(f"a{n}", "A") for n in range(20)] + [facts(f"b{n}", "B") for n in range(3)]
    small, large = ({c.stem for c in select(cases, SelectionRules(cap=cap)) if c.kept} for cap in (5, 9))
    assert sum(stem.startswith("a") for stem in small) == 5
    assert sum(stem.startswith("a") for stem in large) == 9
    assert small < large
    assert {"b0", "b1", "b2"} <= small
    assert "more than 5 of A" in reasons(select(cases, SelectionRules(cap=5))).values()


def test_a_cap_takes_cases_by_lot_and_not_by_their_names():
    cases = [facts(f"a{n:02}", "A") for n in range(100)]
    kept = {choice.stem for choice in select(cases, SelectionRules(cap=50)) if choice.kept}
    assert len(kept) == 50
    # Names often tell hospitals apart: of either half about half are there.
    assert 15 < sum(stem < "a50" for stem in kept) < 35


def test_cases_to_validate_on_are_kept_beside_the_cap():
    cases = [facts(f"a{n}", "A") for n in range(9)]
    choices = select(cases, SelectionRules(cap=3, validation=["a1", "a2", "a3"]))
    assert [choice.stem for choice in choices if choice.kept and choice.validation] == ["a1", "a2", "a3"]
    assert sum(choice.kept and not choice.validation for choice in choices) == 3


def test_nothing_is_validated_on_that_is_left_out():
    choices = select(CASES, SelectionRules(validation=["good", "torn", "bare"]))
    assert [choice.stem for choice in choices if choice.validation] == ["good"]


def test_the_order_of_cases_does_not_change_the_cap():
    cases = [facts(f"a{n}") for n in range(9)]
    forward, backward = (
        {c.stem for c in select(given, SelectionRules(cap=4)) if c.kept} for given in (cases, cases[::-1])
    )
    assert forward == backward


@pytest.fixture
def files(tmp_path):
    for name in ("good_0000.nii.gz", "good.nii.gz", "held_out_0000.nii.gz", "held_out.nii.gz"):
        (tmp_path / name).write_text(name)
    return [
        CaseFacts(stem=s, source="STS", image=str(tmp_path / f"{s}_0000.nii.gz"), label=str(tmp_path / f"{s}.nii.gz"))
        for s in ("good", "held_out")
    ]


def test_the_raw_data_set_is_links_and_follows_a_new_selection(files, tmp_path):
    folder = tmp_path / "raw" / "Dataset001_Test"
    assert write_raw_dataset(select(files), folder) == 2
    assert (folder / "imagesTr" / "good_0000.nii.gz").read_text(encoding="utf-8") == "good_0000.nii.gz"
    assert write_raw_dataset(select(files, SelectionRules(exclude=["held_out"])), folder) == 1
    assert [path.name for path in (folder / "labelsTr").iterdir()] == ["good.nii.gz"]
    assert (folder / "labelsTr" / "good.nii.gz").is_symlink()
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["numTraining"] == 1


def test_a_split_goes_with_the_cases_to_validate_on(files, tmp_path):
    folder = tmp_path / "raw"
    write_raw_dataset(select(files, SelectionRules(validation=["held_out"])), folder)
    split = json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))
    assert split == [{"train": ["good"], "val": ["held_out"]}]
    write_raw_dataset(select(files), folder)
    assert not (folder / "splits_final.json").exists()


def test_files_that_are_no_links_are_never_removed(files, tmp_path):
    folder = tmp_path / "raw"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / "precious.nii.gz").write_text("data")
    with pytest.raises(OutputError, match="is no link"):
        write_raw_dataset(select(files), folder)
    assert (folder / "imagesTr" / "precious.nii.gz").read_text(encoding="utf-8") == "data"


@pytest.mark.parametrize("manifest", [None, "not of ours"])
def test_a_data_set_of_somebody_else_stays_as_it_is(files, tmp_path, manifest):
    folder = tmp_path / "raw"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / "theirs_0000.nii.gz").symlink_to(tmp_path / "good_0000.nii.gz")
    for name in ("dataset.json", "splits_final.json", *(["selection.jsonl"] if manifest else [])):
        (folder / name).write_text(manifest or "theirs")
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(OutputError, match="name a new folder"):
        write_raw_dataset(select(files), folder)
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert (folder / "dataset.json").read_text(encoding="utf-8") == (manifest or "theirs")


def test_a_link_is_removed_only_where_nothing_is_refused(files, tmp_path):
    folder = tmp_path / "raw"
    write_raw_dataset(select(files), folder)
    (folder / "labelsTr" / "precious.nii.gz").write_text("data")
    with pytest.raises(OutputError, match="is no link"):
        write_raw_dataset(select(files, SelectionRules(exclude=["held_out"])), folder)
    assert (folder / "imagesTr" / "held_out_0000.nii.gz").is_symlink()


def test_the_manifest_has_a_line_a_case(tmp_path):
    write_manifest(select(CASES), tmp_path / "selection.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "selection.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["stem"] for line in lines] == [case.stem for case in CASES]
    assert [line["kept"] for line in lines] == [True, False, False, False, False, True, False]
