"""The address of ``read_chunks`` for code outside: ``ml.retrieval.queries.mix`` has it."""

from ml.retrieval.queries.mix import read_chunks

__all__ = ["read_chunks"]
