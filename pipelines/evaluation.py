"""Which corpora can be evaluated, and by what: nothing is asked for that must fail."""

from collections.abc import Iterator

from assets_def.resources import StemsHome, corpora_with_stems
from ml.artifacts import MANIFEST_NAME
from ml.settings import Settings


def evaluable_corpora(settings: Settings) -> list[str]:
    """List the corpora with stems that were scanned and whose labels were encoded."""
    layout = settings.layout
    return [
        name
        for name in corpora_with_stems(settings)
        if all((f / MANIFEST_NAME).is_file() for f in (layout.tracks(name), layout.labels(name)))
    ]


def evaluation_assets(home: StemsHome, name: str) -> Iterator[str]:
    """Yield what can be made of a corpus: instruments need tracks that nobody was trained on."""
    yield from ("stem_embeddings", "retrieval_scores")
    if has_unseen_tracks(home, name):
        yield "instrument_scores"


def has_unseen_tracks(home: StemsHome, name: str) -> bool:
    """Tell whether some track that would be evaluated was not trained on by any current model."""
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
