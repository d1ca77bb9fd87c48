"""Shares of the cases: every case is in one of them, whatever else there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime import cli
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.input_rules import ALL_CASES, InputRules
from flare_runtime.errors import UsageError
from tests.runtime.nifti_files import blobs, write_nifti


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 9))
def test_shares_are_disjoint_and_complete(outputs, count):
    shares = [InputRules(shard=(number, count)) for number in range(1, count + 1)]
    assert [sum(share.takes(output) for share in shares) for output in outputs] == [1] * len(outputs)
    assert all(ALL_CASES.takes(output) for output in outputs)


def test_a_share_is_the_same_for_ever():
    # printf case_0 | sha256sum | cut -c1-16, as a number, leaves 1 of a division by 3.
    of_three = [
        [case for case in range(6) if InputRules(shard=(one, 3)).takes(f"case_{case}.nii")] for one in (1, 2, 3)
    ]
    assert of_three == [[], [0, 1, 2], [3, 4, 5]]
    assert InputRules(shard=(1, 3)).takes("a.nii") == InputRules(shard=(1, 3)).takes("a.seg.dcm")


def test_a_large_share_is_an_even_one():
    of_four = [
        sum(InputRules(shard=(number, 4)).takes(f"{name}.nii") for name in range(4000)) for number in (1, 2, 3, 4)
    ]
    assert sum(of_four) == 4000
    assert all(900 < size < 1100 for size in of_four)


@pytest.mark.parametrize("kind", ["folder", "tree", "list"])
def test_the_shares_of_every_input(tmp_path, kind):
    source, names = tmp_path / "in", [f"{'p/' if kind == 'tree' else ''}case_{number}" for number in range(20)]
    (source / "p").mkdir(parents=True)
    for name in names:
        (source / f"{name}.nii.gz").touch()
    (source / "cohort.csv").write_text("\n".join(["images", *(f"{name}.nii.gz" for name in names)]))
    given = source / "cohort.csv" if kind == "list" else source
    masks = []
    for number in (1, 2, 3):
        rules = InputRules(recursive=kind == "tree", shard=(number, 3))
        masks += [case.mask for case in find_cases(given, tmp_path / "out", 1, rules=rules)]
    assert sorted(masks) == sorted(tmp_path / "out" / f"{name}.nii.gz" for name in names)
    # Where the output is, and one case more, move no other.
    rules = InputRules(recursive=kind == "tree", shard=(1, 3))
    first = [case.name for case in find_cases(given, tmp_path / "out", 1, rules=rules)]
    assert first == [case.name for case in find_cases(given, tmp_path / "elsewhere", 1, rules=rules)]


def test_what_is_no_share_is_refused(tmp_path, capsys):
    for shard in ((0, 4), (5, 4), (-1, -1), (1, 0)):
        with pytest.raises(UsageError, match=f"there is no shard {shard[0]}/{shard[1]}; of 4 shards the first is 1/4"):
            InputRules(shard=shard)
    for wrong in ("1/4", [1, 4], (1.0, 4), (True, 4), (1, 2, 3)):
        with pytest.raises(UsageError, match="give two whole numbers"):
            InputRules(shard=wrong)
    with pytest.raises(UsageError, match="recursive is 1; it must be True or False"):
        InputRules(recursive=1)
    for text, message in (("4", "4 is not I/N, such as 1/4"), ("a/4", "a/4 is not I/N"), ("5/4", "no shard 5/4")):
        with pytest.raises(SystemExit) if text != "5/4" else pytest.MonkeyPatch.context():
            assert cli.main(["-i", str(tmp_path), "-o", str(tmp_path), "--shard", text]) == 2
        assert message in capsys.readouterr().err


def test_a_share_of_nothing_is_no_error(tiny_bundle, tmp_path, capsys):
    scan = write_nifti(tmp_path / "scan.nii.gz", blobs((12, 16, 18)), spacing_mm=(3.0, 2.0, 1.5))
    arguments = ["-m", str(tiny_bundle), "-i", str(scan), "-o", f"{tmp_path}/out/", "--device", "cpu", "--threads", "1"]
    codes, said = [], []
    for share in ("1/2", "2/2"):
        codes.append(cli.main([*arguments, "--shard", share, "--report", f"{tmp_path}/{share[0]}.json"]))
        said.append(capsys.readouterr().err)
    assert codes == [0, 0]
    assert (tmp_path / "out" / "scan.nii.gz").is_file()
    assert sorted("flare-infer: no case is in shard" in text for text in said) == [False, True]
    assert (tmp_path / "1.json").is_file()
    assert (tmp_path / "2.json").is_file()
