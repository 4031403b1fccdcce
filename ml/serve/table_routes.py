"""Endpoints about what can be asked for: health, words, corpora, tracks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ml.serve.links import track_summary
from ml.serve.problems import responses
from ml.serve.schemas import (
    Bounds,
    CorpusCount,
    Health,
    Instruments,
    LabelCount,
    Text,
    TrackPage,
)
from ml.serve.service import TheService

router = APIRouter(responses=responses())


@router.get("/healthz", tags=["table"], summary="Whether queries are answered, and by what")
async def health(service: TheService) -> Health:
    """The model and the version of the table that answer now; 503 when nothing can be searched."""
    retriever, catalog = await service.queries.run(service.current)
    return Health(
        model=retriever.model.name,
        model_id=retriever.model.model_id,
        table_version=catalog.tables.version,
        rows=len(catalog),
        bounds=Bounds(upload_bytes=service.limits.upload_bytes, mix_s=service.limits.mix_s),
    )


@router.get("/api/instruments", tags=["table"], summary="Words to ask with")
async def instruments(service: TheService) -> Instruments:
    """Labels of the training and of the table; any other text may be asked for too."""
    retriever, catalog = await service.queries.run(service.current)
    manifest = getattr(retriever.model, "manifest", {})
    labels, categories = await service.queries.run(lambda: (catalog.labels, catalog.categories))
    return Instruments(
        training=sorted(manifest.get("training_labels") or []),
        table=[LabelCount(label=label, stems=stems) for label, stems in labels.items()],
        categories=list(categories),
    )


@router.get("/api/corpora", tags=["table"], summary="Corpora of the table")
async def corpora(service: TheService) -> list[CorpusCount]:
    """How many stems and tracks each corpus has in the table."""
    counts = await service.queries.run(lambda: service.catalog().corpora)
    return [
        CorpusCount(corpus=corpus, stems=stems, tracks=tracks)
        for corpus, (stems, tracks) in counts.items()
    ]


@router.get("/api/tracks", tags=["table"], summary="Tracks to make a mix of")
async def tracks(
    service: TheService,
    corpus: Annotated[Text | None, Query(description="Of this corpus only.")] = None,
    contains: Annotated[Text | None, Query(description="Whose id contains this text.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 100,
) -> TrackPage:
    """Tracks whose stems are in the table, with their stems; POST one to /api/tracks/mix."""

    def find() -> TrackPage:
        catalog = service.catalog()
        found = catalog.find_tracks(corpus, contains)
        shown = catalog.tracks(found[:limit])
        return TrackPage(total=len(found), tracks=[track_summary(track) for track in shown])

    return await service.queries.run(find)
