"""Fixtures of all tests: real data where it is to be had, and a tiny model made from scratch."""

import logging
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# As the runtime does, for tests that import OpenVINO themselves: it would call home and fork.
sys.modules.setdefault("openvino_telemetry", None)
# What runs in the background ignores it, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nnU-Net imports module after module until one holds the trainer it wants. This one needs timm, which needs a
# torchvision made for this very build of torch; beside another, nnU-Net would find its default trainer alone.
_PRIMUS = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"
sys.modules.setdefault(_PRIMUS, ModuleType(_PRIMUS))

# What tests record of a comparison with nnU-Net, for the summary.
AGREEMENT = "agreement with nnU-Net"
# Shared machines are slow at times, and a failure has to come again: no deadline, no randomness.
settings.register_profile("flare", max_examples=50, deadline=None, derandomize=True, database=None)
settings.load_profile("flare")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT volumes: FLARE_LITE_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FLARE_LITE_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real CT volumes at {folder}; name their folder in FLARE_LITE_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of compiled networks that starts empty and goes with the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def usual_logging() -> Iterator[None]:
    """Let no command that is told to be quiet silence the tests behind it."""
    yield
    for package in ("flare_runtime", "flare_export", "flare_train", "flare_eval"):
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def no_process_outlives_a_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the processes that a test leaves where it fails: they would take the processor from all tests behind it."""
    started: list[subprocess.Popen[Any]] = []
    failed_before, real = request.session.testsfailed, subprocess.Popen.__init__

    def start(process: subprocess.Popen[Any], *args: Any, **options: Any) -> None:
        started.append(process)
        real(process, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", start)
        yield
    for process in started if request.session.testsfailed > failed_before else []:
        with suppress(AttributeError):  # one that could not be started
            process.kill()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nnU-Net trained-model folder: one channel, two classes, patch 16 x 16 x 16, spacing 2.5 x 1.5 x 1.5 mm."""
    pytest.importorskip("torch")
    from tests.model_folders import write_model_folder

    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_model`; copy it before changing it."""
    from flare_export.bundle.conversion import Naming, export_bundle
    from flare_export.source.model_folder import ModelFolder

    target = tmp_path_factory.mktemp("bundle") / "tiny"
    export_bundle(ModelFolder.read(tiny_model), target, Naming(name="tiny"))
    return target


@pytest.fixture(scope="session")
def eight_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two folds whose features are whole groups of 8 channels, as nnU-Net's are."""
    pytest.importorskip("torch")
    from flare_export.bundle.conversion import Naming, export_bundle
    from flare_export.source.model_folder import ModelFolder
    from tests.model_folders import write_model_folder

    folder = tmp_path_factory.mktemp("eight")
    model = write_model_folder(folder / "model", features=(8, 16), folds=("0", "1"))
    export_bundle(ModelFolder.read(model), folder / "bundle", Naming(name="eight"))
    return folder / "bundle"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the fault table after a run of the whole suite, and how far masks agree with nnU-Net's."""
    from tests.fault_rows import ROWS
    from tests.fault_table import summary

    outcomes: dict[str, list[str]] = defaultdict(list)
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                outcomes[report.nodeid].append(outcome)
    if any(test.startswith("tests/test_faults.py") for test in outcomes):
        terminalreporter.section("faults")
        for line in summary(ROWS, outcomes):
            terminalreporter.write_line(line)
    calls = [
        one for reports in terminalreporter.stats.values() for one in reports if getattr(one, "when", "") == "call"
    ]
    if agreements := [text for call in calls for name, text in call.user_properties if name == AGREEMENT]:
        terminalreporter.section(AGREEMENT)
        terminalreporter.write_line(
            "kind, backend, precision, voxels equal, Dice, differing, foreground, margin, its steps"
        )
        for text in agreements:
            terminalreporter.write_line(text)
