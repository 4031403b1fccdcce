"""The demo corpus: composed and rendered from a seed, nothing downloaded.

Read in this order: ``score`` (what a song consists of), ``parts`` and ``compose`` (write it),
``tones``, ``synths``, ``drums`` and ``instruments`` (play it), ``production`` (make it a record),
``songs`` (which songs there are), ``build`` and ``reader`` (disk).
"""
