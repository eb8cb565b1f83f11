"""The page of a blend shows its record, and with its members' files its answers row by row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ensemble
from ensemble.blending.blend import load_blend
from ensemble.combining.crossfit import Labelled
from ensemble.comparison import sides
from ensemble.comparison.sides import load_blend_rows
from ensemble.errors import InputError
from ensemble.reporting.blend_page import blend_page
from ensemble.reporting.page import (
    Drawing,
    Facts,
    Gallery,
    Grid,
    Page,
    Panels,
    Pictures,
    ReportJob,
    Section,
    as_cells,
    render,
)
from tests.comparison.conftest import CLASSES, run_maker, truth
from tests.conftest import DESCRIPTION, RECIPE
from tests.support import Ens, MakeRun, alter_record

BLEND = Path("outputs/blends/both")
MakeBlend = Callable[..., dict[str, Any]]


@pytest.fixture
def make_run(empty_place: Path) -> MakeRun:
    return run_maker(empty_place)


@pytest.fixture
def make_blend(make_run: MakeRun) -> MakeBlend:
    """`make_blend("a", "b", skill=…, method=…)`: runs with these names, blended to `both`; gives the document."""

    def make(
        *names: str, method: str = "soft", name: str = "both", force: bool = False, **options: Any
    ) -> dict[str, Any]:
        for number, run in enumerate(names):
            cost = {"seconds_per_1000_images": 1.0 + number}
            make_run(
                run, **{"test": True, "skill": 0.3, "lr": 1e-3 * (1 + sum(map(ord, run)) % 97), "cost": cost, **options}
            )
        paths = [f"outputs/{run}" for run in names]
        return ensemble.blend(paths, method=method, name=name, select="all", force=force).document

    return make


def page_of(folder: Path = BLEND) -> Page:
    return blend_page([str(folder)], ReportJob(Path("outputs"), Path(), Pictures(200)))


def section(page: Page, anchor: str) -> Section:
    return next(section for section in page.sections if section.anchor == anchor)


def anchors(page: Page) -> list[str]:
    return [section.anchor for section in page.sections]


def texts(page: Page, anchor: str, number: int = 0) -> list[list[str]]:
    grid = [part for part in section(page, anchor).parts if isinstance(part, Grid)][number]
    return [[cell.text for cell in as_cells(row)] for row in grid.rows]


def html_of(page: Page) -> str:
    return render(page, made="now", version="0")


def test_the_verdict_has_the_honest_score_its_interval_and_the_gain(make_blend: MakeBlend) -> None:
    honest = make_blend("a", "b")["honest"]
    page = page_of()
    low, high = honest["ci95"]
    assert page.verdict.startswith(f"accuracy {honest['value']:.4f} (95 %: {low:.4f} to {high:.4f}) on 150 rows")
    assert f"{honest['gain_over_best_single']['value']:+.4f}" in page.verdict
    assert page.next_command == f"ens report {honest['best_single']['run']} {BLEND}"


def test_members_are_listed_by_weight_with_score_worth_and_cost(make_blend: MakeBlend) -> None:
    document = make_blend("a", "b", "c", method="optimize")
    lines = texts(page_of(), "members")
    weights = [float(line[1]) for line in lines]
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1, abs=0.002)
    by_run = {member["run"]: member for member in document["members"]}
    for name, _, score, worth, cost, _ in lines:
        member = by_run[name]
        assert score == f"{member['oof_score']:.4f}" and worth == f"{member['worth']:+.4f}"
        assert cost == f"{member['cost']['seconds_per_1000_images']:,.4g}"


def test_worth_that_no_record_holds_is_that_of_the_weighted_mean(make_blend: MakeBlend) -> None:
    document = make_blend("a", "b", "c")
    members = [{**member, "worth": None} for member in document["members"]]
    alter_record(BLEND / "blend.json", members=members)
    stack = [np.asarray(ensemble.load_predictions(f"outputs/{name}/oof").probs, dtype=np.float64) for name in "abc"]
    right = [np.mean(sum(part).argmax(axis=1) == truth()) for part in (stack, stack[1:], stack[::2], stack[:2])]
    worth = {line[0]: line[3] for line in texts(page_of(), "members")}
    assert worth == {name: f"{right[0] - right[place]:+.4f}" for place, name in enumerate("abc", start=1)}


def test_a_pair_opens_the_rows_on_which_its_members_disagree_the_most_certain_first(make_blend: MakeBlend) -> None:
    make_blend("a", "b")
    alike = section(page_of(), "alike")
    (panels,) = (part for part in alike.parts if isinstance(part, Panels))
    (panel,) = panels.panels
    drawings = [part.figure.inline() for part in alike.parts if isinstance(part, Drawing)]
    assert all(f'href="#{panel.anchor}"' in str(drawing) for drawing in drawings)
    oofs = [ensemble.load_predictions(f"outputs/{name}/oof") for name in "ab"]
    apart = oofs[0].probs.argmax(axis=1) != oofs[1].probs.argmax(axis=1)
    assert len(panel.tiles) + panel.left_out == apart.sum() > 6
    sure = np.minimum(oofs[0].probs.max(axis=1), oofs[1].probs.max(axis=1))
    rows = [oofs[0].ids.index(tile.row_id) for tile in panel.tiles]
    assert apart[rows].all() and sure[rows].tolist() == sorted(sure[apart], reverse=True)[:6]
    for row, tile in zip(rows, panel.tiles, strict=True):
        answers = [f"{name}: {CLASSES[int(oof.probs[row].argmax())]}" for name, oof in zip("ab", oofs, strict=True)]
        assert [line.partition(" (")[0] for line in tile.lines] == [f"is {CLASSES[truth()[row]]}", *answers]


def test_the_answers_row_by_row_are_those_that_the_blend_was_judged_by(make_blend: MakeBlend) -> None:
    honest = make_blend("a", "b", "c", method="optimize")["honest"]
    page = page_of()
    mistakes = next(part for part in section(page, "mistakes").parts if isinstance(part, Gallery))
    wrong = len(mistakes.tiles) + mistakes.left_out
    assert 1 - wrong / 150 == pytest.approx(honest["value"])
    assert {"confusion", "mistakes", "classes", "reliability", "folds", "frontier"} <= set(anchors(page))


def test_members_that_are_gone_leave_the_record_and_its_heat_maps(make_blend: MakeBlend) -> None:
    make_blend("a", "b")
    shutil.rmtree("outputs/a")
    page = page_of()
    assert any("the record alone is shown" in remark and "a" in remark for remark in page.remarks)
    assert {"worth", "members", "alike", "calibration", "frontier", "balance"} <= set(anchors(page))
    assert "mistakes" not in anchors(page)
    html_of(page)


def test_an_altered_table_beside_the_record_is_not_shown(make_blend: MakeBlend) -> None:
    make_blend("a", "b")
    shutil.rmtree("outputs/a")
    with (BLEND / "diversity.csv").open("a") as stream:
        stream.write("a,b,0.1,0.2,0.3\n")
    assert "alike" not in anchors(page_of())


def test_altered_answers_are_not_shown_and_an_altered_record_is_refused(make_blend: MakeBlend) -> None:
    make_blend("a", "b")
    (BLEND / "probs.npy").write_bytes((BLEND / "probs.npy").read_bytes()[:-4] + b"\0\0\0\0")
    page = page_of()
    assert "balance" not in anchors(page) and any("its submission is not shown" in remark for remark in page.remarks)
    text = (BLEND / "blend.json").read_text()
    (BLEND / "blend.json").write_text(text.replace('"method": "soft"', '"method": "hard"'))
    with pytest.raises(InputError):
        page_of()


def test_the_balance_of_answers_stands_beside_that_of_the_training_rows(make_blend: MakeBlend) -> None:
    make_blend("a", "b")
    answers = ensemble.load_predictions(BLEND / "probs").probs.argmax(axis=1)
    lines = {line[0]: line for line in texts(page_of(), "balance")}
    for label, name in enumerate(CLASSES):
        assert lines[name][1] == str((truth() == label).sum()) and lines[name][3] == str((answers == label).sum())


def test_other_blends_of_the_same_rows_are_compared_by_their_answers(make_blend: MakeBlend, make_run: MakeRun) -> None:
    make_blend("a", "b")
    assert "changes" not in anchors(page_of())
    make_blend("a", "c", name="other")
    make_blend("x", "y", name="elsewhere", dataset_sha256="d2")
    page = page_of()
    ours, theirs = (ensemble.load_predictions(f"outputs/blends/{name}/probs").probs for name in ("both", "other"))
    changed = int((ours.argmax(axis=1) != theirs.argmax(axis=1)).sum())
    assert changed > 0 and texts(page, "changes") == [
        ["other", str(changed), f"{changed / 150:.2%}", f"{np.abs(ours - theirs).max():.4f}"]
    ]
    gallery = next(part for part in section(page, "changes").parts if isinstance(part, Gallery))
    assert len(gallery.tiles) + gallery.left_out == changed


def test_a_stage_that_was_tried_is_named_with_its_verdict(make_run: MakeRun) -> None:
    make_run("a", test=True), make_run("b", test=True, lr=2e-3)
    document = ensemble.blend(["outputs/a", "outputs/b"], method="soft", calibrate="temperature", name="both").document
    facts = dict(next(part for part in section(page_of(), "worth").parts if isinstance(part, Facts)).pairs)
    used = "used" if document["calibration"]["used"] else "not used"
    shown = facts["calibration (temperature, after)"]
    assert shown.startswith(f"{used}: log-loss {document['calibration']['log_loss_with']:.4f} with it")


def test_a_fallback_and_what_was_asked_for_are_shown(make_blend: MakeBlend) -> None:
    document = make_blend("a", "b", "c", method="greedy")
    assert document["fallback"] is not None and document["asked"] is not None
    page = page_of()
    facts = dict(next(part for part in section(page, "worth").parts if isinstance(part, Facts)).pairs)
    assert facts["fallback"].startswith(document["fallback"])
    assert any(line[0] == f"{document['asked']['method']}, not used" for line in texts(page, "worth"))


def test_sets_of_classes_and_groups_have_their_pages(make_blend: MakeBlend) -> None:
    make_blend("a", "b", sets=True, grouped=True, metric="macro_f1")
    page = page_of()
    assert {"alike", "mistakes", "groups", "balance"} <= set(anchors(page)) and "confusion" not in anchors(page)
    html_of(page)


def test_a_blend_without_labelled_rows_shows_what_its_record_has(make_run: MakeRun) -> None:
    for name, lr in (("a", 1e-3), ("b", 2e-3)):
        path = make_run(name, test=True, lr=lr)
        for file in path.glob("oof*"):
            file.unlink()
    ensemble.blend(["outputs/a", "outputs/b"], method="soft", name="both")
    page = page_of()
    assert "without an honest score" in page.verdict and page.next_command is None
    assert {"worth", "members", "balance"} <= set(anchors(page))
    html_of(page)


def test_hostile_names_are_text(make_blend: MakeBlend) -> None:
    make_blend("a", "b")
    name = "x<img src=x onerror=alert(1)>"
    document = load_blend(BLEND / "blend.json")
    alter_record(BLEND / "blend.json", method=name, used=name, suspicious=[
        {"run": document["members"][0]["run"], "kind": "mix", "score": 1.0, "of": ["b"], "message": name}])  # fmt: skip
    html = html_of(page_of())
    assert "<img src=x" not in html and "&lt;img src=x" in html


def test_of_very_many_rows_some_are_learned_from_and_all_are_answered_without_their_fold(
    make_blend: MakeBlend, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_blend("a", "b", "c", method="optimize", force=True)
    whole = load_blend_rows(BLEND, is_quick=True)
    assert whole.learned_from is None
    monkeypatch.setattr(sides, "_QUICK_ROWS", 60), monkeypatch.setattr(sides, "_QUICK_NUMBERS", 0)
    seen: list[Labelled] = []
    learn = sides.learn
    monkeypatch.setattr(sides, "learn", lambda method, rows: seen.append(rows) or learn(method, rows))
    quick = load_blend_rows(BLEND, is_quick=True)
    assert quick.learned_from == 60 and quick.answers[0].probs.shape == whole.answers[0].probs.shape
    folds = quick.labelled.folds[0]
    assert [len(rows.labels) for rows in seen] and all(60 <= len(rows.labels) <= 63 for rows in seen)
    left_out = {tuple(sorted(set(folds.tolist()) - set(rows.folds[0].tolist()))) for rows in seen}
    assert left_out == {(fold,) for fold in set(folds.tolist())}
    assert any("learned from 60 rows" in remark for remark in page_of().remarks)


def test_twenty_members_with_long_names_stay_within_the_budget(make_blend: MakeBlend) -> None:
    make_blend(*(f"{'long-' * 12}{number}" for number in range(20)), rows=3000)
    assert len(html_of(page_of()).encode()) < 900_000


def test_rows_with_images_are_shown_by_blend_and_comparison(
    make_blend: MakeBlend, empty_place: Path, monkeypatch: pytest.MonkeyPatch, ens: Ens
) -> None:
    make_blend("a", "b", "c"), make_blend("a", "c", name="other")
    (empty_place / "recipes" / "data").mkdir(parents=True), (empty_place / "pets" / "images").mkdir(parents=True)
    monkeypatch.setenv("ENS_DATA_ROOT", str(empty_place))
    description = DESCRIPTION.replace("[red, green, blue]", "[cat, dog, eel]")
    (empty_place / "recipes" / "data" / "pets.yaml").write_text(description)
    (empty_place / "recipes" / "tiny.yaml").write_text(RECIPE.replace("data: squares", "data: pets"))
    ids, labels = [f"r{row:04}" for row in range(150)], truth()
    lines = [f"{row_id},{CLASSES[label]}" for row_id, label in zip(ids, labels.tolist(), strict=True)]
    (empty_place / "pets" / "train.csv").write_text("\n".join(["id,label", *lines]))
    (empty_place / "pets" / "test.csv").write_text("\n".join(["id", *(row_id.replace("r", "t") for row_id in ids)]))
    random = np.random.default_rng(0)
    for row_id in [*ids, *(row_id.replace("r", "t") for row_id in ids)]:
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(empty_place / "pets" / "images" / f"{row_id}.png"), pixels)
    for name in "abc":
        asked = {"recipe": "recipes/tiny.yaml", "sets": [], "data": None}
        alter_record(Path("outputs") / name / "run.json", asked=asked)
    page = page_of()
    (panels,) = (part for part in section(page, "alike").parts if isinstance(part, Panels))
    galleries = [part for part in section(page, "changes").parts if isinstance(part, Gallery)]
    shown = [tile for panel in panels.panels for tile in panel.tiles] + list(galleries[0].tiles)
    assert len(shown) > 10 and all(tile.picture is not None for tile in shown), page.remarks
    answer = ens("report", "a", "b", "--json")
    assert answer.code == 0 and answer.document["pictures"] > 0, answer.err
