"""Endpoints of the table: what can be asked for, and the search by mix, by words, by a stem.

What LanceDB takes as a condition is nearly all of its SQL: ``repeat('a', 1000000000)``, parameters
that make it panic, negations whose time doubles with each level. The conditions of strangers are
therefore bounded first, in words, signs and depth, to comparisons of the table's columns;
``stems query --where`` and ``lancedb`` itself take everything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ml.retrieval.queries.candidates import Candidate
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.queries.words import WordsRead, read_words
from ml.retrieval.tables.database import sql_text
from ml.retrieval.tables.search import StemTables, label_filter, music_filter
from ml.serve.catalog import Catalog
from ml.serve.schemas import (
    LINE_PATTERN,
    Bounds,
    CorpusCount,
    Found,
    Health,
    Instruments,
    Key,
    LabelCount,
    Text,
    TrackPage,
)
from ml.serve.security import responses
from ml.serve.service import Service, TheService, candidate_info, track_summary

_KEYWORDS = frozenset(
    "and or not in like ilike between is null true false escape".split()  # noqa: SIM905
)
_FUNCTIONS = frozenset(("array_has", "lower", "upper", "length", "starts_with"))
_MOST_TOKENS, _MOST_DEPTH, _MOST_NEGATIONS = 200, 8, 8
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign><>|!=|<=|>=|[=<>(),-]))\s*",
    re.ASCII,
)

table_router = APIRouter(responses=responses())
search_router = APIRouter(prefix="/api", tags=["search"])


@table_router.get("/healthz", tags=["table"], summary="Whether queries are answered, and by what")
async def health(service: TheService) -> Health:
    """Tell which model and version of the table answer now; 503 when nothing can be searched."""
    retriever, catalog = await service.queries.run(service.current)
    return Health(
        model=retriever.model.name,
        model_id=retriever.model.model_id,
        table_version=catalog.tables.version,
        rows=len(catalog),
        bounds=Bounds(upload_bytes=service.limits.upload_bytes, mix_s=service.limits.mix_s),
    )


@table_router.get("/api/instruments", tags=["table"], summary="Words to ask with")
async def instruments(service: TheService) -> Instruments:
    """List labels of the training and of the table; any other text may be asked for too."""
    retriever, catalog = await service.queries.run(service.current)
    manifest = getattr(retriever.model, "manifest", {})
    labels, categories = await service.queries.run(lambda: (catalog.labels, catalog.categories))
    return Instruments(
        training=sorted(manifest.get("training_labels") or []),
        table=[LabelCount(label=label, stems=stems) for label, stems in labels.items()],
        categories=list(categories),
    )


@table_router.get("/api/corpora", tags=["table"], summary="Corpora of the table")
async def corpora(service: TheService) -> list[CorpusCount]:
    """Count the stems and tracks of each corpus of the table."""
    counts = await service.queries.run(lambda: service.catalog().corpora)
    return [
        CorpusCount(corpus=corpus, stems=stems, tracks=tracks)
        for corpus, (stems, tracks) in counts.items()
    ]


@table_router.get("/api/tracks", tags=["table"], summary="Tracks to make a mix of")
async def tracks(
    service: TheService,
    corpus: Annotated[Text | None, Query(description="Of this corpus only.")] = None,
    contains: Annotated[Text | None, Query(description="Whose id contains this text.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 100,
) -> TrackPage:
    """List tracks whose stems are in the table, with their stems; POST one to /api/tracks/mix."""

    def find() -> TrackPage:
        catalog = service.catalog()
        matching = catalog.find_tracks(corpus, contains)
        shown = catalog.tracks(matching[:limit])
        return TrackPage(total=len(matching), tracks=[track_summary(track) for track in shown])

    return await service.queries.run(find)


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
    label: list[Text] = Field(
        default_factory=list,
        max_length=50,
        description="Only stems that have one of these labels, at any level.",
    )
    bpm: Text | None = Field(
        default=None, description="Only stems of such a tempo.", examples=["118..124"]
    )
    musical_key: Text | None = Field(
        default=None, description="Only stems of this key.", examples=["A minor", "Bb"]
    )
    variants: bool = Field(
        default=False,
        description="Each recording of one thing by itself, not only the best of them.",
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
        pattern=LINE_PATTERN,
        description="For experts: an SQL condition on the table's columns: comparisons, AND, OR, "
        "NOT, IN, LIKE, ILIKE, BETWEEN, IS NULL, array_has, lower, upper, length, starts_with.",
        examples=["duration_s < 60 AND label LIKE '%guitar%'"],
    )


@search_router.get("/search", summary="Find stems", responses=responses(404))
async def search(service: TheService, wanted: Annotated[Search, Query()]) -> Found:
    """Rank stems of the table, the best first: for a mix, by words alone, or like a stem.

    A mix with an instrument asks for a stem of it that fits; a mix alone for any that fits. Fewer
    than k come back when the filters leave fewer.
    """
    return await service.queries.run(_search, service, wanted)


def _search(service: Service, wanted: Search) -> Found:
    retriever, catalog = service.current()
    if wanted.where is not None:
        check_condition(wanted.where, catalog.columns)
    asked, has_mix = wanted.instrument, wanted.mix is not None
    candidates = _candidates(service, retriever, catalog, wanted)
    words = WordsRead(labels={}) if asked is None else read_words(retriever, asked, has_mix=has_mix)
    return Found(
        model=retriever.model.name,
        model_id=retriever.model.model_id,
        table_version=catalog.tables.version,
        instrument=wanted.instrument,
        chunk_s=retriever.model.chunk_s,
        candidates=[candidate_info(candidate) for candidate in candidates],
        compares="mix" if has_mix else "label" if wanted.like is None else "stem",
        note=words.note,
        is_guess=words.is_guess,
        matching=[LabelCount(label=label, stems=n) for label, n in words.labels.items()],
    )


def _candidates(
    service: Service, retriever: StemRetriever, catalog: Catalog, wanted: Search
) -> Sequence[Candidate]:
    k, instrument = wanted.k, wanted.instrument
    filters: dict[str, Any] = {
        "where": _where(wanted, catalog.tables),
        "per_track": wanted.per_track,
        "variants": wanted.variants,
    }
    if wanted.like is not None:
        if wanted.mix is not None or instrument is not None:
            raise HTTPException(422, "like goes without mix and instrument; leave one side out")
        # Only what the table holds: to query_by_stem any other text is the path of a file.
        key = catalog.row(wanted.like)["key"]
        return retriever.query_by_stem(key, k, exclude_own_track=not wanted.own_track, **filters)
    if wanted.mix is not None:
        mix = service.mixes.get(wanted.mix)
        own = [mix.track.track_id] if mix.track is not None and not wanted.own_track else []
        asked = service.asked(retriever, mix, instrument)
        return retriever.query(asked, instrument, k, exclude_tracks=own, **filters)
    if instrument is None:
        raise HTTPException(422, "nothing to search by; give a mix, an instrument, or like")
    return retriever.query_by_text(instrument, k, **filters)


def _where(wanted: Search, tables: StemTables) -> str | None:
    parts = [
        f"{column} IN ({', '.join(map(sql_text, values))})"
        for column, values in (("corpus", wanted.corpus), ("category", wanted.category))
        if values
    ]
    if wanted.label:
        parts.append(f"({' OR '.join(map(label_filter, wanted.label))})")
    if music := music_filter(tables, wanted.bpm, wanted.musical_key):
        parts.append(music)
    if wanted.where is not None:
        parts.append(f"({wanted.where})" if parts else wanted.where)
    return " AND ".join(parts) or None


def check_condition(where: str, columns: tuple[str, ...]) -> None:
    """Refuse a condition that is more than comparisons of columns.

    Raises:
        HTTPException: says which part, and what is expected.
    """
    at = depth = tokens = negations = 0
    while at < len(where):
        match = _TOKEN.match(where, at)
        if match is None or where.startswith("--", match.start("sign")):
            raise _refused(where, f"{where[at : at + 20].strip()!r} is not expected", columns)
        word = (match["word"] or "").lower()
        if word and word not in _KEYWORDS | _FUNCTIONS and match["word"] not in columns:
            raise _refused(where, f"{word!r} is no column, word or function", columns)
        depth += (match["sign"] == "(") - (match["sign"] == ")")
        tokens += 1
        negations += word == "not"
        if depth > _MOST_DEPTH or tokens > _MOST_TOKENS or negations > _MOST_NEGATIONS:
            raise _refused(where, "it is too long or too deep", columns)
        at = match.end()


def _refused(where: str, reason: str, columns: tuple[str, ...]) -> HTTPException:
    return HTTPException(
        422,
        f"the filter {where[:200]!r} is not understood ({reason}); expected an SQL condition such "
        f"as category = 'guitar' on the columns {', '.join(columns)}, with AND, OR, NOT, IN, LIKE, "
        f"ILIKE, BETWEEN, IS NULL and the functions {', '.join(sorted(_FUNCTIONS))}",
    )
