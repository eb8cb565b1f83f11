"""From networks and images to probabilities: views, softmax, means, streams of files.

Take `forward.predict_rows` for cached images, `stream.predict_files` for files. Knows no fold and no training.
"""
