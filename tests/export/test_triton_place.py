"""What a Triton repository may take the place of, and of what none is made."""

import json
import shutil
from pathlib import Path

import pytest

from flare_export import cli
from flare_runtime.model.bundle import Bundle
from tests.export.test_triton import tree


def test_a_repository_is_replaced_where_it_is_as_it_was_written(tiny_bundle, tmp_path):
    place = tmp_path / "new" / "repository"
    before = None
    for _ in range(2):
        assert cli.main(["triton", str(tiny_bundle), "-o", str(place)]) == 0
        assert before in (None, tree(place))
        before = tree(place)
        (place / "tiny" / "1" / "__pycache__").mkdir()  # as Python does when the model is served
        (place / "tiny" / "1" / "__pycache__" / "model.cpython-312.pyc").write_bytes(b"bytecode")
    contents = json.loads((place / "flare-triton.json").read_bytes())
    assert contents["bundle_sha256"] == Bundle.open(tiny_bundle).sha256
    assert {Path(name) for name in contents["files"]} == {*before} - {Path("flare-triton.json")}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda place: (place / "tiny_network/1/model.plan").write_bytes(b"an hour's work"), "model.plan"),
        (lambda place: (place / "tiny/config.pbtxt").write_text("mine", encoding="utf-8"), "config.pbtxt"),
        (lambda place: (place / "another/1").mkdir(parents=True) or (place / "another/1/m").touch(), "another/1/m"),
        (lambda place: (place / "link").symlink_to("/etc"), "link"),
    ],
)
def test_what_was_changed_or_added_since_stays(tiny_bundle, tmp_path, capsys, change, named):
    place = tmp_path / "repository"
    assert cli.main(["triton", str(tiny_bundle), "-o", str(place)]) == 0
    change(place)
    before = tree(place)
    capsys.readouterr()
    assert cli.main(["triton", str(tiny_bundle), "-o", str(place)]) == 6
    assert f"{named}: is not as flare-export wrote it; move it, or choose another output" in capsys.readouterr().err
    assert tree(place) == before


def test_what_is_no_repository_of_ours_stays(tiny_bundle, tmp_path, capsys):
    strange = tmp_path / "strange"
    (strange / "model" / "1").mkdir(parents=True)
    (strange / "model" / "config.pbtxt").write_text("theirs", encoding="utf-8")
    listed = tmp_path / "listed"
    listed.mkdir()
    (listed / "flare-triton.json").write_bytes(b'{"files": []}')
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(strange)
    before = tree(tmp_path)
    for place, says in (
        (strange, "exists and is not a Triton repository"),
        (listed, "exists and is not a Triton repository"),
        (file, "exists and is not a Triton repository"),
        (link, "is a symbolic link"),
        (tiny_bundle / "repository", "lies in the bundle"),
    ):
        assert cli.main(["triton", str(tiny_bundle), "-o", str(place)]) == 6
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
    assert tree(tmp_path) == before


def test_a_bundle_that_is_not_whole_makes_no_repository(tiny_bundle, tmp_path, capsys):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "network.fp16.onnx").write_bytes(b"changed")
    assert cli.main(["triton", str(bundle), "-o", str(tmp_path / "repository")]) == 7
    assert "network.fp16.onnx: changed since export" in capsys.readouterr().err
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tiny_bundle)
    assert cli.main(["triton", archive, "-o", str(tmp_path / "repository")]) == 6
    assert "is a zip; unpack it first" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()
