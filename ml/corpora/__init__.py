"""Corpora: what is on disk, as tracks of labelled stems, and the tables made of it.

``open_corpus`` gives a *corpus*: a reader of one layout (``readers``) that lists *tracks* and never
decodes audio. A *scan* decodes every stem once; *corpus_tracks* (``table``) is what it measured, a
row a stem; *label_embeddings* are the conditions of its labels. Songs that we make ourselves:
``demo``. Decoding is ``ml.audio``, what an instrument is called ``ml.labels``.
"""
