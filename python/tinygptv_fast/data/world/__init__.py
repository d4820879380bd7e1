"""The drawn world the demo model learns: pictures of shapes and words from seeds, and questions with true answers.

Modules, each importing only those before it:

``lexicon`` → ``scene`` → ``shapes, lettering, backgrounds`` → ``drawing, labels`` → ``sampling`` → ``wordings, phrases``
→ ``candidates`` (attributes, counting, places, reading, outside, dialogue) → ``asking`` → ``sampler`` → ``scoring``;
``text`` writes a scene in words, ``grammar`` and ``layout`` read a scene from words.

Nothing here knows tokens, tensors or a model. No torch import.
"""
