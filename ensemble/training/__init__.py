"""One fold in torch: network, loss, loop, checkpoints, predictions. Imported by workers only.

Start at `fold.FoldWork.train`. Nothing upstairs imports this room: `runs/` names the functions of `tasks`,
`held_out_views` and `predict_images` as strings, and a worker calls them.
"""
