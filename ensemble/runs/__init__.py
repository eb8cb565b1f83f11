"""A run from its recipe to its merged files: plans tasks, hands them to an engine, verifies, merges. No torch."""
