"""Figures that benchmarks keep, and the tables that the documentation makes of them."""

from types import SimpleNamespace

import pytest
from benchmarks import tables
from benchmarks.ratios import stage_rows
from benchmarks.side_by_side import efficiency_table
from benchmarks.tables import Column, Table, filled

from flare_eval.results import Efficiency, RunCost, Sample

TABLE = Table(
    "make it",
    "a machine",
    "2026-11-26",
    (Column(""), Column("wall, s", 1, ratio=True), Column("memory, MiB")),
    (("theirs", 45.0, 12345), ("ours", 10.0, None), ("ours, not run", "none", 900)),
)


def test_a_table_shows_figures_ratios_and_how_to_measure_them():
    # By hand: 45 / 10 is 4.5; text and what was not measured are not compared.
    assert TABLE.markdown.splitlines() == [
        "| | wall, s | memory, MiB |",
        "|---|---:|---:|",
        "| theirs | 45.0 | 12,345 |",
        "| ours | 10.0 (1/4.5) | |",
        "| ours, not run | none | 900 |",
        "",
        "`make it`; a machine; 2026-11-26.",
    ]


def test_a_table_comes_back_from_its_file(tmp_path):
    TABLE.write(tmp_path / "figures.json")
    assert Table.read(tmp_path / "figures.json") == TABLE


def test_a_page_gets_the_table_of_its_file_between_the_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    TABLE.write(tmp_path / "one.json")
    page = "before\n<!-- table: one -->\nold\n<!-- end of table -->\nafter\n"
    assert filled(page) == f"before\n<!-- table: one -->\n\n{TABLE.markdown}\n<!-- end of table -->\nafter\n"
    assert filled(filled(page)) == filled(page)


def test_what_was_measured_here_says_where_and_when():
    pytest.importorskip("nnunetv2")
    table = Table.measured("make it", TABLE.columns, [("ours", 10.04, 7.6)])
    assert table.rows == (("ours", 10.0, 8.0),)
    assert "openvino 20" in table.machine
    assert table.date[:2] == "20"


def test_methods_side_by_side_have_a_row_for_each_case():
    def method(name: str, wall_s: float, peak_mib: float) -> Efficiency:
        samples = [Sample(0.1, 5.0, 1.0), Sample(0.2, peak_mib, 1.0)]
        run = RunCost(case="a", image_size=(3, 4, 5), exit_code=0, wall_s=wall_s, samples=samples)
        return Efficiency(method=name, command=[], machine={}, runs=[run])

    table = efficiency_table([method("theirs", 2.0, 300.0), method("ours", 1.0, 100.0)])
    names = ["case", "voxels (x, y, z)", "theirs, s", "ours, s", "theirs, peak MiB", "ours, peak MiB"]
    assert [column.name for column in table.columns] == names
    assert table.rows == (("a", "3 x 4 x 5", 2.0, 1.0, 300.0, 100.0),)


def test_a_stage_is_shown_beside_its_reference():
    def benchmark(name: str, median: float, group: str = "a stage") -> SimpleNamespace:
        return SimpleNamespace(name=name, group=group, stats=SimpleNamespace(median=median))

    both = [benchmark("test_flare", 0.5), benchmark("test_skimage_reference", 2.0)]
    assert stage_rows([*both, benchmark("test_flare", 1.0, "alone")]) == [("a stage", 0.5, "skimage", 2.0, 4.0)]
