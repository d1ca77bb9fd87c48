"""The challenge's container: the CPU image is built from its Dockerfile and run as the challenge runs it."""

import shutil

import pytest
from benchmarks.samples.container import Image, ImageBuilder, missing

from flare_phantom import phantom
from flare_runtime import cli
from flare_runtime.model.bundle import default_bundle

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=f"the container: {missing()}")]
MOST_MEGABYTES = 700


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return ImageBuilder(tmp_path_factory.mktemp("images")).build("cpu.Dockerfile")


@pytest.fixture
def folders(tmp_path):
    for name in ("inputs", "outputs"):
        (tmp_path / name).mkdir()
    return tmp_path / "inputs", tmp_path / "outputs"


def test_it_is_small_and_holds_what_runs(image):
    assert image.megabytes < MOST_MEGABYTES
    installed = {path.name for path in image.root.glob("opt/flare-lite/lib/python3*/site-packages/*")}
    assert "flare_runtime" in installed
    assert installed.isdisjoint({"torch", "pip", "onnx", "matplotlib"})
    assert not [*image.root.glob("opt/flare-lite/**/tests")]
    assert not [*image.root.glob("source")]


def test_it_makes_the_mask_of_the_command_and_nothing_else(image, folders, tmp_path):
    inputs, outputs = folders
    phantom.main(["-o", str(tmp_path), "--seed", "1", "--shape", "40", "96", "96", "--spacing", "4", "3", "3"])
    shutil.copy(tmp_path / "imagesTr" / "phantom_0001_0000.nii.gz", inputs)
    done = image.run(inputs, outputs)
    assert done.code == 0, done.output
    assert [path.name for path in outputs.iterdir()] == ["phantom_0001.nii.gz"]
    own = tmp_path / "own.nii.gz"
    scan = str(inputs / "phantom_0001_0000.nii.gz")
    assert cli.main(["--flare", "-i", scan, "-o", str(own), "-m", str(default_bundle())]) == 0
    assert (outputs / "phantom_0001.nii.gz").read_bytes() == own.read_bytes()


def test_it_runs_as_anybody_but_root_and_can_write_nothing_but_the_output(image, folders):
    places = "/ /tmp /cache model inputs outputs"
    script = f"id -u; for place in {places}; do touch $place/$(id -u) 2>/dev/null && echo $place; done"
    for user in (None, "4321:4321"):
        done = image.run(*folders, "sh", "-c", script, user=user)
        assert done.output.split() == [(user or "1000:1000").partition(":")[0], "outputs"]
    shm = image.run(*folders, "df", "--output=size", "-B", "1M", "/dev/shm")
    assert shm.output.split()[-1] == "64"


def test_there_is_no_network(image, folders):
    interfaces = image.run(*folders, "cat", "/proc/net/dev").output.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_a_scan_that_is_refused_leaves_no_file(image, folders):
    inputs, outputs = folders
    (inputs / "bad_0000.nii.gz").write_bytes(b"no scan")
    done = image.run(inputs, outputs, "/bin/bash", "-c", "sh predict.sh", user="4321:4321")
    assert done.code == 4
    assert "bad: refused (not_nifti)" in done.output
    assert not [*outputs.iterdir()]
