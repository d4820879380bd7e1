"""The drawn world the demo model learns: pictures of shapes and words from seeds, and questions with true answers.

Modules, each importing only those before it: ``lexicon``, ``scene``; ``shapes``, ``lettering``, ``backgrounds``;
``drawing``, ``labels``; ``sampling``; ``wordings``, ``phrases``, ``candidate``; the kinds of questions (``attributes``,
``counting``, ``places``, ``reading``, ``statements``, ``outside``, ``dialogue``); ``asking``; ``sampler``, ``scoring``.
Beside them ``text`` writes a scene in words, ``grammar`` and ``layout`` make a scene from words.

Nothing here knows tokens, tensors or a model. No torch import.
"""
