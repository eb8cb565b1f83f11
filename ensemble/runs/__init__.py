"""A run from its recipe to its merged files: request, checks, folds, record, merge, status.

Call `train.train`, `predict.predict`, `pack.pack`, `status.status`. Nothing here imports torch: what needs it is a
task, named as a string.
"""
