"""The recipe of the demo model: ``python -m tinygptv_fast.train.demo`` trains it phase by phase.

Modules, each importing only those before it: ``recipe``; ``pictures``, ``rows``; ``loop``; the phases ``seeing``,
``cache``, ``telling``, ``stages``, ``finish``, ``report``; ``command``. Phases meet only in files of the run's folder.
"""
