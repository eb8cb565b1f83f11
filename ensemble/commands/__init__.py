"""One file a verb, `<verb>_command.py`: arguments in, an `Outcome` out. `screen/` shows it.

Each has one `run(arguments)`, imported when its verb is called. What a verb does is done below.
"""
