"""The index of an outputs folder: only what compares stands in one table, and what can't be read is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ensemble.core.locks import folder_lock
from ensemble.core.records import save_record
from ensemble.reporting.index_page import _boards, _points, index_page
from ensemble.reporting.page import BUDGET, Cell, Drawing, Grid, Page, Pictures, ReportJob, Text, render
from ensemble.reporting.report import report
from ensemble.runs.status import status
from tests.browser import Browser
from tests.page_faults import check_page
from tests.reporting.test_page import HOSTILE
from tests.reporting.test_study_page import make_study, make_trials
from tests.support import Ens


@pytest.fixture
def outputs(workspace: Path, ens: Ens) -> Path:
    """Three runs that differ in name and score only, made from one that was trained."""
    assert ens("train", "--recipe", "tiny", "--name", "middle").code == 0
    outputs = workspace / "outputs"
    for name, score in (("best", 0.9), ("worst", 0.1), ("middle", 0.5)):
        change(outputs, name, score)
    return outputs


def change(outputs: Path, name: str, score: float | None = None, **changes: Any) -> None:
    """Make a run of `middle`, or change one, its deciding score to `score` and its record otherwise."""
    if not (outputs / name).exists():
        shutil.copytree(outputs / "middle", outputs / name)
    record = json.loads((outputs / name / "run.json").read_text())
    record |= {"run": name, **changes}
    if score is not None:
        record["scores"]["oof"][record["metric"]] = score
    save_record(outputs / name / "run.json", record)


def on_plan(outputs: Path, name: str, sha256: str) -> None:
    record = json.loads((outputs / name / "run.json").read_text())
    change(outputs, name, folds={**record["folds"], "sha256": sha256})


def page_of(outputs: Path, page: Path | None = None) -> Page:
    return index_page([str(outputs)], ReportJob(outputs, outputs.parent, Pictures(10), page=page))


def grids(page: Page, anchor: str) -> list[Grid]:
    return [part for each in page.sections if each.anchor == anchor for part in each.parts if isinstance(part, Grid)]


def column(grid: Grid, name: str) -> list[str]:
    place = list(grid.columns).index(name)
    return [cell.text if isinstance(cell := row[place], Cell) else str(cell) for row in grid.rows]


def test_the_best_run_leads_the_table_and_the_verdict(outputs: Path) -> None:
    page = page_of(outputs)
    (table,) = grids(page, "runs")
    assert column(table, "run") == ["best", "middle", "worst"]
    assert column(table, "macro_f1") == ["0.9000", "0.5000", "0.1000"]
    assert column(table, "folds") == ["2/2"] * 3
    assert page.verdict == (
        "3 runs; on squares run best leads with macro_f1 0.9000, the best of 3 and so a little optimistic."
    )


def test_the_next_command_is_that_of_status(outputs: Path, ens: Ens) -> None:
    step = ens("status").out.splitlines()[-1].removeprefix("next: ")
    assert step.startswith("ens blend outputs/")
    assert report().document["next"] == step


def test_runs_on_other_plans_are_in_other_tables(outputs: Path) -> None:
    """A run that is alone on its plan does not stand among those that compare."""
    on_plan(outputs, "best", "cd" * 32)
    own, others = grids(page_of(outputs), "runs")
    assert column(own, "run") == ["middle", "worst"]
    assert column(others, "run") == ["best"] and column(others, "plan") == ["cdcdcdcd"]


def test_a_run_by_another_metric_is_not_compared(outputs: Path) -> None:
    change(outputs, "best", 0.2, metric="log_loss")
    own, others = grids(page_of(outputs), "runs")
    assert column(own, "run") == ["middle", "worst"] and column(others, "metric") == ["log_loss"]


def test_a_lower_loss_leads_and_is_on_the_frontier(outputs: Path) -> None:
    for name, loss in (("best", 0.1), ("middle", 0.5), ("worst", 2.0)):
        cost = {"seconds_per_1000_images": 1.0, "parameters": 10}
        change(outputs, name, loss, metric="log_loss", cost=cost)
    page = page_of(outputs)
    assert "run best leads with log_loss 0.1000" in page.verdict
    assert column(grids(page, "runs")[0], "run") == ["best", "middle", "worst"]


def test_the_frontier_joins_what_nothing_cheaper_matches(outputs: Path) -> None:
    for name, seconds in (("best", 3.0), ("middle", 1.0), ("worst", 2.0)):
        change(outputs, name, cost={"seconds_per_1000_images": seconds, "parameters": 10})
    (board,), _ = _boards(status(outputs))
    assert [(name, is_best) for _, _, is_best, name in _points(board)] == [
        ("middle", True),
        ("worst", False),
        ("best", True),
    ]
    drawings = [part for each in page_of(outputs).sections for part in each.parts if isinstance(part, Drawing)]
    assert len(drawings) == 1


def test_seeds_of_a_recipe_are_one_line_with_their_spread(outputs: Path) -> None:
    record = json.loads((outputs / "worst" / "run.json").read_text())
    shutil.rmtree(outputs / "worst")
    about = {**record["identity_of"], "recipe": {**record["identity_of"]["recipe"], "seed": 1}}
    change(outputs, "middle-seed1", 0.7, recipe={**record["recipe"], "seed": 1}, identity_of=about)
    shutil.rmtree(outputs / "best")
    (table,) = grids(page_of(outputs), "runs")
    assert column(table, "run") == ["middle (2 seeds)"]
    assert column(table, "macro_f1") == ["0.6000 ± 0.1414"]
    assert column(table, "folds") == ["4/4"]


def test_blends_stand_with_their_honest_number(outputs: Path, ens: Ens) -> None:
    assert ens("train", "--recipe", "tiny", "--set", "train.lr=2e-3", "--name", "other").code == 0
    answer = ens("blend", "outputs/other", "outputs/middle", "--name", "both", "--json")
    assert answer.code == 0, answer.err
    page = page_of(outputs)
    (table,) = grids(page, "blends")
    honest = answer.document["honest"]
    assert column(table, "blend") == ["both"]
    assert column(table, "honest score")[0].startswith(f"{honest['value']:.4f}")
    assert f"blend both has {honest['value']:.4f}" in page.verdict


def test_a_study_stands_with_its_numbers(tmp_path: Path) -> None:
    honest = {"number": 0, "value": 0.93, "error": None, "other_folds": True, "ci95": [0.92, 0.94]}
    make_study(tmp_path, make_trials(8), "s", honest=honest)
    page = page_of(tmp_path)
    (table,) = grids(page, "studies")
    assert column(table, "its recipe again") == ["0.9300 (95 %: 0.9200 to 0.9400)"]
    assert column(table, "best trial")[0].endswith("(optimistic)")
    assert page.verdict == "1 study; none has a score yet."


def test_an_unreadable_run_is_listed_and_the_others_are_shown(outputs: Path) -> None:
    (outputs / "worst" / "run.json").write_text("{", encoding="utf-8")
    page = page_of(outputs)
    table, broken = grids(page, "runs")
    assert column(table, "run") == ["best", "middle"]
    assert column(broken, "run") == ["worst"]
    assert render(page, made="now", version="1")


def test_an_interrupted_run_is_missing_a_fold_and_is_continued(outputs: Path) -> None:
    record = json.loads((outputs / "worst" / "run.json").read_text())
    states = record["fold_states"]
    states[1] |= {"state": "running", "scores": None}
    change(outputs, "worst", state="running", fold_states=states)
    page = page_of(outputs)
    (table,) = grids(page, "missing")
    assert column(table, "what")[0].startswith("fold 1: interrupted")
    assert page.next_command == f"ens train --recipe recipes/tiny.yaml --name worst --outputs {outputs}"
    with folder_lock(outputs / "worst"):
        (table,) = grids(page_of(outputs), "missing")
    assert column(table, "state") == ["running"] and column(table, "what") == ["fold 1, epoch 2 of 2"]


def test_looks_at_test_labels_are_counted(outputs: Path) -> None:
    file = {"name": HOSTILE[0], "looks": 3, "times": []}
    look = {"dataset": "squares", "rows": 12, "looks": 3, "first": "a", "last": "b", "files": {"ab" * 32: file}}
    save_record(outputs / "scored.json", {"format": 2, "labels": {"cd" * 32: look}})
    page = page_of(outputs)
    (table,) = grids(page, "caution")
    assert column(table, "looks") == ["3"] and column(table, "by what") == [f"{HOSTILE[0]} (3)"]
    assert "<script>alert" not in render(page, made="now", version="1")
    (outputs / "scored.json").write_text("{", encoding="utf-8")
    warnings = [part.text for each in page_of(outputs).sections for part in each.parts if isinstance(part, Text)]
    assert any("scored.json" in text for text in warnings)


def test_only_pages_that_exist_are_linked(outputs: Path) -> None:
    report("best")
    (outputs / "reports" / "data-squares.html").write_text("page", encoding="utf-8")
    page = page_of(outputs, outputs / "reports" / "index.html")
    links = {cell.text: cell.href for row in grids(page, "runs")[0].rows if isinstance(cell := row[0], Cell)}
    assert links == {"best": "./run-best.html", "middle": None, "worst": None}
    assert column(grids(page, "pages")[0], "page") == ["data-squares"]
    elsewhere = page_of(outputs, outputs.parent / "index.html")
    (link,) = [cell.href for row in grids(elsewhere, "runs")[0].rows if isinstance(cell := row[0], Cell) and cell.href]
    assert (outputs.parent / link).resolve() == outputs / "reports" / "run-best.html"


def test_a_browser_has_nothing_against_the_page(outputs: Path, browser: Browser) -> None:
    """Wide and narrow, light and dark, with and without scripts."""
    on_plan(outputs, "worst", "cd" * 32)
    make_study(outputs, make_trials(8), "s")
    check_page(browser, report().path, texts=["best", "middle", "worst", "Score against cost", "Studies"])


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert page.verdict == "Nothing is here yet."
    assert page.next_command == f"ens train --recipe quickstart --outputs {tmp_path}"
    assert render(page, made="now", version="1")


def test_a_thousand_runs_fit_the_budget(outputs: Path) -> None:
    """Of two plans, and a hundred runs on plans of their own; only records, which is all that is read."""
    record = json.loads((outputs / "middle" / "run.json").read_text())
    for name in ("best", "middle", "worst"):
        shutil.rmtree(outputs / name)
    for number in range(1000):
        name, plan = f"run-with-a-long-name-{number:04d}", f"{number % 2 if number < 900 else number:064x}"
        record["scores"]["oof"]["macro_f1"] = number / 1000
        folder = outputs / name
        folder.mkdir()
        # Not sealed: of an earlier version, and a thousand records are written in a second.
        plain = {**record, "run": name, "format": 1, "folds": {**record["folds"], "sha256": plan[::-1]}}
        plain.pop("record_sha256", None)
        (folder / "run.json").write_text(json.dumps(plain), encoding="utf-8")
    page = page_of(outputs)
    tables = grids(page, "runs")
    assert [len(table.rows) + table.left_out for table in tables] == [450, 450, 100]
    assert len(render(page, made="now", version="1").encode()) < BUDGET
