"""What evaluation writes down: accuracy and efficiency, one record per case, as JSON that `flare-eval report` reads."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from flare_runtime.errors import UsageError
from flare_runtime.files.json_file import write_json
from flare_runtime.files.target import check_targets


class LesionFinding(msgspec.Struct, kw_only=True):
    """One lesion of the reference (26-connected).

    Attributes:
        volume_ml: its own.
        dice: with all predicted components that touch it; 0 where none does.
        found: whether any predicted voxel lies in it.
    """

    volume_ml: float
    dice: float
    found: bool


class LabelClass(msgspec.Struct, frozen=True, kw_only=True):
    """A structure that is scored by itself.

    Attributes:
        name: of people.
        values: of the label image's voxels that belong to it; several where regions overlap.
        key: what nnU-Net's summary.json calls it, such as "2" or "(1, 2)".
    """

    name: str
    values: tuple[int, ...]
    key: str


class ClassAccuracy(msgspec.Struct, kw_only=True):
    """One class of one case.

    Attributes:
        dsc, nsd: by the challenge's rules, rounded to 4 decimals: 1 where both masks are empty, 0 where one is.
        tp, fp, fn, tn: voxels of both, of the prediction alone, of the reference alone and of neither.
    """

    dsc: float
    nsd: dict[str, float]
    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def overlap(self) -> float:
        """The Dice as nnU-Net has it: not rounded, and NaN where both masks are empty."""
        return 2 * self.tp / total if (total := 2 * self.tp + self.fp + self.fn) else float("nan")


class CaseAccuracy(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One case by the challenge's rules, rounded to 4 decimals as it rounds.

    Attributes:
        case: the reference's file name without suffix.
        source: the collection its name tells of.
        status: `scored`; `missing` where there is no prediction and `bad_prediction` where it cannot be used, both
            scored 0, 0; `bad_reference` where nothing can be scored.
        message: what is wrong or odd, one line.
        reference, prediction: the files.
        dsc: Dice; of several classes the mean over them, as `nsd`; None for `bad_reference`.
        nsd: surface Dice by tolerance in mm, such as {"2": 0.91}.
        reference_ml, prediction_ml: foreground volumes.
        lesions: of the reference, the largest first; not of several classes.
        false_positives: predicted components that touch no lesion.
        classes: in the order of `Accuracy.labels`.
    """

    case: str
    source: str
    status: Literal["scored", "missing", "bad_prediction", "bad_reference"] = "scored"
    message: str = ""
    reference: str = ""
    prediction: str = ""
    dsc: float | None = None
    nsd: dict[str, float] = {}
    reference_ml: float | None = None
    prediction_ml: float | None = None
    lesions: list[LesionFinding] = []
    false_positives: int = 0
    classes: list[ClassAccuracy] = []


class Accuracy(msgspec.Struct, kw_only=True):
    """A method's accuracy.

    Attributes:
        method: its name in tables.
        tolerances_mm: of the surface Dice; the first is the challenge's 2 mm unless chosen otherwise.
        official: whether missing predictions are left out, as the challenge's script does.
        cases: in order of their names.
        labels: the classes, where they were named.
        left_out: names of the cases without a prediction that are not among `cases`.
    """

    method: str
    tolerances_mm: list[float]
    official: bool
    cases: list[CaseAccuracy]
    labels: list[LabelClass] = []
    left_out: list[str] = []

    @property
    def scored(self) -> list[CaseAccuracy]:
        """The cases that count in means."""
        return [case for case in self.cases if case.dsc is not None]

    @property
    def missing(self) -> list[str]:
        """The cases that have a reference and no prediction."""
        return [*self.left_out, *(case.case for case in self.cases if case.status == "missing")]

    @property
    def missing_in_words(self) -> str:
        """How many predictions are missing of how many, and what became of them."""
        if not self.missing:
            return f"none of {len(self.cases)} predictions is missing"
        fate = "are left out, as the challenge's script does" if self.official else "count as 0, 0"
        return f"{len(self.missing)} of {len(self.cases) + len(self.left_out)} predictions are missing; they {fate}"


class Sample(msgspec.Struct, array_like=True):
    """One moment of a run.

    Attributes:
        seconds: since the process started.
        host_mib: resident memory of the whole process tree, file pages counted once.
        cpu_share: cores in use since the sample before.
        device_mib: memory in use on the whole GPU; None without one.
        own_device_mib: of that, the process tree's.
    """

    seconds: float
    host_mib: float
    cpu_share: float
    device_mib: float | None = None
    own_device_mib: float | None = None


class RunCost(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one run of a command cost: one case (cold), or all of them in one process (warm).

    Attributes:
        case: the case, or `all` for a warm run.
        image_size: voxels (x, y, z) as the paper prints them.
        exit_code: of the command.
        message: the end of its error output where it failed or left no mask.
        wall_s: from process start to end.
        idle_device_mib: in use on the GPU before the start.
        samples: every 0.1 s.
    """

    case: str
    image_size: tuple[int, ...] | None = None
    exit_code: int
    message: str = ""
    wall_s: float
    idle_device_mib: float | None = None
    samples: list[Sample] = []


class Efficiency(msgspec.Struct, kw_only=True):
    """A method's efficiency.

    Attributes:
        method: its name in tables.
        command: as it was given.
        machine: processor, cores, memory, GPU or its absence.
        runs: one per case, in the order they ran.
        warm: the run over all cases in one process, where it was asked for.
    """

    method: str
    command: list[str]
    machine: dict[str, str]
    runs: list[RunCost]
    warm: RunCost | None = None


Result = TypeVar("Result", Accuracy, Efficiency)


def check_results(kind: type[Accuracy] | type[Efficiency], folder: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse a folder that a result and its CSV must not be written into, before any work is done.

    Raises:
        OutputError: where one of the files is no regular file, is one of the inputs, or not a result of this kind.
    """
    inputs = list(inputs)

    def is_result(data: bytes) -> bool:
        try:
            return bool(msgspec.json.decode(data, type=kind))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False

    check_targets([_file(kind, folder)], inputs, over=is_result)
    check_targets([_file(kind, folder).with_suffix(".csv")], inputs)


def save(result: Accuracy | Efficiency, folder: Path) -> Path:
    """Write a result as accuracy.json or efficiency.json into `folder` and return the file."""
    target = _file(type(result), folder)
    write_json(target, result)
    return target


def _file(kind: type[Accuracy] | type[Efficiency], folder: Path) -> Path:
    return folder / f"{kind.__name__.lower()}.json"


def load(kind: type[Result], folder: Path) -> Result | None:
    """Read a result back, or None where the folder has none.

    Raises:
        UsageError: where the file is not one of ours.
    """
    source = _file(kind, folder)
    if not source.is_file():
        return None
    try:
        return msgspec.json.decode(source.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{source}: is not what flare-eval writes ({error})") from error
