"""Files that are trusted because nobody else can have written them."""

import os
import subprocess
import sys

import pytest

from flare_runtime.errors import OutputError
from flare_runtime.files.cache_folder import cache_folder, read_private, write_private


@pytest.fixture
def file(tmp_path):
    write_private(tmp_path / "file", b"first ", b"second")
    return tmp_path / "file"


def test_folders_of_one_cache_lie_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = [cache_folder(name) for name in ("openvino", "tensorrt")]
    assert folders == [tmp_path / "flare-lite" / "openvino", tmp_path / "flare-lite" / "tensorrt"]
    assert [folder.stat().st_mode & 0o077 for folder in folders] == [0, 0]


def test_what_is_written_is_read_and_is_the_owners_alone(file):
    assert read_private(file) == b"first second"
    assert read_private(file, 5) == b"first"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "nothing")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_to_is_not_read(file, mode):
    file.chmod(mode)
    with pytest.raises(PermissionError, match="others can write to it"):
        read_private(file)


def test_a_symbolic_link_is_not_followed(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    with pytest.raises(PermissionError, match="symbolic link"):
        read_private(link)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(OSError, match=r"not a plain file|directory"):
        read_private(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_anothers_file_is_not_read(file):
    os.chown(file, 54321, -1)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        read_private(file)


FULL_DISK = """
import resource, sys
from pathlib import Path
from flare_runtime.files.cache_folder import write_private
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_private(Path(sys.argv[1]), b"x" * 10_000)
"""


def test_a_full_disk_leaves_what_was_there(file):
    result = subprocess.run([sys.executable, "-c", FULL_DISK, file], capture_output=True, text=True, check=False)
    assert OutputError.__name__ in result.stderr
    assert read_private(file) == b"first second"
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_a_link_is_replaced_and_not_written_through(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    write_private(link, b"new")
    assert (file.read_bytes(), link.read_bytes()) == (b"first second", b"new")
    assert not link.is_symlink()
