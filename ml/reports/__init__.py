"""HTML pages for people: the report of a home, and the comparison of two models.

A *section* is what a template shows of one corpus (``alignment``, ``beats``, ``instruments``); a
*plot* is a figure with its title and what it says to those who do not see it (``sections``); a
*sample* is a query to listen to (``samples``). ``scored`` and ``trained`` read scores and models,
``report`` renders the templates beside it. Scores are computed in ``ml.retrieval.evaluation`` and
``ml.beats``; what figures share is ``ml.figures``.
"""
