"""Runs, trials and blends side by side: `compare.compare` is the verb, `sides` what stands on each side, and
`training_noise` how sure a difference is. Never torch; nothing is trained, and no run is changed."""
