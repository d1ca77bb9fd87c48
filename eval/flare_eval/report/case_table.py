"""The table of all cases: accuracy and cost of every method on every case, one row each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flare_eval.efficiency.costs import Memory, peak
from flare_eval.report.blocks import CaseRow, CaseTable, Cell
from flare_eval.report.cost_tables import failure
from flare_eval.report.tables import found_of
from flare_eval.results import Accuracy, CaseAccuracy, Efficiency, RunCost
from flare_eval.sources import source_of

_EMPTY = Cell("-", None)


@dataclass(frozen=True)
class Method:
    """A method's results, at least one of the two."""

    name: str
    accuracy: Accuracy | None
    efficiency: Efficiency | None


@dataclass(frozen=True)
class _Pair:
    method: str
    case: str
    score: CaseAccuracy | None
    run: RunCost | None


def case_table(methods: Sequence[Method]) -> CaseTable:
    """Return the table, cases without a score first, then the worst DSC first."""
    pairs = [pair for method in methods for pair in _pairs(method)]
    pairs.sort(key=lambda pair: -1.0 if pair.score is None or pair.score.dsc is None else pair.score.dsc)
    columns = {**_accuracy_columns(methods), **_cost_columns(methods)}
    rows = [_row(pair, list(columns.values())) for pair in pairs]
    head = ["Case", "Method", "Source", "Status", *columns, "Message"]
    return CaseTable("Every method on every case", head, [*[False] * 4, *[True] * len(columns), False], rows)


def _pairs(method: Method) -> list[_Pair]:
    scores = {case.case: case for case in method.accuracy.cases} if method.accuracy else {}
    runs = {run.case: run for run in method.efficiency.runs} if method.efficiency else {}
    return [_Pair(method.name, case, scores.get(case), runs.get(case)) for case in dict.fromkeys([*scores, *runs])]


def _row(pair: _Pair, columns: Sequence[Callable[[_Pair], Cell]]) -> CaseRow:
    score, run = pair.score, pair.run
    source = score.source if score else source_of(pair.case)
    failed = failure(run) if run else ""
    status = score.status.replace("_", " ") if score else "run failed" if failed else "run"
    message = "; ".join(filter(None, [score.message if score else "", failed]))
    words = [Cell(text, text.casefold()) for text in (pair.case, pair.method, source, status)]
    numbers = [make(pair) for make in columns]
    return CaseRow(pair.method, source, status, [*words, *numbers, Cell(message, message.casefold() or None)])


def _accuracy_columns(methods: Sequence[Method]) -> dict[str, Callable[[_Pair], Cell]]:
    results = [method.accuracy for method in methods if method.accuracy]
    if not results:
        return {}
    tolerances = sorted({tolerance for result in results for tolerance in result.tolerances_mm})
    columns: dict[str, Callable[[_Pair], Cell]] = {
        "DSC": lambda pair: _number(pair.score.dsc if pair.score else None, 4),
        **{f"NSD at {tolerance:g} mm": _nsd_at(f"{tolerance:g}") for tolerance in tolerances},
        "Reference (ml)": lambda pair: _number(pair.score.reference_ml if pair.score else None, 2),
        "Prediction (ml)": lambda pair: _number(pair.score.prediction_ml if pair.score else None, 2),
    }
    names = {result.method: [label.name for label in result.labels] for result in results}
    for name in dict.fromkeys(name for of_method in names.values() for name in of_method):
        columns[f"DSC of {name}"] = _dsc_of_class(name, names)
    if not all(result.labels for result in results):
        columns["Lesions found"] = lambda pair: _found(pair.score)
        columns["False positives"] = lambda pair: _number(pair.score.false_positives if pair.score else None, 0)
    return columns


def _dsc_of_class(name: str, names: Mapping[str, list[str]]) -> Callable[[_Pair], Cell]:
    """Return the column of a class, which stands where it does among the names of a method's classes."""

    def cell(pair: _Pair) -> Cell:
        if pair.score is None or not pair.score.classes or name not in names[pair.method]:
            return _EMPTY
        return _number(pair.score.classes[names[pair.method].index(name)].dsc, 4)

    return cell


def _nsd_at(tolerance: str) -> Callable[[_Pair], Cell]:
    return lambda pair: _number(pair.score.nsd.get(tolerance) if pair.score else None, 4)


def _found(score: CaseAccuracy | None) -> Cell:
    if score is None or not score.lesions:
        return _EMPTY
    return Cell(found_of(score.lesions), sum(lesion.found for lesion in score.lesions) / len(score.lesions))


def _cost_columns(methods: Sequence[Method]) -> dict[str, Callable[[_Pair], Cell]]:
    if not any(method.efficiency for method in methods):
        return {}
    return {
        "Time (s)": lambda pair: _number(pair.run.wall_s if pair.run else None, 2),
        "Max GPU (MB)": lambda pair: _peak(pair.run, "device_mib"),
        "Max host (MB)": lambda pair: _peak(pair.run, "host_mib"),
    }


def _peak(run: RunCost | None, what: Memory) -> Cell:
    level = peak(run, what) if run else None
    if run and run.samples and level is None:
        return Cell("no GPU", None)
    return _number(level, 0)


def _number(value: float | None, decimals: int) -> Cell:
    return _EMPTY if value is None else Cell(f"{value:.{decimals}f}", value)
