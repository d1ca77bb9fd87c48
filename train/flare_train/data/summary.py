"""The statistics of a training set by source, as the paper's data analysis gives them: tables, JSON and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flare_eval.report.tables import Content
from flare_runtime.files.json_file import write_json
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.files.target import check_targets
from flare_train.data.cases import TrainingCase
from flare_train.data.inspection import CaseFacts

ALL_SOURCES = "all"
_FACTS, _SUMMARY, _PLOT = "facts.jsonl", "summary.json", "sources.png"


def check_outputs(folder: Path, cases: Sequence[TrainingCase]) -> None:
    """Refuse a folder that `write` must not write into, before any work is done, and make it if need be.

    Raises:
        ImportError: where matplotlib, which draws the plot, is not installed.
        OutputError: where one of the files is no regular file, is a case's, or holds something else.
    """
    import matplotlib  # noqa: F401  # only to know that it is there

    inputs = [path for case in cases for path in (case.image, case.label) if path]
    check_targets([folder / _FACTS], inputs, over=_is_facts)
    check_targets([folder / _SUMMARY], inputs, over=_is_summary)
    check_targets([folder / _PLOT], inputs)
    check_folder(folder)


def _is_facts(data: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(data.partition(b"\n")[0], type=CaseFacts))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _is_summary(data: bytes) -> bool:
    try:
        content = msgspec.json.decode(data, type=dict[str, dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return all("sound_cases" in statistics for statistics in content.values())


def write(facts: Sequence[CaseFacts], statistics: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write facts.jsonl with a line a case, summary.json with their statistics, and the plot sources.png.

    Raises:
        OutputError: where one cannot be written.
    """
    with replacing(folder / _FACTS) as file:
        file.write(b"".join(msgspec.json.encode(case) + b"\n" for case in facts))
    write_json(folder / _SUMMARY, statistics)
    with replacing(folder / _PLOT) as file:
        file.write(draw(facts))


def summarise(facts: Sequence[CaseFacts]) -> dict[str, dict[str, Any]]:
    """Return the statistics of every source and of all together.

    Distributions are [minimum, median, maximum]; spacings and sizes are of (z, y, x); lesions are connected
    components, in mm3; foreground intensities are the 0.5, 50 and 99.5 percentile of all cases' together, in HU.
    """
    sources = sorted({case.source for case in facts})
    groups = {source: [case for case in facts if case.source == source] for source in sources}
    if len(sources) > 1:
        groups[ALL_SOURCES] = list(facts)
    return {source: _statistics(cases) for source, cases in groups.items()}


def _statistics(cases: Sequence[CaseFacts]) -> dict[str, Any]:
    lesions = [volume for case in cases for volume in case.lesions_mm3 or []]
    counts = [len(case.lesions_mm3) for case in cases if case.lesions_mm3 is not None]
    intensities = [value for case in cases for value in case.foreground_hu]
    return {
        "cases": len(cases),
        "sound_cases": sum(not case.problems for case in cases),
        "spacing_mm": _by_axis([case.spacing_mm for case in cases]),
        "shape": _by_axis([case.shape for case in cases]),
        "lesions": len(lesions),
        "lesions_a_case": _range(counts),
        "lesion_mm3": _range(lesions),
        "foreground_hu": np.percentile(intensities, (0.5, 50, 99.5)).round(1).tolist() if intensities else None,
        "problems": dict(Counter(problem for case in cases for problem in case.problems).most_common()),
    }


def _range(values: Sequence[float]) -> list[float] | None:
    return [float(f(values)) for f in (np.min, np.median, np.max)] if len(values) else None


def _by_axis(triples: Sequence[tuple[float, ...] | None]) -> dict[str, list[float] | None]:
    known = [triple for triple in triples if triple is not None]
    return {axis: _range([triple[index] for triple in known]) for index, axis in enumerate("zyx")}


def table(summary: dict[str, dict[str, Any]]) -> Content:
    """Return one row a source; distributions as minimum / median / maximum."""
    head = ["Source", "Cases", "Sound", "Spacing z (mm)", "Spacing x (mm)", "Slices", "Lesions"]
    head += ["Lesions a case", "Lesion volume (mm3)", "Foreground 0.5 / 50 / 99.5 % (HU)"]
    rows = []
    for source, of in summary.items():
        ranges = [of["spacing_mm"]["z"], of["spacing_mm"]["x"], of["shape"]["z"]]
        rows.append(
            [
                source,
                str(of["cases"]),
                str(of["sound_cases"]),
                *(_shown(values) for values in ranges),
                str(of["lesions"]),
                *(_shown(of[name]) for name in ("lesions_a_case", "lesion_mm3", "foreground_hu")),
            ]
        )
    return head, rows


def _shown(values: Sequence[float] | None) -> str:
    return (
        "-"
        if values is None
        else " / ".join(f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}" for value in values)
    )


def draw(facts: Sequence[CaseFacts]) -> bytes:
    """Return a PNG with the distributions of spacing, slice count, lesion volume and foreground intensity by source."""
    from matplotlib.figure import Figure

    sources = sorted({case.source for case in facts})
    panels: list[tuple[str, bool, list[list[float]]]] = [
        (
            "z spacing (mm)",
            False,
            [[c.spacing_mm[0] for c in facts if c.source == s and c.spacing_mm] for s in sources],
        ),
        ("slices", False, [[float(c.shape[0]) for c in facts if c.source == s and c.shape] for s in sources]),
        (
            "lesion volume (mm3)",
            True,
            [[v for c in facts if c.source == s for v in c.lesions_mm3 or []] for s in sources],
        ),
        ("foreground (HU)", False, [[v for c in facts if c.source == s for v in c.foreground_hu] for s in sources]),
    ]
    figure = Figure(figsize=(13, 2 + 0.45 * len(sources)), layout="constrained")
    for axes, (title, logarithmic, groups) in zip(figure.subplots(1, 4, sharey=True), panels, strict=True):
        shown = [(place, values) for place, values in enumerate(groups) if values]
        if shown:
            axes.boxplot([v for _, v in shown], positions=[p for p, _ in shown], orientation="horizontal", widths=0.6)
        axes.set_title(title, fontsize=10)
        if logarithmic:
            axes.set_xscale("log")
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(range(len(sources)), sources, parse_math=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
