"""`ens pack`: what is packed predicts the same bytes anywhere; what was damaged or made to harm is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ensemble
from ensemble.core.files import sha256_file
from ensemble.core.records import record_bytes, save_record
from ensemble.runs import pack as pack_module
from tests.runs.conftest import blend, difference, files_of, predict, refusal
from tests.support import alter_record

NET = "import torch\n\ndef build(classes, image_size):\n"
NET += "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * image_size**2, classes))\n"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection to anywhere."""

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def rewritten(source: Path, target: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes | None]) -> Path:
    """A copy of a zip with other contents; `change` gives None for a file that is left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = change(info, old.read(info))
            if content is not None:
                new.writestr(info, content)
    return target


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("out", ["packed", "packed.zip"])
def test_a_packed_blend_predicts_the_same_bytes_without_outputs_recipes_or_network(
    out: str, place: Path, ens: Callable[..., Any], squares: Path
) -> None:
    blend(ens, "--method", "stack", "--calibrate", "temperature", "--tune-classes")
    assert predict(ens, "b", "--images", "new", "--out", "own").code == 0
    answer = ens("pack", "b", "--out", out, "--json")
    assert answer.code == 0, answer.err
    assert answer.document["kind"] == "blend" and answer.document["members"] == ["first", "large", "second"]
    (place / "outputs").rename(place / "away")
    shutil.rmtree(place / "recipes")
    answer = predict(ens, out, "--images", "new")
    assert answer.code == 0, answer.err
    usual = place / "packed" / "predicted" / "new"
    for name in ("probs.npy", "probs.ids.txt", "predictions.csv"):
        assert (usual / name).read_bytes() == (place / "own" / name).read_bytes()
    (place / "away").rename(place / "outputs")
    assert difference(place, usual) <= 1e-6


def test_a_packed_run_predicts_as_the_run_does(place: Path, ens: Callable[..., Any]) -> None:
    assert predict(ens, "large", "--images", "new", "--out", "own").code == 0
    packed = ensemble.pack("outputs/large", "large.zip")
    assert packed.document["kind"] == "run" and packed.path == Path("large.zip")
    shutil.rmtree(place / "outputs")
    done = ensemble.predict("large.zip", images=["new"], out="given", engine="inline")
    assert done.views == "hflip"
    for name in ("probs.npy", "predictions.csv"):
        assert (place / "given" / name).read_bytes() == (place / "own" / name).read_bytes()


def test_a_pack_holds_what_prediction_needs_and_no_path_of_this_machine(
    place: Path, ens: Callable[..., Any], squares: Path, three_runs: Path
) -> None:
    blend(ens)
    assert ens("pack", "b", "--out", "packed").code == 0
    files = files_of(place / "packed")
    expected = {"manifest.json", "README.md", "blend.json"}
    for run in ("first", "second", "large"):
        expected |= {f"members/{run}/run.json"}
        expected |= {f"members/{run}/fold-{k}/{name}" for k in (0, 1) for name in ("model.safetensors", "model.json")}
    assert files.keys() == expected
    for name, content in files.items():
        for path in (place, squares, three_runs, Path.home()):
            assert str(path).encode() not in content, f"{name} names {path}"
    readme = files["README.md"].decode()
    assert "ens predict packed --images DIR" in readme and "red, green, blue" in readme and "test_resnet" in readme
    manifest = json.loads(files["manifest.json"])
    assert manifest["files"].keys() == expected - {"manifest.json"}


def test_packing_twice_gives_the_same_bytes(place: Path, ens: Callable[..., Any]) -> None:
    blend(ens)
    assert ens("pack", "b", "--out", "one.zip").code == 0
    (place / "one.zip").rename(place / "first.zip")
    assert ens("pack", "b", "--out", "one.zip").code == 0
    assert (place / "one.zip").read_bytes() == (place / "first.zip").read_bytes()


@pytest.mark.parametrize("name", ["members/first/fold-1/model.safetensors", "blend.json", "members/large/run.json"])
def test_a_flipped_byte_is_refused_with_the_name_of_the_file(name: str, place: Path, ens: Callable[..., Any]) -> None:
    blend(ens)
    assert ens("pack", "b", "--out", "packed").code == 0 and ens("pack", "b", "--out", "packed.zip").code == 0
    path = place / "packed" / name
    path.write_bytes(flipped(path.read_bytes()))
    error = refusal(ens, "predict", "packed", "--images", "new")
    assert "packed: the pack is damaged" in error and f"packed/{name}: not the file that was packed" in error
    path.unlink()
    assert f"packed/{name}: missing" in refusal(ens, "predict", "packed", "--images", "new")
    rewritten(
        place / "packed.zip", place / "bad.zip", lambda info, held: flipped(held) if info.filename == name else held
    )
    assert f"bad.zip/{name}: not the file that was packed" in refusal(ens, "predict", "bad.zip", "--images", "new")
    rewritten(place / "packed.zip", place / "gap.zip", lambda info, held: None if info.filename == name else held)
    assert f"gap.zip/{name}: missing" in refusal(ens, "predict", "gap.zip", "--images", "new")
    content = bytearray((place / "packed.zip").read_bytes())
    with zipfile.ZipFile(place / "packed.zip") as archive:
        content[archive.getinfo(name).header_offset + 200] ^= 1  # in the file's bytes, under the zip's own checksum
    (place / "raw.zip").write_bytes(content)
    assert f"raw.zip/{name}: not the file that was packed" in refusal(ens, "predict", "raw.zip", "--images", "new")
    (place / "cut.zip").write_bytes(content[:-100])
    assert "cut.zip: the zip is damaged" in refusal(ens, "predict", "cut.zip", "--images", "new")


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "members/../../evil.txt", "C:/evil.txt", "..\\evil.txt"]
)
def test_a_zip_with_a_name_that_leads_out_of_it_is_refused(name: str, place: Path, ens: Callable[..., Any]) -> None:
    assert ens("pack", "first", "--out", "packed.zip").code == 0
    with zipfile.ZipFile("packed.zip", "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    error = refusal(ens, "predict", "packed.zip", "--images", "new")
    assert "leads out of the pack" in error
    manifest = json.loads(zipfile.ZipFile("packed.zip").read("manifest.json"))
    manifest["files"][name] = {"bytes": 4, "sha256": "0" * 64}
    (place / "folder").mkdir()
    save_record(place / "folder" / "manifest.json", manifest)
    assert "leads out of the pack" in refusal(ens, "predict", "folder", "--images", "new")


def test_links_doubles_and_strange_files_in_a_zip_are_refused(place: Path, ens: Callable[..., Any]) -> None:
    assert ens("pack", "first", "--out", "packed.zip").code == 0
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for name, info in {"link.zip": link, "more.zip": zipfile.ZipInfo("more.txt")}.items():
        shutil.copy("packed.zip", name)
        with zipfile.ZipFile(name, "a") as archive:
            archive.writestr(info, "/etc/passwd")
    assert "'link' is a link or a device" in refusal(ens, "predict", "link.zip", "--images", "new")
    assert "more.zip/more.txt: not in the manifest" in refusal(ens, "predict", "more.zip", "--images", "new")
    shutil.copy("packed.zip", "twice.zip")
    with zipfile.ZipFile("twice.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("README.md", "another")
    assert "'README.md' is there twice" in refusal(ens, "predict", "twice.zip", "--images", "new")
    with zipfile.ZipFile("none.zip", "w") as archive:
        archive.writestr("readme.txt", "no pack")
    assert "holds no manifest.json at its top" in refusal(ens, "predict", "none.zip", "--images", "new")
    (place / "text.zip").write_text("no zip")
    assert "text.zip: the zip is damaged" in refusal(ens, "predict", "text.zip", "--images", "new")


def test_a_small_zip_cannot_fill_the_disk(
    place: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ens("pack", "first", "--out", "packed.zip").code == 0
    name = "README.md"
    shutil.copy("packed.zip", "bomb.zip")
    with zipfile.ZipFile("packed.zip") as old, zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, b"0" * 50_000_000 if info.filename == name else old.read(info))
    written: list[int] = []
    extract = pack_module._extract

    def watched(archive: Any, info: Any, target: Path, file: Any) -> bool:
        done = extract(archive, info, target, file)
        written.append(target.stat().st_size - file["bytes"])
        return done

    monkeypatch.setattr(pack_module, "_extract", watched)
    assert "bomb.zip/README.md: not the file" in refusal(ens, "predict", "bomb.zip", "--images", "new")
    assert max(written) <= 0, "more was unpacked than the manifest says"

    def grown(info: zipfile.ZipInfo, content: bytes) -> bytes:
        if info.filename != "manifest.json":
            return content
        manifest = json.loads(content)
        manifest["files"][name]["bytes"] = 1 << 60
        return record_bytes(manifest)

    rewritten(place / "packed.zip", place / "huge.zip", grown)
    assert "needs 1.15e+09 GB" in refusal(ens, "predict", "huge.zip", "--images", "new")


def test_a_full_disk_leaves_nothing_behind(
    place: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    blend(ens)
    pieces = pack_module._pieces

    def full(path: Path) -> Any:
        yield next(pieces(path))
        if path.name == "model.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(pack_module, "_pieces", full)
    before = set(place.rglob("*"))
    for out in ("new-folder/packed", "packed.zip"):
        answer = ens("pack", "b", "--out", out)
        assert answer.code == 3 and "No space left on device" in answer.err
        assert set(place.rglob("*")) == before


def test_what_a_killed_pack_leaves_is_swept_by_the_next(place: Path, ens: Callable[..., Any]) -> None:
    code = "import os, signal, sys\nfrom ensemble.runs import pack\nfrom ensemble.cli import main\n"
    code += "pack.flush_to_disk = lambda path: os.kill(os.getpid(), signal.SIGKILL)\nmain(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(Path(ensemble.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, "pack", "first", "--out", "packed"], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (place / "packed").exists() and list(place.glob(".ens-*"))
    assert ens("pack", "first", "--out", "packed").code == 0
    assert not list(place.glob(".ens-*"))
    assert predict(ens, "packed", "--images", "new").code == 0


def test_nothing_is_packed_over_and_what_is_no_blend_or_run_is_refused(place: Path, ens: Callable[..., Any]) -> None:
    assert ens("pack", "first", "--out", "packed").code == 0
    assert ens("pack", "first", "--out", "packed").code == 0, "the same pack is there already"
    assert "--out packed: exists, and is not this pack" in refusal(ens, "pack", "second", "--out", "packed")
    (place / "packed" / "README.md").write_text("mine")
    assert "--out packed: exists, and is not this pack" in refusal(ens, "pack", "first", "--out", "packed")
    assert "--out new: exists; remove it" in refusal(ens, "pack", "first", "--out", "new")
    assert "packed: is a pack already" in refusal(ens, "pack", "packed", "--out", "other")
    assert "a pack is a folder, or a file that ends in .zip" in refusal(ens, "pack", "first", "--out", "p.tar")
    assert "firts: there is no such run; did you mean first?" in refusal(ens, "pack", "firts", "--out", "other")
    weights = place / "outputs" / "first" / "fold-0" / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes()))
    assert "first/fold-0/model.safetensors: changed since it was trained" in refusal(ens, "pack", "first", "--out", "o")
    weights.unlink()
    assert "fold-0 not trained, or not here" in refusal(ens, "pack", "first", "--out", "o")


def test_own_code_is_packed_and_run_only_by_consent(
    place: Path, ens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = place / "recipes" / "net.py"
    code.write_text(NET)
    (place / "recipes" / "own.yaml").write_text("extends: tiny\nmodel: {name: 'net:build'}\ntrain: {epochs: 1}\n")
    assert ens("train", "--recipe", "own", "--engine", "inline").code == 0
    assert ens("blend", "outputs/own", "outputs/first", "--name", "b", "--select", "all").code == 0
    assert ens("pack", "b", "--out", "mine.zip").code == 0  # the user's own: the same bytes lie in recipes/
    code.unlink()
    error = refusal(ens, "pack", "b", "--out", "theirs.zip")
    assert "outputs/own/code/net.py: net:build of this run is code that is not in recipes" in error
    assert ens("pack", "b", "--out", "theirs.zip", "--allow-code").code == 0
    assert (place / "mine.zip").read_bytes().count(b"net.py") == (place / "theirs.zip").read_bytes().count(b"net.py")
    shutil.rmtree(place / "outputs")
    assert "--allow-code" in refusal(ens, "predict", "mine.zip", "--images", "new")
    assert predict(ens, "mine.zip", "--images", "new", "--allow-code").code == 0


def rewrite_models(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the networks of a pack, and its manifest with them, as who means harm would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for path in folder.glob("members/*/*/model.json"):
        model = json.loads(path.read_text())
        change(model)
        save_record(path, model)
        about = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        manifest["files"][path.relative_to(folder).as_posix()] = about
    save_record(folder / "manifest.json", manifest)


def test_a_pack_runs_no_function_of_an_installed_package_unasked(place: Path, ens: Callable[..., Any]) -> None:
    assert ens("pack", "first", "--out", "packed").code == 0

    def harm(model: dict[str, Any]) -> None:
        model["network"]["name"] = "subprocess:call"
        model["code"] = {"subprocess:call": {"files": {}, "sha256": "0" * 64}}

    rewrite_models(place / "packed", harm)
    error = refusal(ens, "predict", "packed", "--images", "new", "--engine", "inline")
    assert "subprocess:call of an installed package would be run for this run; read it, then pass --allow-code" in error


@pytest.mark.parametrize("options", [{"checkpoint_path": "evil.pth"}, {"weights": "/etc/passwd"}])
def test_a_network_that_names_other_files_is_refused_in_packs(
    options: dict[str, str], place: Path, ens: Callable[..., Any]
) -> None:
    assert ens("pack", "first", "--out", "packed").code == 0
    rewrite_models(place / "packed", lambda model: model["network"].update(options=options))
    error = refusal(ens, "predict", "packed", "--images", "new")
    assert "its network names files outside of a pack" in error


def test_a_network_of_the_hub_is_told_not_to_be_offline(place: Path, ens: Callable[..., Any]) -> None:
    assert ens("pack", "first", "--out", "plain").code == 0
    assert "Not offline" not in (place / "plain" / "README.md").read_text()
    for fold in (place / "outputs" / "first").glob("fold-*"):
        model = fold / "model.json"
        network = json.loads(model.read_text())["network"]
        alter_record(model, network={**network, "name": "hf-hub:timm/test_resnet"})
        files = json.loads((fold / "fold.json").read_text())["files"]
        alter_record(fold / "fold.json", files={**files, "model.json": sha256_file(model)})
    assert ens("pack", "first", "--out", "packed").code == 0
    assert "Not offline: hf-hub:timm/test_resnet is looked up" in (place / "packed" / "README.md").read_text()


def test_code_that_leads_out_of_its_run_is_not_packed(place: Path, ens: Callable[..., Any]) -> None:
    (place / "evil.py").write_text(NET)
    (place / "outputs" / "first" / "code").mkdir()
    name = "../../../evil.py"
    for fold in (place / "outputs" / "first").glob("fold-*"):
        code = {"evil:build": {"files": {name: sha256_file(place / "evil.py")}, "sha256": "0" * 64}}
        alter_record(fold / "model.json", code=code)
        files = json.loads((fold / "fold.json").read_text())["files"]
        alter_record(fold / "fold.json", files={**files, "model.json": sha256_file(fold / "model.json")})
    assert f"code.evil:build.files.{name}.[key]" in refusal(ens, "pack", "first", "--out", "packed", "--allow-code")
