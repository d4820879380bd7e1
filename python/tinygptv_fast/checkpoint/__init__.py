"""Weight files: the original's four, and our own directory. Every tensor is accounted for; no file can run code.

Knows names, shapes and bytes; does not know how a model computes.
"""
