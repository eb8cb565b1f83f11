"""A run from its recipe to its merged files: request, checks, folds, record, merge, status.

Take `train.train`, `predict.predict`, `status.status`. Never torch: what needs it is a task, named as a string.
"""
