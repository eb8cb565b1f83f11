"""What a person reads when a recipe is wrong: place, value, what is allowed, what was meant; all faults at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ensemble.core.complaints import likely
from ensemble.errors import InputError
from ensemble.recipe.load import load_dataset, load_recipe
from tests.support import Write

GOLDEN = Path(__file__).parents[1] / "golden" / "broken_recipe"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one dataset, and no recipe that ships."""
    monkeypatch.setattr("ensemble.recipe.find.shipped_folder", lambda: tmp_path / "shipped")
    shutil.copytree(GOLDEN / "recipes" / "data", tmp_path / "recipes" / "data")
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    def write(name: str, text: str) -> None:
        (folder / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")

    return write


VIEWS = "a list of values, or none, hflip, flips, d4, rotations, scales, fivecrop, faces or auto"


def complaints(folder: Path, *sets: str, data: str | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_recipe("r", folder=folder, sets=sets, data=data)
    return list(caught.value.messages)


def test_every_fault_of_a_broken_recipe_is_told_at_once(folder: Path) -> None:
    """The golden file is what a person sees. ENS_UPDATE_GOLDEN=1 rewrites it; then read it."""
    shutil.copytree(GOLDEN / "recipes", folder / "recipes", dirs_exist_ok=True)
    with pytest.raises(InputError) as caught:
        load_recipe("broken", folder=folder, sets=["train.batchsize=3", "seed=-1", "tta", "loss.name="], data="=here")
    golden = GOLDEN / "expected.txt"
    if os.environ.get("ENS_UPDATE_GOLDEN"):
        golden.write_text(f"{caught.value}\n", encoding="utf-8")
    assert f"{caught.value}\n" == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train: {epoch: 3}", "train.epoch is unknown; did you mean train.epochs?"),
        ("lr: 3", "lr is unknown; did you mean train.lr?"),
        ("learning_rate: 3", "learning_rate is unknown; did you mean train.lr?"),
        ("model: {name: x, lr: 3}", "model.lr is unknown; did you mean train.lr?"),
        ("name: x", "name is unknown; did you mean data.name, model.name or loss.name?"),
        ("train.lr: 3", "train.lr is unknown; did you mean 'train: {lr: …}', nested?"),
        ("extend: x", "extend is unknown; did you mean extends?"),
        (
            "loss: {heat: 2}",
            "loss.heat is unknown; allowed here: name, plus, label_smoothing, gamma, weights, beta and",
        ),
        (
            "loss: focl",
            "loss.name is 'focl', but must be module:function, or cross-entropy, focal, soft-f1 or bce; did",
        ),
        ("loss: {plus: {soft-f2: 1}}", "loss.plus: soft-f2 is no loss; allowed: module:function, or cross-entropy,"),
        ("loss: {plus: {cross-entropy: 1}}", "loss.plus: cross-entropy is the loss itself; add others"),
        (
            "loss: {weights: blanced}",
            "loss.weights is 'blanced', but must be a mapping, or none, balanced or effective",
        ),
        ("loss: {weights: {cat: -1}}", "loss.weights.cat is -1, but must be greater than 0"),
        (
            "mix: {kind: mixup, last_epochs_off: 15}",
            "mix.last_epochs_off is 15, but must be less than train.epochs, 15",
        ),
        ("mix: mixip", "mix.kind is 'mixip', but must be none, mixup, cutmix or both; did you mean mixup?"),
        ("metric: f1", "metric is 'f1', but must be module:function, or accuracy, balanced_accuracy, precision,"),
        ("workers: 2", "workers is a machine setting, not part of a recipe"),
        ("train: {lr: -1}", "train.lr is -1, but must be greater than 0"),
        ("train: {lr: '1'}", "train.lr is '1', but must be a number greater than 0"),
        ("train: {epochs: 1.5}", "train.epochs is 1.5, but must be a whole number from 1 to 10000"),
        ("train: {epochs: true}", "train.epochs is true, but must be a whole number from 1 to 10000"),
        ("folds: {k: 1}", "folds.k is 1, but must be from 2 to 100"),
        ("image: {size: 4}", "image.size is 4, but must be a whole number from 8 to 4096, or auto"),
        ("image: {mean: [1, -1, 1]}", "image.mean[1] is -1, but must be greater than 0"),
        (
            "image: {std: [1, 1]}",
            "image.std is [1, 1], but must be a list of 3 values, each a number greater than 0, or null",
        ),
        (
            "model: {name: x, pretrained: yes}",
            "model.pretrained is 'yes', but must be a path that ends in .safetensors, .pth, .pt or .bin, "
            "or true, false or auto",
        ),
        ("model: {name: x, freeze_epochs: 2}", "model.freeze_epochs is 2, but freeze is none; say freeze: backbone"),
        ("model: {name: 18}", "model.name is 18, but must be text that is not empty; put it in quotes"),
        (
            "tta: hflp",
            f"tta.views is 'hflp', but must be {VIEWS}; did you mean hflip?",
        ),
        ("augment:", "augment is null, but must be a list of values, or none, light, medium, heavy or faces"),
        ("augment: [HorizontalFlp]", "augment[0] is 'HorizontalFlp', which is unknown; did you mean HorizontalFlip?"),
        ("augment: [{Blur: {limit: 3}}]", "augment[0].Blur.limit is unknown; did you mean blur_limit?"),
        (
            "augment: [{Blur: 3}]",
            "augment[0] is {Blur: 3}, but must be one transform, such as {HorizontalFlip: {p: 0.5}}",
        ),
        (
            "augment: [{OneOf: [Blur, {Rotat: {}}]}]",
            "augment[0].OneOf.transforms[1].Rotat is unknown; did you mean Rotate?",
        ),
        (
            "augment: [{Normalize: {}}]",
            "augment[0].Normalize is not to be used: image.mean and image.std say how pixels are normalised",
        ),
        ("augment: [{RandomSizedCrop: {}}]", "augment[0].RandomSizedCrop needs min_max_height"),
        (
            "search: {augment: [[Blurr]]}",
            "search.augment tries ['Blurr']: augment[0] is 'Blurr', which is unknown; did you mean Blur?",
        ),
        ("sampling: balance", "sampling.kind is 'balance', but must be plain, balanced, weighted or oversample;"),
        ("sampling: weighted", "sampling.kind is weighted, which needs weights, such as {weights: {cat: 2.0}}"),
        ("image: {size: 64, cache_size: 32}", "image.cache_size is 32, but must be at least size, 64"),
        ("loss: 3", "loss.name is 3, but must be module:function, or cross-entropy, focal, soft-f1 or bce"),
        ("train: {warmup_epochs: 15}", "train.warmup_epochs is 15, but must be less than epochs, 15"),
        ("description: 3", "description is 3, but must be text; put it in quotes"),
        ("search: {train.lr: {low: 1}}", "search.train.lr: give both low and high, or choices"),
        (
            "search: {train: [1]}",
            "search.train: train is a part of the recipe; name one of its keys, such as train.epochs",
        ),
        (
            "search: {metric: [accuracy]}",
            "search.metric: can't be searched, because scores of its trials could not be compared",
        ),
        (
            "search: {tta.views: [none, hflp]}",
            f"search.tta.views tries 'hflp': tta.views is 'hflp', but must be {VIEWS}",
        ),
        (
            "search: {train.batch_size: {low: 8, high: 16, step: 0.5}}",
            "search.train.batch_size tries 8.5: train.batch_size is 8.5, but must be a whole number from 1 to 65536",
        ),
    ],
)
def test_one_fault_makes_one_line(folder: Path, write: Write, line: str, expected: str) -> None:
    model = "" if line.startswith("model") else "model: {name: x}\n"
    write("r", f"data: digits\n{model}{line}\n")
    (message,) = complaints(folder)
    assert message.startswith(f"recipes/r.yaml:{2 if not model else 3}: {expected}")


def test_missing_keys_say_what_to_add_where_the_file_or_the_part_begins(folder: Path, write: Write) -> None:
    write("r", "# nothing here yet\nseed: 1\nmodel: {}\n")
    assert complaints(folder) == [
        "recipes/r.yaml:2: data is missing; add e.g. 'data: digits'",
        "recipes/r.yaml:3: model.name is missing; add e.g. 'model: {name: resnet50}'",
    ]


def test_a_search_value_is_tried_with_the_rest_of_the_recipe(folder: Path, write: Write) -> None:
    write(
        "r", "data: digits\nmodel: {name: x}\ntrain: {warmup_epochs: 5}\nsearch:\n  train.epochs: {low: 4, high: 9}\n"
    )
    assert complaints(folder) == [
        "recipes/r.yaml:5: search.train.epochs tries 4: train.warmup_epochs is 5, but must be less than epochs, 4"
    ]


def test_a_long_value_is_cut(folder: Path, write: Write) -> None:
    write("r", f"data: digits\nmodel: {{name: x}}\ntta: {'x' * 5000}\naugment: {[[1] * 90] * 9}\n")
    assert all(len(message) < 200 for message in complaints(folder))


def test_keys_with_line_ends_or_endless_ones_stay_on_one_short_line(folder: Path, write: Write) -> None:
    write("r", f'data: digits\nmodel: {{name: x}}\n"a\\nb": 1\n{"k" * 900}: 1\n')
    first, second = complaints(folder)
    assert first.startswith("recipes/r.yaml:3: a\\nb is unknown")
    assert len(second) < 300


def test_a_flood_of_faults_is_cut_and_says_so(folder: Path, write: Write) -> None:
    write("r", "data: digits\nmodel: {name: x}\n" + "".join(f"key{number}: 1\n" for number in range(1000)))
    assert "recipes/r.yaml:1: and 800 faults more" in complaints(folder)


def test_faults_name_the_file_of_the_chain_that_holds_them(folder: Path, write: Write) -> None:
    write("base", "data: digits\nmodel: {name: x}\ntrain: {lr: -1, epochs: 0}\n")
    write("r", "extends: base\ntrain: {epochs: -3}\n")
    assert complaints(folder) == [
        "recipes/base.yaml:3: train.lr is -1, but must be greater than 0",
        "recipes/r.yaml:2: train.epochs is -3, but must be from 1 to 10000",
    ]


def test_an_unreadable_ancestor_brings_no_complaints_about_what_it_would_have_held(folder: Path, write: Write) -> None:
    write("base", "data: [digits\n")
    write("r", "extends: base\ntrain: {epochs: -3, warmup_epochs: 50}\n")
    base, own = complaints(folder)
    assert base.startswith("recipes/base.yaml:2: is not valid YAML")
    assert own == "recipes/r.yaml:2: train.epochs is -3, but must be from 1 to 10000"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("train.epoch=3", "--set: train.epoch is unknown; did you mean train.epochs?"),
        ("train.lr", "--set: 'train.lr' should be KEY=VALUE, as in train.lr=3e-4"),
        ("=3", "--set: '=3' should be KEY=VALUE, as in train.lr=3e-4"),
        ("train.lr=", "--set train.lr: the value is empty; write null for none, or '\"\"' for empty text"),
        ("train.lr=fast", "--set: train.lr is 'fast', but must be a number greater than 0"),
        ("extends=other", "--set: extends is unknown"),
        ("image.mean.0=1", "--set: image.mean.0 is unknown"),
        ("search.train.lrr=[1]", "--set: search.train.lrr: train.lrr is unknown; did you mean train.lr?"),
        ("search.train.lr=[-1]", "--set: search.train.lr tries -1: train.lr is -1, but must be greater than 0"),
        ("train=3", "--set: train is 3, but must be a mapping of epochs"),
    ],
)
def test_settings_are_checked_like_the_file(folder: Path, write: Write, item: str, expected: str) -> None:
    write("r", "data: digits\nmodel: {name: x}\n")
    (message,) = complaints(folder, item)
    assert message.startswith(expected)


def test_an_unknown_dataset_is_told_with_the_names_to_be_had(folder: Path, write: Write) -> None:
    write("r", "data: digit\nmodel: {name: x}\n")
    places = "recipes/data, shipped/data"
    text = f"data: there is no dataset 'digit'; did you mean digits? There are digits (looked in {places})"
    assert complaints(folder) == [f"recipes/r.yaml:1: {text}"]
    assert complaints(folder, data="digit") == [f"--data: {text}"]
    with pytest.raises(InputError, match="did you mean digits"):
        load_dataset("digit", folder)


def test_a_dataset_folder_that_is_not_there_is_told(folder: Path, write: Write) -> None:
    write("r", "data: digits\nmodel: {name: x}\n")
    (folder / "digit_data").mkdir()
    told = "--data: there is no folder digits_data/a; . contains digit_data, recipes"
    assert complaints(folder, data="digits=digits_data/a") == [told]
    told = "--data: there is no folder digits_data; . contains digit_data, recipes; did you mean digit_data?"
    assert complaints(folder, data="digits=digits_data") == [told]
    assert complaints(folder, data="digits=") == [
        "--data: 'digits=' should be NAME or NAME=PATH, as in mask18=/data/mask"
    ]


def test_a_broken_description_of_a_dataset_is_told_with_the_recipe(folder: Path, write: Write) -> None:
    write("r", "data: mine\nmodel: {name: x}\ntta: x\n")
    write(
        "data/mine", "classes: [a, 2]\ntrain:\n  table: t.csv\n  table: u.csv\n  id: '{id}'\n  image: x\n  labels: y\n"
    )
    assert complaints(folder) == [
        "recipes/data/mine.yaml:1: classes[1] is 2, but must be text that is not empty; put it in quotes",
        "recipes/data/mine.yaml:4: train.table appears a second time; the first is on line 3",
        "recipes/data/mine.yaml:7: train.labels is unknown; did you mean train.label?",
        f"recipes/r.yaml:3: tta.views is 'x', but must be {VIEWS}",
    ]


def test_a_rule_between_keys_of_a_dataset_names_its_key(folder: Path, write: Write) -> None:
    write("data/mine", "classes: [a, b]\ntrain: {table: t, id: i, image: x}\n")
    with pytest.raises(
        InputError, match=r"^recipes/data/mine\.yaml:2: train\.label: missing; training rows need a label$"
    ):
        load_dataset("mine", folder)


ROWS = "table: t, id: i, image: x"
LABEL = "label: {value: y}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"train: {{id: i, image: x, {LABEL}}}", "train.table: missing; name a CSV file, such as train.csv, or files"),
        (f"train: {{table: t, id: i, {LABEL}}}", "train.image: missing; say where a row's image lies"),
        (f"train: {{table: ../t, id: i, image: x, {LABEL}}}", "train.table: ../t leads out of the dataset's folder"),
        (
            f"train: {{table: t, id: '{{i', image: x, {LABEL}}}",
            "train.id: the template '{i' is malformed: expected '}'",
        ),
        (f"train: {{{ROWS}, files: x, {LABEL}}}", "train.image: files names the images already"),
        (f"train: {{files: 'x/{{a}}/*', id: i, {LABEL}}}", "train.files: names columns, but there is no table"),
        (f"train: {{{ROWS}, label: {{}}}}", "train.label.value: missing; give a template such as {label}, or columns"),
        (f"train: {{{ROWS}, label: {{value: a, columns: one-hot}}}}", "train.label.columns: given together with value"),
        (f"train: {{{ROWS}, label: {{columns: onehot}}}}", "train.label.columns is 'onehot', but must be one-hot"),
        (
            f"train: {{{ROWS}, label: {{parts: [{{name: p, classes: [a, b], value: v, map: {{x: c}}}}]}}}}",
            "train.label.parts[0].map: gives c, which is none of a, b",
        ),
        (
            f"train: {{{ROWS}, label: {{parts: [{{name: p, classes: [a, b], value: v, bins: [1, 2]}}]}}}}",
            "train.label.parts[0].bins: [1, 2] has 2 bounds, but 2 classes need 1",
        ),
        (
            f"train: {{{ROWS}, label: {{parts: [{{name: p, classes: [a, b, c], value: v}}]}}}}",
            "classes: 2 names, but the parts of train.label make 3",
        ),
        (
            f"train: {{{ROWS}, {LABEL}, box: {{columns: [a, b]}}}}",
            "train.box.columns is ['a', 'b'], but must be a list",
        ),
        (f"train: {{{ROWS}, {LABEL}}}\nsubmission: {{sample: /s}}", "submission.sample: /s leads out of the dataset's"),
        (
            f"train: {{{ROWS}, {LABEL}}}\nsubmission: {{probability_of: a}}",
            "submission.probability_of: is for value: pro",
        ),
        (
            f"train: {{{ROWS}, {LABEL}}}\nsubmission: {{value: probability, probability_of: c}}",
            "submission.probability_of: c is not a class",
        ),
        (
            f"train: {{{ROWS}, {LABEL}}}\ntest: {{{ROWS}, label: {{value: a, separator: b}}}}",
            "test.label: gives a set of classes a row, but train.label one class a row",
        ),
        (
            f"train: {{{ROWS}, {LABEL}}}\ntest: {{{ROWS}, label: {{value: a, columns: one-hot}}}}",
            "test.label.columns: given together with value",
        ),
        (
            f"train: {{{ROWS}, {LABEL}}}\ntest: {{{ROWS}, label: {{value: a, id: b}}}}",
            "test.label.id: is for labels in a table of their own",
        ),
        (
            f"train: {{{ROWS}, {LABEL}}}\ntest: {{{ROWS}, label: {{empty: [a]}}}}",
            "test.label.separator: is for a value; give it too",
        ),
        (f"train: {{{ROWS}, {LABEL}}}\nvalidation: {{id: a}}", "validation: names no rows of its own"),
        (f"train: {{{ROWS}, {LABEL}}}\nvalidation: {{table: v, label: a}}", "validation.label is for training rows"),
        (
            f"train: {{{ROWS}, {LABEL}, fold_column: f}}\nvalidation: {{table: v}}",
            "validation: given together with train.fold_column",
        ),
        (
            f"train: {{files: a, id: b, {LABEL}}}\nvalidation: {{table: v}}",
            "validation.image: missing; say where a row's image lies",
        ),
        (f"train: {{{ROWS}, {LABEL}}}\ntest: {{{ROWS}, group: g}}", "test.group is for training rows alone"),
    ],
)
def test_one_fault_of_a_description_makes_one_line(folder: Path, write: Write, text: str, expected: str) -> None:
    write("data/mine", f"classes: [a, b]\n{text}\n")
    with pytest.raises(InputError) as caught:
        load_dataset("mine", folder)
    (message,) = caught.value.messages
    assert message.partition(": ")[2].startswith(expected), message


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [
        ("found", "kind: index, value: y", "classes: found needs a train.label.value that is the class's name"),
        ("found", "columns: one-hot", "classes: found needs a train.label.value that is the class's name"),
        ("parts", "value: y", "classes: parts, but train.label has no parts"),
        ("folders", "value: y", "classes is 'folders', but must be a list of at least 2 values"),
    ],
)
def test_classes_that_nobody_can_know_are_refused(
    folder: Path, write: Write, classes: str, label: str, expected: str
) -> None:
    write("data/mine", f"classes: {classes}\ntrain: {{{ROWS}, label: {{{label}}}}}\n")
    with pytest.raises(InputError) as caught:
        load_dataset("mine", folder)
    assert str(caught.value).startswith(f"recipes/data/mine.yaml:1: {expected}")


def test_a_circle_of_extends_names_the_files(folder: Path, write: Write) -> None:
    write("r", "extends: other\n")
    write("other", "extends: ./r.yaml\n")
    assert complaints(folder) == [
        "recipes/other.yaml:1: extends goes in a circle: recipes/r.yaml -> recipes/other.yaml -> recipes/r.yaml"
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rr", "there is no recipe 'rr'; did you mean r? There are r (looked in recipes, shipped)"),
        ("recipes/s.yaml", "there is no file recipes/s.yaml; did you mean recipes/r.yaml?"),
        ("nowhere/at.yml", "there is no file nowhere/at.yml"),
        ("", "there is no recipe ''; there are r (looked in recipes, shipped)"),
        ("x" * 5000, "there is no recipe 'x"),
    ],
)
def test_a_recipe_that_is_not_there_is_told_with_those_that_are(
    folder: Path, write: Write, name: str, expected: str
) -> None:
    write("r", "data: digits\nmodel: {name: x}\n")
    with pytest.raises(InputError) as caught:
        load_recipe(name, folder=folder)
    assert str(caught.value).startswith(expected)


def test_a_seed_that_is_not_the_first_of_the_seeds_beside_it_is_told(folder: Path, write: Write) -> None:
    write("r", "data: digits\nmodel: {name: a}\nseeds: [4, 5]\nseed: 5\n")
    with pytest.raises(InputError) as raised:
        load_recipe("r", folder=folder)
    assert raised.value.messages == ("recipes/r.yaml:4: seed is 5, but seeds begins with 4; leave one of the two out",)


@pytest.mark.parametrize(("loss", "key"), [("bce", "loss.name"), ("{plus: {bce: 0.5}}", "loss.plus")])
def test_bce_is_refused_for_heads_that_give_log_probabilities(folder: Path, write: Write, loss: str, key: str) -> None:
    write("r", f"data: digits\nmodel: {{name: x, heads: parts}}\nloss: {loss}\n")
    (message,) = complaints(folder)
    assert message.startswith(f"recipes/r.yaml:3: {key} is bce, which wants a score for each class")


def test_a_recipe_that_extends_its_own_name_is_told_as_a_circle(folder: Path, write: Write) -> None:
    write("r", "extends: r\nmodel: {name: resnet18}\n")
    (fault,) = complaints(folder)
    assert fault.startswith("recipes/r.yaml:1: extends: r is this very recipe, so it goes in a circle: ")
    assert "recipes/r.yaml -> recipes/r.yaml" in fault and "did you mean" not in fault


def test_a_part_of_a_metrics_name_leads_to_it(folder: Path, write: Write) -> None:
    write("r", "data: toy\nmodel: {name: resnet18}\nmetric: f1\n")
    (fault,) = [fault for fault in complaints(folder) if "metric" in fault]
    assert fault.endswith("; did you mean macro_f1, weighted_f1, micro_f1 or samples_f1?")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("acuracy", ["accuracy"]),
        ("auc", ["roc_auc"]),
        ("loss", ["log_loss"]),
        ("acc", ["accuracy"]),
        ("top5", ["top5_accuracy"]),
        ("zebra", []),
    ],
)
def test_names_are_suggested_by_spelling_part_or_beginning(word: str, meant: list[str]) -> None:
    assert likely(word, ["accuracy", "balanced_accuracy", "top5_accuracy", "log_loss", "roc_auc"]) == meant


def test_a_description_is_not_inherited_but_everything_else_is(folder: Path, write: Write) -> None:
    name = next((folder / "recipes" / "data").glob("*.yaml")).stem
    write("base", f"description: The base.\ndata: {name}\nmodel: {{name: resnet18}}\nseed: 7\n")
    write("r", "extends: base\n")
    resolved = load_recipe("r", folder=folder)
    assert (resolved.recipe.description, resolved.recipe.seed) == ("", 7)
    assert resolved.origins["description"] == "default"
    assert load_recipe("base", folder=folder).recipe.description == "The base."
