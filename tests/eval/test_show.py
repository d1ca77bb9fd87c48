"""A first look at masks: a line and a picture a case."""

import numpy as np

from flare_eval.show import main
from tests.eval.nifti_masks import cube, write

MASK = cube((6, 10, 10), (1, 1, 1), (5, 9, 9))


def look(folder, *more, **options):
    options = {"i": "images", "r": "labels", "p": "masks", "o": "pictures", **options}
    paths = [part for option, name in options.items() if name for part in (f"-{option}", str(folder / name))]
    return main([*paths, *more])


def test_every_case_has_a_line_and_a_picture_that_goes_through_no_link(tmp_path, capsys):
    write(tmp_path / "images" / "a_0000.nii.gz", MASK)
    write(tmp_path / "labels" / "a.nii.gz", MASK)
    write(tmp_path / "masks" / "a.nii.gz", MASK)
    for _ in range(2):
        assert look(tmp_path) == 0
        assert "a: Dice 1.0000, 1 of 1 lesions found" in capsys.readouterr().out
    picture = tmp_path / "pictures" / "a.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    picture.symlink_to(tmp_path / "precious")
    assert look(tmp_path) == 6
    assert "a.png: is a symbolic link" in capsys.readouterr().err
    assert not (tmp_path / "precious").exists()


def test_without_references_there_are_volumes(tmp_path, capsys):
    write(tmp_path / "images" / "a_0000.nii.gz", MASK)
    write(tmp_path / "masks" / "a.nii.gz", MASK)
    assert look(tmp_path, r="") == 0
    # 4 x 8 x 8 voxels of 1 mm^3.
    assert "a: 0.26 ml in 1 part (" in capsys.readouterr().out
    assert (tmp_path / "pictures" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert look(tmp_path) == 2
    assert f"{tmp_path / 'labels'}: there is no such folder" in capsys.readouterr().err
    (tmp_path / "labels").mkdir()
    assert look(tmp_path) == 2
    assert "no image has both a reference and a prediction" in capsys.readouterr().err


def test_several_methods_are_drawn_into_one_picture(tmp_path, capsys):
    write(tmp_path / "images" / "a_0000.nii.gz", MASK)
    write(tmp_path / "labels" / "a.nii.gz", MASK)
    write(tmp_path / "masks" / "a.nii.gz", MASK)
    write(tmp_path / "other" / "a.nii.gz", np.roll(MASK, 1, axis=1))
    assert look(tmp_path, "-p", f"B={tmp_path / 'other'}") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a: masks: Dice 1.0000, 1 of 1 lesions found (")
    assert second.startswith("a: B: Dice 0.8750, 1 of 1 lesions found (")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["a.png"]
