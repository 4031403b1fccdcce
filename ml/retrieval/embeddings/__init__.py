"""From audio to vectors: what every model makes of the stems of a corpus, on disk.

A *source* is the tracks to embed; a *pass* takes their chunks through models; the *gallery* holds
one vector a stem, the *queries* what each stem's mix asks for. ``build`` puts these together,
``parts`` makes that outlive a kill, ``files`` says what lies on disk. Scores are made from the
files in ``ml.retrieval.evaluation``, LanceDB tables in ``ml.retrieval.tables``.
"""
