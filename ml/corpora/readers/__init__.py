"""Readers: one file a layout, each a class with a ``root`` and ``tracks()``.

They share how a folder is listed and how the metadata that corpora bring along are read
(``listing``). A reader names instruments through ``ml.labels.names`` and opens no audio.
"""
