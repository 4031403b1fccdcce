"""The upkeep of a home over the years.

A *leftover* is what nothing names any more (``collect``), a *removal* what was made of one corpus
(``remove_corpus``), a *move* what another place or version asks of a home (``migrate``). Making
things anew belongs to the folders that make them.
"""
