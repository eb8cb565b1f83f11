"""`ens init`: what a folder of images was recognised as, the two files written, and the next command."""

from __future__ import annotations

import argparse

from ensemble.data.layout import Decision
from ensemble.runs.describe import Initialised, init
from ensemble.screen.outcome import Outcome

_MOST_CLASSES = 8  # names in the line of rows


def run(arguments: argparse.Namespace) -> Outcome:
    """Write the files, and say what they stand on."""
    result = init(
        arguments.images,
        name=arguments.name,
        label=arguments.label,
        id=arguments.id,
        group=arguments.group,
        test=arguments.test,
        outputs=arguments.outputs,
        folder=arguments.folder,
    )
    return Outcome(result.document, _lines(result))


def _lines(result: Initialised) -> list[str]:
    """What was seen, what follows from it, what is left to decide, and what to do next."""
    layout, described = result.described.layout, result.described
    recipe, classes = described.recipe, described.table.classes
    machine = "a GPU" if recipe.device == "gpu" else "this CPU"
    shown = ", ".join(classes[:_MOST_CLASSES]) + (", …" if len(classes) > _MOST_CLASSES else "")
    values = ", ".join(f"{key} {value}" for key, value in recipe.values.items())
    return [
        f"{layout.folder}: {described.summary}",
        *(f"  {line}" for line in layout.seen),
        "taken as:",
        *(f"  {decision.what}: {decision.chosen} ({decision.why})" for decision in layout.decisions),
        f"  classes: {shown}",
        *_open(layout.decisions, layout.remarks),
        f"recipe: {recipe.base} with {values}",
        f"  {recipe.models} on {machine}: {recipe.duration}",
        f"written: {result.dataset_path}, {result.recipe_path}",
        f"next: {result.next_command}",
    ]


def _open(decisions: tuple[Decision, ...], remarks: tuple[str, ...]) -> list[str]:
    """Where another reading is possible, with what to change; and what a person should know."""
    other = [
        f"  {decision.what}: {decision.other} in place of {decision.chosen}: {decision.change}"
        for decision in decisions
        if decision.other
    ]
    lines = ["or else, if that is wrong:", *other] if other else []
    return [*lines, *(f"note: {remark}" for remark in remarks)]
