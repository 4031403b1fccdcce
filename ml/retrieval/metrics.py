"""The address of the rank metrics for code outside: ``ml.retrieval.evaluation.ranks`` has them."""

from ml.retrieval.evaluation.ranks import retrieval_scores, target_ranks

__all__ = ["retrieval_scores", "target_ranks"]
