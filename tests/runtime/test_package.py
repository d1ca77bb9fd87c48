"""What importing the runtime costs and gives, each time in a fresh interpreter."""

import subprocess
import sys

import numpy as np
import pytest

import flare_runtime
from tests.runtime.nifti_files import write_nifti

HEAVY = {"torch", "nnunetv2", "matplotlib", "numpy", "scipy", "nibabel", "openvino", "onnxruntime", "onnx", "skimage"}


def modules_after(code):
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stderr.splitlines()}


def test_importing_the_command_loads_no_array_library():
    loaded = modules_after("import flare_runtime.cli")
    assert "flare_runtime" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_no_array_library(option):
    loaded = modules_after(
        f"import flare_runtime.cli\ntry:\n    flare_runtime.cli.main(['{option}'])\nexcept SystemExit: pass"
    )
    assert "argparse" in loaded
    assert not loaded & HEAVY


def test_a_wrong_command_line_loads_no_array_library():
    loaded = modules_after("import flare_runtime.cli\ntry:\n    flare_runtime.cli.main([])\nexcept SystemExit: pass")
    assert not loaded & HEAVY


def test_the_command_on_a_cpu_waits_for_no_import_that_gpus_reports_and_pages_need():
    loaded = modules_after("import flare_runtime.command")
    assert "numpy" in loaded
    assert not loaded & {"multiprocessing", "email", "html"}  # by importlib.metadata the second


def test_segmenting_loads_neither_torch_nor_nnunet_nor_onnx(tiny_bundle):
    loaded = modules_after(
        "import numpy as np\n"
        "from flare_runtime import Segmenter\n"
        "from flare_runtime.options import RunOptions\n"
        f"segmenter = Segmenter.load({str(tiny_bundle)!r}, RunOptions(threads=1))\n"
        "assert segmenter.segment(np.full((4, 4, 4), -50.0), (2.5, 1.5, 1.5)).mask.shape == (4, 4, 4)"
    )
    assert {"numpy", "openvino"} <= loaded
    assert not loaded & {
        "torch",
        "nnunetv2",
        "matplotlib",
        "onnxruntime",
        "onnx",
        "skimage",
        "SimpleITK",
        "flare_export",
    }


@pytest.mark.parametrize("source", ["nifti.nii", "dicom"])
def test_the_command_loads_pydicom_for_dicom_alone(source, tmp_path, tiny_bundle):
    pytest.importorskip("pydicom")
    from tests.runtime.dicom_files import Series

    Series(count=4).write(tmp_path / "dicom")
    write_nifti(tmp_path / "nifti.nii", np.full((4, 4, 4), -50, np.int16))
    command = ["flare-infer", "-i", str(tmp_path / source), "-o", f"{tmp_path}/", "-m", str(tiny_bundle), "--quiet"]
    code = f"sys.argv = {[*command, '--device', 'cpu']!r}\nfrom flare_runtime.cli import main\nassert main() == 0\n"
    for module in ("pydicom.dataset", "flare_runtime.imaging.dicom.series"):
        assert "numpy" in modules_after(f"{code}assert ({module!r} in sys.modules) == {source == 'dicom'}")


@pytest.mark.parametrize("name", flare_runtime.__all__)
def test_public_names_are_there(name):
    assert getattr(flare_runtime, name).__name__ == name


def test_public_names_are_listed():
    assert set(flare_runtime.__all__) <= set(dir(flare_runtime))


def test_errors_are_there_without_an_array_library():
    loaded = modules_after(
        "from flare_runtime import BundleError, CaseError, DeviceError, FlareError, OutputError, UsageError"
    )
    assert not loaded & HEAVY


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        flare_runtime.Segmentor  # noqa: B018
