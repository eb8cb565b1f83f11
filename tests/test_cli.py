"""The command line's habits: help, JSON, exit codes, where words go. What users script against is frozen here."""

from __future__ import annotations

import argparse
import errno
import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ensemble.cli import build_parser
from ensemble.cli_options import COMMANDS
from tests.support import Ens

GOLDEN = Path(__file__).parent / "golden" / "options.json"

verbs = pytest.mark.parametrize("verb", sorted(COMMANDS))


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command's own parser."""
    parser = build_parser()
    action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def options_of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Names, values and defaults of a parser's options."""
    found = {}
    for action in parser._actions:
        name = "/".join(action.option_strings) or str(action.metavar)
        default = None if action.default == argparse.SUPPRESS else action.default
        choices = list(action.choices) if action.choices else None
        found[name] = {"default": default, "choices": choices, "nargs": action.nargs, "required": action.required}
    return found


def test_no_option_changes_without_being_noticed() -> None:
    """What scripts rely on. `ENS_UPDATE_GOLDEN=1` writes it anew; read the difference, and note it in the CHANGELOG."""
    found = {name: options_of(parser) for name, parser in sorted(commands().items())}
    if os.environ.get("ENS_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(GOLDEN.read_text()) == json.loads(json.dumps(found))


@verbs
def test_every_command_has_help_with_an_example_that_parses(verb: str, ens: Ens) -> None:
    answer = ens(verb, "--help")
    assert answer.code == 0
    example = re.search(r"example:\n  (ens .+)", answer.out)
    assert example is not None
    build_parser().parse_args(shlex.split(example[1])[1:])


@verbs
def test_every_command_has_the_global_options_before_and_after_the_verb(verb: str) -> None:
    needed = {
        "init": ["images"],
        "tune": ["--trials", "1"],
        "blend": ["x.npy"],
        "predict": ["r"],
        "adopt": ["x.npy"],
        "pack": ["r", "--out", "p"],
        "score": ["r"],
        "compare": ["a", "b"],
        "labels": ["r"],
    }.get(verb, [])
    before = build_parser().parse_args(["--outputs", "o", "--json", verb, *needed])
    after = build_parser().parse_args([verb, *needed, "--outputs", "o", "--json"])
    assert (before.outputs, before.json) == (after.outputs, after.json) == ("o", True)


def test_help_alone_lists_the_commands(ens: Ens) -> None:
    for words in ((), ("--help",)):
        answer = ens(*words)
        assert answer.code == 0
        assert all(f"    {name} " in answer.out for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "trian is not a command; did you mean train?"),
        (("frobnicate",), "the commands are init, train, tune"),
        (("train", "--recip", "x"), "did you mean --recipe?"),
        (("train", "--folds", "a,b"), "'a,b' is not a list of fold numbers"),
        (("init",), "DIR"),
        (("tune",), "--trials"),
        (("tune", "--trials", "0"), "'0' is not a whole number from 1"),
        (("blend",), "PROBS"),
        (("blend", "x.npy", "--method", "sotf"), "sotf"),
        (("adopt",), "FILE"),
        (("adopt", "nowhere.npy", "--ids", "no.txt"), "no.txt"),
        (("status", "nowhere"), "nowhere: no such folder"),
        (("recipes", "quickstrat"), "quickstart"),
        (("-C", "/no/such/place", "status"), "-C /no/such/place"),
    ],
    ids=lambda value: shlex.join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: tuple[str, ...], message: str, ens: Ens, workspace: Path
) -> None:
    answer = ens(*words)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert len(answer.err.splitlines()) <= 3
    assert answer.out == ""
    as_json = ens(*words, "--json")
    assert (as_json.code, as_json.document["exit_code"]) == (2, 2)
    assert message in "\n".join(as_json.document["error"])


@pytest.mark.parametrize("words", [("recipes",), ("recipes", "tiny"), ("recipes", "--schema"), ("folds",), ("doctor",)])
def test_json_is_one_document_on_stdout(words: tuple[str, ...], ens: Ens, workspace: Path) -> None:
    if words == ("folds",):
        words = ("folds", "--recipe", "tiny")
    answer = ens(*words, "--json")
    assert answer.code == 0, answer.err
    assert isinstance(answer.document, dict)


def test_folds_json_holds_what_is_promised(ens: Ens, workspace: Path) -> None:
    document = ens("folds", "--recipe", "tiny", "--json").document
    promised = "dataset rows classes class_counts path sha256 k scheme groups fold_class_counts findings"
    assert set(promised.split()) <= set(document)
    assert document["class_counts"] == {"red": 16, "green": 16, "blue": 16}
    assert [sum(fold.values()) for fold in document["fold_class_counts"]] == [24, 24]
    again = ens("folds", "--recipe", "tiny", "--json").document
    assert (document.pop("made"), again.pop("made")) == (True, False)
    assert document == again


def test_outputs_and_the_directory_can_be_moved(
    ens: Ens, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENS_OUTPUTS", str(tmp_path / "by_environment"))
    assert "by_environment" in ens("folds", "--recipe", "tiny", "--json").document["path"]
    assert "by_option" in ens("--outputs", "by_option", "folds", "--recipe", "tiny", "--json").document["path"]
    monkeypatch.delenv("ENS_OUTPUTS")
    monkeypatch.chdir("/")
    document = ens("-C", str(workspace), "folds", "--recipe", "tiny", "--json").document
    assert document["path"].startswith("outputs")
    assert (workspace / document["path"]).exists()


def test_a_fault_of_our_own_is_one_line_and_a_traceback_in_a_file(
    ens: Ens, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("ensemble.commands.status_command.run", broken)
    answer = ens("status")
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    log = Path(answer.err.split("traceback in ")[1].strip())
    assert "RuntimeError: a bug" in log.read_text()


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.ENOSPC, 3, "outputs: No space left on device; free some, then the same command continues"),
        (errno.EROFS, 2, "outputs: Read-only file system; make it accessible, or name another folder with --outputs"),
        (errno.EACCES, 2, "outputs: Permission denied; make it accessible, or name another folder with --outputs"),
    ],
)
def test_a_disk_that_is_full_or_closed_is_no_fault_of_our_own(
    ens: Ens, workspace: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, text: str
) -> None:
    def broken(arguments: object) -> None:
        raise OSError(number, os.strerror(number), "outputs")

    monkeypatch.setattr("ensemble.commands.status_command.run", broken)
    answer = ens("status")
    assert (answer.code, answer.err) == (code, f"{text}\n")
    assert not (workspace / "outputs").exists()


@pytest.mark.parametrize("verb", ["train", "tune --trials 1", "folds", "eda"])
@pytest.mark.parametrize("outputs", ["file", "file/below"])
def test_a_file_where_outputs_should_be_is_told(ens: Ens, workspace: Path, verb: str, outputs: str) -> None:
    (workspace / "file").write_text("")
    answer = ens(*verb.split(), "--recipe", "tiny", "--outputs", outputs, "--quiet")
    assert answer.code == 2
    assert "file lies where a folder should be" in answer.err
    assert (workspace / "file").read_text() == ""


def test_status_of_an_empty_folder_says_what_to_do(ens: Ens, workspace: Path) -> None:
    (workspace / "outputs").mkdir()
    answer = ens("status")
    assert answer.code == 0
    assert "next: ens train --recipe quickstart" in answer.out


def test_the_recipe_left_out_is_that_of_the_newest_run(ens: Ens, workspace: Path) -> None:
    ens("train", "--recipe", "tiny", "--folds", "0")
    document = ens("folds", "--json").document
    assert document["dataset"] == "squares"


def test_the_reader_of_a_closed_pipe_gets_no_complaint(workspace: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m ensemble recipes quickstart | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(("variable", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_bars_are_drawn_on_a_terminal_only_where_they_are_wanted(
    workspace: Path, variable: dict[str, str], colour: bool
) -> None:
    leader, follower = pty.openpty()
    environment = {
        **{key: value for key, value in os.environ.items() if key != "NO_COLOR"},
        "TERM": "xterm",
        **variable,
    }
    command = [sys.executable, "-m", "ensemble", "train", "--recipe", "tiny", "--folds", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, env=environment)
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
        elif process.poll() is not None:
            break
    os.close(leader)
    assert process.wait(60) == 0
    assert (b"\x1b[" in seen) == colour
    assert b"2/2" in seen


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("train", "--epochs", "3"), "--epochs is not an option; did you mean --set train.epochs=3?"),
        (("train", "--train.lr=1e-3"), "did you mean --set train.lr=1e-3?"),
        (("folds", "--k", "10"), "did you mean --set folds.k=10?"),
        (("train", "--batch-size", "8"), "did you mean --set train.batch_size=8?"),
        (("train", "--model", "resnet50"), "did you mean --set model.name=resnet50?"),
        (("train", "--tta"), "did you mean --set tta=VALUE?"),
        (("train", "train.epochs=3"), "'train.epochs=3' stands alone; did you mean --set train.epochs=3?"),
        (("train", "--worker", "3"), "did you mean --workers?"),
        (("blend", "x.npy", "--epochs", "3"), "--epochs is not an option; ens blend"),  # it has no --set
    ],
)
def test_a_bare_key_of_a_recipe_leads_to_set(words: tuple[str, ...], advice: str, ens: Ens, workspace: Path) -> None:
    answer = ens(*words)
    assert answer.code == 2
    assert advice in answer.err


def test_a_part_of_a_metrics_name_leads_to_it_in_a_blend(ens: Ens, workspace: Path) -> None:
    answer = ens("blend", "x.npy", "--metric", "f1")
    assert "--metric f1: unknown; did you mean macro_f1, weighted_f1, micro_f1 or samples_f1?" in answer.err


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"dropped": 1, "prior": 0}, "warning: 1 training image is left out; run.json lists them"),
        ({"dropped": 2, "prior": 1}, "2 training images are left out and 1 test row has no usable image and gets the"),
    ],
)
def test_one_image_is_no_plural(event: dict[str, int], line: str) -> None:
    from ensemble.screen.board import event_line

    assert line in (event_line({"event": "bad-images", **event}) or "")


def run_real(*words: str | bytes, redirect: str = "") -> subprocess.CompletedProcess[bytes]:
    """A real process, its streams redirected as a shell does it."""
    command = shlex.join([sys.executable, "-m", "ensemble"]).encode()
    quoted = b" ".join(b"'" + (word.encode() if isinstance(word, str) else word) + b"'" for word in words)
    return subprocess.run([b"/bin/sh", b"-c", command + b" " + quoted + b" " + redirect.encode()], capture_output=True)


@pytest.mark.parametrize(
    ("redirect", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&- <&-", 0),
        (">/dev/full", 3),
        (">/dev/full 2>/dev/full", 3),
        ("2>/dev/full", 0),
    ],
)
@pytest.mark.parametrize("words", [("recipes", "tiny"), ("recipes", "--json"), ("--help",), ("--version",)])
def test_a_stream_that_is_closed_or_full_never_ends_in_a_fault_of_our_own(
    words: tuple[str, ...], redirect: str, code: int, workspace: Path
) -> None:
    if "/dev/full" in redirect and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = run_real(*words, redirect=redirect)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    if redirect == ">/dev/full":
        assert done.stderr.startswith(b"stdout: No space left on device") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_a_fold_is_trained_although_stderr_is_closed_or_full(redirect: str, workspace: Path) -> None:
    """Workers get the streams of the command: closed ones would be taken by the next file that they open."""
    assert run_real("train", "--recipe", "tiny", "--folds", "0", redirect=redirect).returncode == 0
    assert (workspace / "outputs" / "tiny" / "fold-0" / "fold.json").is_file()


def test_a_mistake_keeps_its_code_where_nobody_can_read_it(workspace: Path) -> None:
    for redirect in ("2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"):
        assert run_real("recipes", "nowhere", "--json", redirect=redirect).returncode == 2


ESCAPE, SHOWN = "\x1b]0;title\x07\x1b[31m\x9b31m\u202e", rb"\x1b]0;title\x07\x1b[31m\x9b31m\u202e"


def holds_raw(text: bytes) -> bool:
    """Whether a terminal would act on what is printed."""
    return any(letter in text.decode() for letter in ("\x1b", "\x07", "\x9b", "\u202e", "\x7f"))


def test_control_characters_of_files_and_words_never_reach_the_terminal_raw(
    ens: Ens, workspace: Path, squares: Path
) -> None:
    """In a table, a message, a finding, a JSON document, an argument that argparse refuses, and progress in a pipe."""
    description = workspace / "recipes" / "data" / "squares.yaml"
    folder = workspace / "own"
    shutil.copytree(squares, folder)
    table = (folder / "train.csv").read_text(encoding="utf-8")
    (folder / "train.csv").write_text(table.replace("red", f"re{ESCAPE}d"), encoding="utf-8")
    text = description.read_text(encoding="utf-8").replace("[red, green, blue]", "found")
    description.write_text(text, encoding="utf-8")
    first = (folder / "images" / "0000.png").read_bytes()
    (folder / "images" / "0000.png").write_bytes(first[:90])  # a bad image: a finding that names its row
    for words in (
        ("folds", "--recipe", "tiny", "--data", f"squares={folder}"),
        ("folds", "--recipe", "tiny", "--data", f"squares={folder}", "--json"),
        ("eda", "--recipe", "tiny", "--data", f"squares={folder}", "--all"),
        ("train", "--recipe", ESCAPE),
        ("train", f"--{ESCAPE}"),
        ("status", ESCAPE),
        (ESCAPE,),
    ):
        done = run_real(*words)
        assert done.returncode in (0, 2)
        assert not holds_raw(done.stdout + done.stderr), words
    document = json.loads(run_real("folds", "--recipe", "tiny", "--data", f"squares={folder}", "--json").stdout)
    assert f"re{ESCAPE}d" in document["class_counts"]  # JSON: the value itself
    assert SHOWN in run_real("folds", "--recipe", "tiny", "--data", f"squares={folder}").stdout


def test_words_that_are_not_utf8_are_shown_by_their_bytes(workspace: Path) -> None:
    done = run_real("status", b"o\xff")
    assert done.returncode == 2
    assert done.stderr.startswith(rb"o\xff: ")
    assert run_real("train", "--recipe", b"\xff", "--json").returncode == 2
    done = run_real("folds", "--recipe", "tiny", "--outputs", b"o\xff", "--json")
    assert (done.returncode, json.loads(done.stdout)["path"][:3]) == (0, "o\udcff/")


def test_a_name_of_a_file_that_no_list_of_ids_can_hold_is_refused(workspace: Path, squares: Path) -> None:
    image = (squares / "images" / "0000.png").read_bytes()
    for name in (b"\xff.png", b"a\nb.png"):
        folder = workspace / "odd"
        for place in ("cat", "dog"):
            (folder / place).mkdir(parents=True)
            for number in range(4):
                (folder / place / f"{number}.png").write_bytes(image)
        (Path(os.fsdecode(os.fsencode(folder) + b"/cat/" + name))).write_bytes(image)
        for words in (("init", "odd"), ("folds", "--recipe", "tiny", "--data", "odd"), ("eda", "--data", "odd")):
            done = run_real(*words)
            assert done.returncode == 2, done.stderr
            assert b"UTF-8" in done.stderr
        assert not (workspace / "recipes" / "odd.yaml").exists()
        shutil.rmtree(folder)


def test_more_options_than_argparse_can_look_through_are_refused(ens: Ens, workspace: Path) -> None:
    answer = ens("train", *(word for number in range(5_000) for word in ("--recipe", f"r{number}")))
    assert (answer.code, answer.err) == (2, "ens: more than 4,000 options; put what they say into a recipe\n")
    assert len(ens("train", "--recipe", "tiny", "--workers", "9" * 90_000).err) < 300
