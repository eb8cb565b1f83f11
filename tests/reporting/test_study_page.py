"""The page of a study: its numbers are those of the files, chance is told from effect, and broken files are said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import Browser

from ensemble.core.locks import folder_lock
from ensemble.core.records import save_record
from ensemble.reporting.page import BUDGET, Cell, Code, Drawing, Grid, Page, Pictures, ReportJob, Text, render
from ensemble.reporting.page_files import page_name
from ensemble.reporting.report import report
from ensemble.reporting.study_page import study_page
from ensemble.tuning.trials import FoldNote, Trial, save_trial
from tests.page_faults import check_page
from tests.reporting.test_page import HOSTILE
from tests.support import Ens

SEARCH = {
    "train.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "train.weight_decay": {"low": 0.0, "high": 1.0},
    "augment": {"choices": ["none", "light"]},
}
HASH = "ab" * 32


def make_study(outputs: Path, trials: list[Trial], name: str = "made", **changes: Any) -> Path:
    """A study's files as `ens tune` leaves them, from made-up trials."""
    path = outputs / "studies" / name
    scored = [trial for trial in trials if trial.value is not None]
    best = max(scored, key=lambda trial: trial.value or 0.0, default=None)
    record: dict[str, Any] = {
        "format": 2,
        "study": name,
        "recipe_name": "tiny",
        "dataset": "squares",
        "metric": "accuracy",
        "greater_is_better": True,
        "asked": {"recipe": "tiny", "sets": [], "data": None},
        "identity_of": {
            "search": SEARCH,
            "sampler": "tpe",
            "sampler_seed": 0,
            "policy": "race",
            "folds_sha256": HASH,
        },
        "wanted": {"trials": len(trials), "search": []},
        "best": None
        if best is None
        else {"number": best.number, "value": best.value, "values": dict(best.values), "ci95": [0.9, 0.99]},
        "honest": None,
        "importance": None,
        "folds": None,
        "ended": f"{len(trials)} trials",
        "started": "2026-01-01T00:00:00Z",
        "finished": None,
    }
    path.mkdir(parents=True)
    save_record(path / "study.json", {**record, **changes})
    for trial in trials:
        (path / f"trial-{trial.number}").mkdir()
        save_trial(path, trial)
    if best is not None:
        (path / "best.yaml").write_text("extends: tiny\n", encoding="utf-8")
    return path


def make_trials(count: int, seed: int = 0) -> list[Trial]:
    """Trials whose score depends on the rate alone, best in the middle; every fourth was stopped after two folds."""
    random = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        place = float(random.random())
        values = {
            "train.lr": float(10 ** (-4 + 3 * place)),
            "train.weight_decay": float(random.random()),
            "augment": ("none", "light")[int(random.integers(2))],
        }
        score = 0.95 - (place - 0.5) ** 2 + float(random.normal(0, 0.005))
        is_whole = number % 4 != 3
        trials.append(
            Trial(
                number=number,
                params={**values, "augment": ("none", "light").index(str(values["augment"]))},
                values=values,
                state="complete" if is_whole else "stopped",
                value=score if is_whole else None,
                estimate=None if is_whole else score,
                reason=None if is_whole else "behind the best",
                folds=(FoldNote(score),) * (5 if is_whole else 2),
                of_folds=5,
                seconds=10.0,
            )
        )
    return trials


def page_of(path: Path) -> Page:
    outputs = path.parents[1]
    return study_page([str(path)], ReportJob(outputs, outputs, Pictures(10)))


def section(page: Page, anchor: str) -> list[Any]:
    return [part for each in page.sections if each.anchor == anchor for part in each.parts]


def grid(page: Page, anchor: str) -> Grid:
    return next(part for part in section(page, anchor) if isinstance(part, Grid))


def texts(page: Page, anchor: str) -> str:
    return " ".join(part.text for part in section(page, anchor) if isinstance(part, Text))


def shown(value: Any) -> str:
    return value.text if isinstance(value, Cell) else str(value)


def test_a_real_study_tells_the_numbers_of_its_record(workspace: Path, ens: Ens) -> None:
    answer = ens("tune", "--recipe", "tiny", "--trials", "2", "--study", "s", "--policy", "none", "--json")
    assert answer.code == 0, answer.err
    written = report("studies/s").document
    best, again = answer.document["best"], answer.document["honest"]
    assert f"2 trials; the best is trial {best['number']}, macro_f1 {best['value']:.4f}" in written["verdict"]
    assert f"{again['value']:.4f} expected when its recipe is trained again" in written["verdict"]
    assert written["next"] == "ens train --recipe outputs/studies/s/best.yaml --name s-best"
    page = page_of(workspace / "outputs" / "studies" / "s")
    assert shown(grid(page, "trials").rows[0][0]) == str(best["number"])
    assert "nothing can be told" in texts(page, "importance")
    assert [part.text for part in section(page, "recipe") if isinstance(part, Code)] == [
        (workspace / "outputs" / "studies" / "s" / "best.yaml").read_text(encoding="utf-8")
    ]


def test_the_verdict_says_what_is_optimistic_and_what_is_expected(tmp_path: Path) -> None:
    trials = make_trials(12)
    best = max((trial for trial in trials if trial.value), key=lambda trial: trial.value or 0)
    honest = {"number": best.number, "value": 0.9312, "error": None, "other_folds": True, "ci95": [0.92, 0.94]}
    page = page_of(make_study(tmp_path, trials, honest=honest))
    assert page.verdict == (
        f"12 trials; the best is trial {best.number}, accuracy {best.value:.4f} where it was chosen (optimistic), "
        "0.9312 expected when its recipe is trained again (95 %: 0.9200 to 0.9400)."
    )
    kinds = {str(row[0]): str(row[3]) for row in grid(page, "worth").rows}
    assert kinds == {"as chosen": "optimistic", "trained again": "honest"}


def test_training_again_on_the_same_folds_is_called_optimistic_too(tmp_path: Path) -> None:
    honest = {"number": 0, "value": 0.93, "error": None, "other_folds": False, "ci95": None}
    page = page_of(make_study(tmp_path, make_trials(12), honest=honest))
    assert "0.9300 expected when its recipe is trained again (optimistic too: on the same folds)" in page.verdict


def test_without_an_honest_number_the_verdict_says_that_nothing_was_measured(tmp_path: Path) -> None:
    failed = {"number": 0, "value": None, "error": "out of memory", "other_folds": True, "ci95": None}
    page = page_of(make_study(tmp_path, make_trials(12), honest=failed))
    assert page.verdict.endswith("what it is worth elsewhere was not measured.")
    assert "no score: out of memory" in [str(row[4]) for row in grid(page, "worth").rows]


def test_a_parameter_that_decides_is_told_from_those_that_do_not(tmp_path: Path) -> None:
    """The best rate lies in the middle, which a correlation would not see."""
    rows = {str(row[0]): row for row in grid(page_of(make_study(tmp_path, make_trials(60))), "importance").rows}
    assert [row[4] for row in rows.values()] == ["yes", "no", "no"]
    assert next(iter(rows)) == "train.lr"


def test_of_nine_trials_nothing_is_told(tmp_path: Path) -> None:
    page = page_of(make_study(tmp_path, make_trials(9)))
    assert "9 trials with a score: nothing can be told" in texts(page, "importance")
    assert not [part for part in section(page, "importance") if isinstance(part, Grid)]


def test_stopped_trials_say_when_why_and_what_it_saved(tmp_path: Path) -> None:
    page = page_of(make_study(tmp_path, make_trials(12)))
    assert texts(page, "stopped") == "3 trials stopped early by policy race, which saved 9 folds."
    assert [[shown(cell) for cell in row[:4]] for row in grid(page, "stopped").rows] == [
        [number, "stopped", "2 of 5", "3"] for number in ("3", "7", "11")
    ]
    assert all(shown(row[5]) == "behind the best" for row in grid(page, "stopped").rows)


def test_the_course_draws_the_best_finished_trial_not_an_estimate(tmp_path: Path) -> None:
    """An estimate above every score must not become the best so far."""
    trials = make_trials(8)
    flattering = Trial(**{**vars(trials[3]), "estimate": 0.999})
    page = page_of(make_study(tmp_path, [*trials[:3], flattering, *trials[4:]]))
    best = max(trial.value or 0.0 for trial in trials)
    assert f"the best is trial {[trial.value for trial in trials].index(best)}," in page.verdict
    ranked = [shown(row[2]) for row in grid(page, "trials").rows]
    assert ranked[0] == f"{best:.4f}" and "~0.9990" in ranked[6:]


def test_a_lower_log_loss_leads(tmp_path: Path) -> None:
    trials = make_trials(4)
    record = {"number": 0, "value": trials[0].value, "values": {}, "ci95": None}
    page = page_of(make_study(tmp_path, trials, metric="log_loss", greater_is_better=False, best=record))
    values = [cell.value for row in grid(page, "trials").rows if isinstance(cell := row[2], Cell)]
    assert values[:3] == sorted(trial.value for trial in trials if trial.value is not None)


def test_an_interrupted_study_is_continued_by_its_next_command(tmp_path: Path) -> None:
    trials = make_trials(3)
    path = make_study(tmp_path, trials, ended=None, best=None, wanted={"trials": 20, "search": []})
    page = page_of(path)
    assert page.verdict.startswith("3 of 20 trials, interrupted; the best so far is trial ")
    assert page.next_command is not None
    assert page.next_command.startswith("ens tune --recipe tiny") and "continues" not in page.next_command
    assert page.next_command.endswith(f"--study made --trials 20 --outputs {tmp_path}")


def test_a_running_study_asks_for_nothing(tmp_path: Path) -> None:
    path = make_study(tmp_path, make_trials(3), ended=None, best=None, wanted={"trials": 20, "search": []})
    with folder_lock(path):
        page = page_of(path)
    assert page.verdict.startswith("3 of 20 trials, running") and page.next_command is None


def test_code_that_a_record_names_is_not_offered_for_copying(tmp_path: Path) -> None:
    asked = {"recipe": "tiny", "sets": ["model.name=evil:run"], "data": None}
    path = make_study(tmp_path, make_trials(3), ended=None, asked=asked, wanted={"trials": 20, "search": []})
    page = page_of(path)
    assert page.next_command is None
    assert any("only if evil:run is code that you know" in remark for remark in page.remarks)


def test_an_altered_study_still_shows_its_trials(tmp_path: Path) -> None:
    path = make_study(tmp_path, make_trials(12))
    record = path / "study.json"
    record.write_text(record.read_text().replace('"tpe"', '"cma"'), encoding="utf-8")
    page = page_of(path)
    assert "which is best is unknown" in page.verdict and page.next_command is None
    assert any("study.json" in remark for remark in page.remarks)
    assert len(grid(page, "trials").rows) == 12


def test_a_broken_trial_is_left_out_and_said(tmp_path: Path) -> None:
    path = make_study(tmp_path, make_trials(12))
    (path / "trial-4" / "trial.json").write_text("{", encoding="utf-8")
    page = page_of(path)
    assert any("trial-4 is left out" in remark for remark in page.remarks)
    assert len(grid(page, "trials").rows) == 11


def test_a_study_without_trials_has_a_page(tmp_path: Path) -> None:
    page = page_of(make_study(tmp_path, [], ended=None))
    assert "none has a score yet" in page.verdict
    assert render(page, made="now", version="1")


def test_a_missing_best_recipe_is_said(tmp_path: Path) -> None:
    path = make_study(tmp_path, make_trials(12))
    (path / "best.yaml").unlink()
    page = page_of(path)
    assert "best.yaml is missing" in texts(page, "recipe") and page.next_command is None


def test_hostile_values_and_reasons_are_text(tmp_path: Path) -> None:
    search = {"augment": {"choices": list(HOSTILE)}, HOSTILE[0]: {"low": 0.0, "high": 1.0}}
    trials = [
        Trial(
            number=number,
            params={"augment": number % len(HOSTILE), HOSTILE[0]: 0.5},
            values={"augment": HOSTILE[number % len(HOSTILE)], HOSTILE[0]: number / 20},
            state="complete" if number % 3 else "stopped",
            value=number / 20 if number % 3 else None,
            estimate=None if number % 3 else 0.1,
            reason=HOSTILE[0],
        )
        for number in range(20)
    ]
    identity = {"search": search, "sampler": "tpe", "sampler_seed": 0, "policy": HOSTILE[0], "folds_sha256": HASH}
    path = make_study(tmp_path, trials, identity_of=identity, dataset=HOSTILE[1], recipe_name=HOSTILE[2])
    text = render(page_of(path), made="now", version="1")
    assert "<script>alert" not in text and "</style><b>" not in text and "{{ 7*7 }}" in text


def test_a_browser_has_nothing_against_the_page(tmp_path: Path, browser: Browser) -> None:
    """Wide and narrow, light and dark, with and without scripts."""
    make_study(tmp_path, make_trials(30), "b")
    written = report("studies/b", outputs=tmp_path)
    check_page(browser, written.path, texts=["What the best is worth", "train.weight_decay", "behind the best"])


def test_parameters_that_only_some_trials_have_are_drawn_for_those(tmp_path: Path) -> None:
    trials = make_trials(12)
    fewer = [
        trial if trial.number % 2 else Trial(**{**vars(trial), "values": {"train.lr": trial.values["train.lr"]}})
        for trial in trials
    ]
    page = page_of(make_study(tmp_path, fewer))
    assert "train.weight_decay" in {cell for cell in grid(page, "trials").columns}
    assert sum(isinstance(part, Drawing) for part in section(page, "parameters")) == 4


@pytest.mark.parametrize("name", ["a b", "ü", "x:y"])
def test_a_trial_leads_to_its_page_from_wherever_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "outputs"
    path = make_study(outputs, make_trials(2), name)
    (outputs / "reports").mkdir()
    file_name = page_name("run", [str(path / "trial-1")])
    (outputs / "reports" / f"{file_name}.html").write_text("page", encoding="utf-8")
    for file in (outputs / "reports" / "study.html", tmp_path / "deep er" / "study.html"):
        page = study_page([str(path)], ReportJob(outputs, tmp_path, Pictures(1), page=file))
        links = {shown(row[0]): row[0].href for row in grid(page, "trials").rows if isinstance(row[0], Cell)}
        assert links["0"] is None and links["1"] is not None
        assert (file.parent / unquote(links["1"])).resolve() == outputs / "reports" / f"{file_name}.html"


def test_a_thousand_trials_of_thirty_parameters_fit_the_budget(tmp_path: Path) -> None:
    search = {f"part.key_{place}": {"low": 0.0, "high": 1.0} for place in range(30)}
    random = np.random.default_rng(0)
    trials = []
    for number in range(1000):
        values = {key: float(random.random()) for key in search}
        score = float(random.random())
        trials.append(Trial(number=number, params=values, values=values, state="complete", value=score, seconds=1.0))
    identity = {"search": search, "sampler": "tpe", "sampler_seed": 0, "policy": "race", "folds_sha256": HASH}
    page = page_of(make_study(tmp_path, trials, identity_of=identity))
    text = render(page, made="now", version="1")
    assert len(text.encode()) < BUDGET
    table = grid(page, "trials")
    assert len(table.rows) + table.left_out == 1000
    assert math.isclose(float(shown(table.rows[0][2])), max(trial.value or 0 for trial in trials), abs_tol=1e-4)
