"""The ``stems`` command: verbs on a terminal, each a thin layer over a call of ``ml``.

``main`` has the table of verbs, ``options`` what verbs share; each other file is one verb, or a few
that belong together. A verb reads options, makes one call, prints what came of it (nothing else in
``ml`` prints) and returns an exit code. How things are made stands in the package of the thing.
"""
