"""Where tasks run: in this process, or in one process each, restarted when they die.

Take `scheduler.run_tasks`. A task is `module:function`, plain arguments and a folder to fill; nothing here knows an
image, a fold or a model.
"""
