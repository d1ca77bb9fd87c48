"""Tables of results: the challenge's CSV files, and Markdown in the manner of the paper's Tables 3 and 4."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from flare_eval.efficiency import MEMORIES, integral, official_area, peak
from flare_eval.process import INTERVAL_S
from flare_eval.results import Accuracy, CaseAccuracy, Efficiency, LesionFinding, RunCost
from flare_runtime.output import replacing

# Lesion volumes in ml that the detection table is divided at.
VOLUME_CLASSES_ML = ((0.0, 1.0), (1.0, 10.0), (10.0, 100.0), (100.0, float("inf")))


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def mean_and_deviation(values: Sequence[float], scale: float = 100.0) -> str:
    """Return "mean ± standard deviation" with two decimals, in percent unless another scale is given."""
    if not values:
        return "-"
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{scale * fmean(values):.2f} ± {scale * deviation:.2f}"


def official_csv(result: Accuracy, target: Path) -> None:
    """Write the challenge's accuracy CSV, of the first tolerance.

    Raises:
        OutputError: where it cannot be written.
    """
    tolerance = f"{result.tolerances_mm[0]:g}"
    rows = [(f"{case.case}.nii.gz", case.dsc, case.nsd[tolerance]) for case in result.scored]
    write_csv(target, ("Name", "Lesion_DSC", "Lesion_NSD"), rows)


def write_csv(target: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, atomically.

    Raises:
        OutputError: where it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    with replacing(target) as file:
        file.write(text.getvalue().encode())


def accuracy_table(results: Sequence[Accuracy]) -> str:
    """Return the paper's Table 3: per method the mean and standard deviation of DSC and of NSD at each tolerance."""
    tolerances = results[0].tolerances_mm
    head = ["Method", "Cases", "DSC (%)", *(f"NSD at {tolerance:g} mm (%)" for tolerance in tolerances)]
    rows = []
    for result in results:
        scored = result.scored
        surfaces = [mean_and_deviation([case.nsd[f"{tolerance:g}"] for case in scored]) for tolerance in tolerances]
        rows.append([result.method, len(scored), mean_and_deviation(_dscs(scored)), *surfaces])
    return markdown(head, rows)


def source_table(result: Accuracy) -> str:
    """Return DSC, NSD and detection by collection."""
    tolerance = f"{result.tolerances_mm[0]:g}"
    rows = []
    for source in sorted({case.source for case in result.scored}):
        cases = [case for case in result.scored if case.source == source]
        lesions = [lesion for case in cases for lesion in case.lesions]
        rows.append(
            [
                source,
                len(cases),
                mean_and_deviation(_dscs(cases)),
                mean_and_deviation([case.nsd[tolerance] for case in cases]),
                found_of(lesions),
                f"{fmean(case.false_positives for case in cases):.2f}",
            ]
        )
    head = ["Source", "Cases", "DSC (%)", f"NSD at {tolerance} mm (%)", "Lesions found", "False positives a case"]
    return markdown(head, rows)


def volume_table(result: Accuracy) -> str:
    """Return detection by the lesions' volumes."""
    lesions = [lesion for case in result.scored for lesion in case.lesions]
    rows = []
    for low, high in VOLUME_CLASSES_ML:
        inside = [lesion for lesion in lesions if low <= lesion.volume_ml < high]
        name = f"{low:g} to {high:g} ml" if high < float("inf") else f"{low:g} ml and more"
        rows.append([name, found_of(inside), mean_and_deviation([lesion.dice for lesion in inside])])
    return markdown(["Lesion volume", "Lesions found", "Dice of a lesion (%)"], rows)


def case_table(result: Accuracy) -> str:
    """Return every case in one row, the worst first."""
    order = sorted(result.cases, key=lambda case: (case.dsc is not None, case.dsc or 0.0, case.case))
    head = ["Case", "DSC", *(f"NSD at {t:g} mm" for t in result.tolerances_mm), "Lesions found", "False positives", ""]
    rows = [
        [
            case.case,
            "-" if case.dsc is None else f"{case.dsc:.4f}",
            *(f"{case.nsd[f'{t:g}']:.4f}" if case.nsd else "-" for t in result.tolerances_mm),
            found_of(case.lesions),
            case.false_positives,
            case.message,
        ]
        for case in order
    ]
    return markdown(head, rows)


def found_of(lesions: Sequence[LesionFinding]) -> str:
    """Return "found of all" lesions."""
    return f"{sum(lesion.found for lesion in lesions)} of {len(lesions)}"


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
    write_csv(target, head, [_official_row(run) for run in result.runs])


def _official_row(run: RunCost) -> list[object]:
    cores = [100 * sample.cpu_share for sample in run.samples]
    device, host = ([_rounded(peak(run, what)), _rounded(official_area(run, what))] for what in MEMORIES)
    processor = [round(max(cores, default=0.0)), round(INTERVAL_S * sum(cores))]
    return [f"{run.case}.nii.gz", round(run.wall_s, 2), *device, *processor, *host]


def efficiency_table(result: Efficiency) -> str:
    """Return the paper's Table 4, with host memory beside; a dash is what could not be measured."""
    head = [
        "Case ID",
        "Image Size",
        "Running Time (s)",
        "Max GPU (MB)",
        "Total GPU (MB)",
        "Max host (MB)",
        "Total host (MB)",
    ]
    rows = []
    for run in [*result.runs, *([result.warm] if result.warm else [])]:
        size = f"({', '.join(map(str, run.image_size))})" if run.image_size else "-"
        numbers = [f(run, what) for what in MEMORIES for f in (peak, official_area)]
        shown = ["-" if number is None else f"{number:.0f}" for number in numbers]
        rows.append([run.case, size, f"{run.wall_s:.2f}", *shown])
    return markdown(head, rows)


def ratio_table(results: Sequence[Efficiency]) -> str:
    """Return each method's mean cost a case, and how many times the last method's it is, over the cases all ran."""
    last = results[-1]
    ran = set.intersection(*({run.case for run in result.runs if not run.exit_code} for result in results))
    head = ["Method", "Cases", "Seconds a case", "Max host (MB)", "Total host (MB)", "Max GPU (MB)", "Total GPU (MB)"]
    costs = {result.method: _mean_costs([run for run in result.runs if run.case in ran]) for result in results}
    rows = []
    for result in results:
        cells: list[str] = []
        for own, base in zip(costs[result.method], costs[last.method], strict=True):
            times = f" ({own / base:.1f}x)" if own is not None and base and result is not last else ""
            cells.append("-" if own is None else f"{own:.{2 if not cells else 0}f}{times}")
        rows.append([result.method, len(ran), *cells])
    return markdown(head, rows)


def _mean_costs(runs: Sequence[RunCost]) -> list[float | None]:
    columns: list[list[float | None]] = [[run.wall_s for run in runs]]
    for what in reversed(MEMORIES):
        columns += [[figure(run, what) for run in runs] for figure in (peak, integral)]
    return [_mean(column) for column in columns]


def _mean(column: Sequence[float | None]) -> float | None:
    known = [number for number in column if number is not None]
    return fmean(known) if known and len(known) == len(column) else None


def _rounded(number: float | None) -> int | str:
    return "" if number is None else round(number)


def _dscs(cases: Sequence[CaseAccuracy]) -> list[float]:
    return [case.dsc for case in cases if case.dsc is not None]
