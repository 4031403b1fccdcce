"""The model that comes with the package, so that a first query needs no training.

``model/`` is a checkpoint folder like any other, ``MODEL_CARD.md`` says what the model is and what
it cannot do, ``run.json`` how it was trained; ``make`` makes the three from a run
(``python -m ml.starter.make RUN``). Where they are not there, ``starter`` is not in the
installation.

How it is found, and that it answers where there is no champion: ``ml.training.models``.
"""
