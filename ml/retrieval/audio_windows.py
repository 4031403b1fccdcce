"""The address of ``read_window`` for code outside: ``ml.audio.files`` has it."""

from ml.audio.files import read_window

__all__ = ["read_window"]
