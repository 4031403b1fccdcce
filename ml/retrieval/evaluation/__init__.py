"""How good retrieval is, from embeddings on disk.

*Gallery* and *Queries*: the stems that are ranked, and what is looked for among them; the same for
all models. *Answers*: one model's ranks and nearest stems. Each evaluation makes scores of them
(``ml.scores``): ``evaluate`` (Table I), ``instruments`` (Fig. 2, with ``presence``), ``alignment``;
``controls`` says what a figure is worth, ``compare`` sets two models against each other.

How queries and galleries are embedded: ``ml.retrieval.embeddings``. Who becomes champion:
``ml.retrieval.champion``.
"""
