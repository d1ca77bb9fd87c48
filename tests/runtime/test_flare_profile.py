"""`flare-infer --flare`: what it sets, that it gives way, and that only masks come into the output."""

import pytest

from flare_runtime import cli
from flare_runtime.arguments import parse_args
from flare_runtime.backends.registry import engines_on
from flare_runtime.command import options_of
from tests.runtime.command_runs import names, write_cohort, write_scan

SAYS = "flare-infer: --flare sets --crop body --gpu-memory 3584 --no-records, where nothing else is given"


def options(*words):
    return options_of(parse_args(["-i", "in", "-o", "out", *words]))


def test_it_sets_what_it_says():
    plain, flare = options(), options("--flare")
    assert (plain.crop, plain.gpu_memory_mib, plain.records) == ("nonzero", 4096, True)
    assert (flare.crop, flare.gpu_memory_mib, flare.records) == ("body", 3584, False)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--crop", "nonzero"], "crop", "nonzero"),
        (["--gpu-memory=2000"], "gpu_memory_mib", 2000),
        (["--records"], "records", True),
    ],
)
def test_what_is_given_goes_first_on_either_side_of_it(words, name, value):
    for given in ([*words, "--flare"], ["--flare", *words]):
        assert getattr(options(*given), name) == value


def test_no_engine_of_gpus_computes_in_bfloat16_which_turing_has_not():
    assert all("bf16" not in (*engine.precisions, *engine.lower) for engine in engines_on(gpu=True))


def test_only_masks_come_into_the_output(tiny_bundle, tmp_path, capfd):
    """One case is refused: it leaves neither a mask nor a record, but a line on stderr and the exit code."""
    arguments = ["-i", str(write_cohort(tmp_path / "in")), "-o", str(tmp_path / "out"), "-m", str(tiny_bundle)]
    assert cli.main([*arguments, "--flare"]) == 4
    assert names(tmp_path / "out") == ["a.nii.gz", "c.nii.gz"]
    first, *_, refused, _, last = capfd.readouterr().err.splitlines()
    assert first == SAYS
    assert refused.startswith("b: refused (truncated): ")
    assert last == "1 of 3 case(s) not done"


def test_records_of_earlier_runs_go_with_the_masks_that_they_described(tiny_bundle, tmp_path):
    arguments = ["-i", str(write_cohort(tmp_path / "in")), "-o", str(tmp_path / "out"), "-m", str(tiny_bundle)]
    assert cli.main([*arguments, "--quiet"]) == 4
    assert names(tmp_path / "out") == ["a.json", "a.nii.gz", "b.json", "c.json", "c.nii.gz"]
    before = (tmp_path / "out" / "a.nii.gz").read_bytes()
    assert cli.main([*arguments, "--quiet", "--no-records"]) == 4
    assert names(tmp_path / "out") == ["a.nii.gz", "c.nii.gz"]
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == before


def test_a_report_goes_where_it_is_asked_for(tiny_bundle, tmp_path, capfd):
    scan = write_scan(tmp_path)
    arguments = ["-i", str(scan), "-o", str(tmp_path / "out" / "mask.nii.gz"), "-m", str(tiny_bundle), "--flare"]
    assert cli.main([*arguments, "--quiet", "--report", str(tmp_path / "run.json")]) == 0
    assert names(tmp_path / "out") == ["mask.nii.gz"]
    assert (tmp_path / "run.json").stat().st_size
    assert capfd.readouterr().err == ""
