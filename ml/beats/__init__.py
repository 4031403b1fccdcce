"""Beat tracking from frozen embeddings (Riou et al., section IV-C; Table II).

Its nouns: *features* of a track (a row a step of 160 ms, by an input: a frozen encoder or the
log-mel), *probes* (linear maps trained on them) and *activations* (how much each frame of 20 ms is
a beat), from which a decoder finds beats. ``experiment`` scores them on corpora with beats,
``tracker`` finds the beats of any recording. Annotations are read by ``ml.corpora.readers.beats``.
"""
