"""The address of what answers, for code outside.

A query from Python begins here::

    from ml.retrieval.query import load_model, open_retriever

    retriever = open_retriever("data")  # the home; its champion
    for candidate in retriever.query("mix.wav", "acoustic guitar", k=10):
        print(candidate.score, candidate.key)
    retriever.query((samples, 44_100), "bass")  # an array comes with its rate in Hz
    vector = load_model(checkpoint).embed_stem(waveform)  # 16 kHz, mono

An array without a rate is taken to have the model's (16 kHz): nothing can tell that it has another.
``ml.retrieval.queries.retriever`` has ``open_retriever`` and the class,
``ml.models.stem_jepa`` the model.
"""

from ml.models.stem_jepa import load_model
from ml.retrieval.queries.retriever import StemRetriever, open_retriever

__all__ = ["StemRetriever", "load_model", "open_retriever"]
