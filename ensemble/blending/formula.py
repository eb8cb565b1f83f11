"""What a blend does with its members' probabilities, as JSON types in `blend.json` and back as what combines them.

A blend's own test rows and new images are answered by the same `Formula`, so they can't differ. Each step of it is made
by the function that the method itself was fitted with; nothing is learned here, and no file is read.

A step is a mapping: `do` says what, `of` is the step before it, other keys are what was learned:
`{"do": "tune", "class_multipliers": [1.2, 0.8], "of": {"do": "soft"}}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.blending.methods import COMBINERS, combiner, power_combiner
from ensemble.blending.selection import combine_chosen
from ensemble.combining.calibration import calibrator_of, combine_calibrated, combine_then_calibrate
from ensemble.combining.combine import Combined, Combiner, Matrix, Weights, in_blocks
from ensemble.combining.crossfit import Part
from ensemble.combining.pools import Pool
from ensemble.combining.stacking import Regression
from ensemble.combining.thresholds import combine_then_cut, combine_then_tune
from ensemble.errors import InputError

Step = Mapping[str, Any]
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Formula:
    """A blend with all it has learned; members are numbered as in `members` of `blend.json`."""

    step: Step
    kept: tuple[int, ...]
    """The members that the step looks at."""
    weights: tuple[float, ...] | None
    """One for each of these; None: equal ones."""
    sets: bool
    """Whether each row has a set of classes."""

    def answer(self, stack: Sequence[Matrix]) -> Combined:
        """The blend of any rows; `stack` holds all members of the blend, of which `needed` are read."""
        return make_combiner(self.step, sets=self.sets)(Part(stack, None, self.kept), self.weights)

    @property
    def needed(self) -> tuple[int, ...]:
        """The members that have any influence."""
        return tuple(sorted(self.kept[place] for place in _needed(self.step, self.weights, len(self.kept))))

    @property
    def is_by_row(self) -> bool:
        """Whether a row's answer is the same whatever rows come with it; ranks are among the rows that are together."""
        return not any(step["do"] == "rank" for step in _walk(self.step))

    def plain(self) -> dict[str, Any]:
        """As JSON types; 64-bit numbers are written so that they come back exactly."""
        weights = None if self.weights is None else list(self.weights)
        return {"version": _VERSION, "kept": list(self.kept), "weights": weights, "step": dict(self.step)}

    @classmethod
    def of(cls, document: Mapping[str, Any], where: str) -> Formula:
        """From the content of a `blend.json`; `where` is what a message calls it."""
        plain = document.get("apply")
        if plain is None:
            raise InputError(
                f"{where}: written by an ens that did not record how to apply a blend; blend its members again: "
                f"{blend_command(document)}"
            )
        if not isinstance(plain, dict) or plain.get("version") != _VERSION:
            version = plain.get("version") if isinstance(plain, dict) else plain
            raise InputError(f"{where}: `apply` is of version {version!r}; this ens reads {_VERSION}")
        members, classes = len(document["members"]), len(document["classes"])
        try:
            weights = plain["weights"]
            formula = cls(
                plain["step"],
                tuple(plain["kept"]),
                None if weights is None else tuple(weights),
                document.get("activation") == "sigmoid",
            )
            even = np.broadcast_to(np.float32(1 / classes), (2, classes))
            probs = formula.answer([even] * members).probs  # numbers of other members or classes fail here
            if probs.shape != even.shape or not np.isfinite(probs).all():
                raise ValueError(f"it answers {probs.shape} for {even.shape}")
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: `apply` can't be used ({type(error).__name__}: {error}); blend its members again: "
                f"{blend_command(document)}"
            ) from error
        return formula


def blend_command(document: Mapping[str, Any]) -> str:
    """The command that makes a blend again, as far as its record says; runs are in `outputs`."""
    names = [str(member["run"]) for member in document["members"]]
    # A trial is called study/trial-3.
    runs = " ".join(f"outputs/{'studies/' * ('/' in name)}{name}" for name in names)
    plans = " --other-folds" if document.get("other_folds") else ""
    return f"ens blend {runs} --method {document['method']} --name {document['name']}{plans}"


def make_combiner(step: Step, *, sets: bool) -> Combiner:
    """What combines, from its record."""
    do = step["do"]
    if do in COMBINERS:
        return combiner(do, sets=sets)
    if do == "power":
        return power_combiner(step["exponent"], sets=sets)
    if do == "stack":
        return in_blocks(Regression(np.array(step["slopes"]), np.array(step["offsets"]), sets).answer)
    if do == "pool":
        return in_blocks(Pool(np.array(step["slopes"]), step["floor"], sets).answer)
    inner = make_combiner(step["of"], sets=sets)
    if do == "choose":
        return combine_chosen(inner, step["members"], sets=sets)
    if do == "calibrate each":
        return combine_calibrated(inner, [calibrator_of(each, sets=sets) for each in step["calibration"]])
    if do == "calibrate":
        return combine_then_calibrate(inner, calibrator_of(step["calibration"], sets=sets), sets=sets)
    if do == "tune":
        return combine_then_tune(inner, np.array(step["class_thresholds" if sets else "class_multipliers"]), sets=sets)
    if do == "cut":
        return combine_then_cut(inner, np.array(step["class_cuts"], dtype=np.float64))
    raise ValueError(f"unknown step {do!r}")


def _walk(step: Step) -> list[Step]:
    return [step, *(_walk(step["of"]) if "of" in step else [])]


def _needed(step: Step, weights: Weights, members: int) -> set[int]:
    """Which of `members` a step reads."""
    if step["do"] == "choose":
        chosen = step["members"]
        voting = None if weights is None else [weights[member] for member in chosen]
        if voting is None or any(voting):
            return {chosen[place] for place in _needed(step["of"], voting, len(chosen))}
    elif "of" in step:
        return _needed(step["of"], weights, members)
    elif step["do"] == "pool" and any(step["slopes"]):
        return {member for member in range(members) if step["slopes"][member]}
    elif step["do"] in ("stack", "pool"):
        return set(range(members))  # a regression has slopes in place of weights
    return {member for member in range(members) if weights is None or weights[member]}
