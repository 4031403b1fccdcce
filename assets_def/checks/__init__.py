"""Checks, one module a kind: of corpora and shards, of models, of scores."""
