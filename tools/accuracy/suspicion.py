"""Whether leaking members and blends in disguise are recognised, and honest members let alone.

Each draw trains the members of a design four times: honestly; on all rows; on half of the rows they predict; and on all
of these with labels of a forest that had seen them (pseudo-labels). A leak counts if it puts at least five rows and 3 %
of all right; "learnt by heart" is one that is then right on 99 % of its rows, as deep networks and forests are. In each
draw one member leaks, beside 11 honest others, or 3 of them. In "one good of ten" and "linear and trees" the good
member, or the trees, must not pass for a leak.

    .venv/bin/python tools/accuracy/suspicion.py --draws 12 --keep FOLDER       228 draws, fifteen minutes

Of all settings, on 228 draws (not judged: too few rows surprise the others):

    | beside | honest called leaks | far better ones | by heart | pseudo-labels, by heart | not by heart | AUC |
    |---|---|---|---|---|---|---|
    | 11 others | 0.2% of 2484 | 0.0% of 60 | 90.9% of 66 (7 not judged) | 83.6% of 61 (11) | 3.8% of 79 | 0.998 |
    | 3 others | 0.0% of 852 | 1.7% of 60 | 95.6% of 45 (11) | 83.3% of 48 (9) | 2.2% of 92 | 1.000 |

Mixes of two to five members, recognised; of 2,544 other members none was called a mix. Those that are missed are of
trees and near neighbours on few rows, whose few different numbers prove nothing:

    | files | mean | weighted | two weighted | geometric |
    |---|---|---|---|---|
    | float64 | 228 of 228 | 226 of 228 | 454 of 456 | 226 of 228 |
    | float32 | 226 of 228 | 227 of 228 | 452 of 456 | 225 of 228 |
    | float16 | 209 of 228 | 207 of 228 | 408 of 456 | 141 of 228 |

With weights of both signs ("any sign") a mix and its ingredients look alike, so that an ingredient may be named in its
place: 158 of 228 in float64, and 66 times an ingredient.
"""

from __future__ import annotations

import argparse
import sys
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from designs import CHOOSING, FOLDS, Design, _by_groups, _by_rows, _deal, _probs, drawn, twelve

from ensemble.combining.crossfit import Labelled
from ensemble.combining.suspicion import LEAK, find_leaks, find_mixes, leak_scores

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
LEVELS = ("honest", "all rows", "half of the rows", "pseudo-labels")
_BY_HEART = 0.99


def linear_and_trees(seed: int) -> dict[str, Any]:
    """Six linear models, and trees that see what these can't."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression

    members: dict[str, Any] = {f"logistic {c}": LogisticRegression(C=c, max_iter=60) for c in (0.01, 0.1, 1.0, 10.0)}
    members |= {f"lda {s}": LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s) for s in ("auto", 0.5)}
    return members | {"extra trees": ExtraTreesClassifier(50, random_state=seed)}


_OWN: Mapping[str, Design] = {
    "linear and trees, 5 classes, 400 rows": Design(partial(drawn, 5, 1.5), 400, linear_and_trees),
    "linear and trees, 2 classes, 1,000 rows": Design(partial(drawn, 2, 1.0, seed=5), 1000, linear_and_trees),
    "2 classes, 100 rows": Design(partial(drawn, 2, 1.0, noise=0.05, seed=8), 100, twelve),
    "2 classes, 1,500 rows": Design(partial(drawn, 2, 0.8, noise=0.1, seed=9), 1500, twelve),
}
DESIGNS = {name: design for name, design in CHOOSING.items() if "40 equal" not in name} | dict(_OWN)


def draw(design: Design, name: str, number: int, keep: Path | None) -> tuple[Array, Integers]:
    """(levels, members, rows, classes) of probabilities, and the labels."""
    path = None if keep is None else keep / f"{name.replace(' ', '_').replace(',', '')}-{number}.npz"
    if path is not None and path.exists():
        with np.load(path) as data:
            return data["stacks"].astype(np.float64), data["labels"]
    random = np.random.default_rng([zlib.crc32(name.encode()), number, 3])
    table, seed = design.table(), int(random.integers(2**31 - 1))
    pick = _by_rows if table.groups is None else _by_groups
    chosen = pick(table, design.rows, random)[0]
    inputs, labels = table.inputs[chosen], table.labels[chosen]
    inputs = (inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-9)
    folds = _deal(labels, None if table.groups is None else table.groups[chosen], random)
    stacks = _train(design, inputs, labels, folds, seed, random)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, stacks=stacks.astype(np.float32), labels=labels)
    return stacks, labels


def _train(
    design: Design, inputs: Array, labels: Integers, folds: Integers, seed: int, random: np.random.Generator
) -> Array:
    """Every member at every level."""
    from sklearn.ensemble import ExtraTreesClassifier

    classes = int(labels.max()) + 1
    stacks = np.zeros((len(LEVELS), len(design.zoo(seed)), len(labels), classes), dtype=np.float32)
    teacher = ExtraTreesClassifier(60, min_samples_leaf=2, random_state=seed).fit(inputs, labels)
    pseudo = np.asarray(teacher.predict(inputs), dtype=np.int64)
    everything = np.arange(len(labels))
    jobs: list[tuple[int, int, Integers, Integers, Integers]] = [(1, seed, everything, labels, everything)]
    for fold in range(FOLDS):
        rest, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        half = random.permutation(held)[: len(held) // 2]
        for level, extra, given in ((0, held[:0], labels), (2, half, labels), (3, held, pseudo)):
            rows, targets = np.concatenate([rest, extra]), np.concatenate([labels[rest], given[extra]])
            jobs.append((level, seed + fold, rows, targets, held))
    for level, own_seed, rows, targets, predicted in jobs:
        for member, model in enumerate(design.zoo(own_seed).values()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(inputs[rows], targets)
            stacks[level, member, predicted] = _probs(model, inputs[predicted], classes)
    return stacks.astype(np.float64)


def _is_honest_test(name: str, members: int) -> int | None:
    """The member that is better than the others and honest."""
    return 0 if "one good" in name else members - 1 if "linear" in name else None


def leak_line(name: str, draws: list[tuple[Array, Integers]], size: int) -> dict[str, list[tuple[float, bool]]]:
    """Scores and verdicts of members, by what they are."""
    random = np.random.default_rng(zlib.crc32(name.encode()) + size)
    seen: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for stacks, labels in draws:
        members = stacks.shape[1]
        good = _is_honest_test(name, members)
        chosen = random.permutation([index for index in range(members) if index != good])[: size - (good is not None)]
        company = sorted([*chosen.tolist(), *([] if good is None else [good])])
        for member, outcome in zip(company, _judge(stacks[0, company], labels), strict=True):
            seen["good" if member == good else "honest"].append(outcome)
        if good is not None:
            continue
        right = (stacks.argmax(axis=3) == labels).sum(axis=2)
        for level in range(1, len(LEVELS)):
            gained = right[level] - right[0]
            leaking = [member for member in company if gained[member] >= max(5, 0.03 * len(labels))]
            if not leaking:
                continue
            leak = int(random.choice(leaking))
            stack = [stacks[level if member == leak else 0, member] for member in company]
            outcome = _judge(stack, labels)[company.index(leak)]
            by_heart = right[level, leak] >= _BY_HEART * len(labels)
            seen[LEVELS[level] + (", by heart" if by_heart else "")].append(outcome)
    return seen


def _judge(stack: Any, labels: Integers) -> list[tuple[float, bool]]:
    """Each member's score, and whether it is called a leak."""
    labelled = Labelled([np.asarray(matrix) for matrix in stack], labels, np.zeros((1, len(labels)), dtype=np.int64))
    leaks = find_leaks(labelled)
    return [(score, member in leaks) for member, score in enumerate(leak_scores(labelled))]


def _area(leaks: list[tuple[float, bool]], honest: list[tuple[float, bool]]) -> float:
    """How often a leak's score is above an honest member's (AUC)."""
    above = np.array([score for score, _ in leaks])[:, None] - np.array([score for score, _ in honest])[None]
    return float(((above > 0) + (above == 0) / 2).mean())


def leak_table(size: int, lines: Mapping[str, dict[str, list[tuple[float, bool]]]]) -> Iterator[str]:
    """In markdown: false alarms and recognised leaks a setting, and of all together."""
    kinds = ["honest", "good", "all rows, by heart", "all rows", "half of the rows", "half of the rows, by heart"]
    kinds += ["pseudo-labels, by heart", "pseudo-labels"]
    yield f"\n{size} members, threshold {LEAK}: called leaks, of how many; AUC beside the honest ones\n"
    yield "| setting | " + " | ".join(kinds) + " | AUC by heart |"
    yield "|---" * (len(kinds) + 2) + "|"
    together: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for seen in lines.values():
        for kind, outcomes in seen.items():
            together[kind] += outcomes
    for name, seen in {**lines, "all": together}.items():
        cells = [_cell(kind, seen.get(kind, [])) for kind in kinds]
        leaks = [outcome for outcome in seen.get("all rows, by heart", []) if outcome[0] > 0]
        area = f"{_area(leaks, seen['honest']):.3f}" if leaks else ""
        yield f"| {name} | " + " | ".join(cells) + f" | {area} |"


def _cell(kind: str, outcomes: list[tuple[float, bool]]) -> str:
    """How many are called leaks; of leaks, how many of those that can be judged."""
    # No score: too few rows surprise the others for any to be given.
    judged = outcomes if kind in ("honest", "good") else [outcome for outcome in outcomes if outcome[0] > 0]
    if not outcomes:
        return ""
    share = f"{np.mean([called for _, called in judged]):.1%} of " if judged else ""
    return f"{share}{len(judged)}" + (
        f", {len(outcomes) - len(judged)} not judged" if len(judged) < len(outcomes) else ""
    )


def mix_table(draws: Mapping[str, list[tuple[Array, Integers]]]) -> Iterator[str]:
    """In markdown: mixes that are recognised, and other members that are called mixes."""
    random = np.random.default_rng(5)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for samples in draws.values():
        for stacks, _ in samples:
            members = list(stacks[0] / stacks[0].sum(axis=2, keepdims=True))
            for bits in ("float64", "float32", "float16"):
                for kind in ("none", "mean", "weighted", "two weighted", "geometric", "any sign"):
                    stack, made = _with_mixes(members, kind, bits, random)
                    called = set(find_mixes(stack, range(len(stack))[::-1], sets=False))
                    line = counts[bits, kind]
                    line[0] += len(called & made)
                    line[1] += len(made)
                    line[2] += len(called - made)
                    line[3] += len(stack) - len(made)
    yield "\n| files | mix | recognised | others called a mix |"
    yield "|---|---|---|---|"
    for (bits, kind), (right, of_mixes, wrong, others) in counts.items():
        yield f"| {bits} | {kind} | {right} of {of_mixes} | {wrong} of {others} |"


def _with_mixes(members: list[Array], kind: str, bits: str, random: np.random.Generator) -> tuple[list[Any], set[int]]:
    """The members as files of so many bits would hold them, and mixes of theirs at the end."""
    made: list[Array] = []
    for _ in range({"none": 0, "two weighted": 2}.get(kind, 1)):
        count = int(random.integers(2, min(6, len(members))))
        of = random.permutation(len(members))[:count]
        weights = np.full(count, 1 / count) if kind == "mean" else random.dirichlet(np.ones(count)) + 0.02
        if kind == "any sign":
            weights[-1] *= -0.2
        weights /= weights.sum()
        if kind == "geometric":
            logs = sum(w * np.log(np.maximum(members[m], 1e-12)) for w, m in zip(weights, of, strict=True))
            mix = np.exp(logs)
        else:
            mix = np.asarray(sum(w * members[m] for w, m in zip(weights, of, strict=True)))
        made.append(mix / mix.sum(axis=1, keepdims=True))
    rounded = [matrix.astype(bits) for matrix in [*members, *made]]
    # Files of 16 bits are read as 32.
    return [matrix.astype(np.float32) if bits == "float16" else matrix for matrix in rounded], set(
        range(len(members), len(rounded))
    )


def main() -> int:
    """Make the draws, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=12, help="of each of the 19 settings (12)")
    parser.add_argument("--keep", type=Path, help="a folder for the draws")
    parser.add_argument("--part", choices=("leaks", "mixes"), help="one of both alone")
    arguments = parser.parse_args()
    draws = {
        name: [draw(design, name, number, arguments.keep) for number in range(arguments.draws)]
        for name, design in DESIGNS.items()
    }
    for size in (12, 4) if arguments.part != "mixes" else ():
        lines = {name: leak_line(name, samples, size) for name, samples in draws.items()}
        print("\n".join(leak_table(size, lines)), flush=True)
    if arguments.part != "leaks":
        print("\n".join(mix_table(draws)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
