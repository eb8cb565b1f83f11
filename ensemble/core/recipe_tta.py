"""The recipe's part about test-time views: which there are, and how what is predicted from them becomes one.

Each field's docstring is its documentation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ensemble.core.schema import Frozen
from ensemble.core.view_policies import checked_views, view_count

__all__ = ["PolicyName", "TtaPart"]

PolicyName = Literal["none", "hflip", "flips", "d4", "rotations", "scales", "fivecrop", "faces", "auto"]


class TtaPart(Frozen):
    """Views of each image that are predicted and made one, the same for validation, test and new images."""

    views: Annotated[PolicyName | list[Any], AfterValidator(checked_views)] = "none"
    """A policy: `hflip` 2 views, `flips` 4 (mirrored both ways), `d4` 8 (mirrored and turned by right angles),
    `rotations` 4, `scales` 3, `fivecrop` 5, `faces` 4; `auto` takes the one that the out-of-fold rows speak for. Or a
    list of ttach's transforms such as `[HorizontalFlip, {Scale: {scales: [1.2]}}]`: docs/prediction.md. `tta: d4` is
    short for `{views: d4}`."""
    merge: Literal["mean", "gmean", "power"] = "mean"
    """What the probabilities of a row's views become: their mean, their geometric mean, or the mean of `power`."""
    power: Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)] = 0.5
    """Of `merge: power`: below 1 it mistrusts views that stand alone, above 1 it trusts them."""
    weights: Literal["equal", "learned"] = "equal"
    """`learned`: weights of the views, from out-of-fold rows, taken where they beat equal ones on rows that they were
    not learned from."""

    @model_validator(mode="after")
    def _fits_together(self) -> TtaPart:
        if self.weights == "learned" and self.merge != "mean":
            raise ValueError(f"weights is learned, which goes with merge: mean, not {self.merge}")
        if self.weights == "learned" and self.views == "auto":
            raise ValueError("weights is learned, which wants the views named, not auto")
        if self.weights == "learned" and view_count(self.views) == 1:
            raise ValueError("weights is learned, but there is one view alone; name a policy, such as views: hflip")
        if self.merge != "power" and self.power != 0.5:
            raise ValueError(f"power is {self.power:g}, which is for merge: power alone")
        return self

    @property
    def is_learned(self) -> bool:
        """Whether out-of-fold rows have a say, so that it is settled only when every fold is trained."""
        return self.views == "auto" or self.weights == "learned"
