"""The nouns and their files: dataset, fold plan, probability file, run folder, labels, metrics.

Also what all rooms need of files, locks, text and the machine.

Take `predictions` for probability files, `files` for anything that is written, `complaints` for what a user did wrong.
Nothing here reads a recipe, decodes an image or loads torch.
"""
