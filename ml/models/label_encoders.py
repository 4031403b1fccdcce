"""The address of ``build_label_encoder`` for code outside: ``ml.labels.encoders`` has it."""

from ml.labels.encoders import build_label_encoder

__all__ = ["build_label_encoder"]
