"""The benchmark of a folder of records: its folder is what the commands take it for."""

from benchmarks.cohort_records import cost_of, record_of, write_folder

from flare_runtime.cohort.status import status_of


def test_a_folder_holds_done_refused_and_failed_cases(tmp_path):
    write_folder(tmp_path / "out", 200)
    status = status_of(tmp_path / "out", 5)
    assert (status.done, len(status.not_done), status.unreadable) == (194, 6, [])
    assert sum(len(record_of(number).lesions or []) for number in range(11, 22)) == 55
    cost = cost_of(["merge", tmp_path / "out", "-o", tmp_path / "cases.csv"], 1)
    assert cost.seconds > 0
    assert 10 < cost.memory_mib < 200
    assert len((tmp_path / "cases.csv").read_text(encoding="utf-8").splitlines()) == 201
