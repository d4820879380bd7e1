"""Rounding of weights to int4 and int8, its error records, and the quality receipt (``quality.json``).

Knows tensors and numbers only: not the model, not the original's files, not where a tensor will be stored.
"""
