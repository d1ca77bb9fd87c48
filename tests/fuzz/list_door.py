"""The door of lists of cases: read, and every case looked for."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from flare_runtime.cases.case_list import ListedCase, read_case_list
from flare_runtime.cases.finding import find_cases
from flare_runtime.files.naming import visible
from tests.fuzz.json_inputs import odd_json
from tests.fuzz.nifti_inputs import damaged

COUNT = 20_000
_ODD = ("", " ", "..", "../x", "a/../../x", "/x", "a//b", "./", "a\nb", "a\rb", "\x1b[2J", "=1+1", "\ufeff", "é")
_ODD += ("a" * 300, "a/" * 3000, '"', "a,b", "a;b", ";", "s3://key:secret@bucket/x", "file:///x", "e\u0301", "\udcfc")
_ODD += ("x.seg.dcm", "x.sr.dcm", "x.json", "x.nii.gz/y", "x_0001.nii.gz", ".hidden", "x\0y", "scan.zip", "x.stale.nii")
_HEADERS = (["images"], ["case", "images"], ["images", "output"], ["case", "images", "output", "age"], ["image"])
_HEADERS += (["images", "images"], [" case ", "images "], ["case", "output"], [])


class ListDoor:
    """Reads a list and asserts that every case writes below the output folder, and two never the same."""

    def make(self, rng: Random, folder: Path) -> Path:
        """Write an odd list."""
        path = folder / rng.choice(("cases.csv", "cases.jsonl"))
        data = _table(rng) if path.suffix == ".csv" else _json_lines(rng)
        for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 2))):
            data = damaged(rng, data)
        path.write_bytes(data)
        return path

    def enter(self, path: Path) -> None:
        """Read it."""
        with tempfile.TemporaryDirectory(prefix="flare-fuzz-") as folder:
            target = Path(folder, "masks")
            packed = read_case_list(path)
            listed = [ListedCase.unpacked(text) for text in packed]
            assert [case.packed() for case in listed] == packed
            assert all(case.name and visible(case.name) == case.name for case in listed), listed
            cases = find_cases(path, target, 1)
            masks = [os.path.normpath(case.mask) for case in cases]
            assert len(set(masks)) == len(cases) == len(listed)
            assert all(mask.startswith(f"{target}{os.sep}") for mask in masks), masks
            assert {entry.name for entry in Path(folder).iterdir()} <= {"masks"}


def _table(rng: Random) -> bytes:
    header = rng.choice(_HEADERS) if rng.random() < 0.2 else ["case", "images", "output"]
    rows = [header, *([_cell(rng, column, number) for column in header] for number in range(rng.choice((0, 1, 2, 5))))]
    if rng.random() < 0.1:
        rows.append(rng.choice(([], [""] * 3, ["x"] * 9)))
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    text = end.join(",".join(_quoted(rng, cell) for cell in row) for row in rows)
    return _encoded(rng, text + end * rng.choice((0, 1, 3)))


def _quoted(rng: Random, cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if rng.random() < 0.5 or set(cell) & set(',"\r\n') else cell


def _cell(rng: Random, column: str, number: int) -> str:
    if rng.random() < 0.06:
        return rng.choice(_ODD)
    sound = {"case": f"case{number}", "images": f"case{number}_0000.nii.gz", "output": f"sub/case{number}.nii.gz"}
    return sound.get(column.strip(), "7") if rng.random() < 0.95 else ""


def _json_lines(rng: Random) -> bytes:
    lines = list[bytes](_objects(rng))
    if rng.random() < 0.1:
        lines.append(rng.choice((b"", b" ", b"null", b"[]", b'"images"', b"1e999", b"9" * 5000, b"\xff")))
    return rng.choice((b"", b"", b"\xef\xbb\xbf")) + rng.choice((b"\n", b"\r\n")).join(lines)


def _objects(rng: Random) -> Iterator[bytes]:
    for number in range(rng.choice((0, 1, 2, 5))):
        row: dict[str, Any] = {key: _cell(rng, key, number) for key in ("case", "images", "output")}
        if rng.random() < 0.5:
            row["images"] = [row["images"]] * rng.choice((0, 1, 2))
        yield odd_json(rng, row) if rng.random() < 0.3 else json.dumps(row).encode()


def _encoded(rng: Random, text: str) -> bytes:
    encoding = rng.choice((*["utf-8"] * 9, *["utf-8-sig"] * 2, "utf-16", "latin-1"))
    return text.encode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "replace")


def open_door(_workspace: Path) -> ListDoor:
    """Return the door, with everything imported."""
    door = ListDoor()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cases.csv")
        path.write_text("images\nscan_0000.nii.gz\n", encoding="ascii")
        door.enter(path)
    return door
