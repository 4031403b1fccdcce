"""Retrieval: from corpora to vectors, and from a question to the stems that answer it.

``embeddings`` brings corpora through the models, ``evaluation`` says what the vectors are worth,
``tables`` holds them in LanceDB, ``champion`` decides which model answers, ``queries`` asks it.
Single modules beside them are only addresses that code outside knows; metrics: ``ml.metrics``.
"""
