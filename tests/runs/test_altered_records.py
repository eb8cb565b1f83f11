"""Records that were altered: with a hash that fits no more they are refused or marked; with one that was made to fit,
whatever stands in them, a command gives its result or names the file and the field."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ensemble.cli import main
from ensemble.core.records import SEAL, save_record
from ensemble.runs.status import status
from tests.conftest import DESCRIPTION, RECIPE
from tests.support import Answer, Ens, alter_record

MUTANTS = int(os.environ.get("ENS_MUTANTS", "6"))  # of each record; by hand with hundreds
TRAIN = ("train", "--recipe", "tiny", "--engine", "inline", "--set", "train.epochs=1")
TUNE = ("tune", "--recipe", "tiny", "--study", "s", "--trials", "2", "--engine", "inline", "--no-rescore")
TUNE = (*TUNE, "--set", "train.epochs=1")
IMAGES = ("--images", "new", "--engine", "inline", "--out", "out")
BLEND = ("blend", "outputs/first", "outputs/second", "--name", "x", "--force")
SCORE = ("--labels", "labels.csv")

COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "outputs/first/run.json": (
        BLEND,
        ("predict", "first", *IMAGES),
        ("pack", "first", "--out", "out"),
        (*TRAIN, "--name", "first"),
    ),
    "outputs/first/fold-0/fold.json": (("predict", "b", *IMAGES), ("pack", "first", "--out", "out")),
    "outputs/first/fold-1/model.json": (("predict", "first", *IMAGES), ("pack", "first", "--out", "out")),
    "outputs/first/oof.json": (BLEND, ("score", "first", *SCORE)),
    "outputs/studies/s/study.json": (TUNE, ("score", "s", *SCORE)),
    "outputs/studies/s/trial-0/trial.json": (TUNE,),
    "outputs/studies/s/trial-1/trial.json": (TUNE, ("blend", "outputs/studies/s", "--name", "x")),
    "outputs/blends/b/blend.json": (("predict", "b", *IMAGES), ("pack", "b", "--out", "out"), ("score", "b", *SCORE)),
    "outputs/scored.json": (("score", "first", *SCORE),),
    "packed/manifest.json": (("predict", "packed", *IMAGES),),
    "packed/members/first/run.json": (("predict", "packed", *IMAGES),),
}
"""Each record, and commands that believe it; `status` reads those below `outputs`, too."""

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 7, 10**400, 1e308, 0.5, "", "x", "../../etc/passwd", "/etc/passwd", "a\nb\x1b[2J", "é" * 300),
    *([], {}, [None], {"": None}, [[[[[[[[]]]]]]]], {"value": {}}, ["x"] * 3, {"x": 1}),
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Path:
    """A working directory with two runs, a study, a blend, a pack and a look at labels; nobody may change it."""
    place = tmp_path_factory.mktemp("pristine")
    (place / "recipes" / "data").mkdir(parents=True)
    (place / "recipes" / "data" / "squares.yaml").write_text(DESCRIPTION, encoding="utf-8")
    (place / "recipes" / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENS_DATA_ROOT", str(squares.parent))
        patch.delenv("ENS_OUTPUTS", raising=False)
        patch.chdir(place)
        assert main([*TRAIN, "--name", "first"]) == 0
        assert main([*TRAIN, "--name", "second", "--set", "seed=1"]) == 0
        assert main([*TUNE, "--sampler", "random"]) == 0
        assert main(["blend", "outputs/first", "outputs/second", "--name", "b", "--method", "stack", "--force"]) == 0
        ids = Path("outputs/first/probs.ids.txt").read_text().split()
        lines = (f"{row},{('red', 'green', 'blue')[number % 3]}\n" for number, row in enumerate(ids))
        Path("labels.csv").write_text("id,label\n" + "".join(lines))
        assert main(["score", "first", *SCORE]) == 0
        assert main(["pack", "first", "--out", "packed"]) == 0
        Path("new").mkdir()
        shutil.copy(squares / "images" / f"{ids[0]}.png", "new")
    return place


@pytest.fixture
def place(pristine: Path, tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the process stands."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("ENS_DATA_ROOT", str(squares.parent))
    monkeypatch.delenv("ENS_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a document; of a list the first two."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from nodes(inner, (*path, key))


def mutate(document: dict[str, Any], chance: random.Random) -> tuple[str, dict[str, Any] | None, str]:
    """What is done, and the altered document; or, for what no document can be, its text."""
    kind = chance.choice(["drop", "odd", "odd", "odd", "odd", "odd", "text"])
    text = json.dumps(document)
    if kind == "text":
        at, key = chance.randrange(1, len(text)), chance.choice(list(document))
        texts = (text[:at], f'{{"{key}": NaN, {text[1:]}', f'{{"{key}": 1e999}}', f"[{text}]", "[" * 100_000, "\x00")
        return kind, None, chance.choice(texts)
    altered = copy.deepcopy(document)
    where = chance.choice([node for node in nodes(altered) if node not in (("format",), (SEAL,))])
    holder: Any = altered
    for key in where[:-1]:
        holder = holder[key]
    if kind == "drop":
        del holder[where[-1]]
        return f"{where} dropped", altered, ""
    holder[where[-1]] = value = chance.choice(ODD)
    return f"{where} = {value!r:.40}", altered, ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_record_with_anything_in_it_ends_in_a_result_or_in_its_name(
    name: str, place: Path, pristine: Path, ens: Ens
) -> None:
    root = Path(*Path(name).parts[: {"studies": 3, "blends": 3}.get(Path(name).parts[1], 2)])
    root = Path(name) if name == "outputs/scored.json" else Path("packed") if name.startswith("packed") else root
    document = json.loads((place / name).read_text(encoding="utf-8"))
    chance, wrong = random.Random(name), []
    for number in range(MUTANTS):
        what, altered, text = mutate(document, chance)
        looks = (("status",), ("status", "--json")) if name.startswith("outputs") else ()
        for words in (*looks, *COMMANDS[name]):
            if altered is None:
                (place / name).write_text(text, encoding="utf-8")
            else:
                save_record(place / name, altered)
            answer = ens(*words)
            # In a line of its own, or in that of both seeds.
            is_shown = words[0] != "status" or (
                answer.code == 0 and ("second" in answer.out or "2 seeds" in answer.out)
            )
            if answer.code not in (0, 2, 3) or not is_shown or "\x1b" in answer.out + answer.err:
                wrong.append(f"{number}: {what}: {' '.join(words)}: {answer.code}: {answer.err}")
            for made in (root, Path("out"), Path("outputs/blends/x")):
                shutil.rmtree(made, ignore_errors=True)
            if (pristine / root).is_dir():
                shutil.copytree(pristine / root, root)
            else:
                shutil.copy(pristine / root, root)
    assert not wrong, "\n".join(wrong)


def edit(path: Path, before: str, after: str) -> None:
    """Change a record as with an editor: its hash stays."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def refused(answer: Answer, name: str) -> bool:
    """Whether a command told the file as altered, and nothing else."""
    return answer.code == 2 and f"{name}: changed after it was written" in answer.err and answer.out == ""


def test_an_edited_score_is_not_shown(place: Path, ens: Ens) -> None:
    keys = {"first/run": "macro_f1", "first/fold-0/fold": "macro_f1", "blends/b/blend": "value"}
    for name, key in {**keys, "studies/s/study": "value"}.items():
        path = Path("outputs") / f"{name}.json"
        edit(path, re.search(rf'"{key}": [0-9.]+', path.read_text())[0], f'"{key}": 0.999')  # type: ignore[index]
    answer = ens("status")
    assert answer.code == 0 and "0.999" not in answer.out
    for name in ("outputs/first/run.json", "outputs/blends/b/blend.json", "outputs/studies/s/study.json"):
        assert f"{name}: changed after it was written" in answer.out
    report = ens("status", "--json").document
    states = {item["path"]: item["state"] for kind in ("runs", "studies", "blends") for item in report[kind]}
    assert states == {
        "outputs/second": "complete",
        "outputs/first": "unreadable",
        "outputs/studies/s": "unreadable",
        "outputs/blends/b": "unreadable",
    }
    assert refused(ens("predict", "b", *IMAGES), "outputs/blends/b/blend.json")
    assert refused(ens("predict", "first", *IMAGES), "outputs/first/run.json")
    assert refused(ens(*TUNE), "outputs/studies/s/study.json")
    assert refused(ens("score", "b", *SCORE), "outputs/blends/b/blend.json")
    blended = ens(*BLEND)  # the rows have hashes of their own; that nothing vouches for their run is said
    assert blended.code == 0 and "unverified: first: outputs/first/run.json: changed after" in blended.out
    assert ens(*BLEND, "--json").document["unverified"] == ["first"]


@pytest.mark.parametrize("key", ["labels", "classes", "folds"])
def test_flipped_labels_classes_and_folds_are_refused(key: str, place: Path, ens: Ens) -> None:
    path = Path("outputs/first/oof.json")
    values = json.loads(path.read_text())[key]
    edit(path, f'"{key}": {json.dumps(values)}', f'"{key}": {json.dumps(values[::-1])}')
    assert refused(ens(*BLEND), "outputs/first/oof.json")
    assert "oof.json is missing or was changed" in ens("status").out


def test_an_edited_mean_of_a_network_is_refused(place: Path, ens: Ens) -> None:
    path = Path("outputs/first/fold-0/model.json")
    edit(path, '"mean": [0.485', '"mean": [0.985')
    assert "model.json: changed after it was written" in ens("predict", "first", *IMAGES).err
    assert ens("predict", "b", *IMAGES).code == 2


def test_a_trio_from_another_run_is_noticed(place: Path, ens: Ens) -> None:
    for name in ("oof.npy", "oof.json", "oof.ids.txt"):
        shutil.copy(f"outputs/second/{name}", f"outputs/first/{name}")
    alter_record(Path("outputs/first/oof.json"), **json.loads(Path("outputs/second/oof.json").read_text()))
    sidecar = json.loads(Path("outputs/first/probs.json").read_text())
    about = {key: sidecar[key] for key in ("run", "identity", "dataset", "dataset_sha256", "folds_sha256")}
    alter_record(Path("outputs/first/oof.json"), **about)
    answer = ens(*BLEND)
    assert answer.code == 2
    assert "outputs/first/oof.json: not the file that outputs/first/run.json names" in answer.err


def test_files_of_an_earlier_version_are_read_and_marked(place: Path, ens: Ens) -> None:
    for path in [*Path("outputs/first").glob("*.json"), *Path("outputs/studies/s").rglob("*.json")]:
        unseal(path)
    files = {path.name: path for path in Path("outputs/first").glob("o*.json")}
    assert set(files) == {"oof.json"}
    report = status("outputs")
    verified = {item["path"]: item["verified"] for kind in ("runs", "studies", "blends") for item in report[kind]}
    assert verified == {
        "outputs/first": False,
        "outputs/second": True,
        "outputs/studies/s": False,
        "outputs/blends/b": True,
    }
    out = ens("status").out
    assert out.count("(unverified)") == 3  # the run, and both numbers of the study
    assert "unverified: run first, study s: written by an earlier version of ens" in out
    blended = ens(*BLEND)
    assert blended.code == 0, blended.err
    assert blended.out.count("unverified: first: written by an earlier version of ens") == 1
    assert ens(*BLEND, "--json").document["unverified"] == ["first"]
    assert status("outputs")["blends"][1]["verified"] is False
    scored = ens("score", "first", "second", *SCORE, "--json").document
    assert scored["unverified"] == ["first"] and any("unverified: first" in line for line in scored["remarks"])
    predicted = ens("predict", "first", *IMAGES, "--json").document
    assert predicted["unverified"] == ["first"]
    assert ens(*TUNE, "--sampler", "random").code == 0
    assert status("outputs")["studies"][0]["state"] == "complete"


def unseal(path: Path) -> None:
    """What an earlier version wrote: format 1, without a hash; a run's hashes of its sidecars follow."""
    document = json.loads(path.read_text())
    del document[SEAL]
    document["format"] = 1
    path.write_text(json.dumps(document), encoding="utf-8")
    run = path.with_name("run.json")
    if path.name in ("oof.json", "probs.json") and run.exists():
        from ensemble.core.files import sha256_file

        record = json.loads(run.read_text())
        record["files"][path.name] = sha256_file(path)
        if SEAL in record:
            save_record(run, record)
        else:
            run.write_text(json.dumps(record), encoding="utf-8")


def test_a_removed_hash_is_no_earlier_version(place: Path, ens: Ens) -> None:
    path = Path("outputs/blends/b/blend.json")
    document = json.loads(path.read_text())
    del document[SEAL]
    path.write_text(json.dumps(document), encoding="utf-8")
    answer = ens("predict", "b", *IMAGES)
    assert answer.code == 2 and f"{path}: {SEAL} is missing" in answer.err
