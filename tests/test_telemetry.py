"""Nothing is sent and nothing is left in the home: what the commands really do, in processes of their own."""

import os
import subprocess
import sys

import pytest

from tests.network_trace import LINGER_S, commands, has_strace, traced, unexpected, write_cases

needs_strace = pytest.mark.skipif(not has_strace(), reason="strace is not installed, or may not trace here")
BACKENDS = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder)
    return folder / "images"


def segmented(bundle, image, folder, backend, **options):
    arguments = ("-i", image, "-o", folder / "mask.nii.gz", "-m", bundle, "--backend", backend)
    return traced("flare_runtime.cli", *arguments, folder=folder, **options)


def test_the_engines_telemetry_is_off_wherever_the_package_is_imported():
    code = "import os, flare_runtime.model.bundle; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_leaves_nothing_in_the_home(tiny_bundle, images, tmp_path, backend):
    found = segmented(tiny_bundle, images / "STS_000_0000.nii.gz", tmp_path, backend, strace=False)
    assert found.code == 0, found.output
    assert found.written == []


def test_pictures_leave_nothing_in_the_home(images, tmp_path):
    pytest.importorskip("matplotlib")
    labels = images.parent / "labels"
    arguments = ("-i", images, "-r", labels, "-p", labels, "-o", tmp_path / "overlays")
    found = traced("flare_eval.show", *arguments, folder=tmp_path, strace=False)
    assert found.code == 0, found.output
    assert found.written == []


def test_codecarbon_sends_nothing_whatever_a_persons_settings_say(tmp_path):
    pytest.importorskip("codecarbon")
    settings = "[codecarbon]\nsave_to_api = true\noutput_methods = api,csv\nelectricitymaps_api_token = abc\n"
    (tmp_path / ".codecarbon.config").write_text(settings)
    code = """
from flare_runtime.program.telemetry import silence_command
silence_command()
from flare_train.training.emissions import EmissionsMeter
tracker = EmissionsMeter("FRA")._tracker
print(tracker._output_handlers, bool(tracker._electricitymaps_api_token))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[] False\n"


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_looks_nothing_up_even_later(tiny_bundle, images, tmp_path, backend):
    found = segmented(tiny_bundle, images / "STS_000_0000.nii.gz", tmp_path, backend, linger_s=LINGER_S)
    assert found.code == 0, found.output
    assert found.calls == []


@needs_strace
@pytest.mark.slow
def test_no_command_looks_anything_up_or_writes_in_the_home(tmp_path):
    pytest.importorskip("nnunetv2")
    for module, arguments in commands(tmp_path):
        found = traced(module, *arguments, folder=tmp_path)
        calls = unexpected(found.calls, arguments[0])
        assert (found.code, calls, found.written) == (0, [], []), (module, arguments, found.output)
