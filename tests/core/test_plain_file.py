"""Plain files: whatever stands in their place is refused at once, and nothing is written through a link."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from ensemble.core.files import load_json, replaced_together, save_text, settle, sha256_file
from ensemble.core.locks import folder_lock, lock_holder
from ensemble.core.plain_file import append_own, make_own_folder, open_plain, read_plain
from ensemble.core.run import empty_but_checkpoints
from ensemble.errors import InputError, NotPlain


def plant(path: Path, kind: str) -> None:
    """Put something that is no plain file at `path`."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))  # an absolute path may be longer than a socket's address
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize("read", [read_plain, open_plain, sha256_file, load_json])
def test_what_is_no_plain_file_is_refused_at_once(
    kind: str, read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "X", kind)
    with pytest.raises(NotPlain, match=kind if kind != "pipe" else "named pipe"):
        read(tmp_path / "X")  # type: ignore[operator]


def test_a_link_to_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("real")
    assert read_plain(tmp_path / "link") == b"abc"


def test_a_file_that_is_too_large_or_grows_is_not_read_without_end(tmp_path: Path) -> None:
    (tmp_path / "X").write_bytes(b"x" * 11)
    assert read_plain(tmp_path / "X", most=11) == b"x" * 11
    with pytest.raises(OSError, match="10 bytes"):
        read_plain(tmp_path / "X", most=10)
    assert read_plain("/proc/self/status").startswith(b"Name:")  # its size is said to be 0
    with pytest.raises(OSError, match="100 bytes"):
        read_plain("/proc/self/status", most=100)


@pytest.mark.parametrize("is_hard", [False, True])
def test_a_link_in_place_of_a_lock_is_refused_and_its_target_kept(is_hard: bool, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("three years of work")
    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / ".lock"
    os.link(thesis, lock) if is_hard else lock.symlink_to(thesis)
    with pytest.raises(InputError, match=r"\.lock: .*link"), folder_lock(tmp_path / "run"):
        pass
    assert lock_holder(tmp_path / "run") is None
    assert thesis.read_text() == "three years of work"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_lock_that_is_no_plain_file_is_refused(kind: str, tmp_path: Path) -> None:
    plant(tmp_path / ".lock", kind)
    with pytest.raises(InputError, match=r"\.lock: .*remove it"), folder_lock(tmp_path, wait=True):
        pass
    assert lock_holder(tmp_path) is None


def test_a_log_is_written_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("kept")
    (tmp_path / "log.txt").symlink_to("thesis")
    with pytest.raises(NotPlain):
        append_own(tmp_path / "log.txt", b"line\n")
    assert (tmp_path / "thesis").read_text() == "kept"


def test_a_link_in_place_of_a_folder_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "fold-0").symlink_to("theirs")
    with pytest.raises(NotPlain, match="symbolic link, where a folder is needed"):
        make_own_folder(tmp_path / "fold-0")
    make_own_folder(tmp_path / "new" / "fold-1")
    make_own_folder(tmp_path / "new" / "fold-1")


def test_a_link_in_place_of_a_swap_moves_nobodys_files(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "photo.jpg").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".probs.ens-swap").symlink_to(tmp_path / "theirs")
    with pytest.raises(InputError, match=r"ens-swap: is a symbolic link"):
        settle(tmp_path / "run", "probs")
    with pytest.raises(InputError, match=r"ens-swap"), replaced_together(tmp_path / "run", "probs") as stage:
        (stage / "probs.npy").write_text("new")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".probs.ens-swap"]
    assert (tmp_path / "theirs" / "photo.jpg").read_text() == "kept"


@pytest.mark.parametrize("place", ["probs.npy", "fold-0"])
def test_a_link_inside_a_swap_or_on_its_way_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    swap = tmp_path / "run" / ".probs.ens-swap"
    swap.mkdir(parents=True)
    if place == "fold-0":
        (swap / "fold-0").mkdir()
        (swap / "fold-0" / "oof.npy").write_text("x")
        (tmp_path / "run" / "fold-0").symlink_to(tmp_path / "theirs")
    else:
        (swap / "probs.npy").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=place):
        settle(tmp_path / "run", "probs")
    assert list((tmp_path / "theirs").iterdir()) == []


def test_commands_that_replace_the_same_files_at_once_all_succeed(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def replace(word: str) -> None:
        try:
            for _ in range(20):
                with replaced_together(tmp_path, "pair") as stage:
                    for name in ("a", "b"):
                        (stage / name).write_text(word)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=replace, args=(word,)) for word in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_folder_that_is_a_link_to_strangers_files_is_not_worked_in(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "photo.jpg").write_text("kept")
    (tmp_path / "run").symlink_to("theirs")
    with pytest.raises(InputError, match="run: is a symbolic link"), folder_lock(tmp_path / "run"):
        pass
    with folder_lock(tmp_path / "run", may_be_link=True):
        assert (tmp_path / "theirs" / ".lock").exists()
    (tmp_path / "theirs" / "run.json").write_text("{}")  # a run that was moved to another disk, and linked
    with folder_lock(tmp_path / "run"):
        pass


def test_a_fold_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "photo.jpg").write_text("kept")
    (tmp_path / "fold-0").symlink_to("theirs")
    with pytest.raises(InputError, match="fold-0: is a symbolic link"):
        empty_but_checkpoints(tmp_path / "fold-0", "abc")
    assert (tmp_path / "theirs" / "photo.jpg").read_text() == "kept"


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_a_file_takes_the_place_of_nothing_else(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "X", kind)
    before = os.lstat(tmp_path / "X")
    with pytest.raises(NotPlain):
        save_text(tmp_path / "X", "text")
    assert os.path.samestat(os.lstat(tmp_path / "X"), before)
    assert [path.name for path in tmp_path.iterdir()] == ["X"]
