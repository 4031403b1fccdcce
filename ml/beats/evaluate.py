"""The address of ``beat_scores`` for code outside: ``ml.beats.scores`` has it."""

from ml.beats.scores import beat_scores

__all__ = ["beat_scores"]
