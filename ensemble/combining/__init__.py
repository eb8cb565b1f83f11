"""The arithmetic of blending, on matrices: combiners, what learns weights and slopes, cross-fitting, honest scores.

Take `crossfit.Labelled` for rows to learn from and `honest.assess` for what answers are worth. Knows no files, no
options and no names of methods; those are in `blending`. Never torch.
"""
