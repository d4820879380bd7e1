"""The original's quirks under their own name: what its scripts compute, bugs included, for reproducing its numbers.

Nothing here is used by the rest of the package; new code wants ``processing`` instead.
"""
