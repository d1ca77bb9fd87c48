"""`flare-export int8`: what it measures, what it leaves in the bundle, and what it refuses."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import openvino
import pytest

from flare_export import cli
from flare_export.int8_export import activation_ranges
from flare_runtime import Segmenter
from flare_runtime.backends.openvino_int8 import decode_ranges, quantisable
from flare_runtime.bundle import Bundle
from flare_runtime.manifest import encode_manifest
from flare_train.phantom import make_phantom, write_case


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
    taken = core.compile_model(openvino.Model([node.input_value(0) for node in nodes], model.get_parameters()), "CPU")
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
    from flare_runtime.agreement import compare
    from flare_runtime.nifti import read_nifti

    exact, rounded = (
        Segmenter.load(after, precision=precision).segment(read_nifti(cases[1])).mask for precision in ("fp32", "int8")
    )
    assert compare(exact, rounded).dice == record.dice
    # Anew: what was there is replaced.
    assert int8(bundle, "--calibrate", *cases) == 0
    again = Bundle.open(bundle)
    assert len(again.activations()) == 1
    assert not [record for record in again.manifest.parity if record.precision == "int8"]
    assert not list(bundle.glob(".*"))


def test_every_fold_has_ranges_of_its_own(bundle, cases):
    opened = Bundle.open(bundle)
    (network,) = opened.networks()
    shutil.copy(bundle / network.name, bundle / "network.fold_1.onnx")
    second = msgspec.structs.replace(network, name="network.fold_1.onnx", fold="1")
    manifest = msgspec.structs.replace(opened.manifest, files=(*opened.manifest.files, second))
    (bundle / "manifest.json").write_bytes(encode_manifest(manifest))
    assert int8(bundle, "--calibrate", cases[0]) == 0
    assert {file.fold for file in Bundle.open(bundle).activations()} == {network.fold, "1"}
    assert Segmenter.load(bundle, precision="int8").network.precision == "int8"


@pytest.mark.parametrize("which", ["zip", "missing case", "broken case", "all zero"])
def test_what_is_refused_leaves_the_bundle_as_it_was(bundle, cases, tmp_path, capsys, which):
    given, case = bundle, cases[0]
    if which == "zip":
        given = Path(shutil.make_archive(str(tmp_path / "tiny"), "zip", bundle))
    elif which == "missing case":
        case = tmp_path / "none.nii.gz"
    elif which == "broken case":
        case.write_bytes(case.read_bytes()[:-100])
    else:
        import nibabel

        nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.diag([1.5, 1.5, 2.5, 1])), case)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert int8(given, "--calibrate", case) != 0
    said = capsys.readouterr().err
    expected = {"zip": "unpack it", "missing case": "no such file", "broken case": "gzip", "all zero": "every voxel"}
    assert expected[which] in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
