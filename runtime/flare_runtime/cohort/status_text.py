"""What is said of a cohort's status: lines for a person, and JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from flare_runtime.cohort.status import CohortStatus, InWork, NotDone
from flare_runtime.files.this_process import process_number
from flare_runtime.program.duration import duration

# So many names of a kind are shown to a person, and so many workers.
_NAMES, _WORKERS = 3, 20


def headline(status: CohortStatus) -> str:
    """Return how far a cohort is in one line."""
    of_all = "" if status.total is None else f" of {status.total:,}"
    parts = [f"{status.done:,}{of_all} case(s) done"]
    refused = sum(case.status == "refused" for case in status.not_done)
    counts = ((refused, "refused"), (len(status.not_done) - refused, "failed"), (len(status.running), "in work"))
    parts += [f"{count:,} {what}" for count, what in (*counts, (len(status.not_begun), "not begun")) if count]
    if status.rate and not status.is_complete:
        parts.append(f"{status.rate.cases_per_hour:,.0f} cases an hour")
    if status.left_s:
        parts.append(f"{duration(status.left_s)} left")
    return f"{status.folder}: {', '.join(parts)}"


def lines_of(status: CohortStatus) -> Iterator[str]:
    """Yield what a person is told of a cohort."""
    yield headline(status)
    for (kind, reason), cases in by_reason(status.not_done).items():
        yield f"{kind:<11}{reason} ({len(cases):,}): {_some([case.case for case in cases])}"
    if status.given_up:
        yield f"{'given up':<11}{len(status.given_up):,}: {_some([case.case for case in status.given_up])}"
    yield from _workers("in work", status.running)
    yield from _workers("left over", status.lost)
    for line in islice(status.unreadable, _NAMES):
        yield f"{'unreadable':<11}{line}"
    if len(status.unreadable) > _NAMES:
        yield f"{'':<11}and {len(status.unreadable) - _NAMES:,} more"
    if status.rate:
        rate, over = status.rate.cases_per_hour, duration(status.rate.over_s)
        yield f"{'rate':<11}{rate:,.1f} cases an hour over the last {over}"
    if status.not_begun:
        yield f"{'not begun':<11}{len(status.not_begun):,}: {_some(status.not_begun)}"


def content_of(status: CohortStatus) -> dict[str, Any]:
    """Return a status as it is written in JSON."""
    content = asdict(status)
    given_up = {case.record for case in status.given_up}
    content["not_done"] = [{**asdict(case), "given_up": case.record in given_up} for case in status.not_done]
    content["given_up"] = len(given_up)
    content["reasons"] = [
        {"status": kind, "reason": reason, "cases": len(cases)}
        for (kind, reason), cases in by_reason(status.not_done).items()
    ]
    return {**content, "settled": status.settled, "left_s": status.left_s and round(status.left_s)}


def by_reason(cases: Iterable[NotDone]) -> dict[tuple[str, str], list[NotDone]]:
    """Return the cases of each status and reason, the most frequent first."""
    found: dict[tuple[str, str], list[NotDone]] = {}
    for case in cases:
        found.setdefault((case.status, case.reason), []).append(case)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def _workers(what: str, cases: Sequence[InWork]) -> Iterator[str]:
    for case in cases[:_WORKERS]:
        process = process_number(case.process) or "unknown"
        yield f"{what:<11}{case.mask}: {case.host}, process {process}, since {case.since}{_silence(case)}"
    if len(cases) > _WORKERS:
        yield f"{'':<11}and {len(cases) - _WORKERS:,} more"


def _silence(case: InWork) -> str:
    return f", not heard of for {duration(case.silent_s)}" if case.silent_s > 60 else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
