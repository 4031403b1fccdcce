"""Tempo and key of recordings, and recordings brought to another tempo and key.

``tempo`` finds beats, ``key`` the key; both would rather say nothing than guess, and neither needs
a trained model, so what they find is of a corpus and not of a model. ``tracks`` keeps it for each
track of a corpus, ``fit`` stretches and transposes. Beats by a trained probe: ``ml.beats``.
"""
