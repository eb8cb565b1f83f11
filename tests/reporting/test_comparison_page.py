"""The page of a comparison says what `ens compare` says, and shows the rows that changed sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ensemble
from ensemble.comparison.changed_rows import ChangedRows, SideAnswers
from ensemble.reporting.comparison_page import comparison_page
from ensemble.reporting.page import Gallery, Grid, Page, Pictures, ReportJob, Section, as_cells, render
from ensemble.reporting.report import find_subjects
from tests.comparison.conftest import MakeRun, run_maker
from tests.support import Ens


@pytest.fixture
def make_run(empty_place: Path) -> MakeRun:
    return run_maker(empty_place)


def page_of(*names: str) -> Page:
    kind, places = find_subjects(names, Path("outputs"), Path())
    assert kind == "comparison"
    return comparison_page(places, ReportJob(Path("outputs"), Path(), Pictures(200)))


def section(page: Page, anchor: str) -> Section:
    return next(section for section in page.sections if section.anchor == anchor)


def grids(page: Page, anchor: str) -> list[Grid]:
    return [part for part in section(page, anchor).parts if isinstance(part, Grid)]


def texts(grid: Grid) -> list[list[str]]:
    return [[cell.text for cell in as_cells(row)] for row in grid.rows]


def test_the_verdict_is_that_of_ens_compare_with_number_and_interval(make_run: MakeRun) -> None:
    make_run("poor", skill=0.1), make_run("good", skill=0.8, lr=2e-3)
    page = page_of("poor", "good")
    assert page.verdict.startswith("good is better than poor: +0.") and "95 %" in page.verdict
    assert page.next_command == "ens report outputs/good"
    assert "<title>poor and good" in render(page, made="now", version="0")


def test_rows_of_both_directions_are_shown_with_both_answers_and_counted(make_run: MakeRun) -> None:
    make_run("a", skill=0.2), make_run("b", skill=0.4, lr=2e-3)
    rows = ensemble.compare(["a", "b"]).document["comparisons"][0]["rows"]
    gained, lost = (part for part in section(page_of("a", "b"), "rows").parts if isinstance(part, Gallery))
    assert len(gained.tiles) + gained.left_out == rows["became_right"] > 18
    assert len(lost.tiles) + lost.left_out == rows["became_wrong"] > 0
    oofs = {name: ensemble.load_predictions(f"outputs/{name}/oof") for name in ("a", "b")}
    for gallery, right, wrong in ((gained, "b", "a"), (lost, "a", "b")):
        least = []
        for tile in gallery.tiles:
            row = oofs["a"].ids.index(tile.row_id)
            label = int(np.asarray(oofs["a"].labels)[row])
            probs = {name: oof.probs[row] for name, oof in oofs.items()}
            assert probs[right].argmax() == label != probs[wrong].argmax()
            assert tile.lines[0] == f"is {oofs['a'].classes[label]}"
            least.append(min(float(each.max()) for each in probs.values()))
        assert least == sorted(least, reverse=True)


def test_the_table_of_differences_has_a_line_for_each_side_but_the_first(make_run: MakeRun) -> None:
    make_run("a"), make_run("b", lr=2e-3), make_run("c", skill=0.9, lr=3e-3)
    page = page_of("a", "b", "c")
    (grid,) = grids(page, "differences")
    items = ensemble.compare(["a", "b", "c"]).document["comparisons"]
    assert [line[0] for line in texts(grid)] == ["b", "c"]
    assert [line[1] for line in texts(grid)] == [f"{item['difference']:+.4f}" for item in items]
    assert [line[4] for line in texts(grid)] == [item["verdict"] for item in items]
    assert any("Bonferroni" in remark for remark in page.remarks)


def test_what_differs_between_two_recipes_is_listed(make_run: MakeRun) -> None:
    make_run("a"), make_run("b", lr=2e-3)
    (grid,) = grids(page_of("a", "b"), "recipes")
    assert texts(grid) == [["train.lr", "0.001", "0.002"]]


def test_changes_of_a_class_add_up_to_the_rows_that_changed(make_run: MakeRun) -> None:
    make_run("a", skill=0.2), make_run("b", skill=0.4, lr=2e-3)
    (grid,) = grids(page_of("a", "b"), "classes")
    rows = ensemble.compare(["a", "b"]).document["comparisons"][0]["rows"]
    cells = [as_cells(row) for row in grid.rows]
    for column, total in ((-2, rows["became_right"]), (-1, rows["became_wrong"])):
        assert sum(line[column].value or 0 for line in cells) == total
    for line in cells:  # rows, both recalls, what was gained, rows gained and lost
        assert line[6].value == pytest.approx(((line[7].value or 0) - (line[8].value or 0)) / (line[1].value or 1))


def test_sets_of_classes_are_compared_by_whole_sets(make_run: MakeRun) -> None:
    make_run("a", sets=True, skill=0.2), make_run("b", sets=True, skill=0.9, lr=2e-3)
    page = page_of("a", "b")
    galleries = [part for part in section(page, "rows").parts if isinstance(part, Gallery)]
    assert galleries and all(len(tile.lines) == 3 for tile in galleries[0].tiles)
    render(page, made="now", version="0")


def test_more_seeds_are_the_next_command_where_they_would_tell(make_run: MakeRun) -> None:
    for seed in range(30):  # the first pair of which trainings, not rows, are what is missing
        make_run("a", rows=150, noise=0.5, seed=seed), make_run("b", rows=150, noise=0.5, seed=seed, lr=2e-3)
        (item,) = ensemble.compare(["a", "b"]).document["comparisons"]
        if item["trainings_that_would_tell"] is not None:
            wanted = item["trainings_that_would_tell"]
            assert page_of("a", "b").next_command == f"ens train --recipe tiny --name b --seeds {wanted}"
            return
    raise AssertionError("no pair in which seeds would tell")


def test_a_file_without_a_record_and_rows_without_images_are_compared_all_the_same(make_run: MakeRun) -> None:
    make_run("a"), make_run("b", lr=2e-3, record=False)
    page = page_of("a", "b")
    assert any(remark.startswith("no pictures") for remark in page.remarks)
    assert all(tile.picture is None for part in section(page, "rows").parts if isinstance(part, Gallery)
               for tile in part.tiles)  # fmt: skip


def test_hostile_names_are_text(make_run: MakeRun) -> None:
    name = "<script>alert(1)</script>"
    make_run("a"), make_run("b", lr=2e-3, run=name, record=False)
    html = render(page_of("a", "b"), made="now", version="0")
    assert name not in html and "&lt;script&gt;alert(1)" in html


def test_reports_of_a_comparison_are_written_by_the_command(make_run: MakeRun, ens: Ens) -> None:
    make_run("a"), make_run("b", lr=2e-3)
    answer = ens("report", "a", "b", "--json")
    assert answer.code == 0 and answer.document["kind"] == "comparison"
    assert Path(answer.document["page"]).is_file() and answer.document["bytes"] < 200_000


def test_of_rows_the_less_certain_side_says_how_certain_both_are() -> None:
    right, wrong = np.array([True, True, True]), np.array([False, False, False])
    zeros, ones, truth = np.zeros(3, np.int64), np.ones(3, np.int64), np.full(3, 0.5)
    here = SideAnswers(zeros, right, truth, np.array([0.9, 0.6, 0.99]))
    there = SideAnswers(ones, wrong, truth, np.array([0.8, 0.7, 0.51]))
    rows = ChangedRows("a", "b", ["x", "y", "z"], ["k", "l"], zeros, here, there)
    assert rows.most_certain(rows.became_wrong).tolist() == [0, 1, 2] and not len(rows.became_right)


def test_many_sides_with_long_names_and_many_rows_stay_small(make_run: MakeRun) -> None:
    names = [f"{'long-' * 12}{number}" for number in range(6)]
    for number, name in enumerate(names):
        make_run(name, lr=1e-3 * (number + 1), rows=20_000)
    assert len(render(page_of(*names), made="now", version="0").encode()) < 300_000
