"""What `blend.json` says. Pure: from ingredients, wish and verdict to plain values."""

from __future__ import annotations

from typing import Any

from ensemble.blending.honest import EVIDENCE, RESAMPLES, Honest
from ensemble.blending.ingredients import Ingredients
from ensemble.blending.verdict import Verdict
from ensemble.blending.wish import Wish

__all__ = ["BLEND_FORMAT", "CARRIED", "describe"]

BLEND_FORMAT = 1
CARRIED = ("dataset", "dataset_sha256", "folds_sha256")


def describe(ingredients: Ingredients, wish: Wish, verdict: Verdict, name: str) -> dict[str, Any]:
    """The document, all but the hashes of the files."""
    test = ingredients.test
    return {
        "format": BLEND_FORMAT,
        "name": name,
        "method": wish.method,
        "used": verdict.used,
        "members": _members(ingredients, verdict),
        "metric": ingredients.metric,
        "honest": _honest(ingredients, verdict, verdict.honest),
        "honest_reason": verdict.honest_reason,
        "scored_rows": _scored_rows(ingredients),
        "asked": _asked(ingredients, verdict),
        "fallback": verdict.fallback,
        "forced": wish.force,
        "learned": verdict.fitted.told,
        "rows": len(test.ids),
        "classes": list(test.classes),
        **({} if test.activation == "softmax" else {"activation": test.activation}),
        "cost": _total_cost(ingredients, verdict),
        "frontier": [
            {
                "members": [ingredients.names[member] for member in point.members],
                "seconds_per_1000_images": point.cost,
                "value": point.value,
                "best": point.best,
            }
            for point in verdict.frontier
        ],
        "renormalized_rows": ingredients.renormalized_rows,
        **_carried(ingredients),
    }


def _members(ingredients: Ingredients, verdict: Verdict) -> list[dict[str, Any]]:
    return [
        {
            "run": name,
            "weight": verdict.weights[index],
            "oof_score": None if verdict.scores is None else verdict.scores[index],
            "worth": verdict.worth.get(index),
            "dropped": verdict.dropped.get(index),
            "cost": member.test.sidecar.get("cost"),
            "npy_sha256": member.test.npy_sha256,
            **({"optimistic": True} if member.test.sidecar.get("optimistic") else {}),
        }
        for index, (member, name) in enumerate(zip(ingredients.members, ingredients.names, strict=True))
    ]


def _honest(ingredients: Ingredients, verdict: Verdict, honest: Honest | None) -> dict[str, Any] | None:
    """The honest scores, and what was resampled."""
    if honest is None or ingredients.labelled is None:
        return None
    return {
        **honest.plain([ingredients.names[member] for member in verdict.kept]),
        "resamples": RESAMPLES,
        "resampled": "rows" if ingredients.labelled.groups is None else "groups",
        "evidence": EVIDENCE,
    }


def _scored_rows(ingredients: Ingredients) -> dict[str, int] | None:
    """How many out-of-fold rows were looked at, and how many there are."""
    labelled = ingredients.labelled
    return None if labelled is None else {"used": labelled.rows, "of": ingredients.oof_rows}


def _asked(ingredients: Ingredients, verdict: Verdict) -> dict[str, Any] | None:
    """The method that was asked for and is not used."""
    honest = _honest(ingredients, verdict, verdict.asked)
    return None if honest is None else {"method": verdict.asked_name, **honest}


def _total_cost(ingredients: Ingredients, verdict: Verdict) -> dict[str, float] | None:
    """What the members with a say cost together, for what every one of them tells."""
    pairs = zip(ingredients.members, verdict.weights, strict=True)
    costs = [member.test.sidecar.get("cost") or {} for member, weight in pairs if weight]
    told = [key for key in costs[0] if all(cost.get(key) is not None for cost in costs)]
    return {key: sum(cost[key] for cost in costs) for key in told} or None


def _carried(ingredients: Ingredients) -> dict[str, Any]:
    """Dataset and fold plan, as far as any member tells; they agree, or it would not have come to this."""
    told = {
        key: [one.test.sidecar[key] for one in ingredients.members if one.test.sidecar.get(key) is not None]
        for key in CARRIED
    }
    return {key: values[0] for key, values in told.items() if values}
