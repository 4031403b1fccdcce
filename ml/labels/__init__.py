"""Labels: instruments in words, and the vectors that stand for them.

The *taxonomy* has the categories and instruments that a model is conditioned with; *names* puts
what each corpus writes into its words, *wordings* says them otherwise; an *encoder* (CLAP or
MiniLM) turns words into unit vectors.
CLAP's files, weights and two branches are here too. The vectors of a corpus: ``ml.corpora``.
"""
