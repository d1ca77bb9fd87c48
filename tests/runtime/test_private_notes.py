"""Notes about this machine: found under their own key alone, and only where nobody else can have written them."""

from dataclasses import dataclass

import pytest

from flare_runtime.files.private_notes import PrivateNotes


@dataclass(frozen=True)
class Key:
    name: str


@dataclass(frozen=True)
class Note:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "flare-lite" / "notes"


def test_a_note_is_found_under_its_key_and_kind_alone(folder):
    notes = PrivateNotes("notes")
    assert notes.kept
    notes.keep(Key("a"), Note(1))
    notes.keep(Key("a"), Note(2))
    notes.keep(Key("b"), Note(3))
    assert notes.find(Key("a"), Note) == Note(2)
    assert PrivateNotes("notes").find(Key("b"), Note) == Note(3)
    assert notes.find(Key("c"), Note) is None
    assert notes.find(Key("a"), Other) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"number": "one"}', b"\xff"])
def test_a_damaged_note_is_none(folder, content):
    notes = PrivateNotes("notes")
    notes.keep(Key("a"), Note(1))
    (file,) = folder.iterdir()
    file.write_bytes(content)
    assert notes.find(Key("a"), Note) is None


def test_a_note_that_others_can_write_is_none(folder):
    notes = PrivateNotes("notes")
    notes.keep(Key("a"), Note(1))
    (file,) = folder.iterdir()
    file.chmod(0o666)
    assert notes.find(Key("a"), Note) is None


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    notes = PrivateNotes("notes")
    notes.keep(Key("a"), Note(1))
    assert not notes.kept
    assert notes.find(Key("a"), Note) is None
