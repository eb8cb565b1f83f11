"""The names of samplers and policies, for help, checks, messages and docs. Light: `ens --help` imports it.

To add a sampler, write `propose_NAME` in `samplers.py` and give it a line here; to add a policy, a function `NAME` in
`stopping.py` and a line here. What they do stands there.
"""

from __future__ import annotations

SAMPLERS = {
    "tpe": "Optuna's TPE",
    "gp": "Optuna's Gaussian process, for few, costly trials, since a proposal takes seconds",
    "cmaes": 'CMA-ES, for a dozen numbers and more (at least two keys, and pip install "ens[cmaes]")',
    "random": "chance",
    "grid": "each combination once, ranges without a step in five values, then the study ends",
    "qmc": "a sequence that covers the space more evenly than chance",
}

POLICIES = {
    "race": "what can hardly win any more, also within folds",
    "forgiving": "a mean below the best trial's worst fold",
    "median": "what is below the median of the others so far",
    "hyperband": "all but a third at rungs of 1 and 3 folds",
    "wilcoxon": "what Optuna's WilcoxonPruner prunes",
    "none": "nothing",
}
"""Each with what it stops."""

SAMPLERS_HELP, POLICIES_HELP = (
    "; ".join(f"{name}: {about}" for name, about in choices.items()) for choices in (SAMPLERS, POLICIES)
)
