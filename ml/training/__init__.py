"""Training: a *configuration* makes a *run*, whose result is a *checkpoint*.

``runs`` trains, reuses and resumes; ``loop`` is the one loop for both phases (``contrastive``,
``jepa``); ``models`` says which checkpoint a name stands for. Networks and losses are in
``ml.models``, batches of audio in ``ml.shards``; what a trained model is used for stands above.
"""
