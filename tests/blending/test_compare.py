"""What a submission answers otherwise than an older one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemble.blending.blend import blend
from ensemble.errors import InputError
from tests.support import MakeRun


def _old(path: Path, submission: Path, change: dict[str, str], *, shuffle: bool = True) -> Path:
    """A copy of a submission, in another order, some of its answers changed."""
    header, *lines = submission.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    changed = [f"{name},{change.get(name, answer)}" for name, answer in rows]
    path.write_text("\n".join([header, *(reversed(changed) if shuffle else changed)]) + "\n")
    return path


def test_changed_rows_are_counted_by_class(make_run: MakeRun, tmp_path: Path) -> None:
    member = make_run(0)
    first = blend([member], outputs=tmp_path / "a")
    answers = dict(line.split(",") for line in first.submission.read_text().splitlines()[1:])
    cats = [name for name, answer in answers.items() if answer == "cat"]
    old = _old(tmp_path / "old.csv", first.submission, {cats[0]: "eel", cats[1]: "eel", cats[2]: "dog"})
    done = blend([member], outputs=tmp_path / "b", compare=old)
    assert done.difference is not None
    assert (done.difference.rows, done.difference.changed) == (24, 3)
    assert done.difference.changes == (("eel", "cat", 2), ("dog", "cat", 1))
    assert (done.folder / "blend.json").read_bytes() == (first.folder / "blend.json").read_bytes()


def test_the_old_submission_may_be_the_one_that_is_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    first = blend([make_run(0)], outputs=tmp_path / "a", name="x")
    before = first.submission.read_text()
    done = blend([make_run(1)], outputs=tmp_path / "a", name="x", compare=first.submission)
    now = first.submission.read_text()
    changed = sum(old != new for old, new in zip(before.splitlines(), now.splitlines(), strict=True))
    assert done.difference is not None and done.difference.changed == changed > 0


def test_probabilities_are_compared_by_their_class_and_their_size(make_run: MakeRun, tmp_path: Path) -> None:
    template = tmp_path / "sample.csv"
    template.write_text("id,dog,cat,eel\n" + "".join(f"test-{row:03},0,0,0\n" for row in range(24)))
    member = make_run(0)
    first = blend([member], outputs=tmp_path / "a", template=template)
    lines = first.submission.read_text().splitlines()
    answer = ("dog", "cat", "eel")[max(range(3), key=lambda column: float(lines[1].split(",")[1 + column]))]
    other = "eel" if answer != "eel" else "dog"
    lines[1] = "test-000," + ",".join("1.0" if name == other else "0.0" for name in ("dog", "cat", "eel"))
    (tmp_path / "old.csv").write_text("\n".join(lines))
    done = blend([member], outputs=tmp_path / "b", template=template, compare=tmp_path / "old.csv")
    assert done.difference is not None
    assert done.difference.changes == ((other, answer, 1),)
    assert done.difference.largest is not None and done.difference.largest > 0.3


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace("test-003", "test-999"), ("1 id of this blend is not in it ('test-003')", "999")),
        (lambda text: text + "test-000,cat\n", ("1 id appears more than once",)),
        (lambda text: text.replace("id,", "name,"), ("its columns are name",)),
        (lambda text: text.replace("cat", "0"), ("this blend answers with class names",)),
        (lambda text: "", ("is empty",)),
    ],
)
def test_a_submission_that_can_not_be_compared_is_refused_before_anything_is_written(
    make_run: MakeRun, tmp_path: Path, edit: Callable[[str], str], words: tuple[str, ...]
) -> None:
    first = blend([make_run(0)], outputs=tmp_path / "a")
    (tmp_path / "old.csv").write_text(edit(first.submission.read_text()))
    with pytest.raises(InputError) as caught:
        blend([make_run(0)], outputs=tmp_path / "b", compare=tmp_path / "old.csv")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "b").exists()


def test_the_command_shows_a_table_and_json_holds_it(
    make_run: MakeRun, tmp_path: Path, ens: Callable[..., Any]
) -> None:
    one, two = make_run(0), make_run(1)
    old = ens("blend", str(one), "--outputs", str(tmp_path / "o"), "--json").document["paths"]["submission"]
    words = ("blend", str(two), "--outputs", str(tmp_path / "o"), "--name", "new", "--compare", old)
    answer = ens(*words)
    assert answer.code == 0 and "of 24 rows changed" in answer.out
    compared = ens(*words, "--json").document["compared"]
    assert compared["changed"] == sum(change["rows"] for change in compared["changes"]) > 0
