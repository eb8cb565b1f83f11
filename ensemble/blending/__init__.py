"""From members to a submission and its worth, in numpy: alignment by id, methods, cross-fitting, honest scores.

Take `blend.blend` and `adopt.adopt`; `formula.Formula` applies a blend to other rows. Never torch, never a recipe: a
pair of probability files is enough.
"""
