"""What may be written over, and what never."""

import os
import socket
import threading
from pathlib import Path

import pytest

from flare_runtime.errors import OutputError
from flare_runtime.files.target import check_targets
from tests.runtime.manifests import write_bundle


def test_a_free_name_and_an_old_result_may_be_written(tmp_path):
    source = tmp_path / "source.nii"
    source.write_bytes(b"image")
    (tmp_path / "old.nii").write_bytes(b"mask")
    check_targets([tmp_path / "new.nii", tmp_path / "old.nii", tmp_path / "missing" / "new.nii"], [source])


@pytest.mark.parametrize("points_to", ["file.nii", "missing.nii"])
def test_a_symbolic_link_is_no_target(tmp_path, points_to):
    (tmp_path / "file.nii").write_bytes(b"precious")
    (tmp_path / "link.nii").symlink_to(tmp_path / points_to)
    with pytest.raises(OutputError, match="symbolic link"):
        check_targets([tmp_path / "link.nii"])


def test_only_files_are_targets(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    for name, kind in (("folder", "a folder"), ("pipe", "a named pipe"), ("socket", "a socket")):
        with pytest.raises(OutputError, match=f"{name}: is {kind}; name a file"):
            check_targets([tmp_path / name])
    with pytest.raises(OutputError, match=f"{os.devnull}: is a device; name a file"):
        check_targets([tmp_path.__class__(os.devnull)])


def test_the_input_is_no_target_by_whatever_name(tmp_path):
    source = tmp_path / "source.nii"
    source.write_bytes(b"image")
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked.nii").hardlink_to(source)
    for target in (source, tmp_path / "folder" / ".." / "source.nii", tmp_path / "linked.nii"):
        with pytest.raises(OutputError, match="is the input itself"):
            check_targets([target], [tmp_path / "other.nii", source])


def test_nothing_is_written_into_a_bundle(tmp_path, monkeypatch):
    bundle = write_bundle(tmp_path / "bundle")
    (tmp_path / "link").symlink_to(bundle)
    (bundle / "masks").mkdir()
    (tmp_path / "link to a folder in it").symlink_to(bundle / "masks")
    monkeypatch.chdir(bundle / "masks")
    inside = (bundle, bundle / "new" / "folder", tmp_path / "link", tmp_path / "link to a folder in it", Path())
    for folder in inside:
        with pytest.raises(OutputError, match="lies in the bundle"):
            check_targets([folder / "report.html"])
    for content in (b"{}", b"not JSON", b'{"name": "a web project"}'):
        (bundle / "manifest.json").write_bytes(content)
        check_targets([bundle / "report.html"])


def test_what_is_there_has_to_be_of_the_kind_that_replaces_it(tmp_path):
    for name, content in (("ours", b"ours: 1"), ("empty", b""), ("other", b"theirs")):
        (tmp_path / name).write_bytes(content)

    def over(content):
        return content.startswith(b"ours")

    check_targets([tmp_path / "new", tmp_path / "ours", tmp_path / "empty"], over=over)
    check_targets([tmp_path / "OTHER", tmp_path / "Ours"], over=over)  # other files, where case counts
    with pytest.raises(OutputError, match="other: was not written by this command"):
        check_targets([tmp_path / "ours", tmp_path / "other"], over=over)
    (tmp_path / "THEIRS").write_bytes(b"theirs")
    with pytest.raises(OutputError, match="THEIRS: was not written by this command"):
        check_targets([tmp_path / "THEIRS"], over=over)


def test_what_is_larger_than_any_of_our_files_is_not_read(tmp_path):
    large = tmp_path / "large"
    large.write_bytes(b"ours")
    os.truncate(large, (1 << 28) + 1)
    check_targets([large], over=lambda content: content == b"ours", head_bytes=4)
    with pytest.raises(OutputError, match="large: was not written by this command"):
        check_targets([large], over=lambda _content: pytest.fail("it was read"))


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    check_targets([tmp_path / ("a" * 255)])
    with pytest.raises(OutputError, match="File name too long"):
        check_targets([tmp_path / ("ä" * 128)])


def test_links_that_go_round_in_circles_are_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for target in (tmp_path / "loop", tmp_path / "loop" / "new"):
        with pytest.raises(OutputError, match="loop"):
            check_targets([target])


def test_a_file_that_another_worker_replaces_just_now_may_be_replaced(tmp_path):
    target, new = tmp_path / "case.json", tmp_path / "new"
    stop = threading.Event()

    def replace_on():
        while not stop.is_set():  # as a record: the old one goes before the mask, the new one comes behind it
            new.write_bytes(b"ours")
            target.unlink(missing_ok=True)
            new.replace(target)

    thread = threading.Thread(target=replace_on)
    thread.start()
    try:
        for _ in range(1000):
            check_targets([target], over=lambda content: content == b"ours")
    finally:
        stop.set()
        thread.join()
