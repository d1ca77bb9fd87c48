"""Small data sets for training, changed at random: files, names, links, and the facts that were written about them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.nifti_inputs import odd_file
from tests.runtime.nifti_files import write_nifti

FACTS = "facts.jsonl"
# Stands for the data set's place in the facts.
IN_FACTS = b"@DATA@"

_STEMS = ("STS_001", "STS_002", "LIDC-IDRI-0001", "000001_01_01_103-115", "FLARE23Ts_0001", "x")
_ODD_STEMS = (
    *("", "a b", "a\nb", "\x1b[2Jred", "a" * 240, "é", "_0000", "a_0000", "a_0001", "-o", "..", "%s", "{}", "$(x)"),
    os.fsdecode(b"M\xfcller"),
)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, -(2**63), 2**64, "", "x", "..", "../../escaped", "/etc/passwd", "a\0b", "a/b", [], {}),
    *([None], [1e308], ["x"], {"a": 1}, "@DATA@", "\udc80", "@DATA@/imagesTr/STS_001_0000.nii.gz"),
)
_SHAPE = (6, 7, 8)


def sound_dataset(folder: Path) -> Path:
    """Write two sound cases and facts about them."""
    folder.mkdir()
    for stem in _STEMS[:2]:
        _write_case(folder / "data", stem)
    _write_facts(folder, [_facts(stem) for stem in _STEMS[:2]])
    return folder


def odd_dataset(rng: Random, folder: Path) -> Path:
    """Write a few cases, some of them odd, and facts, some of them odd."""
    folder.mkdir()
    stems = rng.sample(_STEMS, rng.randint(1, 3))
    for stem in stems:
        _write_case(folder / "data", stem)
        if rng.random() < 0.7:
            rng.choice(_CHANGES)(rng, folder / "data", stem)
    records = [_facts(stem) for stem in stems]
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        _change_record(rng, rng.choice(records))
    _write_facts(folder, records, rng)
    return folder


def _image(data: Path, stem: str) -> Path:
    return data / "imagesTr" / f"{stem}_0000.nii.gz"


def _label(data: Path, stem: str) -> Path:
    return data / "labelsTr" / f"{stem}.nii.gz"


def _write_case(data: Path, stem: str) -> None:
    label = np.zeros(_SHAPE, np.uint8)
    label[2:4, 2:5, 2:5] = 1
    for path, voxels in ((_image(data, stem), np.where(label, 60, -900).astype(np.int16)), (_label(data, stem), label)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, voxels)


# --- changes to the files


def _either(rng: Random, data: Path, stem: str) -> Path:
    return rng.choice((_image, _label))(data, stem)


def _odd_content(rng: Random, data: Path, stem: str) -> None:
    _either(rng, data, stem).write_bytes(odd_file(rng)[1])


def _odd_twice(rng: Random, data: Path, stem: str) -> None:
    content = odd_file(rng)[1]
    for path in (_image(data, stem), _label(data, stem)):
        path.write_bytes(content)


def _odd_label(rng: Random, data: Path, stem: str) -> None:
    numbers = np.random.default_rng(rng.getrandbits(32))
    voxels = numbers.integers(0, rng.choice((1, 2, 3, 300)), _SHAPE).astype(rng.choice(("u1", "i2", "f4", "f8", "u8")))
    if voxels.dtype.kind == "f" and rng.random() < 0.5:
        voxels *= rng.choice((0.5, 1e38, np.nan, -1))
    write_nifti(_label(data, stem), voxels, scl_slope=rng.choice((1, 1, 0.5, 0)))


def _odd_intensities(rng: Random, data: Path, stem: str) -> None:
    kind = rng.choice(("i2", "f4", "f8"))
    with np.errstate(over="ignore"):
        voxels = (np.random.default_rng(rng.getrandbits(32)).normal(0, 1, _SHAPE) * rng.choice((1, 1e4, 1e37))).astype(
            kind
        )
    write_nifti(_image(data, stem), voxels, scl_slope=rng.choice((1, 1, -1, 1e30)), scl_inter=rng.choice((0, 0, 3e38)))


def _other_grid(rng: Random, data: Path, stem: str) -> None:
    fields = rng.choice(
        (
            {"srow_x": [1.5, 0, 0, rng.choice((0, -4.9, 1e30))]},
            {"sform_code": 0, "pixdim": [-1, 1.5, 2, 3, 0, 0, 0, 0]},
            {"sform_code": 0, "pixdim": [1, -1.5, 2, 3, 0, 0, 0, 0]},
            {"sform_code": 0, "qform_code": 0},
            {"sform_code": 0, "qform_code": -1},
            {"sform_code": 0, "quatern_b": 1},
            {"quatern_c": np.nan},
        )
    )
    write_nifti(_either(rng, data, stem), np.ones(rng.choice((_SHAPE, _SHAPE, (1, 1, 1))), np.uint8), **fields)


def _missing(rng: Random, data: Path, stem: str) -> None:
    _either(rng, data, stem).unlink()


def _link(rng: Random, data: Path, stem: str) -> None:
    path = _either(rng, data, stem)
    path.unlink()
    path.symlink_to(rng.choice((path.name, "nowhere.nii.gz", "..", "/dev/zero", "/dev/null", "/proc/self/mem")))


def _folder(rng: Random, data: Path, stem: str) -> None:
    path = _either(rng, data, stem)
    path.unlink()
    path.mkdir()


def _folder_link(rng: Random, data: Path, stem: str) -> None:
    (data / f"{rng.choice('0z')}{stem}").symlink_to(rng.choice((".", "..", "imagesTr", "labelsTr", f"0{stem}", "gone")))


def _renamed(rng: Random, data: Path, stem: str) -> None:
    odd = rng.choice(_ODD_STEMS)
    for path, name in ((_image(data, stem), f"{odd}_0000.nii.gz"), (_label(data, stem), f"{odd}.nii.gz")):
        if rng.random() < 0.8:
            path.rename(path.with_name(name))


def _more_files(rng: Random, data: Path, stem: str) -> None:
    for name in rng.sample(
        (f"{stem}_0001.nii.gz", f"{stem}_0000_0000.nii.gz", f"sub/{stem}_0000.nii.gz", "y.nii.gz"), 2
    ):
        path = data / "imagesTr" / name
        path.parent.mkdir(exist_ok=True)
        write_nifti(path, np.ones(_SHAPE, np.uint8))


_CHANGES: tuple[Callable[[Random, Path, str], None], ...] = (
    *(_odd_content, _odd_content, _odd_twice, _odd_label, _odd_label, _odd_intensities, _other_grid, _missing),
    *(_link, _folder, _folder_link, _renamed, _renamed, _more_files),
)


# --- facts


def _facts(stem: str) -> dict[str, Any]:
    return {
        "stem": stem,
        "source": "STS",
        "image": f"@DATA@/imagesTr/{stem}_0000.nii.gz",
        "label": f"@DATA@/labelsTr/{stem}.nii.gz",
        "problems": [],
        "shape": [6, 7, 8],
        "spacing_mm": [3.0, 2.0, 1.5],
        "lesions_mm3": [162.0],
        "foreground_hu": [60.0],
        "foreground_percentiles_hu": [60.0, 60.0, 60.0],
    }


def _change_record(rng: Random, record: dict[str, Any]) -> None:
    name = rng.choice(("stem", "image", "label", *record))
    if rng.random() < 0.2:
        record.pop(name, None)
    else:
        record[name] = rng.choice(_ODD_VALUES)


def _write_facts(folder: Path, records: list[dict[str, Any]], rng: Random | None = None) -> None:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    if rng and rng.random() < 0.3:
        place = rng.randrange(len(data))
        data = rng.choice(
            (
                data[:place],
                data[:place] + rng.randbytes(3) + data[place:],
                data + b"\n",
                data + data,
                data + b"[" * 10_000,
                b'{"stem": ' * 10_000,
                b"\xff\xfe",
                b"null\n" * 3,
            )
        )
    (folder / FACTS).write_bytes(data)
