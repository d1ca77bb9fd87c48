"""The challenge's own CSV files of accuracy and of efficiency."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from flare_eval.efficiency.costs import MEMORIES, official_area, peak
from flare_eval.efficiency.process import INTERVAL_S
from flare_eval.results import Accuracy, Efficiency, RunCost
from flare_runtime.files.naming import as_cell
from flare_runtime.files.output import replacing


def accuracy_csv(result: Accuracy, target: Path) -> None:
    """Write the challenge's accuracy CSV, of the first tolerance: of one lesion, or DSC and then NSD of every class.

    Raises:
        OutputError: where it cannot be written.
    """
    tolerance, names = f"{result.tolerances_mm[0]:g}", [label.name for label in result.labels] or ["Lesion"]
    rows = []
    for case in result.scored:
        parts = case.classes if result.labels else [case]
        rows.append([f"{case.case}.nii.gz", *(part.dsc for part in parts), *(part.nsd[tolerance] for part in parts)])
    _write(target, ["Name", *(f"{name}_DSC" for name in names), *(f"{name}_NSD" for name in names)], rows)


def efficiency_csv(result: Efficiency, target: Path) -> None:
    """Write the challenge's efficiency CSV; GPU columns are empty where there is none.

    Raises:
        OutputError: where it cannot be written.
    """
    head = (
        "Name",
        "Time",
        "MaxGPU_Mem",
        "AUC_GPU_Time",
        "MaxCPU_Utilization",
        "AUC_CPU_Time",
        "MaxRAM",
        "AUC_RAM_Time",
    )
    _write(target, head, [_official_row(run) for run in result.runs])


def _official_row(run: RunCost) -> list[object]:
    cores = [100 * sample.cpu_share for sample in run.samples]
    device, host = ([_rounded(peak(run, what)), _rounded(official_area(run, what))] for what in MEMORIES)
    processor = [round(max(cores, default=0.0)), round(INTERVAL_S * sum(cores))]
    return [f"{run.case}.nii.gz", round(run.wall_s, 2), *device, *processor, *host]


def _rounded(number: float | None) -> int | str:
    return "" if number is None else round(number)


def _write(target: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, atomically.

    Raises:
        OutputError: where it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([as_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in [head, *rows])
    with replacing(target) as file:
        file.write(text.getvalue().encode())
