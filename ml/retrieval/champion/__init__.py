"""Which model queries use.

*Champion*: the model that ``champion.json`` names (read by ``ml.training.models``). *Candidate*:
the model that would take its place. *Promotion* and *rollback* move the pointer; MLflow's alias
``champion`` mirrors it.

How candidate and champion are compared: ``ml.retrieval.evaluation.compare``; whether the
candidate's tables are whole: ``ml.retrieval.tables.inspect``.
"""
