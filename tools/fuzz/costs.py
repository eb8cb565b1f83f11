"""What it costs to refuse input that is far too large: processor seconds and memory of each command, in a table.

    python tools/fuzz/costs.py
    python tools/fuzz/costs.py --only regex --only "unknown keys"

Every case is a real process. One that takes more than 2 processor seconds beyond the imports of its own command, more
than 512 MB, or ends otherwise than with code 0, 2 or 3, is marked, and the exit code is 1. A case that is answered
rather than refused (code 0) is held to the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

__all__ = ["CASES", "Cost", "main", "measure"]

MOST_SECONDS, MOST_MB = 2.0, 512
_ENOUGH_S = 60  # processor seconds after which a case is ended: it failed long before
_ADDRESSES = 8 << 30  # bytes: what takes more would have the machine's kernel choose a victim
_ALLOWED = (0, 2, 3)
ROOT = Path(__file__).resolve().parents[2]

Make = Callable[[Path, random.Random], list[str]]
"""Writes what a case needs into a folder, and gives the words of its command."""
CASES: dict[str, Make] = {}
"""What is tried, by name."""


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    """Processor seconds of the process and its children."""
    mb: float
    """Most memory that it held at once."""
    code: int
    """Its exit code; negative where a signal ended it."""
    last_line: str
    characters: int
    """Printed on both streams."""


def case(name: str) -> Callable[[Make], Make]:
    """Enter a case under its name."""

    def enter(make: Make) -> Make:
        CASES[name] = make
        return make

    return enter


def import_cost(verb: str) -> Cost:
    """What starting a command takes that has nothing to do: its imports."""
    code = f"import importlib; importlib.import_module('ensemble.commands.{verb}_command')"
    return _measure([sys.executable, "-c", code], ROOT)


def measure(words: Sequence[str], folder: Path) -> Cost:
    """What `ens` takes with these words, run in `folder`."""
    return _measure([sys.executable, "-m", "ensemble", *words], folder)


_START = """
import json, os, resource, sys
seconds, addresses, *command = sys.argv[1:]
child = os.fork()
if not child:
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    resource.setrlimit(resource.RLIMIT_AS, (int(addresses), int(addresses)))
    os.execv(command[0], command)
_, status, usage = os.wait4(child, 0)
print("\\n" + json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""


def _measure(command: Sequence[str], folder: Path) -> Cost:
    """Run a process with a limit on its time and addresses."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ENS_DATA_ROOT": str(folder / "data")}
    # Started by a process that is small itself: a child's greatest memory begins with that of whoever forked it.
    start = [sys.executable, "-I", "-S", "-c", _START, str(_ENOUGH_S), str(_ADDRESSES)]
    done = subprocess.run(
        [*start, *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    *lines, figures = done.stdout.splitlines()
    seconds, kilobytes, code = json.loads(figures)
    printed = [line for line in lines if line] or [""]
    return Cost(seconds, kilobytes / 1024, code, printed[-1], len(done.stdout) - len(figures))


def write_recipe(folder: Path, text: str, *, name: str = "big", data: str = "digits") -> list[str]:
    """A recipe with some text at its end; the words that look at it."""
    path = folder / "recipes" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"data: {data}\nmodel: {{name: resnet18, pretrained: false}}\n{text}\n", encoding="utf-8")
    return ["recipes", name]


def write_dataset(folder: Path, text: str, rows: Sequence[str] = ("a,x", "b,y")) -> list[str]:
    """A dataset `big` with a table of `id,label`, and the words that read its description."""
    (folder / "recipes" / "data").mkdir(parents=True, exist_ok=True)
    (folder / "recipes" / "data" / "big.yaml").write_text(text, encoding="utf-8")
    place = folder / "data" / "big"
    (place / "images").mkdir(parents=True, exist_ok=True)
    (place / "train.csv").write_text("\n".join(["id,label", *rows]) + "\n", encoding="utf-8")
    write_recipe(folder, "", data="big")
    return ["recipes", "big"]


ROWS = 'train: {table: train.csv, id: "{id}", image: "images/{id}.png", label: {value: "{label}"}}'
PLAIN_LABEL = 'value: "{label}"'
MOST_TEXT = 2**20 - 200  # a recipe of nearly the largest size


def filled(start: str, piece: Callable[[int], str], end: str, joiner: str = ", ") -> str:
    """Pieces up to the largest size of a recipe."""
    pieces: list[str] = []
    room = MOST_TEXT - len(start) - len(end)
    while room > 0:
        pieces.append(piece(len(pieces)))
        room -= len(pieces[-1]) + len(joiner)
    return start + joiner.join(pieces[:-1]) + end


# Recipes


@case("augment: 1 MB of unknown transforms")
def _augment(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("augment: [", lambda n: f"HorizontalFlop{n}", "]"))


@case("augment: unknown arguments")
def _arguments(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("augment: [{Affine: {", lambda n: f"rotato{n}: 1", "}}]"))


@case("unknown keys: 90,000")
def _keys(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, "\n".join(f"k{n}: 1" for n in range(90_000)))


@case("unknown keys: inside of train")
def _inner_keys(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("train: {", lambda n: f"epoch_{n}: 1", "}"))


@case("unknown keys: a few of 100,000 letters")
def _long_keys(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, "\n".join(f"? {letter * 100_000}\n: 1" for letter in "abcdefghi"))


@case("tta: 1 MB of views")
def _views(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("tta: [", lambda n: f"HorizontalFlop{n}", "]"))


@case("tta: angles that make 10^40 views")
def _angles(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("tta: [", lambda n: "{Rotate90: {angles: [0, 90, 180, 270]}}", "]"))


@case("loss.plus: 50,000 losses")
def _plus(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("loss: {name: focal, plus: {", lambda n: f"cross-entropi{n}: 1.0", "}}"))


@case("search: 40,000 keys")
def _search(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("search: {", lambda n: f"train.lr{n}: [1, 2]", "}"))


@case("search: 150,000 choices")
def _choices(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("search: {train.epochs: [", lambda n: str(n), "]}"))


@case("search: conditions of each key on all others")
def _conditions(folder: Path, random: random.Random) -> list[str]:
    from ensemble.recipe.load import searchable_keys

    keys = searchable_keys()
    lines = []
    for key in keys:
        when = ", ".join(f"{other}: 1" for other in keys if other != key)
        lines.append(f"  {key}: {{choices: [1, 2], when: {{{when}}}}}")
    return write_recipe(folder, "search:\n" + "\n".join(lines))


@case("search: conditions without a circle, all on all before")
def _chain(folder: Path, random: random.Random) -> list[str]:
    from ensemble.recipe.load import searchable_keys

    keys = [key for key in searchable_keys() if key.startswith("train.")]
    lines = []
    for at, key in enumerate(keys):
        when = ", ".join(f"{other}: 1" for other in keys[:at])
        lines.append(f"  {key}: {{choices: [1, 2], when: {{{when}}}}}")
    return write_recipe(folder, "search:\n" + "\n".join(lines))


@case("search: a grid of 10^9 points")
def _grid(folder: Path, random: random.Random) -> list[str]:
    write_recipe(folder, "search: {train.lr: {low: 1.0e-9, high: 1, step: 1.0e-9}, train.epochs: {low: 1, high: 9999}}")
    return ["tune", "--recipe", "big", "--trials", "1", "--sampler", "grid", "--quiet"]


@case("search: a range without end")
def _endless(folder: Path, random: random.Random) -> list[str]:
    write_recipe(folder, "search: {train.lr: {low: 1.0e-300, high: 1.0e+300, step: 1.0e-300}}")
    return ["tune", "--recipe", "big", "--trials", "1", "--quiet"]


@case("numbers: k of 401 digits")
def _digits(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, f"folds: {{k: 1{'0' * 400}}}\nseed: {'9' * 99}")


@case("numbers: a million digits")
def _many_digits(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, f"folds: {{k: {'9' * 1_000_000}}}")


@case("text: a model's name of 1 MB")
def _long_name(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, f"loss: {'a' * 400_000}\nmetric: {'b.' * 200_000}")


@case("yaml: 30 levels of flow, 1 MB")
def _deep(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, "a: " + "[" * 500_000)


@case("yaml: 1 MB of empty lists")
def _empty_lists(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("augment: [", lambda n: "[]", "]", ","))


@case("yaml: 20,000 tags")
def _tags(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("augment: [", lambda n: "!a x", "]"))


@case("yaml: 90,000 keys twice")
def _twice(folder: Path, random: random.Random) -> list[str]:
    return write_recipe(folder, filled("", lambda n: f"k{n % 9}: 1", "", "\n"))


@case("extends: a chain of 3,000 files")
def _extends(folder: Path, random: random.Random) -> list[str]:
    for number in range(3_000):
        write_recipe(folder, f"extends: link{number + 1}", name=f"link{number}")
    write_recipe(folder, "", name="link3000")
    return ["recipes", "link0"]


@case("--set: 1,500 unknown keys")
def _sets(folder: Path, random: random.Random) -> list[str]:
    words = [word for n in range(1_500) for word in ("--set", f"train.epochz{n}=1")]
    return ["folds", "--recipe", "quickstart", *words]


@case("--set: one key 1,500 times")
def _same_set(folder: Path, random: random.Random) -> list[str]:
    words = [word for n in range(1_500) for word in ("--set", f"train.epochs=a{n}")]
    return ["folds", "--recipe", "quickstart", *words]


@case("--set: a value of 100 KB")
def _long_set(folder: Path, random: random.Random) -> list[str]:
    return ["folds", "--recipe", "quickstart", "--set", f"augment=[{','.join(['Flop'] * 20_000)}]"]


@case("--search: 1,500 keys")
def _searches(folder: Path, random: random.Random) -> list[str]:
    words = [word for n in range(1_500) for word in ("--search", f"train.epochz{n}=[1,2]")]
    return ["tune", "--recipe", "quickstart", "--trials", "1", *words]


@case("--point: 1,500 points")
def _points(folder: Path, random: random.Random) -> list[str]:
    words = [word for n in range(1_500) for word in ("--point", f"train.epochz{n}=1")]
    return ["tune", "--recipe", "quickstart", "--trials", "1", "--quiet", *words]


@case("--recipe: 20,000 names that are none")
def _recipes(folder: Path, random: random.Random) -> list[str]:
    return ["train", *(word for n in range(20_000) for word in ("--recipe", f"quickstrat{n}"))]


@case("words: an option of 100,000 letters")
def _long_option(folder: Path, random: random.Random) -> list[str]:
    return ["train", f"--{'epochs' * 16_000}", "1"]


@case("words: 50,000 that are none")
def _words(folder: Path, random: random.Random) -> list[str]:
    return ["train", *(f"w{n}" for n in range(50_000))]


@case("words: 100,000 folds")
def _fold_words(folder: Path, random: random.Random) -> list[str]:
    return ["train", "--recipe", "quickstart", "--folds", ",".join(["9" * 9] * 13_000)]


@case("words: numbers of 100,000 digits")
def _long_numbers(folder: Path, random: random.Random) -> list[str]:
    return ["train", "--recipe", "quickstart", "--workers", "9" * 100_000, "--folds", "9" * 100_000]


# Descriptions of datasets


@case("label.parts: six of 100 classes")
def _parts(folder: Path, random: random.Random) -> list[str]:
    names = ", ".join(f"c{n}" for n in range(100))
    parts = ", ".join(f"{{name: p{n}, classes: [{names}], {PLAIN_LABEL}}}" for n in range(6))
    label = f"parts: [{parts}]"
    return write_dataset(folder, f"classes: parts\n{ROWS.replace(PLAIN_LABEL, label)}\n")


@case("label.parts: a thousand of two classes")
def _many_parts(folder: Path, random: random.Random) -> list[str]:
    parts = ", ".join(f"{{name: p{n}, classes: [a, b], {PLAIN_LABEL}}}" for n in range(1_000))
    label = f"parts: [{parts}]"
    return write_dataset(folder, f"classes: [a, b]\n{ROWS.replace(PLAIN_LABEL, label)}\n")


@case("classes: 1 MB of names")
def _classes(folder: Path, random: random.Random) -> list[str]:
    return write_dataset(folder, filled("classes: [", lambda n: f"c{n}", f"]\n{ROWS}\n"))


@case("classes: a million names, in a file of 9 MB")
def _million(folder: Path, random: random.Random) -> list[str]:
    return write_dataset(folder, f"classes: [{', '.join(f'c{n}' for n in range(1_000_000))}]\n{ROWS}\n")


@case("classes: 200,000 found in the rows")
def _found(folder: Path, random: random.Random) -> list[str]:
    write_dataset(folder, f"classes: found\n{ROWS}\n", [f"i{n},x{n}" for n in range(200_000)])
    return ["folds", "--recipe", "big"]


@case("label: 20,000 values that are no class of 20,000")
def _strangers(folder: Path, random: random.Random) -> list[str]:
    names = ", ".join(f"grenadine{n}" for n in range(20_000))
    write_dataset(folder, f"classes: [{names}]\n{ROWS}\n", [f"i{n},grenadino{n}" for n in range(20_000)])
    return ["folds", "--recipe", "big"]


@case("label.map: 40,000 entries to no class")
def _map(folder: Path, random: random.Random) -> list[str]:
    entries = ", ".join(f"v{n}: gren{n}" for n in range(40_000))
    label = f"{PLAIN_LABEL}, map: {{{entries}}}"
    return write_dataset(folder, f"classes: [green, blue]\n{ROWS.replace(PLAIN_LABEL, label)}\n")


@case("regex: (a+)+ on names of one letter")
def _regex(folder: Path, random: random.Random) -> list[str]:
    fields = 'fields: {value: "{id}", regex: "(?P<person>(a+)+)!"}, id:'
    rows = [f"{'a' * 60}{n},x" for n in range(50)]
    write_dataset(folder, f"classes: [x, y]\n{ROWS.replace('id:', fields)}\n", rows)
    return ["folds", "--recipe", "big"]


@case("regex: (.*)(.*)(.*)(.*)(.*)! on long names")
def _regex_chain(folder: Path, random: random.Random) -> list[str]:
    fields = 'fields: {value: "{id}", regex: "(?P<person>.*)(.*)(.*)(.*)(.*)(.*)!"}, id:'
    rows = [f"{'a' * 200}{n},x" for n in range(50)]
    write_dataset(folder, f"classes: [x, y]\n{ROWS.replace('id:', fields)}\n", rows)
    return ["folds", "--recipe", "big"]


@case("regex: 100,000 brackets")
def _brackets(folder: Path, random: random.Random) -> list[str]:
    fields = 'fields: {value: "{id}", regex: "' + "(" * 50_000 + ")" * 50_000 + '"}, id:'
    return write_dataset(folder, f"classes: [x, y]\n{ROWS.replace('id:', fields)}\n")


@case("pattern: twenty fields, names of a hundred _")
def _pattern(folder: Path, random: random.Random) -> list[str]:
    pattern = "_".join(f"{{f{n}}}" for n in range(20))
    fields = f'fields: {{value: "{{id}}", pattern: "{pattern}!"}}, id:'
    rows = [f"{'a_' * 100}{n},x" for n in range(50)]
    write_dataset(folder, f"classes: [x, y]\n{ROWS.replace('id:', fields)}\n", rows)
    return ["folds", "--recipe", "big"]


# Tables


def write_table(folder: Path, content: bytes) -> list[str]:
    """A dataset whose training table is these bytes, and the words that read it."""
    write_dataset(folder, f"classes: found\n{ROWS}\n")
    (folder / "data" / "big" / "train.csv").write_bytes(content)
    return ["folds", "--recipe", "big"]


@case("table: a line of 1 GB")
def _line(folder: Path, random: random.Random) -> list[str]:
    words = write_table(folder, b"id,label\n")
    with (folder / "data" / "big" / "train.csv").open("ab") as stream:
        for _ in range(1024):
            stream.write(b"a" * 2**20)
    return words


@case("table: a header of 100 MB")
def _header(folder: Path, random: random.Random) -> list[str]:
    return write_table(folder, b"a," * (50 << 20))


@case("table: a million columns")
def _columns(folder: Path, random: random.Random) -> list[str]:
    header = ",".join(f"c{n}" for n in range(1_000_000))
    return write_table(folder, f"{header}\n{','.join('1' * 1_000_000)}\n".encode())


@case("table: 100,000 columns of one name")
def _same_columns(folder: Path, random: random.Random) -> list[str]:
    header = ",".join(f"c{n % 50_000}" for n in range(100_000))
    return write_table(folder, f"{header}\n{','.join('1' * 100_000)}\n".encode())


@case("table: a cell of 100 MB")
def _cell(folder: Path, random: random.Random) -> list[str]:
    return write_table(folder, b'id,label\n"' + b"a\n" * (50 << 20))


@case("table: one row of 100 MB over many lines")
def _row(folder: Path, random: random.Random) -> list[str]:
    return write_table(folder, b"id,label\n" + b'"a\n",' * (20 << 20))


@case("table: 300,000 rows that are all ragged")
def _ragged(folder: Path, random: random.Random) -> list[str]:
    return write_table(folder, b"id,label\n" + b"a,b,c\n" * 300_000)


@case("init: 2,000 columns")
def _init_columns(folder: Path, random: random.Random) -> list[str]:
    place = folder / "photos"
    place.mkdir()
    for number in range(30):
        write_image(place / f"p{number}.png")
    header = ",".join(["id", *(f"c{n}" for n in range(2_000))])
    rows = [",".join([f"p{row}", *(str((row + n) % 7) for n in range(2_000))]) for row in range(30)]
    (place / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    return ["init", "photos"]


@case("init: a line of 100 MB in a table")
def _init_line(folder: Path, random: random.Random) -> list[str]:
    words = _init_columns(folder, random)
    (folder / "photos" / "train.csv").write_bytes(b"id,label\n" + b"a" * (100 << 20))
    return words


def write_image(path: Path) -> None:
    """A black square."""
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))


# Predictions


def write_member(folder: Path, rows: int = 60, classes: int = 3) -> tuple[Path, Path]:
    """A bare matrix and its ids."""
    probs = np.random.default_rng(0).dirichlet(np.ones(classes), rows).astype(np.float32)
    np.save(folder / "member.npy", probs)
    (folder / "ids.txt").write_text("".join(f"i{row}\n" for row in range(rows)))
    (folder / "classes.txt").write_text("".join(f"c{column}\n" for column in range(classes)))
    return folder / "member.npy", folder / "ids.txt"


@case("ids: a file of 1 GB in one line")
def _ids(folder: Path, random: random.Random) -> list[str]:
    write_member(folder)
    with (folder / "ids.txt").open("wb") as stream:
        for _ in range(1024):
            stream.write(b"a" * 2**20)
    return ["adopt", "member.npy", "--ids", "ids.txt", "--classes", "classes.txt"]


@case("ids: a file of 20 million empty lines")
def _empty_ids(folder: Path, random: random.Random) -> list[str]:
    write_member(folder)
    (folder / "ids.txt").write_bytes(b"\n" * 20_000_000)
    return ["adopt", "member.npy", "--ids", "ids.txt", "--classes", "classes.txt"]


@case("classes: a file of a million")
def _class_file(folder: Path, random: random.Random) -> list[str]:
    write_member(folder)
    (folder / "classes.txt").write_text("".join(f"c{n}\n" for n in range(1_000_000)))
    return ["adopt", "member.npy", "--ids", "ids.txt", "--classes", "classes.txt"]


def write_folds(folder: Path, rows: int) -> list[str]:
    """A member's table of folds with a fold for each row."""
    write_member(folder, rows, 10)
    lines = [f"i{row},c{row % 10},{row}" for row in range(rows)]
    (folder / "folds.csv").write_text("\n".join(["id,label,fold", *lines]) + "\n")
    return ["adopt", "member.npy", "--ids", "ids.txt", "--classes", "classes.txt", "--folds", "folds.csv"]


@case("folds: 1,437 adopted")
def _folds(folder: Path, random: random.Random) -> list[str]:
    return write_folds(folder, 1_437)


@case("folds: a column of 1,437 in a table")
def _fold_column(folder: Path, random: random.Random) -> list[str]:
    rows = ROWS.replace("label: {", "fold_column: fold, label: {").replace("images/{id}.png", "images/one.png")
    write_dataset(folder, f"classes: found\n{rows}\n")
    write_image(folder / "data" / "big" / "images" / "one.png")
    lines = [f"i{row},c{row % 10},{row}" for row in range(1_437)]
    (folder / "data" / "big" / "train.csv").write_text("\n".join(["id,label,fold", *lines]) + "\n")
    return ["folds", "--recipe", "big"]


@case("folds: 1,437 asked for")
def _many_folds(folder: Path, random: random.Random) -> list[str]:
    return ["folds", "--recipe", "quickstart", "--set", "folds.k=1437"]


@case("folds: 100 of 20 repeats")
def _repeats(folder: Path, random: random.Random) -> list[str]:
    return ["folds", "--recipe", "quickstart", "--set", "folds.k=100", "--set", "folds.repeats=20"]


@case("--weights: 100 KB that are none")
def _weights(folder: Path, random: random.Random) -> list[str]:
    return ["blend", "x.npy", "--method", "weighted", "--weights", ",".join(["a"] * 60_000)]


@case("--template: a line of 1 GB")
def _template(folder: Path, random: random.Random) -> list[str]:
    write_member(folder)
    with (folder / "sample.csv").open("wb") as stream:
        for _ in range(1024):
            stream.write(b"a" * 2**20)
    adopt = ["adopt", "member.npy", "--ids", "ids.txt", "--classes", "classes.txt", "--kind", "test"]
    measure(adopt, folder)
    return ["blend", "member.npy", "--template", "sample.csv"]


@case("blend: 10,000 members that are not there")
def _members(folder: Path, random: random.Random) -> list[str]:
    return ["blend", *(f"m{n}.npy" for n in range(10_000))]


@case("score: 10,000 runs that are not there")
def _runs(folder: Path, random: random.Random) -> list[str]:
    return ["score", *(f"m{n}" for n in range(10_000))]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every case, print the table; 1 where one costs too much."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="cases with this in their name")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    names = [name for name in CASES if not arguments.only or any(part in name for part in arguments.only)]
    imports = cache(import_cost)
    print(f"{'case':<56} {'CPU s':>7} {'import':>6} {'MB':>6} {'code':>4} {'chars':>9}  last line")
    worst = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="ens-costs-") as folder:
            words = CASES[name](Path(folder), random.Random(arguments.seed))
            cost, base = measure(words, Path(folder)), imports(words[0])
        too_much = cost.seconds - base.seconds > MOST_SECONDS or cost.mb > MOST_MB or cost.code not in _ALLOWED
        worst += too_much
        figures = f"{cost.seconds:7.2f} {base.seconds:6.2f} {cost.mb:6.0f} {cost.code:4} {cost.characters:9,}"
        print(f"{name:<56} {figures}  {'TOO MUCH ' * too_much}{cost.last_line[:90]}", flush=True)
    print(f"{len(names)} cases, {worst} cost too much")
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
