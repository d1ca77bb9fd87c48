"""What a new bundle may take the place of, and that at no moment neither the old nor the new one is there."""

import os
import signal
import sys
from pathlib import Path

import pytest

from flare_export.bundle.place import bundle_at, new_bundle
from flare_runtime.backends.openvino.int8 import ActivationRange, encode_ranges
from flare_runtime.errors import BundleError, OutputError
from flare_runtime.model.bundle import Bundle
from tests.processes import fork
from tests.runtime.manifests import write_bundle

RANGES = encode_ranges({"conv": ActivationRange((-1.0,), (1.0,))})


def write(folder, name):
    folder.mkdir(exist_ok=True)
    write_bundle(folder / name, name=name)
    for path in (folder / name).iterdir():
        path.rename(folder / path.name)
    (folder / name).rmdir()


def replace(place, name):
    with new_bundle(place) as fresh:
        write(fresh, name)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_takes_an_empty_place_or_that_of_a_bundle(tmp_path):
    place = tmp_path / "new" / "bundle"
    assert bundle_at(place) is None
    for name in ("first", "second"):
        replace(place, name)
        assert bundle_at(place).name == name
        assert names(place.parent) == ["bundle"]
    (tmp_path / "empty").mkdir()
    assert bundle_at(tmp_path / "empty") is None
    replace(tmp_path / "empty", "third")
    assert bundle_at(tmp_path / "empty").name == "third"


def test_a_name_as_long_as_the_file_system_has_them(tmp_path):
    place = tmp_path / ("b" * 255)
    for name in ("first", "second"):
        replace(place, name)
        assert bundle_at(place).name == name
        assert names(tmp_path) == [place.name]


@pytest.mark.parametrize("manifest", ['{"name": "a web project"}', "{}", "not JSON", '{"schema_version": 1}'])
def test_a_folder_with_a_manifest_of_something_else_stays(tmp_path, manifest):
    place = tmp_path / "project"
    place.mkdir()
    (place / "manifest.json").write_text(manifest, encoding="utf-8")
    (place / "index.html").write_text("<html>", encoding="utf-8")
    with pytest.raises(OutputError, match="is not a bundle"):
        bundle_at(place)
    with pytest.raises(OutputError, match="is not a bundle"):
        replace(place, "new")
    assert names(tmp_path) == ["project"]
    assert names(place) == ["index.html", "manifest.json"]


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "masks", "link", "network.onnx"])
def test_a_file_that_is_not_the_bundles_is_named_and_stays(tmp_path, name):
    place = write_bundle(tmp_path / "bundle")
    if name == "masks":
        (place / name).mkdir()
    elif name == "link":
        (place / name).symlink_to("network.onnx")
    elif name == "network.onnx":
        (place / name).rename(tmp_path / name)
        (place / name).symlink_to(tmp_path / name)
    else:
        (place / name).write_bytes(b"precious")
    before = names(place)
    with pytest.raises(OutputError, match=f"{name}: is none of the bundle's own files"):
        bundle_at(place)
    with pytest.raises(OutputError, match=name):
        replace(place, "new")
    assert names(place) == before


def test_a_folder_under_the_name_of_one_of_its_files_stays(tmp_path):
    place = write_bundle(tmp_path / "bundle")
    (place / "network.onnx").unlink()
    (place / "network.onnx").mkdir()
    (place / "network.onnx" / "thesis.txt").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"network\.onnx: is none of the bundle's own files"):
        replace(place, "new")
    assert names(place / "network.onnx") == ["thesis.txt"]


@pytest.mark.parametrize(("content", "own"), [(RANGES, True), (b"{}", False), (b"precious", False)])
def test_what_a_killed_export_of_int8_left_is_the_bundles_own(tmp_path, content, own):
    place = write_bundle(tmp_path / "bundle")
    (place / "network.int8.json").write_bytes(content)
    if own:
        replace(place, "new")
        assert names(place) == ["manifest.json", "network.onnx"]
        return
    with pytest.raises(OutputError, match=r"network\.int8\.json: is none of the bundle's own files"):
        replace(place, "new")
    assert (place / "network.int8.json").read_bytes() == content


def test_files_links_and_places_inside_a_bundle_are_refused(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(bundle)
    for place, says in (
        (tmp_path / "file", "is not a bundle"),
        (tmp_path / "link", "is a symbolic link"),
        (bundle / "inner", "lies in the bundle"),
    ):
        with pytest.raises(OutputError, match=says):
            bundle_at(place)


def test_what_comes_to_the_place_while_the_bundle_is_made_stays(tmp_path):
    place = tmp_path / "bundle"
    replace(place, "old")

    def make():
        with new_bundle(place) as fresh:
            write(fresh, "new")
            (place / "notes.txt").write_bytes(b"precious")

    with pytest.raises(OutputError, match=r"notes\.txt"):
        make()
    assert names(tmp_path) == ["bundle"]
    assert names(place) == ["manifest.json", "network.onnx", "notes.txt"]
    assert Bundle.open(place).manifest.name == "old"


def test_an_error_leaves_the_old_bundle_and_nothing_else(tmp_path):
    place = tmp_path / "bundle"
    replace(place, "old")

    def make(error):
        with new_bundle(place) as fresh:
            write(fresh, "new")
            raise error

    for error, raised in ((BundleError("broken"), BundleError), (OSError(28, "No space left"), OutputError)):
        with pytest.raises(raised):
            make(error)
        assert names(tmp_path) == ["bundle"]
        assert bundle_at(place).name == "old"


def test_a_bundle_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    place = tmp_path / "bundle"
    replace(place, "old")
    rename = Path.rename

    def failing(path, target):
        if target == place and path.name == place.name:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="cannot be written"):
        replace(place, "new")
    assert names(tmp_path) == ["bundle"]
    assert Bundle.open(place).manifest.name == "old"


def killed_at(place, step):
    """Replace the bundle in a process that is killed at that step, and return whether it was."""
    seen = iter(range(1, 1000))

    def kill(event, _arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and next(seen) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        sys.addaudithook(kill)
        replace(place, "new")

    code = os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_a_kill_at_any_step_loses_no_bundle_and_leaves_nothing_for_long(tmp_path):
    place = tmp_path / "bundle"
    step, killed, seen = 0, True, set()
    while killed:
        step += 1
        replace(place, "old")
        killed = killed_at(place, step)
        left = bundle_at(place)  # puts back what was taken away
        seen.add(left.name)
        replace(place, "next")
        assert names(tmp_path) == ["bundle"]
        assert bundle_at(place).name == "next"
    assert seen == {"old", "new"}
    assert step > 10
