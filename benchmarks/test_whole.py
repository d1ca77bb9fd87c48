"""From a file to a mask, each command in a fresh process: a small network, so that every stage has its share."""

from pathlib import Path

import pytest

from benchmarks.whole_case import parse_args, prepare, run_module


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("whole")
    small = ["--features", "8", "16", "32", "--patch", "64", "96", "96", "--shape", "60", "384", "384"]
    prepare(parse_args(small), work)
    return work


@pytest.mark.benchmark(group="file to mask")
class TestWhole:
    def test_flare(self, benchmark, case: Path) -> None:
        options = ("-m", str(case / "bundle"), "--device", "cpu", "--precision", "fp32", "--quiet")
        arguments = ("flare_runtime.cli", "-i", str(case / "data" / "imagesTr"), "-o", str(case / "ours"), *options)
        benchmark.pedantic(run_module, arguments, rounds=3)

    def test_nnunet_reference(self, benchmark, case: Path) -> None:
        arguments = ("benchmarks.nnunet_predict", str(case / "model"), "all", str(case / "data" / "imagesTr"))
        benchmark.pedantic(run_module, (*arguments, str(case / "theirs")), rounds=1)
