"""Scores of any evaluation: intervals, files, tables for people, copies in MLflow.

*Score*: one figure of one model on one corpus, in percent, with its interval and chance.
*Evaluation*: what was asked (``retrieval``, ``instruments``, ``alignment``, ``beats``); its scores
lie in ``scores/<evaluation>/<corpus>``, with paired differences and tracks seen in training beside
them. *Interval*: of a figure, by resampling whole tracks.

What is measured stands elsewhere: ``ml.retrieval.evaluation``, ``ml.beats``.
"""
