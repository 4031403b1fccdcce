"""Dagster's view of the artifacts: what there is, what it depends on, and what is checked.

An *asset* is thin: it reads settings, makes one call of ``ml``, and returns what Dagster records of
it (``results``). A *check* returns numbers and a verdict. A *home* (``resources``) is what all of
them are given. Training runs in a process of its own (``launch``, ``train_process``). When assets
are made is said in ``pipelines``.
"""
