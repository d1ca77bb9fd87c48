"""`flare-export int8`: what it measures, what it leaves in the bundle, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import openvino
import pytest

from flare_export import cli
from flare_export.bundle.conversion import Naming, export_bundle
from flare_export.bundle.int8 import activation_ranges, case_tiles
from flare_export.bundle.place import bundle_at
from flare_export.parity.agreement import compare
from flare_export.source.model_folder import ModelFolder
from flare_phantom.phantom import make_phantom, write_case
from flare_runtime import Segmenter
from flare_runtime.backends.openvino.int8 import cpu_has_int8, decode_ranges, quantisable
from flare_runtime.backends.openvino.network import OpenVINONetwork
from flare_runtime.errors import BundleError
from flare_runtime.imaging.read import read_volume
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from tests.model_folders import write_model_folder

pytestmark = pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no dot products of 8-bit integers")


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


@pytest.fixture
def cases(tmp_path):
    paths = []
    for seed in (1, 2):
        paths.append(tmp_path / f"case{seed}_0000.nii.gz")
        write_case(make_phantom(seed, (24, 24, 24), (2.5, 1.5, 1.5)), paths[-1], tmp_path / f"label{seed}.nii.gz")
    return paths


def int8(*arguments):
    return cli.main(["int8", *map(str, arguments)])


def test_ranges_are_what_the_convolutions_took(tiny_bundle):
    onnx = (tiny_bundle / "network.onnx").read_bytes()
    tiles = [np.random.default_rng(seed).standard_normal((1, 1, 16, 16, 16), dtype=np.float32) for seed in (0, 1)]
    found = activation_ranges(onnx, tiles)
    core = openvino.Core()
    model = core.read_model(onnx)
    nodes = quantisable(model)
    assert set(found) == {node.get_friendly_name() for node in nodes}
    observer = openvino.Model([node.input_value(0) for node in nodes], model.get_parameters())
    taken = core.compile_model(observer, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # also where bfloat16 is faster
    for index, node in enumerate(nodes):
        values = np.concatenate([np.array(taken(tile)[index]) for tile in tiles])
        ranges = found[node.get_friendly_name()]
        np.testing.assert_allclose(ranges.low, values.min(axis=(0, 2, 3, 4)), atol=1e-3)
        np.testing.assert_allclose(ranges.high, values.max(axis=(0, 2, 3, 4)), atol=1e-3)


def test_a_bundle_learns_int8_and_tells_how_it_agrees(bundle, cases, capsys):
    before = Bundle.open(bundle)
    assert int8(bundle, "--calibrate", cases[0], "--verify", cases[1]) == 0
    after = Bundle.open(bundle)
    (record,) = [record for record in after.manifest.parity if record.precision == "int8"]
    assert (record.backend, record.reference, record.scope, record.subject) == (
        "openvino",
        "openvino fp32",
        "case",
        "case2",
    )
    assert f"{record.dice:.6f}" in capsys.readouterr().out
    (file,) = after.activations()
    assert decode_ranges(after.read(file))
    assert set(before.manifest.files) < set(after.manifest.files)
    assert set(before.manifest.parity) < set(after.manifest.parity)
    # The record is of what `flare-infer` computes.
    exact, rounded = (
        Segmenter.load(after, RunOptions(precision=precision)).segment(read_volume(cases[1])).mask
        for precision in ("fp32", "int8")
    )
    assert compare(exact, rounded).dice == record.dice
    # Anew: what was there is replaced, but no record is dropped unless that was meant.
    assert int8(bundle, "--calibrate", *cases) == 6
    assert "--force" in capsys.readouterr().err
    assert Bundle.open(bundle) == after
    assert int8(bundle, "--calibrate", *cases, "--force") == 0
    again = Bundle.open(bundle)
    assert len(again.activations()) == 1
    assert not [record for record in again.manifest.parity if record.precision == "int8"]
    assert not list(bundle.glob(".*"))


def test_what_a_killed_export_of_int8_left_is_the_bundles_own(bundle, cases, tmp_path):
    before = (bundle / "manifest.json").read_bytes()
    assert int8(bundle, "--calibrate", cases[0]) == 0
    (bundle / "manifest.json").write_bytes(before)  # as if it was killed before the last file took its name
    assert bundle_at(bundle) == Bundle.open(bundle).manifest
    assert int8(bundle, "--calibrate", cases[0]) == 0
    assert len(Bundle.open(bundle).activations()) == 1


def test_every_fold_has_ranges_of_its_own(cases, tmp_path):
    model = write_model_folder(tmp_path / "model", folds=("0", "1"))
    opened, _ = export_bundle(ModelFolder.read(model), tmp_path / "two", Naming("two"))
    assert int8(opened.path, "--calibrate", cases[0]) == 0
    bundle = Bundle.open(opened.path)
    ranges = {file.fold: decode_ranges(bundle.read(file)) for file in bundle.activations()}
    for network in bundle.networks():
        expected = activation_ranges(bundle.read(network), case_tiles([[cases[0]]], bundle.manifest))
        assert ranges[network.fold] == expected
    assert ranges["0"] != ranges["1"]
    both = Segmenter.load(bundle, RunOptions(precision="int8")).network
    singles = [
        OpenVINONetwork(bundle.read(network), "int8", None, ranges[network.fold]) for network in bundle.networks()
    ]
    tile = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16), dtype=np.float32)
    mean = np.mean([network.run(tile).copy() for network in singles], axis=0)
    np.testing.assert_allclose(both.run(tile), mean, atol=1e-5)


def test_a_network_that_overflows_is_refused(tiny_bundle):
    tile = np.full((1, 1, 16, 16, 16), np.inf, np.float32)
    with pytest.raises(BundleError, match="NaN or infinity"):
        activation_ranges((tiny_bundle / "network.onnx").read_bytes(), [tile])


@pytest.mark.parametrize("which", ["zip", "missing case", "broken case", "all zero", "stranger", "link"])
def test_what_is_refused_leaves_the_bundle_as_it_was(bundle, cases, tmp_path, capsys, which):
    given, case = bundle, cases[0]
    if which == "zip":
        given = Path(shutil.make_archive(str(tmp_path / "tiny"), "zip", bundle))
    elif which == "missing case":
        case = tmp_path / "none.nii.gz"
    elif which == "stranger":
        (bundle / "network.int8.json").write_bytes(b"{}")
    elif which == "link":
        (bundle / "manifest.json").rename(bundle / "real.json")
        (bundle / "manifest.json").symlink_to("real.json")
    elif which == "broken case":
        case.write_bytes(case.read_bytes()[:-100])
    else:
        import nibabel

        nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.diag([1.5, 1.5, 2.5, 1])), case)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert int8(given, "--calibrate", case) != 0
    said = capsys.readouterr().err
    expected = {"zip": "unpack it", "missing case": "no such file", "broken case": "gzip", "all zero": "every voxel"}
    expected |= dict.fromkeys(("stranger", "link"), "none of the bundle's own")
    assert expected[which] in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
