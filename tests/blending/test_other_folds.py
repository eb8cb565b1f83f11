"""Members of other fold plans: refused, with the option that lets them in; which plan is learned on; what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.blending.align import align
from ensemble.blending.blend import blend, load_blend
from ensemble.blending.formula import blend_command
from ensemble.commands.blend_command import _remarks
from ensemble.core.predictions import Predictions, load_predictions, save_predictions
from ensemble.errors import InputError
from tests.support import MakeMember, MakeRun

ROWS = 24


def _oof(make_member: MakeMember, seed: int, folds: Any, **options: Any) -> Predictions:
    member = make_member(seed, kind="oof", folds_sha256=None, **options)
    return Predictions(**{**vars(member), "folds": np.asarray(folds).tolist()})


def _aligned(*members: Predictions) -> Any:
    names = [str(member.sidecar["run"]) for member in members]
    return align(members, names, kind="oof", sort_rows=True, other_folds=True)


@pytest.fixture
def paths(make_run: MakeRun, make_member: MakeMember) -> list[Path]:
    """Three runs, of which the first has a plan of its own."""
    made = [make_run(seed, grouped=False, folds_sha256="f2" if seed == 0 else "f1") for seed in range(3)]
    own = make_member(0, kind="oof", grouped=False, folds_sha256="f2")
    folds = (np.arange(ROWS) // 2 % 4).tolist()
    save_predictions(made[0].with_name("oof"), Predictions(**{**vars(own), "folds": folds}))
    return made


def test_without_the_option_the_refusal_names_it(paths: list[Path], make_member: MakeMember, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"of different fold plans .* --other-folds"):
        blend(paths, outputs=tmp_path / "outputs")
    members = [_oof(make_member, 0, np.arange(ROWS) % 3), _oof(make_member, 1, [np.zeros(ROWS, int)] * 2)]
    with pytest.raises(InputError, match=r"one is of a repeated plan, the other is not; .* --other-folds"):
        align(members, ["a", "b"], kind="oof")
    members[1] = _oof(make_member, 1, np.arange(ROWS) % 4)
    with pytest.raises(InputError, match=r"different folds for .* --other-folds"):
        align(members, ["a", "b"], kind="oof")


def test_with_it_they_are_learned_and_scored_on_the_plan_of_most_and_it_is_said(
    paths: list[Path], tmp_path: Path
) -> None:
    done = blend(paths, outputs=tmp_path / "outputs", other_folds=True, name="b", select="all")
    read = load_blend(done.folder / "blend.json")
    assert read["other_folds"] == {"plans": 2, "runs": ["run0"]}
    assert read["honest"] is not None
    assert read["folds_sha256"] == load_predictions(done.folder / "probs.npy").sidecar["folds_sha256"] == "f1"
    note = "2 fold plans: run0 has another than the one that is learned and scored on; the score is slightly optimistic"
    assert note in _remarks(done)
    assert blend_command(read).endswith(" --other-folds")
    assert blend(paths[1:], outputs=tmp_path / "outputs", other_folds=True).document["other_folds"] is None


def test_the_order_of_arguments_changes_no_byte(paths: list[Path], tmp_path: Path) -> None:
    contents = []
    for order in (paths, paths[::-1], [paths[1], paths[0]], [paths[0], paths[1]]):
        folder = blend(order, outputs=tmp_path / "outputs", other_folds=True, method="optimize", name="b").folder
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert contents[2] == contents[3], "two plans of one member each"


def test_labels_that_contradict_and_other_contents_are_still_refused(
    paths: list[Path], make_member: MakeMember, make_run: MakeRun, tmp_path: Path
) -> None:
    other = make_run(3, dataset_sha256="d2", folds_sha256="f3")
    with pytest.raises(InputError, match="contents of the dataset"):
        blend([*paths, other], outputs=tmp_path / "outputs", other_folds=True)
    member = make_member(0, kind="oof", folds_sha256="f2")
    wrong = (np.asarray(member.labels) + 1) % 3
    save_predictions(paths[0].with_name("oof"), Predictions(**{**vars(member), "labels": wrong}))
    with pytest.raises(InputError, match="different labels"):
        blend(paths, outputs=tmp_path / "outputs", other_folds=True)


def test_plans_that_differ_in_the_numbers_of_folds_alone_are_one_plan(make_member: MakeMember) -> None:
    folds = np.arange(ROWS) % 3
    aligned = _aligned(_oof(make_member, 0, folds), _oof(make_member, 1, 2 - folds))
    assert aligned.plans == (0, 0)
    np.testing.assert_array_equal(aligned.folds, folds)


def test_a_plan_that_splits_groups_is_not_learned_on_even_if_most_have_it(make_member: MakeMember) -> None:
    """Rows 2i and 2i + 1 are one group."""
    splitting, whole = np.arange(ROWS) % 3, np.arange(ROWS) // 2 % 3
    aligned = _aligned(*(_oof(make_member, seed, splitting) for seed in (0, 1)), _oof(make_member, 2, whole))
    np.testing.assert_array_equal(aligned.folds, whole)
    assert aligned.plans == (1, 1, 0)


def test_a_repeated_plan_beside_one_that_is_not(make_member: MakeMember) -> None:
    whole = np.arange(ROWS) // 2
    repeated, single = [whole % 3, whole % 4], whole % 3
    aligned = _aligned(*(_oof(make_member, seed, repeated) for seed in (0, 1)), _oof(make_member, 2, single))
    np.testing.assert_array_equal(aligned.folds, repeated)
    assert aligned.plans == (0, 0, 1)
    aligned = _aligned(*(_oof(make_member, seed, single) for seed in (0, 1)), _oof(make_member, 2, repeated))
    np.testing.assert_array_equal(aligned.folds, single)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_permuting_members_and_rows_changes_neither_the_plan_nor_who_has_another(
    make_member: MakeMember, data: st.DataObject
) -> None:
    plans = [np.arange(ROWS) // 2 % (2 + data.draw(st.integers(0, 2))) for _ in range(4)]
    straight = _aligned(*(_oof(make_member, seed, plans[seed]) for seed in range(4)))
    orders = [np.array(data.draw(st.permutations(range(ROWS)))) for _ in range(4)]
    members = [_oof(make_member, seed, plans[seed][orders[seed]], order=orders[seed]) for seed in range(4)]
    other = _aligned(*data.draw(st.permutations(members)))
    np.testing.assert_array_equal(straight.folds, other.folds)
    assert straight.plans == other.plans


def test_without_out_of_fold_rows_the_blend_is_of_no_plan(make_run: MakeRun, tmp_path: Path) -> None:
    members = [make_run(seed, oof=False, folds_sha256=f"f{seed}") for seed in range(2)]
    document = blend(members, outputs=tmp_path / "outputs", other_folds=True).document
    assert "folds_sha256" not in document and document["other_folds"] is None
