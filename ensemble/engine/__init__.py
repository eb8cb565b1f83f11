"""Where tasks run: in this process, or in one process each, restarted when they die.

Call `scheduler.run_tasks`. A task is `module:function`, plain arguments and a folder to fill; nothing here knows an
image, a fold or a model.
"""

from __future__ import annotations

ENGINES: dict[str, tuple[str, str]] = {
    "local": ("ensemble.engine.local:LocalEngine", "each fold in a process of its own"),
    "slurm": (
        "ensemble.engine.slurm:SlurmEngine",
        "each fold as a job of a Slurm cluster; --slurm says what it asks for",
    ),
    "inline": ("ensemble.engine.scheduler:InlineEngine", "one after the other in this process, to debug"),
}
"""The one list of engines: by name, the class as `module:class` and its line of `--help`.

A class, and not yet imported, since the command line lists engines before it loads one. It is called with a listener,
slots and limits (`task.Engine`); the contract tests run every engine of this list.
"""
