"""Tables and rows: from a described dataset to ids, paths, labels, groups, and the fold plan over them.

Take `table.load_table` and `folds.shared_plan`; `new_images` for what no dataset describes. No pixel is read here.
"""
