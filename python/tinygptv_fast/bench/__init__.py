"""``tinygptv bench``: how fast this machine runs a model, and how near that is to what the machine could do.

``runner.run(Options(...))`` yields rows as they are measured; ``report`` and ``table`` show them. Every figure stands
beside its roof where it has one: the read bandwidth probed directly before and after each block, and int8 arithmetic in
registers. Importing this package imports nothing: ``child`` measures what its user imports.
"""
