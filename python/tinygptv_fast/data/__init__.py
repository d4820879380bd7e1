"""Drawn pictures, questions about them whose answers are known, and the scorer that checks an answer.

Nothing here knows the model: a picture is a PIL image, a question and its answer are strings. No torch import.
"""
