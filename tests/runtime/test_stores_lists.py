"""Lists of cases in an object store, and lists whose images are objects: what the same images as files give."""

import json
import shutil

import pytest

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("pydicom")

from flare_runtime import ResumeRules, UsageError  # noqa: E402
from flare_runtime.cases.input_rules import InputRules  # noqa: E402
from flare_runtime.cli import main  # noqa: E402
from flare_runtime.stores.mirror import Mirror  # noqa: E402
from tests.runtime.command_runs import write_cohort  # noqa: E402
from tests.runtime.dicom_files import Series  # noqa: E402
from tests.runtime.memory_store import facts, memory_bucket, runner  # noqa: E402


@pytest.fixture
def bucket():
    with memory_bucket() as bucket:
        yield bucket


@pytest.fixture
def run(tiny_bundle):
    return runner(tiny_bundle)


@pytest.fixture
def images(bucket, tmp_path):
    """Scans and series: in a folder and in the bucket."""
    images = write_cohort(tmp_path / "images")
    Series(count=5).write(images / "series" / "ct")
    Series(count=4).write(images / "two" / "a")
    Series(count=4).write(images / "two" / "b")
    shutil.make_archive(str(images / "packed"), "zip", Series(count=6).write(tmp_path / "unpacked"))
    bucket.upload(images, "cohort/images")
    return images


NAMES = ("a_0000.nii.gz", "b_0000.nii.gz", "missing.nii.gz", "series", "packed.zip", "two", "no/series")


def rows(prefix):
    return "images,output\n" + "".join(f"{prefix}{name},{i}/{i}.nii.gz\n" for i, name in enumerate(NAMES))


def without_places(records):
    """Return facts of records: what is wrong with a file that is not there names its place."""
    return {name: [status, reason, *others] for name, (status, reason, _, *others) in facts(records).items()}


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_list_of_objects_gives_what_one_of_files_gives(is_stored, bucket, run, images, tmp_path):
    (tmp_path / "here.csv").write_text(rows("images/"))
    (tmp_path / "there.csv").write_text(rows(f"{bucket.url}/cohort/images/"))
    source = tmp_path / "there.csv"
    if is_stored:
        bucket.put("cohort/list.csv", rows("images/").encode())
        source = f"{bucket.url}/cohort/list.csv"
    here, _ = run(tmp_path / "here.csv", tmp_path / "here")
    for target in (tmp_path / "down", f"{bucket.url}/up"):
        assert without_places(run(source, target)[0]) == without_places(here)
        kept = sorted({*here} - {"2/2", "5/5", "6/6"})  # what was not there, or not one series, is looked at again
        assert run(source, target, resume=ResumeRules())[1] == kept
    assert sum(record.status == "done" for record in here.values()) == 3
    record = json.loads(bucket.get("up/3/3.json"))
    assert (record["inputs"], record["mask"]) == ([f"{bucket.url}/cohort/images/series"], f"{bucket.url}/up/3/3.nii.gz")
    bucket.put("cohort/images/a_0000.nii.gz", bucket.get("cohort/images/c_0000.nii.gz"))
    bucket.put("cohort/images/series/ct/IM0001", bucket.get("cohort/images/series/ct/IM0001") + b"\0\0")
    again = run(source, f"{bucket.url}/up", resume=ResumeRules())[0]
    assert {"0/0", "3/3"} <= again.keys() <= {"0/0", "2/2", "3/3", "5/5", "6/6"}


def test_workers_leave_no_headers_of_what_they_do_not_do(bucket, run, images, tmp_path, monkeypatch):
    row = {"images": f"{bucket.url}/cohort/images/series"}
    (tmp_path / "list.jsonl").write_text(json.dumps(row).replace("/", "\\/"))
    run(tmp_path / "list.jsonl", f"{bucket.url}/up")
    close, left = Mirror.close, []

    def look_and_close(mirror):
        left.extend(path.name for path in mirror._folder.rglob("IM*"))
        close(mirror)

    monkeypatch.setattr(Mirror, "close", look_and_close)
    assert run(tmp_path / "list.jsonl", f"{bucket.url}/up", resume=ResumeRules())[1] == ["series"]
    assert left == []


def test_two_cases_may_have_one_image(bucket, run, images, tmp_path):
    series = f"{bucket.url}/cohort/images/series"
    (tmp_path / "list.csv").write_text("images,output\n" + "".join(f"{series},{i}.nii.gz\n" for i in range(6)))
    records, _ = run(tmp_path / "list.csv", tmp_path / "masks", resume=ResumeRules())
    assert [record.status for record in records.values()] == ["done"] * 6
    assert len({record.mask_sha256 for record in records.values()}) == 1


def test_files_of_this_machine_may_be_among_the_objects(bucket, run, images, tmp_path):
    text = f"images\nimages/a_0000.nii.gz\nfile://{images}/c_0000.nii.gz\n{bucket.url}/cohort/images/b_0000.nii.gz\n"
    (tmp_path / "list.csv").write_text(text)
    records, _ = run(tmp_path / "list.csv", tmp_path / "masks", input_rules=InputRules(shard=(1, 1)))
    assert {name: record.status for name, record in records.items()} == {"a": "done", "b": "refused", "c": "done"}


@pytest.mark.parametrize("image", ["/etc/passwd", "../../../etc/passwd", "sftp://machine/a.nii"])
def test_a_list_in_a_store_names_no_file_of_this_machine(image, bucket, run, tmp_path):
    bucket.put("list.csv", f"images\n{image}\n".encode())
    with pytest.raises(UsageError, match=rf"^{bucket.url}/list.csv, line 2: .*(names no bucket|is no store)"):
        run(f"{bucket.url}/list.csv", tmp_path / "masks")


def test_what_takes_no_urls_in_a_list_says_so_and_status_knows_them(bucket, run, images, tmp_path, tiny_bundle, capsys):
    source = tmp_path / "list.csv"
    source.write_text(f"images\n{bucket.url}/cohort/images/a_0000.nii.gz\n{bucket.url}/other.nii.gz\n")
    assert main(["check", str(source), "-m", str(tiny_bundle)]) == 2
    assert "is a URL; here a list names files and folders of this machine" in capsys.readouterr().err
    run(source, tmp_path / "masks")
    (tmp_path / "masks" / "other.json").unlink()
    main(["status", str(tmp_path / "masks"), "--of", str(source)])
    assert "1 of 2 case(s) done" in capsys.readouterr().out


@pytest.mark.parametrize("order", [1, -1])
def test_places_within_each_other_are_each_what_they_hold(order, bucket, run, tmp_path):
    for number, name in enumerate("abc", 4):
        Series(count=number, number=number).write(tmp_path / "in" / "study" / name)
    places = ["study/a/IM0001", "study/a", "study/b", "study", "study/c", "study/a"]
    rows = [f"{number},{place}\n" for number, place in enumerate(places)][::order]
    (tmp_path / "in" / "cohort.csv").write_text("case,images\n" + "".join(rows))
    bucket.upload(tmp_path / "in", "in")
    here, _ = run(tmp_path / "in" / "cohort.csv", tmp_path / "masks")
    there, _ = run(f"{bucket.url}/in/cohort.csv", f"{bucket.url}/masks/", resume=ResumeRules())
    assert [(one.status, one.reason, one.mask_sha256) for _, one in sorted(there.items())] == [
        (one.status, one.reason, one.mask_sha256) for _, one in sorted(here.items())
    ]
    assert there["3"].reason == "several_series"
