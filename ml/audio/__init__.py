"""Audio: files as waveforms, when they sound, and the log-mel that models see.

A *waveform* is (samples,) float32 mono; *activity* is the one rule for silence; a *chunk* is what a
model sees at a time. Which files make a stem is the corpus's (``ml.tracks``, ``ml.corpora``).
"""
