"""Training audio: a corpus written as shards, and training pairs read from them.

A *shard* is a WebDataset tar; each sample of it is a *segment* of one track with its stems, without
those that are silent. An *index* beside each tar says where every stem lies. A *pair* is a chunk of
a segment: a target stem, and the context it is to be found by.

Written by ``plan`` (which tracks go where, and at what cost), ``write`` (one shard) and ``build``
(all of a corpus); read by ``reader`` (``ShardPairs``) through ``split``, ``pairs``,
``batches`` and ``members``. ``folders`` knows both kinds of places, and pushes to a URL. Reading
stems and the silence rule are ``ml.audio``'s, the tables that a build starts from
``ml.corpora``'s. ``README.md`` shows how to read shards without this package.
"""
