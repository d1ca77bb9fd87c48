"""A first look at masks: a line and a picture a case."""

from flare_eval.show import main
from tests.eval.nifti_masks import cube, write

MASK = cube((6, 10, 10), (1, 1, 1), (5, 9, 9))


def look(folder):
    options = {"-i": "images", "-r": "labels", "-p": "masks", "-o": "pictures"}
    return main([part for option, name in options.items() for part in (option, str(folder / name))])


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
