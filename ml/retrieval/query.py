"""The address of ``StemRetriever`` for code outside: ``ml.retrieval.queries.retriever`` has it."""

from ml.retrieval.queries.retriever import StemRetriever

__all__ = ["StemRetriever"]
