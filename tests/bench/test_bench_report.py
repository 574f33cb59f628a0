"""Reports of the benchmarks: tables, targets, plots, the page, README's table."""

from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import bench_results
import pytest
from rich.console import Console
from rich.table import Table

from fastopt.bench import findings, plots, report, sections, summary, tables, targets, terminal, text
from fastopt.bench.results import Results, ResultsError, identity

LARGEST_PLOT = 150_000
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results() -> Results:
    return bench_results.results()


def test_results_are_the_same_after_a_file(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.save(path)
    loaded = Results.load(path)
    assert (loaded.machine, loaded.left_out) == (results.machine, results.left_out)
    assert [record["name"] for record in loaded.records] == [record["name"] for record in results.records]
    assert loaded.records[7]["seconds"] == pytest.approx(results.records[7]["seconds"], rel=1e-4)
    loaded.save(path)
    assert Results.load(path) == loaded


def test_results_of_pytest_benchmark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(
        '{"machine_info": {"described": {"processor": "A"}}, "datetime": "today", "benchmarks": '
        '[{"extra_info": {}}, {"extra_info": {"section": "Norms", "name": "n", "values": {"a": [3, "us"]}}}]}'
    )
    loaded = Results.load(path)
    assert len(loaded.records) == 1
    assert "| n | 3 us |" in report.report(loaded)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 0}'])
def test_another_file_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ResultsError, match=r"other\.json"):
        Results.load(path)
    assert report.main([str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# --- findings and targets ---------------------------------------------------------------------------------------------


def test_the_best_peer_is_right_exact_and_a_peer() -> None:
    record = bench_results.comparison("Adam", 10**6)
    name, _ = findings.best(record) or ("", {})
    assert name == "numba.njit parallel"  # faster: "bitsandbytes 8-bit", which is approximate
    del record["peers"]["numba.njit parallel"]["ratio"]
    record["peers"]["numba.njit parallel"]["wrong"] = "all of it"
    record["peers"]["fastopt serial"] = {"seconds": 1e-9, "ratio": 0.1, "ratio_min": 0.1, "ratio_max": 0.1}
    assert (findings.best(record) or [""])[0] == "DeepSpeed CPUAdam"
    assert list(findings.faster(record)) == ["bitsandbytes 8-bit"]


def test_losses_are_all_there_the_greatest_first(results: Results) -> None:
    losses = findings.Losses.of(results.records)
    ratios = [result["ratio"] for _, _, result in losses.rows]
    assert ratios == sorted(ratios)
    expected = {
        (record["name"], name)
        for record in results.records
        if record["section"] == targets.FLAT
        for name, result in record["peers"].items()
        if result.get("ratio", 1) < 1
    }
    assert expected
    assert {(record["name"], name) for record, name, _ in losses.rows} == expected


def test_targets_take_the_worst_case(results: Results) -> None:
    target = targets.Target(targets.FLAT, "*, 10,000,000", targets.ROOFLINE, at_least=0.95)
    record = next(record for record in results.records if record["name"] == "Rprop, 10,000,000")
    assert targets.worst(target, [*results.records, record | {"fraction": 0.3}]) == ("Rprop, 10,000,000", 0.3)
    assert targets.worst(target, []) is None
    assert not target.is_met_by(0.94)
    assert target.is_met_by(0.95)


def test_every_target_names_a_section() -> None:
    """A target of a section that is not measured is never found missed."""
    for target in (target for group in targets.GROUPS.values() for target in group):
        assert target.section in sections.SECTIONS, target


# --- tables -----------------------------------------------------------------------------------------------------------


def all_cells(section: tables.Section) -> list[str]:
    return [cell.text for table in section.tables for row in table.rows for cell in row]


def by_title(results: Results, brief: bool) -> dict[str, tables.Section]:
    return {section.title: section for section in tables.all_sections(results, brief)}


def test_the_report_has_every_number(results: Results) -> None:
    cells = all_cells(by_title(results, brief=False)[targets.FLAT])
    for record in results.records:
        if record["section"] == targets.FLAT:
            for result in record["peers"].values():
                if "ratio" in result:
                    assert tables.result_cell(result).text in cells
                if "wrong" in result:
                    assert "WRONG: " + result["wrong"] in cells
    assert "90 % (85 to 97)" in cells


def test_every_row_is_as_long_as_its_headers(results: Results) -> None:
    for brief in (False, True):
        for section in tables.all_sections(results, brief):
            for table in section.tables:
                assert {len(row) for row in table.rows} == {len(table.headers)}, (section.title, table.title)


def test_losses_and_wrong_results_are_marked(results: Results) -> None:
    for brief in (False, True):
        section = by_title(results, brief)[targets.FLAT]
        cells = [cell for table in section.tables for row in table.rows for cell in row]
        assert {cell.mark for cell in cells if "0.9x" in cell.text} == {"loss"}
        assert {cell.mark for cell in cells if "WRONG" in cell.text} == {"wrong"}


def test_absent_peers_have_a_reason(results: Results) -> None:
    cells = all_cells(by_title(results, brief=True)["Absent peers"])
    assert cells == [bench_results.ABSENT, f"0 of {len(results.records) - 2}", "", "nobody is not installed"]
    peers = all_cells(by_title(results, brief=False)["Peers"])
    assert "torch fused has no Rprop (6 cases)" in peers


def test_the_terminal_is_wide_enough(results: Results) -> None:
    printed = io.StringIO()
    terminal.print_summary(results, Console(width=terminal.WIDTH, file=printed))
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= terminal.WIDTH
    assert any("SGD momentum, 100,000,000" in line and "parallel 0.9x (0.81 to 1.08)" in line for line in lines)
    assert "…" not in printed.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_narrow_terminals_break_no_name(results: Results, width: int) -> None:
    for section in tables.all_sections(results, brief=True):
        for table in section.tables:
            printed = io.StringIO()
            console = Console(width=width, file=printed)
            for each in terminal.as_rich(tables.Section("", "", [table]), width):
                console.print(each)
            lines = printed.getvalue().splitlines()
            assert max(map(len, lines)) <= width
            words = set(re.findall(r"[^\s│┃]+", printed.getvalue()))
            shown = terminal.shown_columns(table, width)
            expected = {word for row in table.rows for index in shown for word in row[index].text.split()}
            assert expected <= words, (section.title, table.title)


def test_columns_without_results_are_left_out() -> None:
    cells = [[tables.Cell(text) for text in row] for row in (["a", "1", "none", ""], ["b", "-", "none", "-"])]
    table = tables.Table(["case", "fastopt", "torch fused", "GB/s"], cells)
    (_, made) = terminal.as_rich(tables.Section("Section", "", [table]), terminal.WIDTH)
    assert isinstance(made, Table)
    assert [column.header for column in made.columns] == ["case", "fastopt"]
    assert made.row_count == 2


def test_nothing_measured_is_no_error() -> None:
    assert "not measured" not in report.report(Results())
    assert tables.all_sections(Results(), brief=True) == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(2.5e-7, "250 ns"), (1.234e-5, "12.3 us"), (0.9999e-3, "1,000 us"), (0.05, "50 ms"), (1500, "1,500 s")],
)
def test_seconds(seconds: float, expected: str) -> None:
    assert text.seconds_text(seconds) == expected


# --- plots ------------------------------------------------------------------------------------------------------------


def test_plots_are_small_opaque_and_the_same_each_time(results: Results, tmp_path: Path) -> None:
    made = plots.write(results.records, tmp_path)
    assert set(made) == {plots.OVERVIEW_TITLE, *bench_results.VARIANTS}
    first = {path.name: path.read_bytes() for path in made.values()}
    for name, content in first.items():
        assert len(content) < LARGEST_PLOT, name
        assert b"fill: #ffffff" in content.split(b"<g id=", 3)[2] + content.split(b"<g id=", 3)[3], name
        ElementTree.fromstring(content)
    plots.write(results.records, tmp_path)
    assert {path.name: path.read_bytes() for path in made.values()} == first


def test_a_plot_has_a_line_for_everyone_who_was_timed(results: Results) -> None:
    figure = plots.variant_figure(results.records, "Rprop")
    (axes,) = figure.axes
    timed = findings.timed(bench_results.comparison("Rprop", 10**6))
    assert {line.get_label() for line in axes.lines} == {*timed, plots.FASTOPT, plots.ROOFLINE}
    fastopt = next(line for line in axes.lines if line.get_label() == plots.FASTOPT)
    assert list(fastopt.get_xdata()) == list(bench_results.SIZES)
    assert list(fastopt.get_ydata()) == pytest.approx([bench_results.nanoseconds(size) for size in bench_results.SIZES])
    assert fastopt.get_linewidth() == max(line.get_linewidth() for line in axes.lines)


def test_no_two_peers_look_alike(results: Results) -> None:
    looks = plots.looks(results.records)
    assert len(set(looks.values())) == len(looks)


def test_one_size_makes_no_plot(tmp_path: Path) -> None:
    assert plots.write(bench_results.results(sizes=(1000,)).records, tmp_path) == {}


def test_names_are_spread_out() -> None:
    places = [0.5, 0.5, 0.51, 0.02, 0.99, 1.0]
    moved = plots.spread_out(places, 0.05)
    ordered = sorted(moved)
    assert all(above - below >= 0.05 - 1e-9 for below, above in itertools.pairwise(ordered))
    assert min(moved) >= 0
    assert max(moved) <= 1 + 1e-9
    assert moved[3] == 0.02  # nothing is near
    assert moved[2] > moved[1]


# --- pages ------------------------------------------------------------------------------------------------------------


def test_the_page_of_a_machine(results: Results, tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "benchmarks"
    results.save(tmp_path / "results.json")
    assert report.main([str(tmp_path / "results.json"), "--pages", str(folder), "--by", "its makers"]) == 0
    page = folder / "a-processor.md"
    written = page.read_text()
    links = re.findall(r"!\[.*?\]\((.*?)\)", written)
    assert len(links) == 1 + len(bench_results.VARIANTS)
    assert all((page.parent / link).exists() for link in links)
    order = [
        "# Benchmarks: A processor",
        "## Failed",
        f"## {summary.MAIN}",
        "## How it was measured",
        "Measured by its makers at",
        "fastopt bench --report report\n",
        "- processor: A processor",
        "## Time by size",
        f"## {summary.WINS_AND_LOSSES}",
        f"## {tables.LOSSES}",
        "## Targets",
        "## Summary",
        "## Flat tensors",
        "## First steps",
    ]
    assert [written.index(each) for each in order] == sorted(written.index(each) for each in order)
    assert "| Adam, best library | 27.9x (numba.njit parallel) |" in written
    assert "**0.9x (numba.njit parallel)**" in written
    row = "| Adam, 1,000,000 parameters | 201 us | 90 % | 9.27x | 1.24x | **0.927x (numba.njit parallel)** | - |"
    assert row in written
    for line in written.splitlines():
        assert line.endswith("|") if line.startswith("|") else len(line) <= text.WIDTH


def test_wins_and_losses_are_counted_alike(results: Results) -> None:
    counts = findings.counts(results.records)
    losses = findings.Losses.of(results.records)
    assert sum(each.lost for each in counts.values()) == len(losses.rows)
    assert sum(each.won + each.lost for each in counts.values()) == losses.compared
    section = summary.main_section(results.records)
    assert section is not None
    won = losses.compared - len(losses.rows)
    assert (
        f"all {losses.compared} comparisons of this page, fastopt wins {won} and loses {len(losses.rows)}"
        in section.note
    )


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds, and other tests look at them."""
    monkeypatch.setattr(report.plots, "write", lambda records, folder: {})


@pytest.mark.usefixtures("no_plots")
def test_the_index_compares_machines(results: Results, tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "benchmarks"
    other = bench_results.results()
    other.machine["processor"] = "Another(R) Processor"
    for each in (results, other):
        report.write_pages(each, folder, "")
    index = tmp_path / "docs" / "benchmarks.md"
    written = index.read_text()
    report.write_pages(results, folder, "")
    assert index.read_text() == written
    assert "|  | A processor | Another |" in written
    (row,) = [line for line in written.splitlines() if line.startswith("| Adam, 100,000,000 parameters |")]
    assert row.count("60 ms; 0.9x (numba.njit parallel)") == 2
    assert row.count("**") == 4
    for link in re.findall(r"\]\((.*?)\)", written):
        assert (index.parent / link).exists()


def test_the_page_of_a_gpu(tmp_path: Path) -> None:
    records = bench_results.results(("Adam",), (10**4, 10**6)).records[:2]
    for record in records:
        record["section"] = "CUDA: flat tensors"
    results = Results(records, {"processor": "A processor", "GPU": "NVIDIA X, compute capability 9.0"})
    page = report.write_pages(results, tmp_path / "pages", "")
    assert page.name == "nvidia-x.md"
    assert "| Adam, 10,000 parameters |" in page.read_text()
    assert "| Adam, 10,000 parameters |" in (tmp_path / "pages.md").read_text()


def test_a_page_says_how_to_repeat_it() -> None:
    results = bench_results.results(("Adam",), (1000,))
    results.machine["command"] = "fastopt bench --all --threads 8"
    assert "\nfastopt bench --all --threads 8 --report report\n" in report.report(results)


def test_tables_escape_bars(results: Results) -> None:
    written = report.report(results)
    assert "AdamW \\| only Adagrad" in written


@pytest.mark.usefixtures("no_plots")
def test_the_readme_is_rewritten_between_its_marks(results: Results, tmp_path: Path) -> None:
    readme, folder = tmp_path / "README.md", tmp_path / "docs" / "benchmarks"
    readme.write_text(f"before\n{report.START}\nto be replaced\n{report.END}\nafter\n")
    results.save(tmp_path / "results.json")
    arguments = [str(tmp_path / "results.json"), "--pages", str(folder), "--readme", str(readme)]
    assert report.main(arguments) == 0
    once = readme.read_text()
    assert report.main(arguments) == 0
    assert readme.read_text() == once
    assert once.startswith(f"before\n{report.START}\n")
    assert once.endswith(f"\n{report.END}\nafter\n")
    assert "to be replaced" not in once
    assert "| Adam, 1,000 parameters | 800 ns | 279x | 37.2x | 27.9x (numba.njit parallel) |" in once
    assert "| Adam, 100,000,000 parameters | 60 ms | 9x | 1.2x | **0.9x (numba.njit parallel)** |" in once
    losses = findings.Losses.of(results.records)
    assert f"[{len(losses.rows)} of {losses.compared} comparisons]" in " ".join(once.split())
    assert max(map(len, once.splitlines())) <= text.WIDTH
    for link in re.findall(r"\]\((.*?)\)", once):
        assert (tmp_path / link.partition("#")[0]).exists()
    assert f"## {tables.LOSSES}".lower().replace(" ", "-").lstrip("#-") in once


def test_a_later_run_takes_the_place_of_an_earlier_one(results: Results) -> None:
    again = bench_results.results(sizes=(1000, 10**9))
    again.records[0]["seconds"] = 123.0
    both = results.with_later(again)
    assert both.records[0]["seconds"] == 123.0
    sizes = {record.get("parameters") for record in both.records} - {None}
    assert sizes == {*bench_results.SIZES, 10**9}
    assert len({identity(record) for record in both.records}) == len(both.records)


def test_runs_on_two_machines_are_not_mixed(results: Results) -> None:
    other = bench_results.results()
    other.machine["processor"] = "Another"
    with pytest.raises(ResultsError, match="processor is A processor in one, Another in the other"):
        results.with_later(other)


def test_what_readme_shows_stands_on_the_page() -> None:
    """README has the chosen rows, and no number that the page to which it links has not."""
    readme = (ROOT / "README.md").read_text()
    part = readme.partition(report.START)[2].partition(report.END)[0]
    page = (ROOT / re.findall(r"\]\((.*?)[)#]", part)[0]).read_text()
    shown = part.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown if line.startswith("|")][2:]
    assert [row[0] for row in rows] == [row.label for row in summary.README_ROWS]
    numbers = [re.sub(r" \(.*\)", "", cell) for row in rows for cell in row[1:]]
    assert len(numbers) == 4 * len(summary.README_ROWS)
    for number in numbers:
        assert re.search(rf"(?<![\d.,]){re.escape(number)}[ ,]", page), number


def test_rows_name_sections() -> None:
    assert {row.section for row in (*summary.ROWS, *summary.CUDA_ROWS)} <= set(sections.SECTIONS)


def test_a_readme_without_marks_is_refused(results: Results, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing\n")
    with pytest.raises(ResultsError, match="has no"):
        report.write_readme(results, readme, tmp_path / "page.md")
    assert readme.read_text() == "nothing\n"
