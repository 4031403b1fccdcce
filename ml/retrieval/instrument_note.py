"""What a person should know about the instrument they asked for, beside the answer."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from ml.retrieval.label_search import nearest_labels

if TYPE_CHECKING:
    from ml.retrieval.query import StemRetriever


def instrument_note(retriever: StemRetriever, instrument: str) -> str | None:
    """How a model takes an instrument that its training has not met; None: there is nothing to say.

    By meaning, and by spelling: a text encoder may take a slip of the pen for another word.
    """
    model = retriever.model
    if not retriever.takes_instrument:
        return (
            f'model {model.name} listens to the mix only, "{instrument}" changes nothing; narrow '
            f"the answer with a filter, or use a model with a predictor"
        )
    labels = getattr(model, "manifest", {}).get("training_labels") or []
    if not labels or instrument in labels or model.condition_dim is None:
        return None
    *known, asked = retriever.encode_texts([*labels, instrument])
    nearest = nearest_labels(asked, dict(zip(labels, known, strict=True)))
    shown = ", ".join(f"{label} {cosine:.2f}" for label, cosine in nearest)
    spelt = get_close_matches(instrument.lower(), labels, n=1)
    meant = f'; did you mean "{spelt[0]}"?' if spelt and spelt[0] != nearest[0][0] else ""
    return f'"{instrument}" is not a training label; it acts like: {shown}{meant}'
