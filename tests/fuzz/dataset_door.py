"""A data set for training, looked at by `flare-train inspect` and chosen from by `flare-train select`."""

import contextlib
import io
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from random import Random
from zlib import crc32

from flare_runtime.errors import FlareError
from flare_train.arguments import parse_args
from flare_train.cli import run_inspect, run_select
from flare_train.data import summary
from tests.fuzz.dataset_inputs import FACTS, IN_FACTS, odd_dataset, sound_dataset

COUNT = 4_000
# Drawing takes a hundred times as long as the rest.
_DRAWN = 20


class DatasetDoor:
    """Inspects a data set and selects from it, then from facts that were changed by hand."""

    def make(self, rng: Random, folder: Path) -> Path:
        """Write a folder with `data`, the data set, and facts about it."""
        return odd_dataset(rng, folder / "set")

    def enter(self, path: Path) -> None:
        """Inspect and select, and assert that both write where they were told to alone."""
        facts = (path / FACTS).read_bytes()
        draws = crc32(facts) % _DRAWN == 0
        with tempfile.TemporaryDirectory(prefix="flare-fuzz-") as folder, contextlib.redirect_stdout(io.StringIO()):
            out = Path(folder)
            (out / FACTS).write_bytes(facts.replace(IN_FACTS, str(path / "data").encode()))
            refusals = [
                _refusal(lambda: _inspect(path / "data", out / "inspected", draws=draws)),
                _refusal(lambda: _select(out / "inspected" / FACTS, out / "first")),
                _refusal(lambda: _select(out / FACTS, out / "second", keep_empty=True, partial=["STS"])),
            ]
            assert {entry.name for entry in out.iterdir()} <= {FACTS, "inspected", "first", "second"}
            for raw in (out / "first", out / "second"):
                assert {entry.name for entry in raw.glob("*")} <= _OF_RAW, raw
                assert all(link.is_symlink() for kind in ("imagesTr", "labelsTr") for link in (raw / kind).glob("*"))
        for refusal in refusals:
            if refusal:
                raise refusal


# The options that a command line without any gives: parsing one takes as long as inspecting a tiny case.
_INSPECT = parse_args(["inspect", "data", "-o", "out", "--workers", "1"])
_SELECT = parse_args(["select", "facts", "-o", "out", "--workers", "1"])
_OF_RAW = {"imagesTr", "labelsTr", "labelsPartial", "dataset.json", "splits_final.json", "selection.jsonl"}


def _refusal(work: Callable[[], object]) -> FlareError | None:
    try:
        work()
    except FlareError as error:
        return error
    return None


def _inspect(data: Path, output: Path, *, draws: bool) -> None:
    drawing = summary.draw
    if not draws:
        summary.draw = lambda _facts: b""
    try:
        assert run_inspect(Namespace(**{**vars(_INSPECT), "dataset": [data], "output": output})) == 0
    finally:
        summary.draw = drawing


def _select(facts: Path, output: Path, **options: object) -> None:
    assert run_select(Namespace(**{**vars(_SELECT), "facts": facts, "output": output, **options})) == 0


def open_door(_workspace: Path) -> DatasetDoor:
    """Return the door, with everything imported."""
    door = DatasetDoor()
    with tempfile.TemporaryDirectory() as folder:
        sound = sound_dataset(Path(folder, "set"))
        door.enter(sound)
        summary.draw([])
    return door
