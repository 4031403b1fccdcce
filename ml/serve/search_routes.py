"""The endpoint that finds stems: by a mix and words, by words alone, by a stem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from ml.retrieval.candidates import Candidate
from ml.retrieval.database import sql_text
from ml.retrieval.instrument_note import instrument_note
from ml.retrieval.query import StemRetriever
from ml.serve.catalog import Catalog
from ml.serve.conditions import check_condition
from ml.serve.links import candidate_info
from ml.serve.problems import RequestError, responses
from ml.serve.schemas import KEY_PATTERN, Found, Key, Text
from ml.serve.service import Service, TheService

router = APIRouter(prefix="/api", tags=["search"])


class Search(BaseModel):
    """What to look for, and where."""

    model_config = ConfigDict(extra="forbid")

    mix: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{24}$", description="Id of the mix that the stem is for."
    )
    instrument: Text | None = Field(
        default=None,
        description="What the stem should play, free text; without a mix: stems of that sound.",
    )
    like: Key | None = Field(
        default=None, description="Key of a stem: more like this one. Goes without mix and words."
    )
    k: int = Field(default=12, ge=1, le=500, description="How many.")
    corpus: list[Text] = Field(
        default_factory=list, max_length=50, description="Only stems of these corpora."
    )
    category: list[Text] = Field(
        default_factory=list, max_length=50, description="Only stems of these categories."
    )
    own_track: bool = Field(
        default=False, description="Also stems of the track that the mix or the stem is of."
    )
    per_track: int | None = Field(
        default=None, ge=1, le=500, description="At most so many stems of one track."
    )
    where: str | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        pattern=KEY_PATTERN,
        description="For experts: an SQL condition on the table's columns: comparisons, AND, OR, "
        "NOT, IN, LIKE, ILIKE, BETWEEN, IS NULL, array_has, lower, upper, length, starts_with.",
        examples=["duration_s < 60 AND label LIKE '%guitar%'"],
    )


@router.get("/search", summary="Find stems", responses=responses(404))
async def search(service: TheService, wanted: Annotated[Search, Query()]) -> Found:
    """Stems of the table, the best first: for a mix, by words alone, or like a stem.

    A mix with an instrument asks for a stem of it that fits; a mix alone for any that fits. Fewer
    than k come back when the filters leave fewer.
    """
    return await service.queries.run(_search, service, wanted)


def _search(service: Service, wanted: Search) -> Found:
    retriever, catalog = service.current()
    if wanted.where is not None:
        check_condition(wanted.where, catalog.columns)
    return Found(
        model=retriever.model.name,
        model_id=retriever.model.model_id,
        table_version=catalog.tables.version,
        instrument=wanted.instrument,
        chunk_s=retriever.model.chunk_s,
        candidates=[candidate_info(c) for c in _candidates(service, retriever, catalog, wanted)],
        note=instrument_note(retriever, wanted.instrument)
        if wanted.instrument is not None and wanted.mix is not None
        else None,
    )


def _candidates(
    service: Service, retriever: StemRetriever, catalog: Catalog, wanted: Search
) -> Sequence[Candidate]:
    k, instrument = wanted.k, wanted.instrument
    filters: dict[str, Any] = {"where": _where(wanted), "per_track": wanted.per_track}
    if wanted.like is not None:
        if wanted.mix is not None or instrument is not None:
            raise RequestError("like goes without mix and instrument; leave one side out")
        # Only what the table holds: to query_by_stem any other text is the path of a file.
        key = catalog.row(wanted.like)["key"]
        return retriever.query_by_stem(key, k, exclude_own_track=not wanted.own_track, **filters)
    if wanted.mix is not None:
        mix = service.mixes.get(wanted.mix)
        own = [mix.track.track_id] if mix.track is not None and not wanted.own_track else []
        return retriever.query(mix.waveform(), instrument, k, exclude_tracks=own, **filters)
    if instrument is None:
        raise RequestError("nothing to search by; give a mix, an instrument, or like")
    return retriever.query_by_text(instrument, k, **filters)


def _where(wanted: Search) -> str | None:
    parts = [
        f"{column} IN ({', '.join(map(sql_text, values))})"
        for column, values in (("corpus", wanted.corpus), ("category", wanted.category))
        if values
    ]
    if wanted.where is not None:
        parts.append(f"({wanted.where})" if parts else wanted.where)
    return " AND ".join(parts) or None
