"""The model of the paper: a frozen *frontend*, an *encoder* and a *predictor*, and their losses.

``stem_jepa`` puts them into one class for both phases and loads it from a checkpoint. Nothing here
trains (``ml.training``) or reads audio files (``ml.audio``).
"""
