"""A study: samplers propose, policies stop, one queue buys folds, one `trial.json` a trial remembers.

Take `tune.tune`. A trial is a run of `runs/`; nothing is trained otherwise here.
"""
