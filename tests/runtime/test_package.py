"""What importing the runtime costs and gives, each time in a fresh interpreter."""

import subprocess
import sys

import numpy as np
import pytest

import flare_runtime
from tests.runtime.nifti_files import write_nifti

HEAVY = {"torch", "nnunetv2", "matplotlib", "numpy", "scipy", "nibabel", "openvino", "onnxruntime", "onnx", "skimage"}
# What no NIfTI on a CPU needs; of these folders of the runtime, all but the modules named.
NEEDLESS = HEAVY - {"numpy", "openvino"} | {"pydicom", "tqdm", "multiprocessing", "email", "xml", "fsspec"}
NEEDED_OF = {
    "imaging.dicom": {"mask_writer", "own_objects"},
    "pictures": {"page_head"},
    "backends.cudnn": set(),
    "backends.tensorrt": set(),
    "cluster": set(),
    "cohort": set(),
    "introspection": set(),
    "stores": set(),
}


def all_modules_after(code):
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stderr.splitlines())


def modules_after(code):
    return {name.partition(".")[0] for name in all_modules_after(code)}


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
    assert not loaded & (HEAVY | {"typing", "dataclasses"})


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


def modules_after_a_case(source, bundle):
    command = ["flare-infer", "-i", str(source), "-o", f"{source.parent}/masks/", "-m", str(bundle), "--device", "cpu"]
    code = f"sys.argv = {[*command, '--quiet']!r}\nfrom flare_runtime.cli import main\nassert main() == 0\n"
    # As the program keeps nibabel from importing pydicom by an entry without a module.
    return all_modules_after(f"{code}sys.modules = {{name: one for name, one in sys.modules.items() if one}}\n")


def test_a_nifti_on_a_cpu_loads_nothing_that_it_does_not_need(tmp_path, tiny_bundle):
    loaded = modules_after_a_case(write_nifti(tmp_path / "a.nii", np.full((4, 4, 4), -50, np.int16)), tiny_bundle)
    assert not {name.partition(".")[0] for name in loaded} & NEEDLESS
    for folder, needed in NEEDED_OF.items():
        prefix = f"flare_runtime.{folder}."
        assert {name.removeprefix(prefix) for name in loaded if name.startswith(prefix)} == needed, folder


def test_the_command_loads_pydicom_for_dicom(tmp_path, tiny_bundle):
    pytest.importorskip("pydicom")
    from tests.runtime.dicom_files import Series

    Series(count=4).write(tmp_path / "dicom")
    assert {"pydicom", "flare_runtime.imaging.dicom.series"} <= modules_after_a_case(tmp_path / "dicom", tiny_bundle)


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
