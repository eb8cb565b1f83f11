"""Search: Optuna proposes, our files remember."""
