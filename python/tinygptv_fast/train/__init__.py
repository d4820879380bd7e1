"""Training: the paper's four stages (``stages``), and the demo model that is trained by them (``demo``).

Runs on the plain torch modules of ``reference/``; knows nothing of the command line's other verbs.
"""
