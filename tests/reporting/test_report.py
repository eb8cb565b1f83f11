"""`ens report`: which page a name asks for, what is refused before a byte is written, pages that follow a training."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Browser
from hypothesis import given
from hypothesis import strategies as st

import ensemble
from ensemble.reporting.page_files import page_name
from ensemble.reporting.report import find_subjects
from tests.conftest import make_workspace
from tests.page_faults import check_page
from tests.support import Ens

LONGEST_S = 90.0
RELOADS = '<meta http-equiv="refresh"'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Path:
    """Two runs and a blend of them, made once."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        make_workspace(place, squares, patch)
        ensemble.train("tiny")
        ensemble.train("tiny", name="other", sets=["train.lr=0.002"])
        ensemble.blend(["outputs/tiny", "outputs/other"], name="both")
    return place / "outputs"


@pytest.fixture
def outputs(workspace: Path, made: Path) -> Path:
    """A copy of these that a test may change."""
    shutil.copytree(made, workspace / "outputs")
    return workspace / "outputs"


def test_every_kind_of_name_has_its_page_and_the_browser_opens_each(outputs: Path, ens: Ens, browser: Browser) -> None:
    """A run, a blend, a dataset, two runs, and nothing at all; by name, by folder, by a file of it."""
    pages = {
        (): "index",
        ("tiny",): "run-tiny",
        ("outputs/other",): "run-other",
        ("outputs/other/probs.npy",): "run-other",
        ("both",): "blend-both",
        ("outputs/blends/both/blend.json",): "blend-both",
        ("squares",): "data-squares",
        ("recipes/data/squares.yaml",): "data-squares",
        ("tiny", "other"): "tiny-vs-other",
    }
    for names, page in pages.items():
        answer = ens("report", *names, "--json")
        assert answer.code == 0, answer.err
        path = outputs / "reports" / f"{page}.html"
        assert (outputs.parent / answer.document["page"]).resolve() == path.resolve()
        assert answer.document["bytes"] == path.stat().st_size < answer.document["budget"]
    for page in sorted(set(pages.values())):
        check_page(browser, outputs / "reports" / f"{page}.html", texts=[])
    assert "reports" not in ens("status").out, "the folder of pages was taken for a run"


def test_the_screen_says_verdict_place_and_size(outputs: Path, ens: Ens) -> None:
    answer = ens("report", "tiny", "--out", "page.html", "--thumbnails", "3")
    assert answer.code == 0 and answer.err == ""
    first, last = answer.out.splitlines()[0], answer.out.splitlines()[-1]
    assert first.startswith("tiny: ")
    assert last.startswith("written: page.html (0.") and " MB, 3 pictures, " in last
    assert not (outputs / "reports").exists()


def test_a_report_trains_nothing_and_changes_no_file_of_a_run(outputs: Path, ens: Ens) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        files = [path for name in ("tiny", "other", "blends") for path in (outputs / name).rglob("*") if path.is_file()]
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    before = state()
    for names in ([], ["tiny"], ["both"], ["tiny", "other"]):
        assert ens("report", *names).code == 0
    assert state() == before


def test_a_page_made_twice_differs_in_its_date_only(outputs: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.reporting.report.render", _undated)
    assert ens("report", "tiny", "--out", "a.html").code == 0
    assert ens("report", "tiny", "--out", "b.html").code == 0
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()


def _undated(page: object, *, made: str, version: str) -> str:
    from ensemble.reporting.page import render

    return render(page, made="then", version=version)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tinny"], "tinny: no such run, blend, study, dataset or folder of images; did you mean tiny?"),
        (["nothing/like/it"], "ens status --outputs outputs lists what there is"),
        ([""], "an empty name"),
        (["tiny", "squares"], "squares (data): of several names, only runs, trials and blends can be compared"),
        (["tiny", "--out", "page.pdf"], "--out page.pdf: give the name of an .html file"),
        (["tiny", "--out", "recipes/data.html/page.html"], "recipes/data.html is a file, not a folder"),
        (["tiny", "--out", "mine.html"], "--out mine.html: is there already and no page of ens report"),
        (["tiny", "--thumbnails", "-1"], "--thumbnails -1: 0 to 5000"),
        (["both", "--live"], "--live: a blend page does not change by itself"),
        (["--outputs", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    outputs: Path, ens: Ens, words: list[str], message: str
) -> None:
    Path("mine.html").write_text("<p>my thesis</p>", encoding="utf-8")
    Path("recipes/data.html").write_text("a file", encoding="utf-8")
    answer = ens("report", *words)
    assert answer.code == 2
    assert message in answer.err and "Traceback" not in answer.err
    assert Path("mine.html").read_text(encoding="utf-8") == "<p>my thesis</p>"
    assert not (outputs / "reports").exists() and not Path("nowhere").exists()


def test_its_own_page_is_written_over(outputs: Path, ens: Ens) -> None:
    assert ens("report", "tiny", "--out", "page.html").code == 0
    assert ens("report", "other", "--out", "page.html").code == 0
    assert ">other</h1>" in Path("page.html").read_text(encoding="utf-8")


def test_a_name_of_a_run_and_of_a_blend_is_the_run_and_the_page_names_the_other(outputs: Path, ens: Ens) -> None:
    shutil.copytree(outputs / "blends" / "both", outputs / "blends" / "tiny")
    answer = ens("report", "tiny")
    assert answer.out.startswith("tiny: ")
    assert "outputs/blends/tiny has this name too: ens report outputs/blends/tiny" in answer.out


def test_damaged_and_missing_files_are_said_on_the_page_not_thrown(outputs: Path, ens: Ens) -> None:
    (outputs / "other" / "fold-1" / "history.csv").unlink()
    (outputs / "other" / "oof.npy").write_bytes(b"not an array")
    answer = ens("report", "other")
    assert answer.code == 0 and "Traceback" not in answer.err
    (outputs / "other" / "run.json").write_text("{", encoding="utf-8")
    for names in (["other"], [], ["tiny", "other"]):
        answer = ens("report", *names)
        assert answer.code in (0, 2) and "Traceback" not in answer.err and "of its own" not in answer.err
    assert ens("report", "tiny").code == 0


def test_python_gets_the_same_page_as_a_value(outputs: Path) -> None:
    written = ensemble.report(outputs / "tiny", thumbnails=0)
    assert written.path.is_file() and written.headline.startswith("tiny: ")
    assert list(written.table().columns) == ["anchor", "title"]
    assert written.document["pictures"] == 0


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_no_two_names_share_a_page_and_none_leaves_the_folder(first: str, second: str) -> None:
    names = [page_name("run", [f"outputs/{name}"]) for name in (first, second)]
    assert all(name.startswith("run-") and "/" not in name and "\0" not in name for name in names)
    if Path(f"outputs/{first}").name.partition("=")[0] == Path(f"outputs/{second}").name.partition("=")[0]:
        assert names[0] == names[1]
    plain = [name for name in (first, second) if name.isalnum()]
    if len(plain) == 2 and first != second:
        assert names[0] != names[1]


def test_a_dataset_given_as_name_and_folder_is_called_by_its_name(workspace: Path) -> None:
    assert page_name("data", ["pets=/a/b"]) == "data-pets"
    assert page_name("data", ["recipes/data/multi.yaml"]) == "data-multi"
    assert page_name("study", ["a b"]) != page_name("study", ["a-b"])
    assert find_subjects(["squares"], workspace / "outputs", workspace)[0] == "data"


def wait_for(is_so: Callable[[], object]) -> None:
    """Until that is so; a test's failure after a long time."""
    deadline = time.monotonic() + LONGEST_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_live_pages_follow_a_training_and_stop_reloading_with_it(workspace: Path) -> None:
    """Epochs arrive in a run's page and the index; after Ctrl+C or a killed training neither reloads itself."""
    (workspace / "recipes" / "long.yaml").write_text("extends: tiny\ntrain: {epochs: 5000}\n", encoding="utf-8")
    ens = [sys.executable, "-m", "ensemble"]
    processes = [subprocess.Popen([*ens, "train", "--recipe", "long", "--quiet"])]
    pages = {workspace / "run.html": ["long"], workspace / "index.html": []}

    def start() -> list[subprocess.Popen[bytes]]:
        words = [[*ens, "report", *names, "--live", "--out", str(page), "--json"] for page, names in pages.items()]
        live = [subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for each in words]
        processes.extend(live)
        return live

    try:
        wait_for(lambda: (workspace / "outputs/long/fold-0/history.csv").exists())
        live = start()
        wait_for(lambda: all(page.exists() for page in pages))
        first = {page: page.read_text(encoding="utf-8") for page in pages}
        assert all(RELOADS in text for text in first.values())
        wait_for(lambda: all(page.read_text(encoding="utf-8") != text for page, text in first.items()))
        for process in live:
            process.send_signal(signal.SIGINT)
        assert [process.wait(LONGEST_S) for process in live] == [0, 0]
        assert not any(RELOADS in page.read_text(encoding="utf-8") for page in pages)

        live = start()
        wait_for(lambda: all(RELOADS in page.read_text(encoding="utf-8") for page in pages))
        processes[0].send_signal(signal.SIGKILL)
        for process, page in zip(live, pages, strict=True):
            printed, _ = process.communicate(timeout=LONGEST_S)
            assert process.returncode == 0 and json.loads(printed)["page"] == str(page)
            assert RELOADS not in page.read_text(encoding="utf-8")
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_live_of_what_nothing_works_on_is_one_page(outputs: Path, ens: Ens) -> None:
    assert ens("report", "tiny", "--live", "--out", "page.html").code == 0
    assert RELOADS not in Path("page.html").read_text(encoding="utf-8")
