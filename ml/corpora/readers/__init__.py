"""Readers: one file a layout, each a class with a ``root`` and ``tracks()``.

They share how a folder is listed and how the metadata that corpora bring along are read
(``listing``). A reader names instruments through ``ml.labels.names`` and leaves audio to the scan.
Beside its class a module has ``holds_corpus(root)``, by which a root that another kind refused is
told its own; a class may have ``notes()``, what it left out.
"""
