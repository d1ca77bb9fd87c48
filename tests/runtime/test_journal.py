"""What a run keeps of its cases until the report is written."""

import json
import tracemalloc
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.pipeline.lesions import Lesion
from flare_runtime.run.journal import Journal
from flare_runtime.run.record import CaseRecord


def cases(count):
    return [
        Case(f"case{i:05d}", {0: Path(f"case{i:05d}.nii.gz")}, Path(f"out/case{i:05d}.nii.gz")) for i in range(count)
    ]


def record_of(case):
    lesions = [
        Lesion(
            label=1,
            voxels=9,
            volume_ml=0.01 * i,
            centre=(1.0, 2.0, i + 0.5),
            extent_mm=(5.0, 4.0, i + 3.5),
            name="lesion",
            centre_mm=(-101.2, 33.4, 250.6),
            id=i + 1,
            centre_lps_mm=(101.2, -33.4, 250.6),
            largest_slice=101,
            diameter_mm=12.34,
            perpendicular_mm=9.87,
            diameter_slice=102,
            mean_intensity=43.2,
            sd_intensity=12.3,
            touches_border=False,
        )
        for i in range(3)
    ]
    timings = dict.fromkeys(("read", "preprocess", "network", "blend", "restore", "measure", "write", "total"), 0.1234)
    return CaseRecord(
        case=case.name,
        status="done",
        inputs=[str(path) for path in case.files],
        mask=str(case.mask),
        mask_sha256=f"{hash(case.name):064x}",
        timings_s=timings,
        lesions=lesions,
        model={f"key{i}": f"value{i}" for i in range(9)},
    )


def test_the_report_holds_what_was_noted_and_names_the_rest(tmp_path):
    three = cases(3)
    journal = Journal(tmp_path / "run.json", three)
    journal.add(record_of(three[0]))
    journal.add(CaseRecord(case=three[1].name, status="refused", reason="truncated", message="cut"))
    journal.write()
    report = json.loads((tmp_path / "run.json").read_bytes())
    assert [case["status"] for case in report["cases"]] == ["done", "refused"]
    assert (report["complete"], report["not_begun"]) == (False, ["case00002"])
    assert (journal.count, journal.failed) == (2, 1)


def test_a_thousand_cases_with_a_report_take_less_than_2_mib(tmp_path):
    many = cases(1000)
    journal = Journal(tmp_path / "run.json", many)
    tracemalloc.start()
    try:
        for case in many:
            journal.add(record_of(case))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 << 20
