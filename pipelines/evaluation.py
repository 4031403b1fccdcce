"""Which corpora can be evaluated, and by what: nothing is asked for that must fail."""

import logging
from collections.abc import Iterator

from assets_def.resources import StemsHome
from ml.artifacts import MANIFEST_NAME
from ml.settings import Settings

_log = logging.getLogger(__name__)
NO_STEMS = ("beats",)
"""Kinds of corpora without stems; ``ml.retrieval.tables.completeness.NO_STEMS``, not imported:
slow."""


def corpora_with_stems(settings: Settings) -> tuple[str, ...]:
    """The corpora of the settings that retrieval is about."""
    return tuple(name for name, found in settings.corpora.items() if found.kind not in NO_STEMS)


def evaluable_corpora(settings: Settings) -> list[str]:
    """The corpora with stems that were scanned and whose labels were encoded."""
    layout = settings.layout
    return [
        name
        for name in corpora_with_stems(settings)
        if all((f / MANIFEST_NAME).is_file() for f in (layout.tracks(name), layout.labels(name)))
    ]


def trackable_corpora(settings: Settings) -> tuple[str, ...]:
    """The corpora of ``beats``; none until all of them were scanned."""
    layout, chosen = settings.layout, settings.beats.scored
    missing = [name for name in chosen if not (layout.tracks(name) / MANIFEST_NAME).is_file()]
    if missing:
        _log.info("beats are not tracked: %s was not scanned yet", ", ".join(missing))
    return () if missing else chosen


def evaluation_assets(home: StemsHome, name: str) -> Iterator[str]:
    """What can be made of a corpus: instruments need queries of tracks nobody was trained on."""
    yield from ("stem_embeddings", "retrieval_scores")
    if has_unseen_tracks(home, name):
        yield "instrument_scores"


def has_unseen_tracks(home: StemsHome, name: str) -> bool:
    """Whether some track that would be evaluated was not trained on by any current model."""
    from ml.artifacts import read_json
    from ml.retrieval.embeddings.seen import seen_tracks
    from ml.retrieval.embeddings.source import open_source
    from ml.training.models import read_models

    source = open_source(name, home.layout, None)
    unseen = {track.track_id for track in source.tracks}
    for checkpoint in read_models(home.layout).values():
        trained_on = read_json(checkpoint / "manifest.json")["training_tracks"]
        unseen -= set(seen_tracks(source.table, trained_on, home.layout))
    return bool(unseen)
