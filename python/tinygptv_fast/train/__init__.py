"""Training on drawn pictures: ``python -m tinygptv_fast.train.tiny`` makes the demo model.

Runs on the plain torch modules of ``reference/``; knows nothing of the command line's other verbs.
"""
