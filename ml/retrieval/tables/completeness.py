"""Is what queries search whole? Tables against the embeddings they were published from.

A model's gallery is complete when every corpus that counts is published with the model as the
corpus is now. Nothing is read but manifests and row counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml import kinds
from ml.artifacts import MANIFEST_NAME, ArtifactError, DataLayout, read_manifest
from ml.retrieval.embeddings.files import read_embedding_manifest
from ml.retrieval.tables.database import database_uri
from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, count_rows, publication_folder
from ml.settings import Settings
from ml.tracks import NO_STEMS


def searched_corpora(settings: Settings) -> list[str]:
    """List the corpora whose stems queries should find.

    Those of ``promotion.gallery``; where that is empty, every corpus of the settings that has
    stems and was scanned.
    """
    if settings.promotion.gallery:
        return list(settings.promotion.gallery)
    return [
        name
        for name, corpus in settings.corpora.items()
        if corpus.kind not in NO_STEMS and (settings.layout.tracks(name) / MANIFEST_NAME).is_file()
    ]


def published_corpora(layout: DataLayout, model_id: str) -> list[str]:
    """List the corpora that were published with a model."""
    records = publication_folder(layout, model_id).glob(f"*/{MANIFEST_NAME}")
    return sorted(path.parent.name for path in records)


def gallery_gaps(layout: DataLayout, model_id: str, corpora: Sequence[str]) -> list[str]:
    """Say what a model's tables lack of some corpora, one phrase each; empty: nothing."""
    return [gap for corpus in corpora for gap in _gaps(layout, model_id, corpus)]


def publication_gaps(layout: DataLayout, model_id: str) -> list[str]:
    """Say where a model's tables are not what was published into them; empty: nowhere.

    Corpora that were never published with the model do not count.
    """
    return [
        gap
        for corpus in published_corpora(layout, model_id)
        for gap in _row_gaps(layout, model_id, corpus, _record(layout, model_id, corpus)["summary"])
    ]


def _gaps(layout: DataLayout, model_id: str, corpus: str) -> Iterator[str]:
    try:
        embedded = read_embedding_manifest(layout, model_id, corpus)
    except ArtifactError:
        yield f"{corpus} is not embedded with it"
        return
    scanned = read_manifest(layout.tracks(corpus), kinds.CORPUS_TRACKS)
    if scanned["fingerprint"] != embedded["identity"]["corpus_tracks"]:
        yield f"{corpus} has changed since it was embedded"
        return
    try:
        record = _record(layout, model_id, corpus)
    except ArtifactError:
        yield f"{corpus} is not published"
        return
    if record["identity"]["embeddings"] != embedded["fingerprint"]:
        yield f"{corpus} is published as it was before"
        return
    made = embedded["summary"]
    counts = {STEM_TABLE: made["gallery"], CHUNK_TABLE: made["chunks"]}
    yield from _row_gaps(layout, model_id, corpus, counts)


def _row_gaps(
    layout: DataLayout, model_id: str, corpus: str, counts: Mapping[str, Any]
) -> Iterator[str]:
    uri = database_uri(layout, model_id)
    for table in (STEM_TABLE, CHUNK_TABLE):
        rows = count_rows(uri, table, corpus)
        if rows != counts[table]:
            yield f"{table} holds {rows} of {counts[table]} rows of {corpus}"


def _record(layout: DataLayout, model_id: str, corpus: str) -> dict[str, Any]:
    return read_manifest(publication_folder(layout, model_id, corpus), kinds.PUBLICATION)
