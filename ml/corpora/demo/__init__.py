"""The demo corpus: composed and rendered from a seed, nothing downloaded.

A *song* is written on paper (``score``: what it consists of; ``compose``: how), played
(``instruments`` by the ``synths``) and made a record (``production``). ``songs`` says which songs
there are, ``build`` writes them as a corpus and reads that. Reading other people's audio belongs to
``ml.corpora.readers``.
"""
