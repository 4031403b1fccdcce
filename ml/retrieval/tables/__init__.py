"""The LanceDB tables that queries search.

*Database*: the tables of one model, a folder or a prefix of an object store. *Publishing*: making a
corpus of embeddings the rows of a database, in one version. *Index*: what large tables are searched
through, with its recall measured.

``database`` opens and writes safely, ``publish`` fills, ``index`` indexes, ``search`` searches,
``inspect`` describes, exports and compares with the embeddings; ``embedding_function`` lets LanceDB
search them alone.
Who asks: ``ml.retrieval.queries``. Whose database is asked: ``ml.retrieval.champion``.
"""
