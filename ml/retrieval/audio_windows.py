"""The address of ``read_window`` for code outside: ``ml.audio.windows`` has it."""

from ml.audio.windows import read_window

__all__ = ["read_window"]
