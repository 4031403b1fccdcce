"""Retrieval: embeddings, store, metrics, evaluation, queries."""
