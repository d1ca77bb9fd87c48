"""A disk that has no room any more ends a run before all its cases are segmented in vain, and the next run goes on."""

import errno
import json
import os

import pytest

from flare_runtime import cli
from flare_runtime.files import lease_file
from flare_runtime.run import commit
from tests.runtime.command_runs import SPACING, names
from tests.runtime.nifti_files import blobs, write_nifti


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate("abcdef"):
        write_nifti(folder / f"{name}_0000.nii.gz", blobs((8, 9, 10), seed), spacing_mm=SPACING)
    return folder


@pytest.fixture
def infer(scans, tmp_path, tiny_bundle):
    """A function that runs the command and returns its exit code."""

    def run(*options):
        cpu = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]
        return cli.main(["-i", str(scans), "-o", str(tmp_path / "masks"), "-m", str(tiny_bundle), *cpu, *options])

    return run


def fail(monkeypatch, code, cases="abcdef"):
    """Have the masks of some cases not be written."""

    def refuse(file, name, *arguments, **options):
        if name[0] in cases:
            raise OSError(code, os.strerror(code))
        encode_mask(file, name, *arguments, **options)

    encode_mask = commit.encode_mask
    monkeypatch.setattr(commit, "encode_mask", refuse)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_run_and_resume_goes_on(code, infer, tmp_path, monkeypatch, capsys):
    report = tmp_path / "run.json"
    with monkeypatch.context() as patch:
        fail(patch, code)
        assert infer("--report", str(report)) == 6
    why = f"{tmp_path / 'masks' / 'c.nii.gz'}: cannot be written ({os.strerror(code)})"
    *_, last_case, ending = capsys.readouterr().err.splitlines()
    assert last_case == f"c: failed (output): {why}"
    assert ending == f"flare-infer: {why}, as for the cases before; make room, then --resume goes on"
    assert names(tmp_path / "masks") == ["a.json", "b.json", "c.json"]
    assert json.loads(report.read_bytes())["not_begun"] == ["d", "e", "f"]
    assert infer("--resume") == 0
    assert names(tmp_path / "masks") == sorted(f"{case}{end}" for case in "abcdef" for end in (".json", ".nii.gz"))


@pytest.mark.parametrize(("code", "cases"), [(errno.ENOSPC, "abdef"), (errno.EACCES, "abcde"), (errno.ENOSPC, "def")])
def test_what_others_do_not_share_costs_its_own_case_alone(code, cases, infer, tmp_path, monkeypatch):
    fail(monkeypatch, code, cases)
    with_room = [case for case in "abcdef" if case not in cases]
    assert infer() == 4
    assert [name[0] for name in names(tmp_path / "masks") if name.endswith(".nii.gz")] == with_room


def test_a_case_that_can_never_be_written_is_given_up(infer, tmp_path, monkeypatch, capsys):
    fail(monkeypatch, errno.EACCES, "a")
    assert [infer("--resume", "--max-tries", "2") for _ in range(3)] == [4, 4, 4]
    assert json.loads((tmp_path / "masks" / "a.json").read_bytes())["identity"]["tries"] == 2
    what = "1 case(s) were refused or failed in other runs"
    for rule, advice in (
        ("", "--resume-failed tries them again, up to --max-tries (2)"),
        ("-failed", "--max-tries (2) is reached"),
    ):
        capsys.readouterr()
        assert infer(f"--resume{rule}", "--max-tries", "2") == 4
        assert capsys.readouterr().err.splitlines()[-1] == f"{what}; {advice}"


def test_a_disk_that_stays_full_costs_no_case_its_tries(infer, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail(patch, errno.ENOSPC)
        assert [infer("--resume", "--max-tries", "2") for _ in range(3)] == [6, 6, 6]
    assert infer("--resume", "--max-tries", "2") == 0
    assert json.loads((tmp_path / "masks" / "a.json").read_bytes())["identity"].get("tries", 1) == 1


@pytest.mark.parametrize("taken", [0, 2])
def test_no_room_for_a_lease_ends_a_run_after_what_is_in_work(taken, infer, tmp_path, monkeypatch, capsys):
    def create(path, content):
        if len(names(path.parent)) >= 2 * taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(path, content)

    really = lease_file.create
    with monkeypatch.context() as patch:
        patch.setattr(lease_file, "create", create)
        assert infer("--resume") == 6
    ending = capsys.readouterr().err.splitlines()[-1]
    assert ending.endswith("(its lease: No space left on device); make room, then --resume goes on")
    assert not [name for name in names(tmp_path / "masks") if not name.endswith((".json", ".nii.gz"))]
    assert infer("--resume") == 0
