"""Bundles on disk: folders and zips, whole or refused."""

import hashlib
import json
import os
import shutil
import tracemalloc
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.errors import BundleError
from flare_runtime.model import bundle as bundle_module
from flare_runtime.model.bundle import Bundle, default_bundle
from tests.runtime.manifests import NETWORK, manifest_fields, write_bundle

FILE = manifest_fields()["files"][0]


def zipped(folder, target, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return target


@pytest.fixture(params=["folder", "zip"])
def stored(request, tmp_path):
    """A function that writes a bundle as a folder or as a zip."""

    def write(change=lambda folder: None, **changes):
        folder = write_bundle(tmp_path / "model", **changes)
        change(folder)
        return folder if request.param == "folder" else zipped(folder, tmp_path / "model.zip")

    return write


def read_everything(path):
    bundle = Bundle.open(path)
    return [bundle.read(file) for file in bundle.manifest.files]


def test_a_bundle_gives_its_manifest_and_its_network(stored):
    path = stored()
    bundle = Bundle.open(str(path))
    assert bundle.path == path
    assert bundle.manifest.name == "hand-made"
    assert bundle.sha256 == hashlib.sha256(json.dumps(manifest_fields()).encode()).hexdigest()
    (file,) = bundle.networks()
    assert bundle.read(file) == NETWORK
    assert bundle.networks("fp16") == []


def test_networks_are_listed_in_order_and_by_precision(stored):
    files = [
        {**FILE, "name": "network.fold_0.onnx"},
        {**FILE, "name": "network.fp16.onnx", "precision": "fp16"},
        {**FILE, "name": "card.md", "role": "model_card", "precision": None},
        {**FILE, "name": "network.fold_1.onnx"},
    ]
    bundle = Bundle.open(stored(files=files))
    assert [file.name for file in bundle.networks()] == ["network.fold_0.onnx", "network.fold_1.onnx"]
    assert [file.name for file in bundle.networks("fp16")] == ["network.fp16.onnx"]


def test_a_missing_bundle_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"nothing_here: there is no such bundle"):
        Bundle.open(tmp_path / "nothing_here")


def test_a_folder_or_zip_without_manifest_is_refused(stored):
    with pytest.raises(
        BundleError, match=r"manifest\.json: missing from the bundle; give a folder or zip made by flare-export"
    ):
        Bundle.open(stored(lambda folder: (folder / "manifest.json").unlink()))


def test_a_missing_network_is_found_when_it_is_read(stored):
    bundle = Bundle.open(stored(lambda folder: (folder / "network.onnx").unlink()))
    with pytest.raises(BundleError, match=r"network\.onnx: missing from the bundle"):
        bundle.read(bundle.manifest.files[0])


@pytest.mark.parametrize("changed", [NETWORK[:-1] + b"?", NETWORK[:-1], NETWORK + b"!", b"", b"x" * 10_000_000])
def test_a_changed_network_is_refused(stored, changed):
    bundle = Bundle.open(stored(lambda folder: (folder / "network.onnx").write_bytes(changed)))
    with pytest.raises(BundleError, match=r"network\.onnx: changed since export"):
        bundle.read(bundle.manifest.files[0])


def test_a_changed_hash_in_the_manifest_is_refused(stored):
    bundle = Bundle.open(stored(files=[{**FILE, "sha256": "0" * 64}]))
    with pytest.raises(BundleError, match="changed since export"):
        bundle.read(bundle.manifest.files[0])


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname"])
def test_files_outside_the_bundle_cannot_be_named(stored, tmp_path, name):
    (tmp_path / "secret").write_bytes(NETWORK)
    path = stored(files=[{**FILE, "name": name}])
    with pytest.raises(BundleError, match=r"files\[0\]\.name"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["network.onnx", "manifest.json"])
def test_links_out_of_the_bundle_are_not_followed(tmp_path, name):
    folder = write_bundle(tmp_path / "model")
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name}: links out of the bundle"):
        read_everything(folder)


def test_links_within_the_bundle_are_followed(tmp_path):
    folder = write_bundle(tmp_path / "model")
    (folder / "network.onnx").rename(folder / "real.onnx")
    (folder / "network.onnx").symlink_to("real.onnx")
    assert read_everything(folder) == [NETWORK]


def test_a_folder_in_a_files_place_is_refused(tmp_path):
    folder = write_bundle(tmp_path / "model")
    (folder / "network.onnx").unlink()
    (folder / "network.onnx").mkdir()
    with pytest.raises(BundleError, match=r"network\.onnx: cannot be read"):
        read_everything(folder)


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"PK or not")
    with pytest.raises(BundleError, match=r"model\.zip/manifest\.json: cannot be read"):
        Bundle.open(tmp_path / "model.zip")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zip")
    return zipped(write_bundle(folder / "model"), folder / "model.zip").read_bytes()


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_zip_is_refused_or_unchanged(tmp_path_factory, archive, data):
    damaged = bytearray(archive)
    damaged[data.draw(st.integers(0, len(archive) - 1), "place")] ^= data.draw(st.integers(1, 255), "bits")
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(bytes(damaged))
    try:
        content = read_everything(path)
    except BundleError:
        content = [NETWORK]
    assert content == [NETWORK]


def test_an_encrypted_zip_is_refused(tmp_path, archive):
    # Bit 0 of the flags, in the local and in the central header of the first file.
    damaged = bytearray(archive)
    damaged[6] |= 1
    damaged[archive.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "model.zip").write_bytes(bytes(damaged))
    with pytest.raises(BundleError, match=r"model\.zip/manifest\.json: cannot be read"):
        Bundle.open(tmp_path / "model.zip")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_kinds_of_compression_are_refused(tmp_path, compression):
    path = zipped(write_bundle(tmp_path / "model"), tmp_path / "model.zip", compression)
    with pytest.raises(BundleError, match=r"model\.zip/manifest\.json: cannot be read \(it is packed in a rare way"):
        Bundle.open(path)


def test_two_files_of_one_name_are_refused(tmp_path):
    path = zipped(write_bundle(tmp_path / "model"), tmp_path / "model.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("network.onnx", NETWORK)
    with pytest.raises(BundleError, match=r"network\.onnx: cannot be read \(the archive holds two of that name\)"):
        read_everything(path)


def test_an_archive_of_too_many_files_is_refused_before_they_are_listed(tmp_path):
    path = zipped(write_bundle(tmp_path / "model"), tmp_path / "model.zip", zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(30_000):
            archive.writestr(f"{number}", b"")
    with pytest.raises(BundleError, match="the archive holds too many files"):
        Bundle.open(path)


def test_a_member_that_unpacks_to_more_than_was_listed_costs_no_memory(tmp_path):
    folder = write_bundle(tmp_path / "model")
    (folder / "network.onnx").write_bytes(bytes(200 << 20))
    path = zipped(folder, tmp_path / "model.zip")
    bundle = Bundle.open(path)
    tracemalloc.start()
    with pytest.raises(BundleError, match="changed since export"):
        bundle.read(bundle.manifest.files[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("name", ["manifest.json", "network.onnx"])
def test_a_fifo_or_device_in_a_files_place_is_refused_without_waiting(tmp_path, name):
    folder = write_bundle(tmp_path / "model")
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(BundleError, match=f"{name}: (cannot be read .it is not a regular file|links out)"):
            read_everything(folder)


def test_a_fifo_in_a_bundles_place_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "model.zip")
    with pytest.raises(BundleError, match="it is not a regular file"):
        Bundle.open(tmp_path / "model.zip")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\udcff"])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(BundleError, match="there is no such bundle"):
        Bundle.open(name)


def test_the_default_bundle_is_the_packages_own_or_the_source_trees(tmp_path, monkeypatch):
    package = tmp_path / "tree" / "runtime" / "flare_runtime"
    package.mkdir(parents=True)
    monkeypatch.setattr(bundle_module, "__file__", str(package / "model" / "bundle.py"))
    with pytest.raises(BundleError, match="no default model; name a bundle with -m"):
        default_bundle()
    (tmp_path / "tree" / "models").mkdir()
    in_tree = write_bundle(tmp_path / "tree" / "models" / "default")
    assert default_bundle() == in_tree
    (package / "models").mkdir()
    in_package = write_bundle(package / "models" / "default")
    assert default_bundle() == in_package
