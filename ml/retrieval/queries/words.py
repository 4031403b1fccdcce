"""What the words of a question mean here: an instrument that is known, or a guess.

Words are known when a label of the training or of the gallery is the same text or what the taxonomy
reads in them ("rhodes" is an electric piano), or when one is near: not farther away than three in
four labels are from the label next to them, by the label encoder. What comes for other words is
ranked all the same, with scores that look like any others; ``is_guess`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from ml.retrieval.queries.by_label import named_labels, nearest_labels
from ml.retrieval.queries.retriever import StemRetriever
from ml.tracks import MUSIC

_NEAR = 0.25
"""Quantile, over labels, of the cosine with the nearest other label, from which on words are."""
_SPELT_SO = 0.8
"""Likeness of letters from which on a label may have been meant."""


@dataclass(frozen=True, kw_only=True)
class WordsRead:
    """How an instrument in words is taken."""

    note: str | None = None
    """A sentence for the person who asked; None: nothing to say."""
    is_guess: bool = False
    """Whether neither training nor gallery knows such an instrument."""
    labels: Mapping[str, int]
    """Labels of the gallery that the words match, of any level → stems that have them."""


def read_words(retriever: StemRetriever, instrument: str, *, has_mix: bool) -> WordsRead:
    """Say how an instrument is taken, by meaning and by spelling.

    Args:
        retriever: what answers.
        instrument: free text, not blank.
        has_mix: whether a mix is asked with; without one labels alone decide.
    """
    model, gallery = retriever.model, retriever.labels
    spelt = get_close_matches(instrument.lower(), gallery, n=1, cutoff=_SPELT_SO)
    matching = named_labels(instrument, gallery) or spelt
    counts = {label: retriever.count_stems(label) for label in matching if label != MUSIC}
    if has_mix and not retriever.takes_instrument:
        note = (
            f'model {model.name} listens to the mix only, "{instrument}" changes nothing; narrow '
            f"the answer with a filter, or use a model with a predictor"
        )
        return WordsRead(note=note, labels=counts)
    trained = getattr(model, "manifest", {}).get("training_labels") or []
    labels = sorted(({*trained, *gallery} if has_mix else {*gallery}) - {MUSIC})
    if instrument == MUSIC or not labels or (has_mix and model.condition_dim is None):
        return WordsRead(labels=counts)
    *vectors, asked = retriever.encode_texts([*labels, instrument])
    known = dict(zip(labels, vectors, strict=True))
    is_guess = not named_labels(instrument, labels) and not _is_near(asked, np.array(vectors))
    if has_mix and trained and instrument not in trained:
        known = {label: known[label] for label in trained if label in known}
        said = f'"{instrument}" is not a training label; it acts like: '
    elif is_guess:
        said = f'no stem is labelled "{instrument}", or nearly so; the nearest labels: '
    else:
        return WordsRead(labels=counts)
    nearest = nearest_labels(asked, known)
    note = said + ", ".join(f"{label} {cosine:.2f}" for label, cosine in nearest)
    spelt = get_close_matches(instrument.lower(), sorted(known), n=1)
    if spelt and spelt[0] not in dict(nearest):
        note += f'; did you mean "{spelt[0]}"?'
    return WordsRead(
        note=f"only a guess: {note}" if is_guess else note, is_guess=is_guess, labels=counts
    )


def _is_near(asked: np.ndarray, labels: np.ndarray) -> bool:
    """Tell whether words (dim,) are as near to a label as most of these, (label, dim), are."""
    if len(labels) < 2:
        return True
    cosines = labels @ labels.T
    np.fill_diagonal(cosines, -1.0)
    return bool((labels @ asked).max() >= np.quantile(cosines.max(axis=1), _NEAR))
