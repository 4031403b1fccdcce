"""Multitracks from compositions: MIDI files played through soundfonts (the corpus kind ``midi``).

A *composition* is what a MIDI file says (``files``). A *rendering* is one way to play it: which
excerpt, how fast, how high, which program through which soundfont, recorded how; all of it is drawn
from (seed, file, number), so one file gives as many songs as are asked for (``renderings``).
``fluidsynth`` plays a part, ``corpus`` lists the renderings of a folder and keeps their audio.
How a song is made a record is ``ml.corpora.demo.production``; reading rendered corpora of others
(Slakh2100) belongs to ``ml.corpora.readers``.

Training beyond what a disk holds would make shards ahead of the trainer and drop them behind it: a
rendering is a unit of work that knows nothing of others, and its number may grow without end. That
is not built.
"""
