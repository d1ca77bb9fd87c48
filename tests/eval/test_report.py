"""The report of real result files: what is in it, that nothing gets out of it, that it stands alone."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from flare_eval.accuracy.label_set import LabelSet
from flare_eval.accuracy.scores import Pair, Rules, evaluate
from flare_eval.report.documents import write_report
from flare_eval.results import Accuracy as AccuracyResult
from flare_eval.results import Efficiency, LabelClass, RunCost, Sample, load, save
from flare_runtime.errors import UsageError
from tests.eval.nifti_masks import cube, write

SHAPE = (12, 16, 16)
REFERENCE = cube(SHAPE, (2, 2, 2), (6, 10, 10))
VOID = {"meta", "input", "img", "br"}
HOSTILE = '"><script>alert(1)</script>|`x`'


class Page(HTMLParser):
    """The elements of a page; unbalanced tags fail."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.rows, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def with_accuracy(root, method="S4", cases=("STS_005", "LIDC-IDRI-0001", "STS_010"), missing=()):
    pairs = []
    for shift, case in enumerate(cases):
        # Shifted by 0, 2 and 4 of its 8 rows: DSC 1, 0.75 and 0.5.
        mask = write(root / "masks" / method / f"{shift}.nii.gz", np.roll(REFERENCE, 2 * shift, axis=1))
        truth = write(root / "truth" / f"{shift}.nii.gz", REFERENCE)
        pairs.append(Pair(case, truth, None if case in missing else mask))
    result = evaluate(method, pairs, Rules((2.0, 5.0)))
    folder = root / "results" / method
    folder.mkdir(parents=True, exist_ok=True)
    save(result, folder)
    return result


def run_cost(case, seconds, host, device=None, exit_code=0, message=""):
    samples = [
        Sample(round(0.1 * n, 1), level, 1.0, device and device + n, device and device / 2)
        for n, level in enumerate(host)
    ]
    size = (16, 16, 12)
    return RunCost(case=case, image_size=size, exit_code=exit_code, message=message, wall_s=seconds, samples=samples)


def with_efficiency(root, method="S4", runs=None, warm=None):
    runs = runs or [run_cost("STS_005", 12.34, [100, 205, 310]), run_cost("STS_010", 50.5, [100, 400.4])]
    result = Efficiency(
        method=method, command=["segment", "{input}", "{output}"], machine={"gpu": "none"}, runs=runs, warm=warm
    )
    folder = root / "results" / method
    folder.mkdir(parents=True, exist_ok=True)
    save(result, folder)


def report(root, **options):
    files = write_report([root / "results"], root / "report", **options)
    assert all(path.stat().st_size for path in files)
    html, markdown = (
        (root / "report" / "report.html").read_text(encoding="utf-8"),
        (root / "report" / "report.md").read_text(encoding="utf-8"),
    )
    return Page(html), html, markdown


def row_of(page, *start):
    return next(row for row in page.rows if tuple(row[: len(start)]) == start)


def stands_alone(html):
    page = Page(html)
    assert "://" not in html
    assert not page.all("link")
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))


def test_accuracy_alone(tmp_path):
    with_accuracy(tmp_path)
    page, html, markdown = report(tmp_path)
    # 1, 0.75 and 0.5: mean 0.75, standard deviation 0.25.
    assert row_of(page, "S4", "3")[2] == "75.00 ± 25.00"
    assert "| S4 | 3 | 75.00 ± 25.00 |" in markdown
    for text in (html, markdown):
        assert "No efficiency was measured." in text
        assert "the folder of images was not given" in text
    stands_alone(html)


def test_the_numbers_are_those_of_the_json(tmp_path):
    with_accuracy(tmp_path)
    page, _, markdown = report(tmp_path)
    result = load(AccuracyResult, tmp_path / "results" / "S4")
    assert [case.dsc for case in result.cases] == [1.0, 0.75, 0.5]
    for case in result.cases:
        expected = [case.case, "S4", case.source, "scored", f"{case.dsc:.4f}", *(f"{n:.4f}" for n in case.nsd.values())]
        assert row_of(page, case.case, "S4")[:7] == expected
        assert f"| {' | '.join(expected)} |" in markdown
    head = row_of(page, "Case", "Method")
    assert head[5:7] == ["NSD at 2 mm", "NSD at 5 mm"]


def test_efficiency_alone(tmp_path):
    with_efficiency(tmp_path)
    page, html, markdown = report(tmp_path)
    # A tenth of 100 + 205 + 310 is 61.5, which rounds to the even 62; of 500.4 it is 50.
    assert row_of(page, "STS_005", "(16, 16, 12)") == [
        *("STS_005", "(16, 16, 12)", "12.34", "no GPU", "no GPU", "310", "62", "pass", "pass", "no GPU")
    ]
    assert row_of(page, "STS_010", "(16, 16, 12)")[2:] == [
        *("50.50", "no GPU", "no GPU", "400", "50", "fail", "pass", "no GPU")
    ]
    assert row_of(page, "Within 45 s") == ["Within 45 s", "1 of 2"]
    assert row_of(page, "Within 4 GB") == ["Within 4 GB", "no GPU"]
    assert "| STS_005 | (16, 16, 12) | 12.34 | no GPU | no GPU | 310 | 62 | pass | pass | no GPU |" in markdown
    assert "without a GPU" in html
    assert html.count("No accuracy was evaluated.") == 3
    stands_alone(html)


def test_gpu_numbers(tmp_path):
    runs = [run_cost("a", 1.0, [10, 10], device=4000.0), run_cost("b", 1.0, [10, 10], device=4096.0)]
    with_efficiency(tmp_path, runs=runs)
    page, html, _ = report(tmp_path)
    # Samples 4000 and 4001, a tenth of their sum is 800.1; 4097 MiB are one more than 4 GB.
    assert row_of(page, "a", "(16, 16, 12)")[3:5] == ["4001", "800"]
    assert row_of(page, "a", "(16, 16, 12)")[-1] == "pass"
    assert row_of(page, "b", "(16, 16, 12)")[-1] == "fail"
    assert row_of(page, "Within 4 GB") == ["Within 4 GB", "1 of 2"]
    assert "GPU 4001 MB, host 10 MB" in html


def test_the_papers_cases_stand_beside_where_they_are_asked_for(tmp_path):
    with_accuracy(tmp_path)
    with_efficiency(tmp_path)
    for text in report(tmp_path)[1:]:
        assert not re.search("paper(?!:|\\))|RTX|Table [34]", text, re.IGNORECASE)  # but for the colour of the page
    page, _, _ = report(tmp_path, flare=True)
    assert row_of(page, "", "S4") == ["", "S4", "Paper"]
    assert row_of(page, "Within 4 GB") == ["Within 4 GB", "no GPU", "0 of 8"]
    assert row_of(page, "0099") == ["0099", "(512, 512, 334)", "25.92", "6920", "111241", "pass", "pass", "fail"]
    # The mean time and area that the paper's eight rows give.
    assert row_of(page, "Mean of 8")[2:5] == ["17.77", "6911", "64115"]


def test_failed_runs_keep_no_limit_and_no_mean(tmp_path):
    broken = run_cost("STS_010", 1.0, [1], exit_code=3, message=f"exit code 3: {HOSTILE}")
    with_efficiency(tmp_path, runs=[run_cost("STS_005", 10.0, [100]), broken], warm=run_cost("all", 15.0, [200]))
    page, html, _ = report(tmp_path)
    assert row_of(page, "STS_010", "(16, 16, 12)")[-3:] == ["run failed"] * 3
    assert row_of(page, "Runs completed")[1] == "1 of 2"
    assert row_of(page, "Running time, median (s)")[1] == "10.00"
    assert row_of(page, "all, one process")[2] == "15.00"
    assert "<script>alert" not in html


def test_two_methods_with_both(tmp_path):
    for method in ("S4", "S6"):
        with_accuracy(tmp_path, method, missing={"STS_010"} if method == "S6" else ())
        with_efficiency(tmp_path, method)
    page, html, markdown = report(tmp_path)
    assert row_of(page, "", "S4") == ["", "S4", "S6"]
    assert row_of(page, "Predictions missing") == ["Predictions missing", "0", "1"]
    for text in (html, markdown):
        assert "S6: 1 of 3 predictions are missing; they count as 0, 0." in text
    # S6's third case is missing and counts as 0: the mean of 1, 0.75 and 0.
    assert row_of(page, "DSC, mean ± SD (%)")[1:3] == ["75.00 ± 25.00", "58.33 ± 52.04"]
    rows = [attributes for attributes in page.all("tr") if "data-method" in attributes]
    assert [row["data-method"] for row in rows].count("S6") == 3
    assert (rows[0]["data-method"], rows[0]["data-status"], rows[0]["data-source"]) == ("S6", "missing", "STS")
    combined = row_of(page, "STS_005", "S6")
    assert (combined[4], combined[11], combined[13]) == ("1.0000", "12.34", "310")
    assert {attributes.get("data-of") for attributes in page.all("select")} == {"method", "source", "status"}
    assert "| STS_010 | S6 | STS | missing | 0.0000 |" in markdown
    stands_alone(html)


def test_results_of_one_method_may_lie_in_two_folders(tmp_path):
    with_accuracy(tmp_path / "a")
    with_efficiency(tmp_path / "b")
    write_report([tmp_path / "a" / "results" / "S4", tmp_path / "b" / "results"], tmp_path / "out")
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert row_of(page, "STS_005", "S4")[4] == "1.0000"
    assert "12.34" in row_of(page, "STS_005", "S4")


def test_every_cell_of_the_case_table_has_a_key_to_sort_by(tmp_path):
    with_accuracy(tmp_path)
    with_efficiency(tmp_path)
    page, _, _ = report(tmp_path)
    head = row_of(page, "Case", "Method")
    cells = [attributes["data-sort"] for attributes in page.all("td") if "data-sort" in attributes]
    assert len(cells) == 3 * len(head)
    assert len(page.all("button")) == len(head)
    by_column = {name: cells[column :: len(head)] for column, name in enumerate(head)}
    assert sorted(map(float, by_column["DSC"])) == [0.5, 0.75, 1.0]
    # The LIDC case was not run, and no run had a GPU: nothing to sort by.
    assert sorted(by_column["Time (s)"]) == ["", "12.34", "50.5"]
    assert set(by_column["Max GPU (MB)"]) == {""}


def test_classes_are_in_tables_and_charts(tmp_path):
    labels = LabelSet(
        tuple(LabelClass(name=name, values=(at,), key=str(at)) for at, name in enumerate(("liver", HOSTILE), 1))
    )
    truth = write(tmp_path / "truth.nii.gz", REFERENCE)
    mask = write(tmp_path / "mask.nii.gz", np.roll(REFERENCE, 4, axis=1))
    result = evaluate("S4", [Pair("a", truth, truth), Pair("b", truth, mask)], Rules(labels=labels))
    (tmp_path / "results").mkdir()
    save(result, tmp_path / "results")
    page, html, markdown = report(tmp_path)
    # The liver's DSC is 1 and 0.5; of the other class there is nothing.
    assert row_of(page, "liver", "S4")[2] == "75.00 ± 35.36"
    assert row_of(page, HOSTILE, "S4")[2::2] == ["100.00 ± 0.00", "0"]
    assert row_of(page, "Mean of all", "S4")[2] == "87.50"
    head = row_of(page, "Case", "Method")
    assert head[8:10] == ["DSC of liver", f"DSC of {HOSTILE}"]
    assert row_of(page, "b", "S4")[8:10] == ["0.5000", "1.0000"]
    assert [attributes["aria-label"] for attributes in page.all("svg")] == ["DSC", "NSD at 2 mm"] * 2
    assert "liver: median 0.750, n = 2" in html
    assert "Lesions found" not in html + markdown
    stands_alone(html)


def test_hostile_names_are_text(tmp_path):
    with_accuracy(tmp_path, method=HOSTILE.replace("/", ""), cases=(HOSTILE, "b", "c"))
    files = write_report([tmp_path / "results"], tmp_path / "report", images=tmp_path)
    html, markdown = (
        (tmp_path / "report" / "report.html").read_text(encoding="utf-8"),
        (tmp_path / "report" / "report.md").read_text(encoding="utf-8"),
    )
    page = Page(html)
    assert len(page.all("script")) == 1
    assert row_of(page, HOSTILE)[0] == HOSTILE
    assert "<script" not in markdown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\`x\\`" in markdown
    assert all(path.is_file() for path in files)


def test_pictures_are_in_the_page_and_linked_from_the_markdown(tmp_path):
    result = with_accuracy(tmp_path)
    for case in result.cases[:2]:
        write(tmp_path / "images" / f"{case.case}_0000.nii.gz", (REFERENCE * 100).astype(np.int16))
    page, html, markdown = report(tmp_path, images=tmp_path / "images")
    pictures = sorted((tmp_path / "report" / "gallery").iterdir())
    assert [path.name for path in pictures] == ["best-1-STS-005.png", "best-2-LIDC-IDRI-0001.png"]
    embedded = [base64.b64decode(image["src"].partition(",")[2]) for image in page.all("img")]
    assert sorted(embedded) == sorted(path.read_bytes() for path in pictures)
    for link in re.findall(r"\]\((.+?)\)", markdown):
        assert (tmp_path / "report" / link).is_file()
    # The third image is absent, which the report says.
    assert "No picture of STS_010" in html
    assert "No picture of STS_010" in markdown
    stands_alone(html)


def test_the_gallerys_size(tmp_path):
    result = with_accuracy(tmp_path)
    for case in result.cases:
        write(tmp_path / "images" / f"{case.case}.nii.gz", (REFERENCE * 100).astype(np.int16))
    page, _, _ = report(tmp_path, images=tmp_path / "images", gallery=1)
    assert len(page.all("img")) == 2


def test_charts_have_names_and_are_drawn_once_a_run(tmp_path):
    with_accuracy(tmp_path)
    with_efficiency(tmp_path)
    page, _, _ = report(tmp_path)
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert labels[:3] == ["DSC", "NSD at 2 mm", "S4: DSC against lesion volume"]
    assert labels[3:] == [
        "Memory over time, STS_005; max: host 310 MB",
        "Memory over time, STS_010; max: host 400 MB",
    ]
    dots = [attributes for attributes in page.all("circle") if attributes["r"] == "2.6"]
    assert len(dots) == 6  # three cases, DSC and NSD
    assert len(list((tmp_path / "report" / "charts").glob("*.svg"))) == 5


def test_a_case_without_a_lesion_has_no_place_on_the_volume_axis(tmp_path):
    empty = write(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    full = write(tmp_path / "full.nii.gz", REFERENCE)
    (tmp_path / "results").mkdir()
    save(evaluate("S4", [Pair("a", empty, empty), Pair("b", full, full)]), tmp_path / "results")
    page, html, _ = report(tmp_path)
    assert len([attributes for attributes in page.all("circle") if attributes["r"] == "3.4"]) == 1
    assert "ml of lesion in the reference; n = 1" in html


def test_many_runs_are_drawn_by_their_peaks(tmp_path):
    with_efficiency(tmp_path, runs=[run_cost(f"c{n:02d}", 1.0, [100 + n] * 2) for n in range(20)])
    page, html, _ = report(tmp_path)
    assert len(page.all("polyline")) == 12
    assert "12 of 20 runs" in html
    assert page.all("svg")[0]["aria-label"].startswith("Memory over time, c19")


def test_long_runs_are_thinned_but_keep_their_peak(tmp_path):
    levels = [10.0] * 4000
    levels[1234] = 1000.0
    with_efficiency(tmp_path, runs=[run_cost("long", 400.0, levels)])
    page, _, _ = report(tmp_path)
    points = page.all("polyline")[0]["points"].split()
    assert 200 < len(points) <= 300
    heights = [float(point.split(",")[1]) for point in points]
    assert heights.count(min(heights)) == 1
    assert min(heights) < max(heights) - 100


@pytest.mark.parametrize("tolerances", [(2.0,), (1.0, 2.0)])
def test_methods_of_other_tolerances_get_tables_of_their_own(tmp_path, tolerances):
    with_accuracy(tmp_path)
    other = evaluate("other", [], Rules(tolerances))
    (tmp_path / "results" / "other").mkdir()
    save(other, tmp_path / "results" / "other")
    page, _, _ = report(tmp_path)
    assert row_of(page, "other", "0")[2:] == ["-"] * (1 + len(tolerances))


def test_a_bad_reference_is_named(tmp_path):
    with_accuracy(tmp_path)
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    result = evaluate("B", [Pair("bad", tmp_path / "bad.nii.gz", None)])
    (tmp_path / "results" / "B").mkdir()
    save(result, tmp_path / "results" / "B")
    page, html, _ = report(tmp_path)
    assert row_of(page, "bad", "B")[3:5] == ["bad reference", "-"]
    assert "B: not scored" in html


def test_nothing_to_report_is_one_line(tmp_path):
    for folders in ([tmp_path], [tmp_path / "none"], []):
        with pytest.raises(UsageError) as caught:
            write_report(folders, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_results_of_one_method_are_refused(tmp_path):
    with_accuracy(tmp_path / "a")
    with_accuracy(tmp_path / "b")
    with pytest.raises(UsageError, match=r"another accuracy\.json of method 'S4'"):
        write_report([tmp_path / "a" / "results", tmp_path / "b" / "results"], tmp_path / "out")
