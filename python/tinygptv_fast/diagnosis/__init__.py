"""What a machine can run (``machine``, ``settings``) and whether a model directory is what it should be (``verify``,
``parity``, ``agreement``). Library functions that return data; the command line prints it.

Knows model directories, the original's files through ``conversion``, and the reference's layers, one at a time.
"""
