"""What the report says, in the order it says it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, median

import numpy as np
from msgspec import structs

from flare_eval.efficiency.costs import peak
from flare_eval.report import tables
from flare_eval.report.blocks import Block, Charts, Facts, Figure, Legend, Section, Table, Text, slug
from flare_eval.report.case_table import Method, case_table
from flare_eval.report.charts import Chart, memory_charts, scatter_charts, strip_chart
from flare_eval.report.class_table import CLASS_MEANS, class_table
from flare_eval.report.cost_tables import (
    PAPER_ACCURACY,
    PAPER_COSTS,
    Cost,
    details,
    failure,
    in_short,
    ratio_table,
    table_4,
)
from flare_eval.report.gallery import Picture, pictures
from flare_eval.report.overlay import PREDICTION_COLOUR, REFERENCE_COLOUR
from flare_eval.results import Accuracy, CaseAccuracy, Efficiency
from flare_eval.sources import source_of

MAX_CURVES = 12
_NO_ACCURACY = "No accuracy was evaluated."
_WARM = "all, one process"
_NO_EFFICIENCY = "No efficiency was measured."


def all_sections(methods: Sequence[Method], images: Path | None, gallery: int, *, flare: bool = False) -> list[Section]:
    """Return the report's sections, with the paper's numbers where `flare`; the gallery is drawn here."""
    accuracies = [method.accuracy for method in methods if method.accuracy]
    efficiencies = [method.efficiency for method in methods if method.efficiency]
    return [
        Section("What was evaluated", [Facts(list(_facts(accuracies, efficiencies)))]),
        Section("Summary", list(_summary(methods, flare))),
        Section("Accuracy", list(_accuracy(accuracies)) or [Text(_NO_ACCURACY)]),
        Section("Efficiency", list(_efficiency(efficiencies, flare)) or [Text(_NO_EFFICIENCY)]),
        Section("Distributions", list(_distributions(accuracies)) or [Text(_NO_ACCURACY)]),
        Section("Memory over time", list(_memory(efficiencies)) or [Text(_NO_EFFICIENCY)]),
        Section("All cases", [case_table(methods)]),
        Section("Gallery", list(_gallery(accuracies, images, gallery)) or [Text(_NO_ACCURACY)]),
    ]


def _facts(accuracies: Sequence[Accuracy], efficiencies: Sequence[Efficiency]) -> Iterable[tuple[str, str]]:
    methods = [*(result.method for result in accuracies), *(result.method for result in efficiencies)]
    yield "Methods", ", ".join(dict.fromkeys(methods))
    names = {case.case for result in accuracies for case in result.cases}
    names |= {run.case for result in efficiencies for run in result.runs}
    yield "Cases", f"{len(names)}, from {', '.join(sorted({source_of(name) for name in names})) or 'nowhere'}"
    for tolerances, group in _by_tolerances(accuracies).items():
        who = "" if len(group) == len(accuracies) else f" ({', '.join(result.method for result in group)})"
        yield "Tolerance of the surface Dice", ", ".join(f"{tolerance:g} mm" for tolerance in tolerances) + who
    for result in accuracies:
        yield f"Predictions of {result.method}", result.missing_in_words
    machines: dict[str, list[str]] = {}
    for cost in efficiencies:
        machines.setdefault(", ".join(f"{key}: {value}" for key, value in cost.machine.items()), []).append(cost.method)
    for text, who_ran in machines.items():
        yield f"Machine of {', '.join(who_ran)}", text or "unknown"
    for cost in efficiencies:
        yield f"Command of {cost.method}", " ".join(cost.command)
    yield "Report written", f"{datetime.now().astimezone():%Y-%m-%d}"


def _by_tolerances(accuracies: Sequence[Accuracy]) -> dict[tuple[float, ...], list[Accuracy]]:
    groups: dict[tuple[float, ...], list[Accuracy]] = {}
    for result in accuracies:
        groups.setdefault(tuple(result.tolerances_mm), []).append(result)
    return groups


def _summary(methods: Sequence[Method], flare: bool) -> Iterable[Block]:
    """Yield one table with a column per method, and the paper's numbers where they are asked for."""
    rows: list[list[str]] = []
    if any(method.accuracy for method in methods):
        columns = [_accuracy_in_short(method.accuracy) for method in methods]
        rows += _as_rows([*columns, PAPER_ACCURACY] if flare else columns)
    if any(method.efficiency for method in methods):
        runs = [method.efficiency.runs if method.efficiency else [] for method in methods]
        costs = [in_short([Cost.of(run) for run in group]) for group in runs]
        rows += _as_rows([*costs, in_short(PAPER_COSTS)] if flare else costs)
    names = [method.name for method in methods]
    yield Table("The numbers that matter", ["", *names, "Paper"] if flare else ["", *names], rows)
    for result in (method.accuracy for method in methods):
        if result and result.missing:
            yield Text(f"{result.method}: {result.missing_in_words}.")
    if flare:
        yield Text(
            "The paper's numbers are from its own cases and machine: accuracy on the public validation set of FLARE25, "
            "efficiency of eight of its cases on an RTX 4090. They compare only where the cases here are the same."
        )


def _as_rows(columns: Sequence[dict[str, str]]) -> list[list[str]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "-") for column in columns)] for name in names]


def _accuracy_in_short(result: Accuracy | None) -> dict[str, str]:
    if result is None:
        return {}
    scored, tolerance = result.scored, f"{result.tolerances_mm[0]:g}"
    short = {
        "Cases scored": f"{len(scored)} of {len(result.cases)}",
        "Predictions missing": str(len(result.missing)),
        "DSC, mean ± SD (%)": tables.mean_and_deviation([case.dsc or 0.0 for case in scored]),
        f"NSD at {tolerance} mm, mean ± SD (%)": tables.mean_and_deviation([case.nsd[tolerance] for case in scored]),
        "DSC, median (%)": f"{100 * median(case.dsc or 0.0 for case in scored):.2f}" if scored else "-",
    }
    if not result.labels:
        short["Lesions found"] = tables.found_of([lesion for case in scored for lesion in case.lesions])
        false_positives = f"{fmean(case.false_positives for case in scored):.2f}" if scored else "-"
        short["False positives a case"] = false_positives
    return short


def _accuracy(accuracies: Sequence[Accuracy]) -> Iterable[Block]:
    for group in _by_tolerances(accuracies).values():
        yield Table("Accuracy, mean ± standard deviation over the cases", *tables.accuracy_table(group))
        if of_classes := [result for result in group if result.labels]:
            yield Table("Accuracy by class, mean ± standard deviation over the cases", *class_table(of_classes))
            yield Text(CLASS_MEANS)
    for result in accuracies:
        if result.scored:
            yield Table(f"{result.method}: by source", *tables.source_table(result))
        if result.scored and not result.labels:
            yield Table(f"{result.method}: by volume of the lesion", *tables.volume_table(result))
        bad = [case.case for case in result.cases if case.dsc is None]
        if bad:
            yield Text(f"{result.method}: not scored, for what is wrong with their references: {_some(bad)}.")


def _efficiency(efficiencies: Sequence[Efficiency], flare: bool) -> Iterable[Block]:
    for result in efficiencies:
        warm = Cost.of(structs.replace(result.warm, case=_WARM)) if result.warm else None
        content = table_4([Cost.of(run) for run in result.runs], warm)
        yield Table(f"Efficiency of {result.method}, one fresh process a case", *content)
        if all(peak(run, "device_mib") is None for run in result.runs):
            yield Text(f"{result.method} was measured without a GPU: it has no GPU numbers, and 4 GB is not judged.")
        failed = [f"{run.case} ({failure(run)})" for run in result.runs if failure(run)]
        if failed:
            yield Text(f"{len(failed)} of {len(result.runs)} runs of {result.method} failed: {_some(failed)}.")
        yield Table(f"{result.method}: what the totals are made of", *details(result))
    if len(efficiencies) > 1:
        caption = f"Mean cost a case, and how many times that of {efficiencies[-1].method}, over the cases all ran"
        yield Table(caption, *ratio_table(efficiencies))
    if efficiencies and flare:
        yield Table("The paper's Table 4, for comparison: eight cases on an RTX 4090", *table_4(PAPER_COSTS))
    if efficiencies:
        yield Text(
            "MB are MiB, as the challenge prints them; 4 GB are 4096 of them. GPU memory is that of the whole device, "
            "host memory that of the command's processes. Totals are the challenge's areas under the curve, a tenth of "
            "the sum of the samples, in MB s; the integral is by the trapezoid rule over the running time."
        )


def _distributions(accuracies: Sequence[Accuracy]) -> Iterable[Block]:
    scored = [result for result in accuracies if result.scored]
    if not scored:
        return
    tolerance = f"{scored[0].tolerances_mm[0]:g}"
    measures = {
        "DSC": {result.method: [case.dsc or 0.0 for case in result.scored] for result in scored},
        f"NSD at {tolerance} mm": {
            result.method: [case.nsd[tolerance] for case in result.scored]
            for result in scored
            if tolerance in result.scored[0].nsd
        },
    }
    volumes = {
        result.method: [(case.reference_ml or 0.0, case.dsc or 0.0) for case in result.scored]
        for result in scored
        if not result.labels
    }
    names = ("charts/dsc.svg", "charts/nsd.svg")
    strips = [(file, strip_chart(title, of)) for file, (title, of) in zip(names, measures.items(), strict=True)]
    scatters = [(f"charts/volume-{n}.svg", chart) for n, chart in enumerate(scatter_charts(volumes), 1)]
    yield Charts("Every dot is a case; boxes hold the middle half, bars are medians", [*strips, *scatters])
    for number, result in enumerate(scored, 1):
        if result.labels:
            yield Charts(f"{result.method}: the same of every class", list(_class_charts(result, number)))
    head = ["Method", "Measure", "Cases", "Lowest", "First quartile", "Median", "Third quartile", "Highest"]
    rows = [
        [method, title, str(len(values)), *(f"{value:.4f}" for value in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))]
        for title, of in measures.items()
        for method, values in of.items()
    ]
    yield Table("The same in numbers", head, rows)


def _class_charts(result: Accuracy, number: int) -> Iterable[tuple[str, Chart]]:
    tolerance = f"{result.tolerances_mm[0]:g}"
    columns = {label.name: [case.classes[at] for case in result.scored] for at, label in enumerate(result.labels)}
    dscs = {name: [score.dsc for score in scores] for name, scores in columns.items()}
    nsds = {name: [score.nsd[tolerance] for score in scores] for name, scores in columns.items()}
    yield f"charts/classes-{number}-dsc.svg", strip_chart("DSC", dscs)
    yield f"charts/classes-{number}-nsd.svg", strip_chart(f"NSD at {tolerance} mm", nsds)


def _memory(efficiencies: Sequence[Efficiency]) -> Iterable[Block]:
    for number, result in enumerate(efficiencies, 1):
        warm = [structs.replace(result.warm, case=_WARM)] if result.warm else []
        runs = [*result.runs, *warm]
        shown = runs
        if len(runs) > MAX_CURVES:
            order = sorted(runs, key=lambda run: (peak(run, "device_mib") or 0.0, peak(run, "host_mib") or 0.0))
            shown = order[: -MAX_CURVES - 1 : -1]
        which = (
            f"{len(shown)} of {len(runs)} runs, those with the highest peaks" if len(shown) < len(runs) else "all runs"
        )
        charts = [
            (f"charts/memory-{number}-{place:02d}-{slug(run.case)}.svg", chart)
            for place, (run, chart) in enumerate(zip(shown, memory_charts(shown), strict=True), 1)
        ]
        gpu = any(peak(run, "device_mib") is not None for run in runs)
        lines = "solid: GPU, whole device; dashed: host; dotted: 4 GB" if gpu else "dashed: host; no GPU"
        yield Charts(f"{result.method}, {which}: MB over seconds since the start ({lines})", charts)


def _gallery(accuracies: Sequence[Accuracy], images: Path | None, count: int) -> Iterable[Block]:
    if not accuracies:
        return
    if images is None:
        yield Text("No pictures: the folder of images was not given.")
        return
    blocks: list[Block] = []
    absent: dict[str, list[str]] = {}
    for picture in pictures(accuracies, images, count):
        case = picture.shown.case
        if picture.png is not None:
            file = f"gallery/{slug(picture.rank)}-{slug(case)}.png"
            blocks.append(Figure(_caption(picture), file, picture.png))
        for problem in picture.problems:
            absent.setdefault(problem, []).append(case if picture.png is None else f"all masks of {case}")
    blocks += [Text(f"No picture of {', '.join(cases)}. {problem}.") for problem, cases in absent.items()]
    if any(isinstance(block, Figure) for block in blocks):
        yield Legend((("reference", REFERENCE_COLOUR), ("prediction", PREDICTION_COLOUR)))
    yield from blocks


def _caption(picture: Picture) -> str:
    scores = "; ".join(_score(method, case) for method, case in picture.shown.scores.items())
    return f"{picture.rank}, {picture.shown.case}: {scores}"


def _score(method: str, case: CaseAccuracy) -> str:
    nsd = ", ".join(f"NSD {value:.4f} at {tolerance} mm" for tolerance, value in case.nsd.items())
    remark = "" if case.status == "scored" else f" ({case.status.replace('_', ' ')})"
    return f"{method} DSC {case.dsc:.4f}, {nsd}{remark}"


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"
