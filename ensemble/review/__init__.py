"""Finished runs and blends looked at again by a person: labels that are probably wrong, scores by corrected ones.

Take `labels` and `rescore_labels` from here; nothing here trains, blends or changes a run.
"""
