"""How much faster each stage is than its reference in the same run, and whether that is still so."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BASELINES = "ratios.json"
# Machines differ, and a busy one does not slow both sides alike; a stage that lost half of its lead lost it for good.
TOLERANCE = 2.0
_OURS, _REFERENCE = "test_flare", "_reference"


def ratios(benchmarks: Iterable[Any]) -> dict[str, float]:
    """Return for each group with both sides the reference's median over ours.

    Args:
        benchmarks: pytest-benchmark's, each with `name`, `group` and `stats.median`.
    """
    return {group: round(ratio, 3) for group, *_, ratio in stage_rows(benchmarks)}


def stage_rows(benchmarks: Iterable[Any]) -> list[tuple[str, float, str, float, float]]:
    """Return for each group with both sides our median in seconds, the reference with its median, and their ratio."""
    ours, references = {}, {}
    for benchmark in benchmarks:
        if benchmark.stats and benchmark.name == _OURS:
            ours[benchmark.group] = benchmark.stats.median
        elif benchmark.stats and benchmark.name.endswith(_REFERENCE):
            name = benchmark.name.removeprefix("test_").removesuffix(_REFERENCE)
            references[benchmark.group] = name, benchmark.stats.median
    return [
        (group, seconds, *references[group], references[group][1] / seconds)
        for group, seconds in ours.items()
        if group in references
    ]


def lost(found: Mapping[str, float], baselines: Mapping[str, float]) -> list[str]:
    """Return a line for every stage whose ratio fell below its baseline by more than the tolerance."""
    return [
        f"{group}: {ratio:.2f} times as fast as its reference, {baselines[group]:.2f} is the baseline, "
        f"{baselines[group] / TOLERANCE:.2f} the least"
        for group, ratio in found.items()
        if group in baselines and ratio < baselines[group] / TOLERANCE
    ]


def read_baselines(folder: Path) -> dict[str, float]:
    """Return the stored ratios of a folder; none where there is no file."""
    path = folder / BASELINES
    stored: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return stored


def write_baselines(folder: Path, found: Mapping[str, float]) -> None:
    """Store ratios, beside those of groups that were not run."""
    merged = {**read_baselines(folder), **found}
    (folder / BASELINES).write_text(json.dumps(merged, indent=2, sort_keys=True) + "\n", encoding="utf-8")
