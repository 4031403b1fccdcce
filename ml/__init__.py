"""Everything that is not orchestration: corpora, audio, shards, model, training, retrieval.

The words used everywhere here, and nothing else for the same thing:

* **track**: a song. **stem**: one recorded part of it, made of one or more files. **mix**: a sum
  of stems. **segment**: an excerpt of a track as stored in a shard (one WebDataset *sample*).
  **chunk**: the few seconds the model sees at once.
* **context**: the stems that are given (their mix). **target**: the stem to find.
* **labels**: what a stem plays, coarse to fine, free text. **condition**: a label's embedding.
* **encoder**, **target encoder** (its exponential moving average), **predictor**.
* **query**: the predicted embedding. **gallery**: the embeddings of all candidate stems.
  **rank**: the place of the target in the gallery for its query, 1 = first.
* **corpus**: a named set of tracks. **split**: train, valid or test.

Read in the order of the data: ``corpora`` → ``audio`` → ``shards`` → ``models`` → ``training`` →
``retrieval`` → ``reports``. ``artifacts`` says where things lie and how they are written,
``settings`` what the user can set, ``cli`` is the ``stems`` command. ``labels`` has what
instruments are called, ``metrics`` every metric, ``scores`` figures with intervals.
"""
