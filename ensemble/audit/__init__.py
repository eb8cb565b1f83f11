"""What is wrong with a dataset: leaks, duplicates, contradictions, bad images.

Take `audit.audit`; it gives findings, and refuses nothing: `runs/checks.py` does.
"""
