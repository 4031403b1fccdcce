"""The upkeep of a home over the years.

A *leftover* is what nothing names any more (``collect``), a *removal* what was made of one corpus
(``remove_corpus``). What another version or place asks of a home: ``ml.artifacts.other_formats``,
``ml.mlflow_store``. Making things anew belongs to the folders that make them.
"""
