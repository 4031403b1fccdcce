"""Back to the champion before: the pointer in ``champion.json``, then MLflow's alias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ml.artifacts import ArtifactError, DataLayout
from ml.retrieval.champion import Champion, read_champion, replace_champion, successor
from ml.retrieval.compared_models import find_compared
from ml.retrieval.completeness import (
    gallery_gaps,
    publication_gaps,
    published_corpora,
    searched_corpora,
)
from ml.retrieval.registry import mirror_champion
from ml.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """What a rollback did."""

    withdrawn: Champion
    """Who was champion."""
    champion: Champion
    """Who is champion now."""
    gaps: Sequence[str]
    """What queries do not find now that they should."""


def roll_back(settings: Settings) -> Rollback:
    """Make the champion before the champion again; the present one counts as withdrawn.

    Raises:
        ArtifactError: there is none before, its tables or its checkpoint are gone, or not whole.
        ChampionChangedError: another process replaced the champion meanwhile.
    """
    layout = settings.layout
    before = read_champion(layout)
    if before.previous is None:
        raise ArtifactError(
            f"{before.model_id} is the first champion, there is none before it; promote another "
            f"model with: stems promote MODEL"
        )
    _require_whole(layout, before.previous)
    earlier = find_compared(layout, before.previous, settings.tracking_uri)
    if earlier.checkpoint is None:
        raise ArtifactError(
            f"the checkpoint of {before.previous}, the champion before, is not in {layout.runs} "
            f"any more; promote another model with: stems promote MODEL"
        )
    after = successor(layout, before, earlier.model_id, earlier.checkpoint)
    after = replace(after, withdrawn=(*after.withdrawn, before.model_id))
    replace_champion(layout, before, after)
    mirror_champion(layout, settings.tracking_uri, settings.promotion.registered_model)
    gaps = gallery_gaps(layout, after.model_id, searched_corpora(settings))
    return Rollback(withdrawn=before, champion=read_champion(layout), gaps=gaps)


def _require_whole(layout: DataLayout, model_id: str) -> None:
    problems = publication_gaps(layout, model_id)
    if not published_corpora(layout, model_id):
        problems = ["nothing is published with it"]
    if problems:
        raise ArtifactError(
            f"{model_id}, the champion before, cannot answer queries: {'; '.join(problems)}; "
            f"promote another model with: stems promote MODEL"
        )
