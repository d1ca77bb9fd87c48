"""One case after the other: committed with its record, or refused by itself."""

import hashlib
import json
import threading
import time
import weakref

import numpy as np
import pytest

from flare_runtime import Segmenter
from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import DeviceError
from flare_runtime.imaging.read import read_volume
from flare_runtime.options import RunOptions
from flare_runtime.run.serial import segment_cases
from tests.runtime.manifests import ArithmeticNetwork, manifest_fields, memory_bundle
from tests.runtime.nifti_files import write_nifti

ONE_MM = (1.0, 1.0, 1.0)
RAW = {"name": "raw", "normalisation": {"scheme": "none"}}


def image(value=50):
    """Return -100 with a box of `value`."""
    voxels = np.full((9, 10, 11), -100, np.int16)
    voxels[2:5, 3:7, 4:9] = value
    return voxels


def segmenter_of(network=None, options=None, **changes):
    bundle = memory_bundle(**{"channels": [RAW], "spacing_mm": ONE_MM, **changes})
    return Segmenter(bundle, network or ArithmeticNetwork(), options)


@pytest.fixture
def run(tmp_path):
    """A function that segments the files of tmp_path/in into tmp_path/out and returns the records by case."""

    def segment(segmenter):
        cases = find_cases(tmp_path / "in", tmp_path / "out", len(segmenter.bundle.manifest.channels))
        return {record.case: record for record in segment_cases(segmenter, cases)}

    (tmp_path / "in").mkdir()
    return segment


def results(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_a_case_is_committed_as_a_mask_and_its_record(tmp_path, run):
    source = write_nifti(tmp_path / "in" / "a_0000.nii.gz", image(), spacing_mm=ONE_MM)
    record = run(segmenter_of())["a"]
    assert record.status == "done"
    assert results(tmp_path) == ["a.json", "a.nii.gz"]
    mask = read_volume(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(mask.voxels, image() > 0)
    written = json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8"))
    assert written["mask_sha256"] == hashlib.sha256((tmp_path / "out" / "a.nii.gz").read_bytes()).hexdigest()
    assert written["mask"] == str(tmp_path / "out" / "a.nii.gz")
    assert written["inputs"] == [str(source)]
    assert written["inputs_sha256"] == [hashlib.sha256(source.read_bytes()).hexdigest()]
    assert (written["shape"], written["spacing_mm"]) == ([9, 10, 11], [1, 1, 1])
    (lesion,) = written["lesions"]
    assert (lesion["label"], lesion["name"]) == (1, "lesion")
    assert (lesion["voxels"], lesion["volume_ml"], lesion["centre"]) == (60, 0.06, [3.0, 4.5, 6.0])
    assert (lesion["extent_mm"], lesion["centre_mm"]) == ([3.0, 4.0, 5.0], [1.0, -1.5, -4.0])  # from (-5, -6, -7) on
    assert written["model"]["name"] == "hand-made"
    assert written["model"]["backend"] == "arithmetic"
    assert (written["model"]["step"], written["model"]["tta"]) == (0.5, False)
    assert (lesion["id"], lesion["centre_lps_mm"]) == (1, [-1.0, 1.5, -4.0])
    inside = image()[image() > 0].astype(float)
    assert (lesion["mean_intensity"], lesion["sd_intensity"]) == (round(inside.mean(), 1), round(inside.std(), 1))
    assert written["totals"] == [{"label": 1, "name": "lesion", "lesions": 1, "volume_ml": 0.06}]
    stages = {"read", "preprocess", "network", "blend", "restore", "measure", "write", "total"}
    assert set(written["timings_s"]) == stages
    stages = sum(seconds for stage, seconds in written["timings_s"].items() if stage != "total")
    assert 0 < stages <= written["timings_s"]["total"] + 0.001  # but for rounding
    assert written["peak_memory_mib"] > 10


@pytest.mark.parametrize("voxels", [image(-50), np.zeros((9, 10, 11), np.int16)], ids=["nothing positive", "all zero"])
def test_nothing_found_is_a_finished_case_with_no_lesions(tmp_path, run, voxels):
    write_nifti(tmp_path / "in" / "a.nii.gz", voxels, spacing_mm=ONE_MM)
    assert run(segmenter_of())["a"].status == "done"
    assert json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8"))["lesions"] == []
    assert not read_volume(tmp_path / "out" / "a.nii.gz").voxels.any()


def test_cases_whose_names_are_shown_alike_are_two_cases(tmp_path):
    (tmp_path / "in").mkdir()
    for name, value in (("a\\n", 50), ("a\n", 60)):  # with a backslash, and with the end of a line
        write_nifti(tmp_path / "in" / f"{name}_0000.nii.gz", image(value), spacing_mm=ONE_MM)
    cases = find_cases(tmp_path / "in", tmp_path / "out", 1)
    records = list(segment_cases(segmenter_of(), cases))
    assert [(record.case, record.status) for record in records] == [("a\\n", "done")] * 2
    assert len({record.inputs_sha256[0] for record in records}) == 2


def test_channels_in_different_places_are_refused_and_the_others_are_done(tmp_path, run):
    moved = {"srow_z": [0, 0, 1, 1063], "qoffset_z": 1063}  # 1.07 m above the others
    for name, fields in (("apart_0000", {}), ("apart_0001", moved), ("near_0000", {}), ("near_0001", {})):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM, **fields)
    network = ArithmeticNetwork(lambda tiles: np.concatenate([-tiles[:, :1], tiles[:, :1]], axis=1))
    records = run(segmenter_of(network, channels=[RAW, {**RAW, "name": "PET"}]))
    assert (records["apart"].status, records["apart"].reason) == ("refused", "channel_mismatch")
    assert "the image of PET lies up to 1.07e+03 mm off, against that of raw" in records["apart"].message
    assert results(tmp_path) == ["apart.json", "near.json", "near.nii.gz"]


def test_no_case_gets_the_image_of_one_that_was_given_up_before_it(tmp_path):
    (tmp_path / "in").mkdir()
    for index, name in enumerate("abcd"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image()[index:], spacing_mm=ONE_MM)

    def progress(case):
        if case.name == "b":  # it has been read by then
            raise ZeroDivisionError
        return iter

    cases = find_cases(tmp_path / "in", tmp_path / "out", 1)
    records = list(segment_cases(segmenter_of(), cases, progress=progress))
    assert [(record.status, record.shape) for record in records] == [
        ("done", (9, 10, 11)),
        ("failed", None),
        ("done", (7, 10, 11)),
        ("done", (6, 10, 11)),
    ]


def test_a_bad_case_is_refused_and_the_others_are_done(tmp_path, run):
    for name in ("a", "c"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM)
    (tmp_path / "in" / "b.nii.gz").write_bytes((tmp_path / "in" / "a.nii.gz").read_bytes()[:-20])
    records = run(segmenter_of())
    assert {name: record.status for name, record in records.items()} == {"a": "done", "b": "refused", "c": "done"}
    assert records["b"].reason == "truncated"
    assert records["b"].line.startswith("b: refused (truncated): b.nii.gz: ")
    assert results(tmp_path) == ["a.json", "a.nii.gz", "b.json", "c.json", "c.nii.gz"]
    written = json.loads((tmp_path / "out" / "b.json").read_text(encoding="utf-8"))
    identity = written.pop("identity")
    changed = (tmp_path / "in" / "b.nii.gz").stat()
    assert identity["inputs"] == [f"{changed.st_size}-{changed.st_mtime_ns}"]
    assert written == {
        "format": "flare-lite record",
        "case": "b",
        "status": "refused",
        "schema_version": 2,
        "reason": "truncated",
        "message": records["b"].message,
        "inputs": [str(tmp_path / "in" / "b.nii.gz")],
    }


@pytest.mark.parametrize("names", [["a_0000"], ["a_0001"], ["a_0000", "a_0002"], ["a_0000", "a_0001", "a_0002"]])
def test_missing_or_surplus_channels_refuse_the_case(tmp_path, run, names):
    for name in names:
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM)
    record = run(segmenter_of(channels=[RAW, RAW]))["a"]
    assert (record.status, record.reason) == ("refused", "wrong_channels")
    assert results(tmp_path) == ["a.json"]


def test_channels_reach_the_network_by_their_numbers(tmp_path, run):
    write_nifti(tmp_path / "in" / "a_0001.nii.gz", image(-50), spacing_mm=ONE_MM)
    write_nifti(tmp_path / "in" / "a_0000.nii.gz", image(50), spacing_mm=ONE_MM)
    record = run(segmenter_of(channels=[RAW, RAW]))["a"]
    assert record.lesions[0].voxels == 60
    files = [tmp_path / "in" / f"a_000{channel}.nii.gz" for channel in (0, 1)]
    assert record.inputs_sha256 == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_inputs_above_the_limit_are_refused(tmp_path, run):
    write_nifti(tmp_path / "in" / "a.nii.gz", image(), spacing_mm=ONE_MM)
    assert run(segmenter_of(options=RunOptions(max_voxels=989)))["a"].reason == "too_large"
    assert run(segmenter_of(options=RunOptions(max_voxels=990)))["a"].status == "done"


def test_remarks_reach_the_record_and_its_line(tmp_path, run):
    write_nifti(tmp_path / "in" / "a.nii", image(), spacing_mm=ONE_MM, qform_code=0, sform_code=0)
    record = run(segmenter_of(channels=manifest_fields()["channels"]))["a"]
    assert [remark.code for remark in record.remarks] == ["no_orientation"]
    assert "neither qform nor sform is set" in record.line
    assert "no_orientation" in (tmp_path / "out" / "a.json").read_text(encoding="utf-8")


class Failing(ArithmeticNetwork):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def run(self, tiles):
        if self.calls == 0:
            self.calls = 1
            raise self.error
        return super().run(tiles)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("broken\nin two lines"), "internal"), (MemoryError(), "memory"), (ZeroDivisionError(), "internal")],
)
def test_an_unforeseen_error_fails_its_case_alone(tmp_path, run, error, reason):
    for name in ("a", "b"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM)
    records = run(segmenter_of(Failing(error)))
    assert (records["a"].status, records["a"].reason) == ("failed", reason)
    assert "\n" not in records["a"].line
    evidence = json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8"))["traceback"]
    assert evidence == records["a"].traceback
    assert "in run\n    raise self.error\n" in evidence
    assert records["b"].status == "done"
    assert results(tmp_path) == ["a.json", "b.json", "b.nii.gz"]


def test_nan_from_the_network_refuses_the_case_and_writes_no_mask(tmp_path, run):
    write_nifti(tmp_path / "in" / "a.nii.gz", image(), spacing_mm=ONE_MM)
    record = run(segmenter_of(ArithmeticNetwork(lambda tiles: np.concatenate([tiles, tiles * np.nan], axis=1))))["a"]
    assert record.reason == "nonfinite_logits"
    assert results(tmp_path) == ["a.json"]


def test_a_lost_device_stops_the_run(tmp_path, run):
    write_nifti(tmp_path / "in" / "a.nii.gz", image(), spacing_mm=ONE_MM)
    with pytest.raises(DeviceError):
        run(segmenter_of(Failing(DeviceError("gone"))))


def test_a_result_that_cannot_be_written_fails_its_case_alone(tmp_path, run):
    for name in ("a", "b"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM)

    class Hindering(ArithmeticNetwork):
        """Puts a folder in the first mask's place while it is being computed."""

        def run(self, tiles):
            (tmp_path / "out" / "a.nii.gz").mkdir(exist_ok=True)
            return super().run(tiles)

    records = run(segmenter_of(Hindering()))
    assert (records["a"].status, records["a"].reason) == ("failed", "output")
    assert records["b"].status == "done"
    assert results(tmp_path) == ["a.json", "a.nii.gz", "b.json", "b.nii.gz"]
    assert "a.nii.gz: is a folder" in json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8"))["message"]


def test_the_next_case_and_no_other_is_read_while_one_is_segmented(tmp_path, run, monkeypatch):
    for name in "abcd":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM)
    read, seen = [], []

    def reading(path, max_voxels, plausible, **_wanted):
        if path.name[0] not in read:  # for the second time it is to measure lesions
            read.append(path.name[0])
        return read_volume(path, max_voxels, plausible)

    class Waiting(ArithmeticNetwork):
        """Takes until the next case has been read, and a little longer for one more than that."""

        def run(self, tiles):
            deadline = time.monotonic() + 120
            while len(read) < min(self.calls + 2, 4):
                if time.monotonic() > deadline:
                    pytest.fail("the next case is not read")
                time.sleep(0.001)
            time.sleep(0.02)
            seen.append("".join(read))
            return super().run(tiles)

    monkeypatch.setattr("flare_runtime.run.serial.read_volume", reading)
    records = run(segmenter_of(Waiting(), patch=[16, 16, 16]))
    assert seen == ["ab", "abc", "abcd", "abcd"]
    assert [record.status for record in records.values()] == ["done"] * 4
    assert list(records) == list("abcd")


def test_a_scan_is_let_go_before_the_network_runs(tmp_path, run, monkeypatch):
    for name in "ab":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM)
    scans = []

    def reading(path, max_voxels, plausible, **_wanted):
        volume = read_volume(path, max_voxels, plausible)
        scans.append(weakref.ref(volume.voxels))
        return volume

    counts = []

    def count(tiles):
        counts.append(sum(scan() is not None for scan in scans))
        return np.concatenate([-tiles, tiles], axis=1)

    monkeypatch.setattr("flare_runtime.run.serial.read_volume", reading)
    run(segmenter_of(ArithmeticNetwork(count), patch=[16, 16, 16]))
    assert (len(scans), len(counts)) == (4, 2)  # each is read again to measure lesions, and let go
    assert counts[-1] == 0
    assert max(counts) <= 1  # the next one's


def test_a_run_that_is_left_in_the_middle_ends_its_reading(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", image(), spacing_mm=ONE_MM)
    records = segment_cases(segmenter_of(), find_cases(tmp_path / "in", tmp_path / "out", 1))
    assert next(records).case == "a"
    records.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read", "hash"))]
