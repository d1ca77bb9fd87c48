"""Tables of efficiency in the manner of the paper's Table 4, judged by the challenge's limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from flare_eval.efficiency.costs import MEMORIES, integral, official_area, peak
from flare_eval.report.tables import Content
from flare_eval.results import Efficiency, RunCost

TIME_LIMITS_S = (45, 60)
GPU_LIMIT_MIB = 4096
_HEAD = ["Case ID", "Image Size", "Running Time (s)", "Max GPU (MB)", "Total GPU (MB)"]
_HOST = ["Max host (MB)", "Total host (MB)"]
_LIMITS = [*(f"Within {limit} s" for limit in TIME_LIMITS_S), "Within 4 GB"]


@dataclass(frozen=True)
class Cost:
    """A row of Table 4: one run.

    Attributes:
        gpu_mib, gpu_area, host_mib, host_area: the largest sample and the official area under the samples, MiB and
            MiB s; None where not measured.
        unmeasured: what stands in place of GPU numbers.
        failed: whether the run did; it then keeps no limit.
    """

    case: str
    size: tuple[int, ...] | None
    seconds: float
    gpu_mib: float | None
    gpu_area: float | None
    host_mib: float | None = None
    host_area: float | None = None
    unmeasured: str = "no GPU"
    failed: bool = False

    @classmethod
    def of(cls, run: RunCost) -> "Cost":
        """Return the row of a run."""
        return cls(
            run.case,
            run.image_size,
            run.wall_s,
            peak(run, "device_mib"),
            official_area(run, "device_mib"),
            peak(run, "host_mib"),
            official_area(run, "host_mib"),
            "no GPU" if run.samples else "no sample",
            bool(failure(run)),
        )

    @property
    def limits(self) -> list[str]:
        """Whether each limit was kept: "pass", "fail", or why there is no telling."""
        if self.failed:
            return ["run failed"] * len(_LIMITS)
        times = [_verdict(self.seconds <= limit) for limit in TIME_LIMITS_S]
        return [*times, self.unmeasured if self.gpu_mib is None else _verdict(self.gpu_mib <= GPU_LIMIT_MIB)]


# Table 3 (public validation set) and Table 4 (RTX 4090) of the paper.
PAPER_ACCURACY = {"DSC, mean ± SD (%)": "53.48 ± 38.06", "NSD at 2 mm, mean ± SD (%)": "43.84 ± 35.29"}
PAPER_COSTS = (
    Cost("0001", (512, 512, 55), 21.18, 6904, 71904),
    Cost("0051", (512, 512, 100), 13.75, 7068, 49261),
    Cost("0017", (512, 512, 150), 13.94, 6878, 48888),
    Cost("0019", (512, 512, 215), 14.06, 6888, 49187),
    Cost("0099", (512, 512, 334), 25.92, 6920, 111241),
    Cost("0063", (512, 512, 448), 14.03, 6874, 48860),
    Cost("0048", (512, 512, 499), 20.53, 6869, 69476),
    Cost("0029", (512, 512, 554), 18.74, 6888, 64100),
)


def failure(run: RunCost) -> str:
    """Return why a run failed; empty where it did not."""
    return run.message or (f"exit code {run.exit_code}" if run.exit_code else "")


def table_4(costs: Sequence[Cost], warm: Cost | None = None) -> Content:
    """Return head and rows: every run, the mean of those that did not fail, the warm run, which no time limit binds."""
    host = any(cost.host_mib is not None for cost in costs)
    done = [cost for cost in costs if not cost.failed]
    rows = [[*_numbers(cost, host), *cost.limits] for cost in costs]
    if len(done) > 1:
        rows.append([*_numbers(_mean(done), host), *[""] * len(_LIMITS)])
    if warm:
        rows.append([*_numbers(warm, host), *[""] * len(TIME_LIMITS_S), warm.limits[-1]])
    return [*_HEAD, *(_HOST if host else []), *_LIMITS], rows


def ratio_table(results: Sequence[Efficiency]) -> Content:
    """Return each method's mean cost a case, and how many times the last method's it is, over the cases all ran."""
    last = results[-1]
    ran = set.intersection(*({run.case for run in result.runs if not failure(run)} for result in results))
    head = ["Method", "Cases", "Seconds a case", "Max host (MB)", "Total host (MB)", "Max GPU (MB)", "Total GPU (MB)"]
    costs = {result.method: _mean_costs([run for run in result.runs if run.case in ran]) for result in results}
    rows = []
    for result in results:
        cells: list[str] = []
        for own, base in zip(costs[result.method], costs[last.method], strict=True):
            times = f" ({own / base:.1f}x)" if own is not None and base and result is not last else ""
            cells.append("-" if own is None else f"{own:.{2 if not cells else 0}f}{times}")
        rows.append([result.method, str(len(ran)), *cells])
    return head, rows


def _mean_costs(runs: Sequence[RunCost]) -> list[float | None]:
    columns: list[list[float | None]] = [[run.wall_s for run in runs]]
    for what in reversed(MEMORIES):
        columns += [[figure(run, what) for run in runs] for figure in (peak, official_area)]
    return [_average(column) for column in columns]


def details(result: Efficiency) -> Content:
    """Return head and rows of what Table 4 leaves out: samples, integrals, the GPU's idle level and own share."""
    gpu = any(peak(run, "device_mib") is not None for run in result.runs)
    head = ["Case ID", "Samples", "Total host, official (MB)", "Total host, integral (MB)"]
    if gpu:
        head += ["Total GPU, official (MB)", "Total GPU, integral (MB)", "GPU before the start (MB)"]
        head += ["Max GPU, own processes (MB)"]
    rows = []
    for run in result.runs:
        row = [run.case, str(len(run.samples)), *(_whole(area(run, "host_mib")) for area in (official_area, integral))]
        if gpu:
            own = [sample.own_device_mib for sample in run.samples if sample.own_device_mib is not None]
            row += [_whole(area(run, "device_mib")) for area in (official_area, integral)]
            row += [_whole(run.idle_device_mib), _whole(max(own, default=None))]
        rows.append(row)
    return head, rows


def in_short(costs: Sequence[Cost]) -> dict[str, str]:
    """Return the few numbers that matter, by name."""
    if not costs:
        return {}
    done = [cost for cost in costs if not cost.failed]
    times = [cost.seconds for cost in done]
    numbers = {"Runs completed": f"{len(done)} of {len(costs)}"}
    if done:
        numbers["Running time, median (s)"] = f"{median(times):.2f}"
        numbers["Running time, longest (s)"] = f"{max(times):.2f}"
        numbers["GPU memory, max (MB)"] = _whole(_most([cost.gpu_mib for cost in done]), done[0].unmeasured)
        numbers["GPU memory, mean total (MB)"] = _whole(_average([cost.gpu_area for cost in done]), done[0].unmeasured)
        numbers["Host memory, max (MB)"] = _whole(_most([cost.host_mib for cost in done]))
    for place, name in enumerate(_LIMITS):
        verdicts = [cost.limits[place] for cost in costs]
        judged = {"pass", "fail"} & set(verdicts)
        numbers[name] = f"{verdicts.count('pass')} of {len(costs)}" if judged else verdicts[0]
    return numbers


def _numbers(cost: Cost, host: bool) -> list[str]:
    size = f"({', '.join(map(str, cost.size))})" if cost.size else ""
    gpu = [_whole(cost.gpu_mib, cost.unmeasured), _whole(cost.gpu_area, cost.unmeasured)]
    return [cost.case, size, f"{cost.seconds:.2f}", *gpu, *([_whole(cost.host_mib), _whole(cost.host_area)] * host)]


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(
        f"Mean of {len(costs)}",
        None,
        fmean(cost.seconds for cost in costs),
        _average([cost.gpu_mib for cost in costs]),
        _average([cost.gpu_area for cost in costs]),
        _average([cost.host_mib for cost in costs]),
        _average([cost.host_area for cost in costs]),
        costs[0].unmeasured,
    )


def _average(levels: Sequence[float | None]) -> float | None:
    measured = [level for level in levels if level is not None]
    return fmean(measured) if measured else None


def _most(levels: Sequence[float | None]) -> float | None:
    return max((level for level in levels if level is not None), default=None)


def _verdict(kept: bool) -> str:
    return "pass" if kept else "fail"


def _whole(level: float | None, otherwise: str = "-") -> str:
    return otherwise if level is None else f"{level:.0f}"
