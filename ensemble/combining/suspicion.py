"""Members that should not count as members: leaks, whose models saw the rows they predict, and mixes of other members.

A **leak** is right where all the others are surprised by the truth. The others' pool, calibrated, says how surprised
they are; the score is the share of that surprise at which the member was right and sure. A **mix** is a weighted mean
of others, of their probabilities or of their logarithms, to within the rounding of the files. Arithmetic only: what
becomes of such members is decided in `verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Floats, Integers, Matrix
from ensemble.combining.crossfit import Labelled

# Leaks. The constants are measured by tools/accuracy/suspicion.py: 19 settings, and companies of 3 to 11 others.
LEAK = 0.92  # a leak's score is above it, that of one good member among nine poor ones below
_SURPRISES = 1.5  # rows, counted by their weight, that a leak must be seen on: chance is right on one
_FEWEST_OTHERS = 3  # of two others one is often so much worse that the member is right wherever they fail
_MANY_OTHERS = 6  # of these the one that is most often right alone can be left out
_SURPRISED = 1.0  # nats: what the others give less than 1/e is a surprise
_LEAK_NUMBERS = 200_000  # a member, rows x classes: enough to fit three slopes, and 20 ms
_FEWEST_ROWS = 1_000  # of a thousand classes
_FLOOR = 1e-3  # of a probability: one surer than that is as wrong, where it is wrong
_SLOPE_PRIOR = 0.02  # keeps slopes finite where a member is always right
_NEWTON_STEPS = 25
_FEW_RIGHT = 0.2  # of the others: who is right with so few is alone
_MOST_NUMBERS = 50_000_000  # of all members, 0.2 GB of 32 bits
_SHORTEST, _GAINED = 1e-4, 1e-7  # of a step; of likelihood: what is less changes no verdict
_PROMISING = 0.7  # the share of surprise at which a leak is right, at least; others need no fit of their own

# Mixes
_NEAR = 1e-10  # relative to the member: what is nearer to a mix is one, in files of 64 bits
_ROUNDINGS = 4.0  # times what rounding leaves: in files of 32 bits sums were perhaps rounded as well
_ROUNDINGS_OF_16 = 1.5  # none computes in 16 bits, and honest members come near: of three penalties the middle one
_APART, _APART_OF_16 = 1e-3, 2e-2  # of the distance of an ingredient from the others, which a mix must be nearer than
_SPARE = 10  # equations beyond the unknowns: with fewer, any member is a mix of many
_EQUATIONS = 4_000  # that many at most, and four a member: honest members miss by percents
_SMALL = 1e-6  # logarithms of less than this may have been clipped before they were averaged
_SMALL_OF_16 = 2.5e-4  # below it 16 bits have fewer digits
_FLOORS = (1e-15, 1e-12, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)  # to which people raise zeros before taking logarithms
_FEW_NUMBERS = 32
_COARSE = 1e-5  # the rounding of 16 bits is above it
_FINE = 1e-4  # a distance: with weights of any sign, near copies come as near to a mix as 16 bits can tell
_NO_WEIGHT = 1e-6  # relative; an ingredient below it is rounding
_FEWEST_EVEN = 50  # rows of very many classes
_MOST_COMPANIES = 20
_TINY = 1e-18


@dataclass(frozen=True)
class Suspicion:
    """Why a member is left out, or named."""

    kind: Literal["leak", "mix"]
    score: float
    """Of a leak the share of the others' surprise that it resolves, of a mix its relative distance to one."""
    of: tuple[int, ...]
    """The members it is a mix of; of a leak the members it was compared with."""
    weights: tuple[float, ...] = ()
    """Of a mix."""
    is_geometric: bool = False

    def message(self, names: Sequence[str]) -> str:
        """For people; `names` are those of all members."""
        if self.kind == "leak":
            return (
                f"right on {self.score:.0%} of what surprises the other {len(self.of)} members: its models may have "
                "seen the rows they predict"
            )
        ranked = sorted(zip(self.weights, self.of, strict=True), key=lambda pair: (-abs(pair[0]), pair[1]))
        parts = [f"{names[member]} ({weight:.3g})" for weight, member in ranked[:_MOST_NAMED]]
        more = f" and {len(ranked) - _MOST_NAMED} more" if len(ranked) > _MOST_NAMED else ""
        return f"a {'geometric ' if self.is_geometric else ''}mean of {', '.join(parts)}{more}: a blend in disguise"


_MOST_NAMED = 5


def suspicious(labelled: Labelled, costs: Sequence[float | None] | None = None) -> dict[int, Suspicion]:
    """Members that are mixes of others, and those that leak, by their numbers.

    Of equal members the dearer counts as the mix, else the later, as with copies.
    """
    count = len(labelled.stack)
    known = [None] * count if costs is None else list(costs)
    order = sorted(range(count), key=lambda member: (np.inf if known[member] is None else known[member], member))
    mixed = find_mixes(labelled.stack, order[::-1], sets=labelled.sets)
    rest = [member for member in range(count) if member not in mixed]
    leaks = {rest[index]: suspicion for index, suspicion in find_leaks(labelled.with_members(rest)).items()}
    renumbered = {
        member: Suspicion("leak", each.score, tuple(rest[other] for other in each.of)) for member, each in leaks.items()
    }
    return dict(sorted((mixed | renumbered).items()))


# Leaks


def find_leaks(labelled: Labelled) -> dict[int, Suspicion]:
    """Members that are right and sure wherever the others are surprised."""
    if len(labelled.stack) <= _FEWEST_OTHERS:
        return {}
    probs, truth = _sample(labelled)
    leaks: dict[int, Suspicion] = {}
    while True:
        rest = [member for member in range(len(probs)) if member not in leaks]
        fresh = {
            member: Suspicion("leak", score, others)
            for member, (score, weight, others) in _leak_scores(probs, truth, rest).items()
            if score >= LEAK and weight >= _SURPRISES
        }
        if not fresh:
            return leaks
        leaks |= fresh  # and leaks that these excused come to light when they are out


def leak_scores(labelled: Labelled) -> list[float]:
    """Each member's score beside all the others; 0 where too few rows surprise them, or there are too few of them."""
    probs, truth = _sample(labelled)
    scores = _leak_scores(probs, truth, range(len(probs)))
    return [scores[member][0] * (scores[member][1] >= _SURPRISES) if scores else 0.0 for member in range(len(probs))]


def _leak_scores(
    probs: NDArray[np.float32], truth: Integers, members: Sequence[int]
) -> dict[int, tuple[float, float, tuple[int, ...]]]:
    """For each of these members its score, how many rows stand behind it, and the others it was compared with."""
    if len(members) <= _FEWEST_OTHERS:
        return {}
    company, loneliest = _Company.of(probs, members), _by_loneliness(probs, truth, members)
    scores = {}
    for member in members:
        out = [member]
        if len(members) - 2 >= _MANY_OTHERS:
            # Two leaks would excuse each other: the other member that is most often right alone is left out.
            out.append(next(other for other in loneliest if other != member))
        score, weight = leak_score(probs[member], company.pool(out), truth)
        scores[member] = score, weight, tuple(other for other in members if other not in out)
    return scores


def leak_score(own: Matrix, pool: Floats, truth: Integers) -> tuple[float, float]:
    """The share of the pool's surprise at which a member is right and sure, and how many rows stand behind it.

    `own`: (rows, classes). `pool`: (features, rows, classes), logarithms of ways to combine the others, calibrated
    here.
    """
    slopes, likely = _fit_slopes(pool, truth, np.full(len(pool), 1 / len(pool)))
    surprise = np.maximum(0.0, -np.log(likely) - _SURPRISED)
    total = float(surprise.sum())
    if total == 0:
        return 0.0, 0.0
    weight = total**2 / float((surprise**2).sum())
    right = (own.argmax(axis=1) == truth).astype(np.float64)
    share = float(surprise @ right) / total
    if share < _PROMISING:
        return share / 2, weight  # less than the score could be, and enough to acquit it
    # Half for being right, half for being sure: how likely the truth is by the pool and the member together.
    _, sure = _fit_slopes(np.concatenate([pool, _log(own)[None]]), truth, np.append(slopes, 0.0))
    return float(surprise @ (right + sure)) / (2 * total), weight


def _sample(labelled: Labelled) -> tuple[NDArray[np.float32], Integers]:
    """Probabilities (members, rows, classes) of evenly spaced rows, and the truth; of sets each row is a yes or no."""
    members, (count, classes), sets = len(labelled.stack), labelled.stack[0].shape, labelled.sets
    most = max(_FEWEST_ROWS, _LEAK_NUMBERS // classes)
    most = max(1, min(count, most, _MOST_NUMBERS // (members * classes)))
    rows = np.linspace(0, count - 1, most).astype(np.int64)  # as for diversity: no chance in who is suspicious
    probs = np.stack([np.asarray(labelled.stack[member][rows], dtype=np.float32) for member in range(members)])
    truth = np.asarray(labelled.labels[rows], dtype=np.int64)
    if not sets:
        return probs, truth
    yes = probs.reshape(members, -1)
    return np.stack([1 - yes, yes], axis=2), truth.ravel()


def _by_loneliness(probs: NDArray[np.float32], truth: Integers, members: Sequence[int]) -> list[int]:
    """Members by how often they are right where at most a fifth of the others are, the likeliest leak first."""
    right = np.array([probs[member].argmax(axis=1) == truth for member in members], dtype=np.float64)
    others = (right.sum(axis=0) - right) / (len(right) - 1)
    alone = others <= _FEW_RIGHT
    shares = (right * alone).sum(axis=1) / np.maximum(alone.sum(axis=1), 1)
    return [members[index] for index in np.argsort(-shares, kind="stable")]


@dataclass(frozen=True, eq=False)
class _Company:
    """Members and their sums, so that those without some of them cost no second look at all."""

    probs: NDArray[np.float32]
    size: int
    sums: Floats  # (rows, classes)
    log_sums: Floats

    @classmethod
    def of(cls, probs: NDArray[np.float32], members: Sequence[int]) -> _Company:
        """These of the members."""
        sums, log_sums = np.zeros(probs.shape[1:]), np.zeros(probs.shape[1:])
        for member in members:
            sums += probs[member]
            log_sums += _log(probs[member])
        return cls(probs, len(members), sums, log_sums)

    def pool(self, out: Sequence[int]) -> Floats:
        """(2, rows, classes): logarithms of the mean, and of the geometric mean, of those that are not `out`."""
        rest = self.size - len(out)
        sums = self.sums - sum(self.probs[member].astype(np.float64) for member in out)
        logs = self.log_sums - sum(_log(self.probs[member]) for member in out)
        return np.stack([_log(sums / rest), logs / rest])


def _log(probs: Matrix | Floats) -> Floats:
    return np.log(np.maximum(probs.astype(np.float64), _FLOOR))


def _fit_slopes(logs: Floats, truth: Integers, start: Floats) -> tuple[Floats, Floats]:
    """Slopes (features,) of most likelihood for softmax(slopes @ logs), and what is then given to the truth (rows,)."""
    # Newton's steps with the exact Hessian on a handful of slopes; a step that gains nothing is halved.
    rows, slopes = np.arange(len(truth)), start.copy()
    goal, probs = _likelihood(logs, truth, slopes, start)
    for _ in range(_NEWTON_STEPS):
        expected = (logs * probs).sum(axis=2)
        slope = (logs[:, rows, truth] - expected).sum(axis=1) - _SLOPE_PRIOR * (slopes - start)
        second = np.array([[float((a * b * probs).sum()) for b in logs] for a in logs])
        curvature = second - expected @ expected.T + _SLOPE_PRIOR * np.eye(len(logs))
        step, length = np.linalg.solve(curvature, slope), 1.0
        value, there = _likelihood(logs, truth, slopes + step, start)
        while value < goal and length > _SHORTEST:
            length /= 2
            value, there = _likelihood(logs, truth, slopes + length * step, start)
        if value <= goal:
            break
        gained, slopes, goal, probs = value - goal, slopes + length * step, value, there
        if gained < _GAINED:
            break
    return slopes, np.asarray(probs[rows, truth], dtype=np.float64)


def _likelihood(logs: Floats, truth: Integers, slopes: Floats, start: Floats) -> tuple[float, Floats]:
    """The logarithm of the likelihood with its prior, and the probabilities."""
    scores = np.tensordot(slopes, logs, 1)
    scores -= scores.max(axis=1, keepdims=True)
    own = scores[np.arange(len(truth)), truth]
    probs = np.exp(scores)
    sums = probs.sum(axis=1, keepdims=True)
    goal = float((own - np.log(sums[:, 0])).sum()) - _SLOPE_PRIOR / 2 * float(((slopes - start) ** 2).sum())
    return goal, probs / sums


# Mixes

Mix = tuple[float, tuple[int, ...], tuple[float, ...]]
"""How far a column is from it, relative; of which others, and with which weights."""


def find_mixes(stack: Sequence[Matrix], order: Sequence[int], *, sets: bool) -> dict[int, Suspicion]:
    """Members that are a mean of others, of their probabilities or of their logarithms; of equal ones the first in
    `order`."""
    if len(stack) < 2:
        return {}
    members, (count, classes) = len(stack), stack[0].shape
    most = max(_EQUATIONS, 4 * members)
    # Four times as many, as logarithms of small numbers are left out; some rows in any case, of many classes.
    chosen = _spread(count, max(_FEWEST_EVEN, 4 * most // max(classes - 1, 1)))
    probs = np.stack([np.asarray(stack[member][chosen], dtype=np.float64) for member in range(members)])
    units = np.array([_unit(matrix) for matrix in probs])
    flat = probs[:, :, : classes if sets else classes - 1].reshape(
        members, -1
    )  # the last class follows from the others
    flat = flat[:, _spread(flat.shape[1], most)].T
    noise = units * np.linalg.norm(flat, axis=0)
    mixes = {member: Suspicion("mix", *mix) for member, mix in _search(flat, noise, order).items()}
    if sets:
        probs = np.stack([1 - probs.reshape(members, -1), probs.reshape(members, -1)], axis=2)
    everywhere = np.ones(probs.shape[1:], dtype=np.bool_)
    floors = [floor for floor in _FLOORS if floor < _SMALL or (probs < floor).any()]
    views = [(list(range(members)), everywhere, floor) for floor in floors]
    views += [(company, valid, 0.0) for company, valid in _companies(probs, units)]
    for company, valid, floor in views:
        # A copy of one member would pass for the original, and a mix that is known for an ingredient.
        company = [each for each in company if each not in mixes or _may_be_ingredient(mixes[each])]
        logs, noise = _centred_logs(np.maximum(probs[company], floor), valid, units[company], most)
        candidates = [company.index(member) for member in order if member in company and member not in mixes]
        for place, (score, of, weights) in _search(logs, noise, candidates).items():
            numbers = tuple(company[other] for other in of)
            mixes[company[place]] = Suspicion("mix", score, numbers, weights, is_geometric=True)
    return mixes


def _may_be_ingredient(mix: Suspicion) -> bool:
    """Of a mean of logarithms: a mean of probabilities, as those of logarithms are made of their own ingredients."""
    return len(mix.of) > 1 and not mix.is_geometric


def _spread(count: int, most: int) -> Integers:
    """The numbers of at most `most` of them, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _unit(matrix: Floats) -> float:
    """By how much rounding may have changed a number, relative to it: of the fewest bits that hold all of them."""
    # Not the file's type: what was computed in 32 bits and written in 64 is as coarse as before. The few round numbers
    # of a tree, such as 0.25, are exact in any type.
    if len(np.unique(matrix)) <= _FEW_NUMBERS:
        return float(np.finfo(np.float64).eps) / 2
    for kind in (np.float16, np.float32):
        if np.array_equal(matrix.astype(kind).astype(np.float64), matrix):
            return float(np.finfo(kind).eps) / 2
    return float(np.finfo(np.float64).eps) / 2


def _companies(probs: Floats, units: Floats) -> list[tuple[list[int], NDArray[np.bool_]]]:
    """Members whose logarithms can be compared, and where (rows, classes): as many as possible, then with each of those
    that had too many zeros for that."""
    floors = np.where(units > _COARSE, _SMALL_OF_16, _SMALL)[:, None, None]  # below it, 16 bits lose digits
    valid = probs > floors
    companies: list[tuple[list[int], NDArray[np.bool_]]] = []
    seeds = [int(member) for member in np.argsort(-valid.sum(axis=(1, 2)), kind="stable")]
    while seeds and len(companies) < _MOST_COMPANIES:
        company, joint = [seeds[0]], valid[seeds[0]]
        shared = (valid & joint).sum(axis=(1, 2))
        for member in np.argsort(-shared, kind="stable"):
            both = joint & valid[member]
            if member not in company and _equations(both) >= len(company) + 1 + _SPARE:
                company.append(int(member))
                joint = both
        if len(company) > 1:
            companies.append((company, joint))
        seeds = [member for member in seeds[1:] if member not in company]
    return companies


def _equations(valid: NDArray[np.bool_]) -> int:
    """How many differences of logarithms there are; each row's own factor is free."""
    return int(np.maximum(valid.sum(axis=1) - 1, 0).sum())


def _centred_logs(probs: Floats, valid: NDArray[np.bool_], units: Floats, most: int) -> tuple[Floats, Floats]:
    """(numbers, members): logarithms less their mean in the row, and the rounding of each member's."""
    logs = np.log(np.where(valid, probs, 1.0))
    counts = valid.sum(axis=1, keepdims=True)
    centred = np.where(valid, logs - logs.sum(axis=2, keepdims=True) / np.maximum(counts, 1), 0.0)
    used = np.flatnonzero((valid & (counts > 1)).ravel())
    used = used[_spread(len(used), most)]
    # Who averages logarithms in 32 bits rounds these, which is more than the rounding of the probabilities.
    sizes = np.maximum(np.abs(logs), 1.0).reshape(len(probs), -1)[:, used]
    return centred.reshape(len(probs), -1)[:, used].T, units * np.linalg.norm(sizes, axis=1)


def _search(columns: Floats, noise: Floats, order: Sequence[int]) -> dict[int, Mix]:
    """Columns that are a mix of others."""
    # A mix and its ingredients depend on each other: each is a sum of the rest. Positive weights tell them apart, as a
    # mix lies among the others and an ingredient outside. With weights of both signs, it is the one with the smallest.
    size, members = columns.shape
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    if size < members + _SPARE:
        return {}
    triangle = _triangle(columns / scale)
    rough = np.maximum(_NEAR, _ROUNDINGS * float((noise / scale).max())) * np.sqrt(members)
    active = list(range(members))
    mixes: dict[int, Mix] = {}
    near = _distances(triangle)
    for member in [each for each in order if near[each] <= rough]:
        others = [other for other in active if other != member]
        mix = _positive(triangle, scale, columns, noise, member, others)
        if mix is not None:
            mixes[member] = mix
            active.remove(member)
    while len(active) > 1 and rough < _FINE:
        near = _distances(_triangle(triangle[:, active]))
        allowed = [index for index, member in enumerate(active) if member in order and near[index] <= rough]
        if not allowed:
            break
        member = active[min(allowed, key=lambda index: near[index] * scale[active[index]])]
        others = [other for other in active if other != member]
        weights = _least_squares(triangle, member, others)
        mix = _checked(triangle, scale, columns, noise, member, others, weights)
        if mix is None:
            break
        mixes[member] = mix
        active.remove(member)
    return mixes


def _triangle(columns: Floats) -> Floats:
    """The same lengths and angles in as few rows as there are columns."""
    return np.asarray(np.linalg.qr(columns, mode="r"), dtype=np.float64)


def _distances(triangle: Floats) -> Floats:
    """Of each column from all sums of the others, relative to its length; the columns are of length 1."""
    from scipy.linalg import solve_triangular  # slow to import

    fixed = triangle.copy()
    diagonal = np.diagonal(fixed).copy()
    diagonal[np.abs(diagonal) < _TINY] = _TINY
    np.fill_diagonal(fixed, diagonal)
    inverse = solve_triangular(fixed, np.eye(len(fixed)))
    return np.asarray(1 / np.linalg.norm(inverse, axis=1), dtype=np.float64)


def _least_squares(triangle: Floats, member: int, others: Sequence[int]) -> Floats:
    return np.asarray(np.linalg.lstsq(triangle[:, others], triangle[:, member], rcond=None)[0], dtype=np.float64)


def _positive(
    triangle: Floats, scale: Floats, columns: Floats, noise: Floats, member: int, others: Sequence[int]
) -> Mix | None:
    """The mix with positive weights, if it is one."""
    from scipy.optimize import nnls

    if not others:
        return None
    try:
        weights = nnls(triangle[:, others], triangle[:, member], maxiter=30 * len(others))[0]
    except RuntimeError:  # too many steps: the signs decide nothing then, the second search does
        return None
    return _checked(triangle, scale, columns, noise, member, others, weights)


def _checked(
    triangle: Floats,
    scale: Floats,
    columns: Floats,
    noise: Floats,
    member: int,
    others: Sequence[int],
    weights: Floats,
) -> Mix | None:
    """The mix with these weights, fitted again without those that are none; None where it is not within rounding."""
    used = [index for index in range(len(others)) if abs(weights[index]) > _NO_WEIGHT * np.abs(weights).max()]
    if not used:
        return None
    of = [others[index] for index in used]
    fitted = _least_squares(triangle, member, of)
    if (weights >= 0).all() and (fitted <= 0).any():
        return None
    distance = float(np.linalg.norm(triangle[:, of] @ fitted - triangle[:, member]))
    plain = fitted * scale[member] / scale[of]
    rounding = float(np.sqrt(noise[member] ** 2 + ((plain * noise[of]) ** 2).sum())) / scale[member]
    is_fine = rounding < _COARSE
    tolerance = max(_NEAR, (_ROUNDINGS if is_fine else _ROUNDINGS_OF_16) * rounding)
    if distance > tolerance:
        return None
    # Members of one kind with ten penalties are as near to each other's sums as to a mix: they can't be told apart.
    apart = float(_distances(_triangle(triangle[:, of])).min())
    if tolerance > apart * (_APART if is_fine else _APART_OF_16):
        return None
    # Numbers that are often the same, as those of a tree with few leaves, are one equation each.
    if len(np.unique(columns[:, [member, *of]], axis=0)) < len(of) + _SPARE:
        return None
    return distance, tuple(of), tuple(plain.tolist())
