"""A pack: one folder or zip with all that a run or a blend needs to predict on another machine; made, checked, opened.

    manifest.json        kind, name, where each member lies, the size and SHA-256 of every other file
    README.md            the command, the classes, what it was trained with
    blend.json           of a blend
    members/NAME/        run.json (what prediction needs of it), fold-*/model.safetensors and model.json, code/

No absolute path gets in. The hashes show that a pack is whole, not who made it: code in it runs only by `--allow-code`.
How it predicts is in `predict_new.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ensemble.core.complaints import counted
from ensemble.core.files import flush_to_disk, scratch_folder, sha256_file
from ensemble.core.notebook import check_arguments
from ensemble.core.records import Count, Record, RecordSchema, Schema, Sha256, load_record, parse_record, record_bytes
from ensemble.core.run import PredictingRun, RunFolder
from ensemble.errors import InputError
from ensemble.recipe.own_code import CODE_FOLDER
from ensemble.recipe.parts import FILE_OPTIONS
from ensemble.runs.predict_again import find_run
from ensemble.runs.predict_new import BlendSource, RunSource, changed_folds, load_formula

_MANIFEST = "manifest.json"
_MOST_MANIFEST = 1 << 26  # bytes: a hash for half a million files; a zip that claims more holds something else
_PIECE = 1 << 20  # bytes copied and hashed at a time
_SHOWN = 10  # faults of a pack that a message names
# Of run.json, what prediction reads, and what tells a person which run it was: no paths, rows or findings.
_KEPT = ["run", "identity", "recipe_name", "recipe", "dataset", "classes", "box", "tta", "metric", "greater_is_better"]
_KEPT += ["optimistic", "why_optimistic", "scores", "cost", "versions", "files"]
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: the same content gives the same bytes


class _PackedFile(Schema):
    bytes: Count
    sha256: Sha256


class PackManifest(RecordSchema):
    """`manifest.json`."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    remedy: ClassVar[str] = "copy the pack again, or pack again"

    kind: Literal["run", "blend"]
    name: str
    members: Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], str], Field(min_length=1)]
    files: dict[str, _PackedFile]


@dataclass(frozen=True, repr=False)
class Packed:
    """The result of `pack`: where it is, and the document of `ens pack --json`."""

    path: Path
    document: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Packed {self.path}>"


@check_arguments
def pack(
    source: Path | str,
    out: Path | str,
    *,
    allow_code: bool = False,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
) -> Packed:
    """Copy all that prediction needs of a run or blend to `out`, a new folder or a new file that ends in `.zip`.

    Written whole or not at all; the same pack that lies there already stays. Own code of a network goes in if it is the
    user's own or `allow_code` says so.
    """
    out = Path(out)
    _check_place(out)
    other = find_other(source, Path(outputs))
    if isinstance(other, PackPlace):
        raise InputError(f"{source}: is a pack already; copy it as it is")
    if other is None:
        run = find_run(source, Path(outputs))
        applied: RunSource | BlendSource = RunSource.of(run)
        if changed := changed_folds(run):
            raise InputError(*changed)
    else:
        applied = BlendSource.load(other.path / "blend.json", other.places(Path(outputs)))
    applied = applied.with_code(Path(folder), allow_code=allow_code)
    contents = _contents(applied, out.name)
    made = [place for place in out.absolute().parents if not place.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(out.parent) as scratch:
            if _is_free(out):
                write = _write_zip if out.suffix == ".zip" else _write_folder
                manifest_sha256 = write(scratch / "pack", contents)
                os.replace(scratch / "pack", out)
                flush_to_disk(out.parent)
            else:
                manifest_sha256 = _check_same(out, contents)
    except BaseException:
        for place in made:  # the deepest first; leave nothing where nothing was written
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        raise
    return Packed(out, {"pack": str(out), **contents.about(), "manifest_sha256": manifest_sha256})


def find_other(source: str | Path, outputs: Path) -> BlendPlace | PackPlace | None:
    """The blend or pack that a path or a name in `outputs` stands for; None for a run, and for what is nothing."""
    given, name = Path(source), str(source)
    for path in (given, outputs / name):
        if (path / "run.json").is_file():
            return None
    for path in (given, outputs / name, outputs / "blends" / name):
        if (path / "blend.json").is_file() and not (path / _MANIFEST).is_file():
            return BlendPlace(path)
    if (given / _MANIFEST).is_file() or (given.is_file() and given.suffix == ".zip"):
        return PackPlace(given)
    return None


@dataclass(frozen=True)
class BlendPlace:
    """A blend's folder."""

    path: Path

    def places(self, outputs: Path) -> list[Path]:
        """Where its members' runs are looked up: the outputs that it lies in, and those of the command."""
        own = self.path.absolute().parent.parent
        return [outputs] if own == outputs.absolute() else [own, outputs]

    @contextmanager
    def opened(self, outputs: Path) -> Iterator[tuple[RunSource | BlendSource, Path]]:
        """What predicts, and the folder where predictions usually go."""
        yield BlendSource.load(self.path / "blend.json", self.places(outputs)), self.path


@dataclass(frozen=True)
class PackPlace:
    """A pack, as a folder or a zip."""

    path: Path

    @contextmanager
    def opened(self, outputs: Path) -> Iterator[tuple[RunSource | BlendSource, Path]]:
        """What predicts, once every file is as the manifest says; and the folder where predictions usually go.

        A zip is unpacked where temporary files are kept, for as long as this lasts.
        """
        if self.path.is_dir():
            where = self.path / _MANIFEST
            manifest = _checked_manifest(load_record(where, PackManifest), where)
            _check_folder(self.path, manifest)
            yield _source(self.path, self.path, manifest), self.path
            return
        with scratch_folder() as scratch:
            manifest = _unpack(self.path, scratch)
            yield _source(scratch, self.path, manifest), self.path.with_suffix("")


@dataclass(frozen=True)
class _Entry:
    """A file of a pack to be: its name in it, and the file or the bytes it is made of."""

    name: str
    content: Path | bytes
    sha256: str | None = None
    """What a file must still be."""


@dataclass(frozen=True)
class _Contents:
    """All of a pack but its manifest's hashes."""

    kind: str
    name: str
    members: dict[str, str]
    """The member's number in `blend.json`, of a run 0, to its folder."""
    runs: list[str]
    entries: list[_Entry]

    def about(self) -> dict[str, Any]:
        sizes = [
            len(entry.content) if isinstance(entry.content, bytes) else entry.content.stat().st_size
            for entry in self.entries
        ]
        return {
            "kind": self.kind,
            "name": self.name,
            "members": self.runs,
            "files": len(sizes) + 1,
            "bytes": sum(sizes),
        }

    def manifest(self, files: Mapping[str, Any]) -> bytes:
        about = {"format": PackManifest.newest, "kind": self.kind, "name": self.name, "members": self.members}
        return record_bytes({**about, "files": dict(sorted(files.items()))})


def _check_place(out: Path) -> None:
    """Refuse to write over anything."""
    problems = [f"--out {out}: {parent} is a file, not a folder" for parent in out.parents if parent.is_file()]
    if not problems and not _is_free(out) and not (out / _MANIFEST).is_file() and not zipfile.is_zipfile(out):
        problems.append(f"--out {out}: exists; remove it, or give another name")
    if not problems and out.suffix != ".zip" and out.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        problems.append(f"--out {out}: a pack is a folder, or a file that ends in .zip")
    if problems:
        raise InputError(*problems)


def _is_free(out: Path) -> bool:
    """Whether nothing is there, or an empty folder."""
    return not (out.exists() or out.is_symlink()) or (out.is_dir() and not any(out.iterdir()))


def _check_same(out: Path, contents: _Contents) -> str:
    """Refuse what is there unless it is this very pack, whole; the hash of its manifest.

    A command that was killed after its last step finds what it wanted, as one that was not.
    """
    files = {}
    for entry in contents.entries:
        digest, size = hashlib.sha256(), 0
        for piece in [entry.content] if isinstance(entry.content, bytes) else _pieces(entry.content):
            digest.update(piece)
            size += len(piece)
        files[entry.name] = {"bytes": size, "sha256": digest.hexdigest()}
    manifest = contents.manifest(files)
    try:
        if out.is_dir():
            is_same = (out / _MANIFEST).read_bytes() == manifest
            _check_folder(out, {"files": files})
        else:
            with zipfile.ZipFile(out) as archive:
                sizes = {info.filename: info.file_size for info in archive.infolist()}
                meant = {name: file["bytes"] for name, file in files.items()} | {_MANIFEST: len(manifest)}
                is_same = sizes == meant and archive.read(_MANIFEST) == manifest and archive.testzip() is None
    except (InputError, OSError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error):
        is_same = False
    if not is_same:
        raise InputError(f"--out {out}: exists, and is not this pack; remove it, or give another name")
    return hashlib.sha256(manifest).hexdigest()


def _contents(applied: RunSource | BlendSource, shown: str) -> _Contents:
    """What goes into the pack; `shown` is what its README calls it."""
    if isinstance(applied, RunSource):
        kind, name, members = "run", applied.run.name, {0: applied}
    else:
        kind, name, members = "blend", str(applied.document["name"]), dict(applied.members)
    entries: list[_Entry] = []
    places: dict[str, str] = {}
    for number, member in members.items():
        safe = re.sub(r"[^\w.+=-]+", "-", str(member.record["run"])).strip(".-") or "run"
        place = f"members/{safe}"
        place = f"{place}-{number}" if place.casefold() in map(str.casefold, places.values()) else place
        places[str(number)] = place
        entries += _entries_of(member, place)
    if isinstance(applied, BlendSource):
        entries.append(_Entry("blend.json", applied.where.read_bytes()))
    if unsafe := [entry.name for entry in entries if not _is_safe(entry.name)]:
        raise InputError(f"{unsafe[0]}: leads out of the pack; this run was not made by ens train")
    runs = [str(member.record["run"]) for member in members.values()]
    entries.append(_Entry("README.md", _readme(applied, shown, list(members.values())).encode("utf-8")))
    return _Contents(kind, name, places, runs, sorted(entries, key=lambda entry: entry.name))


def _entries_of(member: RunSource, place: str) -> Iterator[_Entry]:
    """The files of one run, below `place`."""
    record, decided, folds = member.record, member.record["decided"], member.record["folds"]
    plain = {
        "format": PredictingRun.newest,
        "state": "complete",
        **{key: record[key] for key in _KEPT if key in record},
        "recipe": _without_paths(record["recipe"]),
        "identity_of": {"dataset_sha256": record["identity_of"]["dataset_sha256"]},
        "decided": {key: decided[key] for key in ("device", "threads", "precision") if key in decided},
        "folds": {key: folds[key] for key in ("k", "repeats", "scheme", "sha256") if key in folds},
    }
    yield _Entry(f"{place}/run.json", record_bytes(plain))
    code: dict[str, _Entry] = {}
    for fold, model in zip(member.folders(), member.models(), strict=True):
        _refuse_other_files(model, fold / "model.json")
        yield _Entry(f"{place}/{fold.name}/model.json", fold / "model.json", sha256_file(fold / "model.json"))
        yield _Entry(f"{place}/{fold.name}/model.safetensors", fold / "model.safetensors", model["weights_sha256"])
        for own in model.get("code", {}).values():
            for name, sha256 in own["files"].items():
                code[name] = _Entry(f"{place}/{CODE_FOLDER}/{name}", member.run.path / CODE_FOLDER / name, sha256)
    yield from code.values()


def _refuse_other_files(model: Mapping[str, Any], where: Path) -> None:
    """Refuse a network that is made from more files than its weights: a pack holds no others, nor may it name any."""
    network = model["network"]
    named = sorted(FILE_OPTIONS & network.get("options", {}).keys())
    if foreign := _absolute_path(network) or ", ".join(named):
        raise InputError(
            f"{where}: its network names files outside of a pack ({foreign}), which it would need to predict"
        )


def _without_paths(value: Any) -> Any:
    """The value with a bare name in place of every absolute path: other people need not know this machine."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return PurePosixPath(value.replace("\\", "/")).name if isinstance(value, str) and _is_absolute(value) else value


def _absolute_path(value: Any) -> str | None:
    """The first absolute path in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, str):
        return value if _is_absolute(value) else None
    return next((path for path in map(_absolute_path, inner) if path is not None), None)


def _is_absolute(text: str) -> bool:
    return len(text) > 1 and (PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute())


def _readme(applied: RunSource | BlendSource, shown: str, members: Sequence[RunSource]) -> str:
    """What a person reads first."""
    record = members[0].record
    classes = record["classes"] if isinstance(applied, RunSource) else applied.document["classes"]
    lines = [
        f"# {shown}",
        "",
        "Made by `ens pack`. It predicts without the machine it was trained on, and offline:",
        "",
    ]
    lines += ["```sh", f"ens predict {shown} --images DIR", "```", ""]
    lines += [f"{len(classes)} classes: {', '.join(classes[:20])}{', …' if len(classes) > 20 else ''}.", ""]
    if isinstance(applied, BlendSource):
        document = applied.document
        honest = document.get("honest")
        worth = f"; {document['metric']} {honest['value']:.4f} out of fold" if honest else ""
        lines += [f"A blend by method {document['used']}{worth}. Its members:", ""]
    else:
        lines += ["One run:", ""]
    for member in members:
        score = (member.record["scores"]["oof"] or {}).get(member.record["metric"])
        shown_score = "" if score is None else f", {member.record['metric']} {score:.4f} out of fold"
        network = member.models()[0]["network"]
        folds = counted(len(member.folders()), "fold")
        text = f"{network['name']}, {folds}, images of {network['image_size']} pixels{shown_score}"
        lines.append(f"- {member.record['run']}: {text}")
    notes = [*(applied.notes() if isinstance(applied, BlendSource) else []), *_hub_notes(members)]
    codes = {
        name: own for member in members for model in member.models() for name, own in model.get("code", {}).items()
    }
    copied, installed = ([name for name in codes if bool(codes[name]["files"]) == has] for has in (True, False))
    if copied:
        notes.append(f"Networks of own code: {', '.join(copied)}. Read what is in code/, then pass --allow-code.")
    if installed:
        notes.append(f"Needs the packages of {', '.join(installed)}, as they were at training, and --allow-code.")
    lines += [line for note in notes for line in ("", note)]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += ["", f"Trained with {versions}.", ""]
    lines += [f"`{_MANIFEST}` holds the SHA-256 of every file; `ens predict` checks them all before it predicts.", ""]
    return "\n".join(lines)


def _hub_notes(members: Sequence[RunSource]) -> list[str]:
    """That a network is not described by timm itself: then prediction is not offline on another machine."""
    names = sorted({str(member.models()[0]["network"]["name"]) for member in members})
    hub = [name for name in names if name.startswith(("hf-hub:", "hf_hub:"))]
    return [f"Not offline: {', '.join(hub)} is looked up on the Hugging Face hub when it predicts."] if hub else []


def _write_folder(target: Path, contents: _Contents) -> str:
    target.mkdir()

    @contextmanager
    def create(name: str, size: int) -> Iterator[IO[bytes]]:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as stream:
            yield stream

    sha256 = _write_all(contents, create)
    for path in [*target.rglob("*"), target]:
        flush_to_disk(path)
    return sha256


def _write_zip(target: Path, contents: _Contents) -> str:
    """Weights are random bits to any compression, so nothing is compressed."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:

        def create(name: str, size: int) -> AbstractContextManager[IO[bytes]]:
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            return archive.open(info, "w", force_zip64=size >= zipfile.ZIP64_LIMIT)

        sha256 = _write_all(contents, create)
    flush_to_disk(target)
    return sha256


def _write_all(contents: _Contents, create: Callable[[str, int], AbstractContextManager[IO[bytes]]]) -> str:
    """Every file, its hash taken from the bytes that are written; the manifest last. Gives the manifest's hash."""
    files: dict[str, Any] = {}
    for entry in contents.entries:
        content = entry.content
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        digest, written = hashlib.sha256(), 0
        with create(entry.name, size) as stream:
            for piece in [content] if isinstance(content, bytes) else _pieces(content):
                stream.write(piece)
                digest.update(piece)
                written += len(piece)
        if entry.sha256 is not None and digest.hexdigest() != entry.sha256:
            raise InputError(f"{content!s}: changed since it was trained; train the run again")
        files[entry.name] = {"bytes": written, "sha256": digest.hexdigest()}
    manifest = contents.manifest(files)
    with create(_MANIFEST, len(manifest)) as stream:
        stream.write(manifest)
    return hashlib.sha256(manifest).hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece


def _checked_manifest(manifest: Record, where: Path) -> Record:
    """A manifest; names that lead out of the pack are refused, on whatever system they do."""
    unsafe = [name for name in [*manifest["files"], *manifest["members"].values()] if not _is_safe(name)]
    if unsafe:
        raise InputError(f"{where}: {unsafe[0]!r} leads out of the pack; don't use this pack")
    gone = [place for place in manifest["members"].values() if f"{place}/run.json" not in manifest["files"]]
    if gone:
        raise InputError(f"{where}: members: {gone[0]} has no run.json among the files; pack again")
    return manifest


def _is_safe(name: str) -> bool:
    """Whether a file's name stays below the folder that it is joined to, on any system."""
    parts = name.split("/")
    return not _is_absolute(name) and not any(part in ("", ".", "..") or re.search(r"[\\:\0]", part) for part in parts)


def _check_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a pack whose files are not those that were packed."""
    problems = []
    for name, file in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != file["bytes"] or sha256_file(path) != file["sha256"]:
            problems.append(f"{path}: not the file that was packed")
    _refuse_damaged(folder, problems)


def _refuse_damaged(pack: Path, problems: Sequence[str]) -> None:
    if problems:
        more = [f"  … and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        shown = [f"  {problem}" for problem in problems[:_SHOWN]]
        raise InputError(f"{pack}: the pack is damaged; copy it again, or pack again", *shown, *more)


def _unpack(path: Path, target: Path) -> Record:
    """The manifest of a zip whose files, now below `target`, are those that it names; nothing else gets out of it.

    No file grows beyond the size that the manifest says, and together they must fit on the disk.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = _checked_infos(path, archive)
            manifest_info = infos.pop(_MANIFEST)
            with archive.open(manifest_info) as stream:
                content, where = stream.read(_MOST_MANIFEST), path / _MANIFEST
            manifest = _checked_manifest(parse_record(content, PackManifest, where), where)
            files = manifest["files"]
            problems = [f"{path / name}: missing" for name in files if name not in infos]
            problems += [f"{path / name}: not in the manifest" for name in infos if name not in files]
            _refuse_damaged(path, problems)
            free, needed = shutil.disk_usage(target).free, sum(file["bytes"] for file in files.values())
            if needed > free:
                raise InputError(
                    f"{path}: needs {needed / 1e9:.3g} GB in {target.parent} to be unpacked, and {free / 1e9:.3g} are "
                    "free; unpack it elsewhere and name the folder, or set TMPDIR"
                )
            for name, file in files.items():
                if not _extract(archive, infos[name], target / name, file):
                    problems.append(f"{path / name}: not the file that was packed")
            _refuse_damaged(path, problems)
            (target / _MANIFEST).write_bytes(archive.read(manifest_info))
            return manifest
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise InputError(f"{path}: the zip is damaged ({error}); copy it again, or pack again") from error


def _checked_infos(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The zip's files by name; refused where one leads elsewhere, is a link, locked or there twice."""
    infos: dict[str, zipfile.ZipInfo] = {}
    problems = []
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        name = info.filename.removesuffix("/")
        if not _is_safe(name):
            problems.append(f"{name!r} leads out of the pack")
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            problems.append(f"{name!r} is a link or a device, not a file")
        elif info.flag_bits & 1:
            problems.append(f"{name!r} is encrypted")
        elif name in infos:
            problems.append(f"{name!r} is there twice")
        elif not info.is_dir():
            infos[name] = info
    if problems:
        raise InputError(f"{path}: not made by ens pack, and not used", *(f"  {each}" for each in problems[:_SHOWN]))
    if _MANIFEST not in infos:
        raise InputError(f"{path}: holds no {_MANIFEST} at its top, so it is no pack; ens pack RUN_OR_BLEND makes one")
    if infos[_MANIFEST].file_size > _MOST_MANIFEST:
        raise InputError(f"{path}: its {_MANIFEST} is too large to be a pack's")
    return infos


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, file: Mapping[str, Any]) -> bool:
    """Whether the zip's file is the one of the manifest, and then lies at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, written = hashlib.sha256(), 0
    try:
        with archive.open(info) as source, target.open("xb") as stream:
            while piece := source.read(min(_PIECE, file["bytes"] - written + 1)):
                written += len(piece)
                if written > file["bytes"]:
                    return False
                stream.write(piece)
                digest.update(piece)
    except (zipfile.BadZipFile, zlib.error):
        return False  # its checksum is not that of its bytes
    return bool(written == file["bytes"] and digest.hexdigest() == file["sha256"])


def _source(folder: Path, shown: Path, manifest: Mapping[str, Any]) -> RunSource | BlendSource:
    """What predicts, from the files of a pack that were checked."""
    members = {
        int(number): RunSource.of(RunFolder(folder / place, Path(place).name))
        for number, place in manifest["members"].items()
    }
    for member in members.values():
        for fold, model in zip(member.folders(), member.models(), strict=True):
            _refuse_other_files(model, fold / "model.json")
    if manifest["kind"] == "run":
        if len(members) != 1:
            raise InputError(f"{shown}: a run's pack has one member, this one {len(members)}; pack again")
        return next(iter(members.values()))
    document, formula = load_formula(folder / "blend.json")
    missing = [str(document["members"][number]["run"]) for number in formula.needed if number not in members]
    if missing:
        raise InputError(f"{shown}: holds no files of {', '.join(missing)}; pack again")
    needed = {number: members[number] for number in formula.needed}
    return BlendSource(shown / "blend.json", document, formula, needed)
