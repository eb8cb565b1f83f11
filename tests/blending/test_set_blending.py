"""Blends of rows with sets of classes: each class by itself, against the same written out; what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from ensemble import adopt, blend
from ensemble.blending.methods import make_method
from ensemble.blending.options import METHODS
from ensemble.combining.crossfit import Labelled
from ensemble.combining.greedy import make_candidates
from ensemble.combining.thresholds import best_thresholds
from ensemble.core.dataset import SubmissionSpec
from ensemble.core.metrics import SET_METRICS
from ensemble.core.predictions import Predictions, load_predictions, save_predictions
from ensemble.core.records import save_record
from ensemble.errors import InputError

CLASSES = ("rust", "scab", "spot")


def members(rows: int = 60, count: int = 3, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Members of different skill, and the truth."""
    random = np.random.default_rng(seed)
    labels = (random.random((rows, 3)) < [0.2, 0.5, 0.4]).astype(np.uint8)
    stack = []
    for skill in np.linspace(0.5, 2.0, count):
        scores = skill * (2.0 * labels - 1) + random.normal(0, 1.2, labels.shape)
        stack.append(1 / (1 + np.exp(-scores)))
    return stack, labels


def labelled(stack: list[np.ndarray], labels: np.ndarray, metric: str = "log_loss") -> Labelled:
    return Labelled(stack, labels, (np.arange(len(labels)) % 3)[None], None, metric)


def answer(spec: str, stack: list[np.ndarray], labels: np.ndarray, metric: str = "log_loss") -> Any:
    method = make_method(spec, metric, sets=True)
    return method.fit(labelled(stack, labels, metric)).answer(stack)


@pytest.mark.parametrize("spec", ["soft", "hard", "geometric", "power:2", "power:-1"])
def test_fixed_methods_are_those_of_two_classes_for_each_class_by_itself(spec: str) -> None:
    stack, labels = members()
    found = answer(spec, stack, labels)
    for column in range(3):
        two = [np.stack([one[:, column], 1 - one[:, column]], axis=1) for one in stack]
        expected = make_method(spec, "log_loss").fit(labelled(two, labels[:, column])).answer(two)
        assert found.probs[:, column] == pytest.approx(expected.probs[:, 0])
        assert np.array_equal(found.decisions[:, column], 1 - expected.decisions)


def test_a_mean_of_one_half_is_a_yes_in_every_way_to_say_it() -> None:
    stack = [np.full((2, 3), 0.5), np.full((2, 3), 0.5)]
    for spec in ("soft", "hard", "geometric", "rank"):
        assert answer(spec, stack, np.zeros((2, 3), dtype=np.uint8)).decisions.all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([name for name in METHODS if name not in ("power", "weighted")]))
def test_every_method_is_indifferent_to_the_order_of_rows_and_classes_and_leaves_inputs_alone(
    seed: int, spec: str
) -> None:
    stack, labels = members(36, 3, seed)
    labels[:2] = [[0, 0, 0], [1, 1, 1]]
    before = [one.copy() for one in stack]
    found = answer(spec, stack, labels, "macro_f1")
    assert all(np.array_equal(one, two) for one, two in zip(stack, before, strict=True))
    assert ((found.probs >= 0) & (found.probs <= 1)).all() and found.decisions.shape == labels.shape
    columns = [2, 0, 1]
    other = answer(spec, [one[:, columns] for one in stack], labels[:, columns], "macro_f1")
    assert other.probs == pytest.approx(found.probs[:, columns], abs=1e-4)


def test_optimize_finds_the_weights_of_least_binary_log_loss() -> None:
    stack, labels = members(400)

    def loss(weights: np.ndarray) -> float:
        mixed = np.tensordot(weights / weights.sum(), stack, axes=1)
        return SET_METRICS["log_loss"](labels, mixed)

    fitted = make_method("optimize", "log_loss", sets=True).fit(labelled(stack, labels))
    peer = minimize(loss, np.full(3, 1 / 3), bounds=[(1e-9, 1)] * 3, options={"ftol": 1e-14})
    assert fitted.weights is not None and loss(np.array(fitted.weights)) <= peer.fun + 1e-9


@pytest.mark.parametrize("metric", ["macro_f1", "roc_auc", "log_loss", "accuracy", "samples_f1"])
def test_greedy_never_does_worse_than_the_best_member_on_the_rows_it_saw(metric: str) -> None:
    stack, labels = members(120)
    measure = SET_METRICS[metric]
    sign = 1 if measure.greater_is_better else -1
    best = max(sign * measure(labels, one) for one in stack)
    assert sign * measure(labels, answer("greedy", stack, labels, metric).probs) >= best - 1e-6


@pytest.mark.parametrize("metric", sorted(SET_METRICS))
def test_what_greedy_looks_at_is_the_metric_of_the_mean(metric: str) -> None:
    stack, labels = members(90, 4)
    measure = SET_METRICS[metric]
    sign = -1 if measure.greater_is_better else 1
    candidates = make_candidates(labelled(stack, labels, metric))
    for taken in ([], [2], [2, 0]):
        means = [np.mean([stack[one] for one in (*taken, member)], axis=0) for member in range(4)]
        assert candidates.errors(range(4)) == pytest.approx([sign * measure(labels, mean) for mean in means])
        candidates.add([2, 0, 1][len(taken)])


def test_stacking_gives_each_class_a_regression_of_its_own() -> None:
    stack, labels = members(600)
    odd = [1 - stack[2] if column == 0 else one for column, one in enumerate(stack)]
    found = make_method("stack", "log_loss", sets=True).fit(labelled(odd, labels))
    losses = [SET_METRICS["log_loss"](labels, probs) for probs in (found.answer(odd).probs, *odd)]
    assert losses[0] < min(losses[1:])
    assert (np.array(found.learned["slopes"])[0] < 0).all()  # the first member says the opposite


def test_thresholds_are_where_each_class_has_its_best_f1() -> None:
    stack, labels = members(80)
    thresholds = best_thresholds(stack[0], labels)
    tried = np.concatenate([[0.5], np.linspace(0, 1, 401)])
    for column in range(3):
        truth, values = labels[:, column], stack[0][:, column]

        def f1(threshold: float, truth: np.ndarray = truth, values: np.ndarray = values) -> float:
            decided = values >= threshold
            return float(2 * (decided & (truth == 1)).sum() / max(1, decided.sum() + truth.sum()))

        assert f1(thresholds[column]) >= max(map(f1, tried)) - 1e-12


MakeRuns = Callable[..., list[Path]]


@pytest.fixture
def make_runs(tmp_path: Path) -> MakeRuns:
    """Folders as training leaves them: `oof` with labels, `probs` of other rows."""

    def make(count: int = 3, **sidecar: Any) -> list[Path]:
        oof, labels = members(60, count)
        test, _ = members(20, count, seed=7)
        places = []
        for index in range(count):
            place = tmp_path / f"run{index}"
            about = {"run": f"run{index}", "dataset": "leaves", "folds_sha256": "f", "metric": "macro_f1", **sidecar}
            ids = tuple(f"o{row:02}" for row in range(60))
            save_predictions(
                place / "oof",
                Predictions(
                    ids, CLASSES, oof[index], "oof", labels, (np.arange(60) % 3).tolist(), None, about,
                    activation="sigmoid",
                ),
            )  # fmt: skip
            tests = Predictions(
                tuple(f"t{row:02}" for row in range(20)), CLASSES, test[index], "test", sidecar=about,
                activation="sigmoid",
            )  # fmt: skip
            save_predictions(place / "probs", tests)
            places.append(place / "probs.npy")
        return places

    return make


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    "options",
    [
        {"method": "auto"},
        {"method": "stack", "force": True},
        {"calibrate": "temperature", "metric": "log_loss", "force": True},
        {"calibrate": "vector", "calibrate_when": "before", "force": True},
        {"tune_classes": True, "force": True},
        {"method": "weighted", "weights": {"run0": 1, "run1": 2, "run2": 0}},
        {"method": "greedy:4", "metric": "roc_auc"},
    ],
)
def test_a_blend_of_sets_is_judged_answered_and_marked(
    options: dict[str, Any], make_runs: MakeRuns, tmp_path: Path
) -> None:
    done = blend(make_runs(), outputs=tmp_path / "outputs", name="b", **options)
    assert done.document["activation"] == "sigmoid" and 0 < done.document["honest"]["value"] <= 1
    probs = load_predictions(done.folder / "probs")
    assert probs.activation == "sigmoid" and np.ptp(probs.probs.sum(axis=1)) > 0.1
    rows = cells(done.submission)
    named = [set(row["label"].split()) for row in rows]
    assert set().union(*named) <= set(CLASSES) and len(rows) == 20
    if not options.get("tune_classes") and options.get("method") != "auto":
        decided = [{CLASSES[column] for column in np.flatnonzero(row >= 0.5)} for row in probs.probs]
        assert named == decided


@pytest.mark.parametrize(
    ("fmt", "header"),
    [
        (SubmissionSpec(value="probability"), ["id", *CLASSES]),
        (SubmissionSpec(value="binary"), ["id", *CLASSES]),
        (SubmissionSpec(value="index", separator=";", empty="-"), ["id", "label"]),
        (SubmissionSpec(value="probability", probability_of="scab"), ["id", "label"]),
    ],
)
def test_a_submission_of_sets_is_spelled_as_the_dataset_says(
    fmt: SubmissionSpec, header: list[str], make_runs: MakeRuns, tmp_path: Path
) -> None:
    runs = make_runs(1)
    done = blend(runs, outputs=tmp_path / "outputs", submission=fmt, labels=None)
    rows, probs = cells(done.submission), load_predictions(runs[0]).probs
    assert list(rows[0]) == header
    if fmt.value == "binary":
        assert [[row[name] for name in CLASSES] for row in rows] == (probs >= 0.5).astype(int).astype(str).tolist()
    elif fmt.value == "index":
        wanted = [";".join(map(str, np.flatnonzero(row >= 0.5))) or "-" for row in probs]
        assert [row["label"] for row in rows] == wanted and "-" in wanted
    else:
        chosen = [float(row["label" if fmt.probability_of else "scab"]) for row in rows]
        assert chosen == pytest.approx(probs[:, 1])


def test_a_template_with_a_column_a_class_gets_zeros_and_ones_where_the_dataset_asks_for_them(
    make_runs: MakeRuns, tmp_path: Path
) -> None:
    template = tmp_path / "sample.csv"
    order = ("spot", "rust", "scab")
    lines = [",".join(["id", *order]), *(f"t{row:02},0,0,0" for row in reversed(range(20)))]
    template.write_text("\n".join(lines) + "\n")
    runs = make_runs(1)
    done = blend(runs, outputs=tmp_path / "o", template=template, submission=SubmissionSpec(value="binary"))
    probs = load_predictions(runs[0]).probs[::-1]
    found = [[row[name] for name in CLASSES] for row in cells(done.submission)]
    assert found == (probs >= 0.5).astype(int).astype(str).tolist()


@pytest.mark.parametrize("value", ["name", "binary", "probability"])
def test_two_submissions_of_sets_are_compared_by_their_sets(value: Any, make_runs: MakeRuns, tmp_path: Path) -> None:
    runs, fmt = make_runs(2), SubmissionSpec(value=value)
    first = blend(runs[:1], outputs=tmp_path / "a", submission=fmt)
    second = blend(runs[1:], outputs=tmp_path / "b", submission=fmt, compare=first.submission)
    before, after = (load_predictions(run).probs >= 0.5 for run in runs)
    assert second.difference is not None
    assert second.difference.changed == (before != after).any(axis=1).sum()


def test_members_of_both_kinds_are_not_blended(make_runs: MakeRuns, tmp_path: Path) -> None:
    runs = make_runs(1)
    single = dataclasses.replace(load_predictions(runs[0]), activation="softmax", probs=np.full((20, 3), 1 / 3))
    (tmp_path / "single").mkdir()
    save_predictions(tmp_path / "single" / "other", single)
    with pytest.raises(InputError) as caught:
        blend([runs[0], tmp_path / "single" / "other.npy"], outputs=tmp_path / "o")
    assert "holds a set of classes a row (sigmoid)" in str(caught.value) and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "kappa"}, "--metric kappa needs one class per row"),
        ({"metric": "roc_auc", "tune_classes": True}, "--tune-classes"),
        ({"metric": "accuracy", "tune_classes": True}, "it is for macro_f1, not for accuracy"),
    ],
)
def test_what_makes_no_sense_of_sets_is_refused_before_anything_is_written(
    options: dict[str, Any], message: str, make_runs: MakeRuns, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        blend(make_runs(), outputs=tmp_path / "o", **options)
    assert message in str(caught.value) and not (tmp_path / "o").exists()


def test_members_that_contradict_each_other_about_a_set_are_told_with_both(make_runs: MakeRuns, tmp_path: Path) -> None:
    runs = make_runs(2)
    oof = load_predictions(runs[1].with_name("oof.npy"))
    labels = np.array(oof.labels)
    labels[3] = [0, 0, 0] if labels[3].any() else [1, 0, 1]
    document = json.loads(runs[1].with_name("oof.json").read_text())
    document["labels"][3] = np.flatnonzero(labels[3]).tolist()
    save_record(runs[1].with_name("oof.json"), document)
    with pytest.raises(InputError) as caught:
        blend(runs, outputs=tmp_path / "o")
    assert "different labels for 1 row; the first is id 'o03'" in str(caught.value)
    assert "no class" in str(caught.value) or "rust|spot" in str(caught.value)


def test_members_with_classes_and_rows_in_another_order_blend_the_same(make_runs: MakeRuns, tmp_path: Path) -> None:
    runs = make_runs(2)
    straight = blend(runs, outputs=tmp_path / "a", name="b", method="optimize", force=True)
    columns, rows = [2, 0, 1], np.arange(60)[::-1]
    for name in ("probs", "oof"):
        one = load_predictions(runs[1].with_name(f"{name}.npy"))
        order = rows if name == "oof" else np.arange(20)[::-1]
        turned = dataclasses.replace(
            one,
            ids=tuple(one.ids[row] for row in order),
            classes=tuple(one.classes[column] for column in columns),
            probs=np.ascontiguousarray(one.probs[order][:, columns]),
            labels=None if one.labels is None else one.labels[order][:, columns],
            folds=None if one.folds is None else [one.folds[row] for row in order],
        )
        save_predictions(runs[1].with_name(name), turned)
    turned_blend = blend(runs, outputs=tmp_path / "b", name="b", method="optimize", force=True)
    assert turned_blend.document["honest"]["value"] == pytest.approx(straight.document["honest"]["value"])
    one, other = cells(straight.submission), cells(turned_blend.submission)
    by_id = {row["id"]: set(row["label"].split()) for row in other}
    assert all(by_id[row["id"]] == set(row["label"].split()) for row in one)


def test_bare_files_of_sets_are_adopted_when_said_so(tmp_path: Path) -> None:
    stack, labels = members(12)
    np.save(tmp_path / "oof.npy", stack[0])
    ids = [f"r{row}" for row in range(12)]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    texts = [" ".join(CLASSES[column] for column in np.flatnonzero(row)) for row in labels]
    table = "".join(f"{name},{text}\n" for name, text in zip(ids, texts, strict=True))
    (tmp_path / "labels.csv").write_text("id,label\n" + table)
    (tmp_path / "folds.csv").write_text("id,fold\n" + "".join(f"{name},{row % 2}\n" for row, name in enumerate(ids)))
    named = {key: tmp_path / f"{key}.{'txt' if key in ('ids', 'classes') else 'csv'}" for key in ("ids", "classes")}
    truth = {"labels": tmp_path / "labels.csv", "folds": tmp_path / "folds.csv"}
    with pytest.raises(InputError, match="--multilabel is for rows with several classes"):
        adopt([tmp_path / "oof.npy"], **named, kind="test")
    (done,) = adopt([tmp_path / "oof.npy"], **named, **truth, multilabel=True)
    loaded = load_predictions(done.path)
    assert loaded.activation == "sigmoid" and loaded.labels is not None and np.array_equal(loaded.labels, labels)
    assert done.scores is not None and set(done.scores) == set(SET_METRICS)
    with pytest.raises(InputError, match="--renormalize"):
        adopt([tmp_path / "oof.npy"], **named, **truth, multilabel=True, renormalize=True)
