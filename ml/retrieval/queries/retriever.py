"""Ask for a stem: by a mix and an instrument in words, by an example, or by words alone.

How the words of a question are taken: ``words``.
``open_retriever`` puts model, label encoder and tables of a home together, once; ``Retrievers``
does for a program that answers for a long time.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml import kinds
from ml.artifacts import ArtifactError
from ml.corpora.label_embeddings import TextVectors
from ml.labels.encoder import LabelEncoder, described_encoder
from ml.labels.encoders import build_label_encoder
from ml.models.stem_jepa import StemJepa, load_model, without_instrument
from ml.retrieval.embeddings.model import EmbeddingModel, EncodesLabels, check_label_encoder
from ml.retrieval.queries.by_label import (
    best_hits,
    named_labels,
    nearest_first,
    search_by_label,
)
from ml.retrieval.queries.candidates import (
    Candidate,
    Found,
    Place,
    candidates_of,
    fold_variants,
    owner_of,
    places_alone,
    places_with_mix,
    sounding_place,
)
from ml.retrieval.queries.mix import (
    ChunkVectors,
    Mix,
    predict_chunks,
    read_chunks,
    stem_vectors,
)
from ml.retrieval.queries.stem_files import StemFiles
from ml.retrieval.tables.database import database_uri, sql_text
from ml.retrieval.tables.search import Hit, Row, StemChunks, StemTables, TableRows, label_filter
from ml.settings import Settings, existing_home, load_settings
from ml.tracks import MUSIC
from ml.training.models import champion_path, find_checkpoint

_log = logging.getLogger(__name__)
_VARIANTS = 3
"""So many times as many stems are searched for as are wanted, since variants become one."""


class StemRetriever:
    """Finds stems in a model's table; any thread may ask.

    Args:
        model: makes the queries; must be the one that made the table.
        table: the model's database (``stems table path``), its ``stem_embeddings`` opened with
            LanceDB, or ``StemTables``.
        label_encoder: what turns an instrument into a condition; default: the one that the model
            was trained with.
        files: where the stems' audio and titles are; None: variants stay by themselves, and places
            are chosen by vectors alone.

    Raises:
        ArtifactError: the table is missing, or of another model; or the label encoder is not the
            one that the model was trained with.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        table: Any,
        label_encoder: LabelEncoder | None = None,
        files: StemFiles | None = None,
    ):
        self.model = model
        self.tables = _tables(table)
        if self.tables.model_id != model.model_id or self.tables.dim != model.dim:
            raise ArtifactError(
                f"{self.tables.uri} holds vectors of model {self.tables.model_id} "
                f"({self.tables.dim} dimensions), but queries come from {model.name}, model "
                f"{model.model_id} ({model.dim} dimensions); open the table of that model, or "
                f"embed the corpora with it: stems embed CORPUS"
            )
        if label_encoder is not None:
            _check_encoder(model, label_encoder)
        self._encoder = label_encoder
        self._files = files
        self._encoder_lock = threading.Lock()
        self._rows = TableRows(self.tables.uri)

    @property
    def takes_instrument(self) -> bool:
        """Tell whether the instrument changes what ``query`` finds.

        Some models listen to the mix only (``contrastive``, ``untrained``, ``spectrum``); they
        still answer, narrow it with ``where``.
        """
        if isinstance(self.model, EncodesLabels) or self.model.condition_dim is not None:
            return True
        predictor = getattr(getattr(self.model, "config", None), "predictor", None)
        return getattr(predictor, "conditioning", None) == "class"

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of all levels that stems of the table have, sorted."""
        return self._rows.labels

    def count_stems(self, label: str) -> int:
        """Count the stems of the table that have a label, at any level."""
        return self._rows.count(label)

    def with_tables(self, tables: StemTables) -> StemRetriever:
        """Search other tables of the same model (a newer version); nothing is loaded again."""
        return StemRetriever(self.model, tables, self._encoder, self._files)

    def query(
        self,
        mix: Mix | ChunkVectors,
        instrument: str | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
        uses_labels: bool = True,
        variants: bool = False,
    ) -> list[Candidate]:
        """Find the stems that fit best with a mix.

        What a label says need not be heard: a stem that is labelled with the instrument counts as
        if it sounded wholly like it, any other as it sounds (models whose vectors have parts).

        Args:
            mix: a path, (array, rate in Hz), or a list of these to sum; from 1 s up. Of over ten
                minutes a spread of ten is listened to. An array without a rate is taken to have
                the model's (``model.rate_hz``, 16 kHz); nothing can tell that it has another. Or
                what ``ask`` made of it and the same instrument.
            instrument: what the stem should play, free text; None: any music.
            k: how many.
            where: an SQL condition on the table's columns: ``category = 'guitar'``.
            exclude_tracks: ids of tracks that must not be found.
            per_track: at most so many stems of one track.
            uses_labels: False: stems count as they sound, whatever their labels say.
            variants: True: each recording of one thing by itself; else the best, with the others
                named (``candidates``; where the audio's corpora are at hand).

        Returns:
            Best first; fewer than k when the filters leave fewer.

        Raises:
            AudioError: a file cannot be read.
            ValueError: the mix is silent or too short, k is out of range, the instrument is
                blank, or the filter is not understood.
        """
        self._check(k, per_track)
        asked = mix if isinstance(mix, ChunkVectors) else self.ask(mix, instrument)
        filters = {"exclude_tracks": exclude_tracks, "per_track": per_track}

        def search(most: int) -> list[Hit]:
            hits = self.tables.search(asked.mean, most, where=where, **filters)
            if not uses_labels or instrument is None:
                return hits
            named = self._search_named(asked.mean, instrument, most, where=where, **filters)
            return best_hits([*named, *hits], most, per_track)

        found = self._fold(search, k, variants=variants)
        return self._candidates(found, lambda _, c: places_with_mix(c, asked), asked.length_s)

    def query_by_stem(
        self,
        example: Mix,
        k: int = 10,
        *,
        exclude_own_track: bool = False,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
        variants: bool = False,
    ) -> list[Candidate]:
        """Find more stems like one: those whose embeddings are nearest to its own.

        Args:
            example: the key of a stem of the table (``<corpus>/<stem_id>``), which itself is not
                found; or audio as in ``query``. A text that is no key is the path of a file.
            k: how many.
            exclude_own_track: find none of the track that the keyed stem is of.
            where: as in ``query``.
            exclude_tracks: as in ``query``.
            per_track: as in ``query``; the example itself does not count.
            variants: as in ``query``; of the example's own none is found, but when True.

        Returns:
            Best first; fewer than k when the filters leave fewer. Without ``mix_start_s``.

        Raises:
            AudioError: a file cannot be read.
            ValueError: there is no such stem; the audio is silent or shorter than 1 s; k is out of
                range, or the filter is not understood.
        """
        self._check(k, per_track)
        vector, condition = self._example(example, exclude_own_track)
        self._check_where(where, vector)
        filters = {"exclude_tracks": exclude_tracks, "per_track": per_track}

        def search(most: int) -> list[Hit]:
            return self.tables.search(vector, most, where=_both(condition, where), **filters)

        row = self.tables.row(example) if isinstance(example, str) else None
        found = self._fold(search, k, variants=variants, own=row)
        return self._candidates(found, lambda _, c: places_alone(c, vector))

    def query_by_text(
        self,
        instrument: str,
        k: int = 10,
        *,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
        variants: bool = False,
    ) -> list[Candidate]:
        """Find stems of an instrument, without a mix: by their labels alone (``by_label``).

        Args:
            instrument: free text.
            k: how many.
            where: as in ``query``.
            exclude_tracks: as in ``query``.
            per_track: as in ``query``.
            variants: as in ``query``.

        Returns:
            Best first, among stems of one label the most typical first; fewer than k when the
            filters leave fewer. Without ``mix_start_s``; ``best_start_s`` is the chunk that is most
            typical of the label.

        Raises:
            ValueError: the instrument is blank, k is out of range, the filter is not understood, or
                there is no label encoder.
        """
        self._check(k, per_track)
        labels = self._rows.labels
        *known, asked = self.encode_texts([*labels, _not_blank(instrument)])
        cosines = nearest_first(np.array(known) @ asked, labels)
        self._check_where(where, self._rows.centroid(labels[0]))
        filters = {"exclude_tracks": exclude_tracks, "per_track": per_track}
        label_of: dict[str, str] = {}

        def search(most: int) -> list[Hit]:
            hits = search_by_label(self.tables, self._rows, cosines, most, where=where, **filters)
            label_of.update((hit.row["key"], label) for hit, label in hits)
            return [hit for hit, _ in hits]

        def places(hit: Hit, chunks: StemChunks) -> list[Place]:
            return places_alone(chunks, self._rows.centroid(label_of[hit.row["key"]]))

        return self._candidates(self._fold(search, k, variants=variants), places)

    def embed_mix(self, mix: Mix, instrument: str | None = None) -> np.ndarray:
        """Predict the embedding of the stem that a mix lacks: (dim,) float32, unit norm."""
        return self.ask(mix, instrument).mean

    def ask(self, mix: Mix, instrument: str | None = None) -> ChunkVectors:
        """Predict the stem from each chunk of a mix, for queries that differ in their filters.

        Raises:
            AudioError: a file cannot be read.
            ValueError: the mix is silent or too short, or the instrument is blank.
        """
        text = MUSIC if instrument is None else _not_blank(instrument)
        chunks = read_chunks(mix, self.model.rate_hz, self.model.chunk_s)
        vector = None if self.model.condition_dim is None else self.encode_texts([text])[0]
        return predict_chunks(self.model, chunks, text, vector)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode instruments in words by the label encoder: (text, width) float32, unit norm.

        Raises:
            ValueError: a text is blank, or there is no label encoder.
        """
        if isinstance(self.model, EncodesLabels):
            return self.model.encode_labels(texts)
        with self._encoder_lock:
            if self._encoder is None:
                self._encoder = _encoder_of(self.model)
            return self._encoder.encode(texts)

    def _fold(
        self,
        search: Callable[[int], list[Hit]],
        k: int,
        *,
        variants: bool,
        own: Row | None = None,
    ) -> list[Found]:
        """Find the k best by a search for so many stems, variants as one.

        Args:
            search: finds at most so many, the best first.
            k: how many.
            variants: True: each by itself.
            own: a stem whose variants are left out.
        """
        if variants or self._files is None:
            return [Found(hit=hit) for hit in search(k)]
        first = [] if own is None else [Hit(score=1.0, row=own)]
        most = min(_VARIANTS * k, len(self.tables))
        while True:
            hits = search(most)
            keys = [hit.row["key"] for hit in (*first, *hits)]
            try:
                found = fold_variants([*first, *hits], self.tables.vectors(keys), self._files)
            except ArtifactError:  # a damaged corpus_tracks is no hindrance to what tables answer
                return [Found(hit=hit) for hit in hits[:k]]
            found = found[len(first) :]
            if len(found) >= k or len(hits) < most or most == len(self.tables):
                return found[:k]
            most = min(_VARIANTS * most, len(self.tables))

    def _candidates(
        self,
        found: Sequence[Found],
        places: Callable[[Hit, StemChunks], list[Place]],
        most_s: float = math.inf,
    ) -> list[Candidate]:
        """Say of each stem where to play it, from ``places`` of its chunks, best first.

        Args:
            found: the stems.
            places: of one of them.
            most_s: how long the mix goes on from each place at most.
        """
        chunks = self._rows.chunks([owner_of(one.hit) for one in found])
        chosen = {}
        for hit in (one.hit for one in found if owner_of(one.hit) in chunks):
            listed = places(hit, chunks[owner_of(hit)])
            length_s = min(self.model.chunk_s, hit.row["duration_s"], most_s)
            chosen[owner_of(hit)] = sounding_place(listed, hit.row, length_s, self._files)
        return candidates_of(found, chosen)

    def _search_named(
        self, vector: np.ndarray, instrument: str, k: int, *, where: str | None, **filters: Any
    ) -> list[Hit]:
        """Find the stems labelled with an instrument by the song part; their instrument is known.

        A stem scores here at least what it does as it is heard, so the best k of both searches are
        the best k of all.
        """
        song_share, *others = self.model.part_shares
        labels = named_labels(instrument, self._rows.labels) if others else []
        if not labels or instrument == MUSIC:
            return []
        is_named = " OR ".join(label_filter(label) for label in labels)
        song = without_instrument(torch.from_numpy(vector), self.model.part_shares)
        song = torch.nn.functional.normalize(song, dim=0).numpy()
        hits = self.tables.search(song, k, where=_both(f"({is_named})", where), **filters)
        # A stem's song part has the length √share, the query's here 1.
        return [replace(hit, score=song_share**0.5 * hit.score + 1 - song_share) for hit in hits]

    def _example(self, example: Mix, exclude_own_track: bool) -> tuple[np.ndarray, str | None]:
        """Embed an example; with the condition that keeps it out of what is found."""
        row = self.tables.row(example) if isinstance(example, str) else None
        if row is not None:
            own = f"key <> {sql_text(row['key'])}"
            if exclude_own_track:
                corpus, track = sql_text(row["corpus"]), sql_text(row["track_id"])
                own = f"NOT (corpus = {corpus} AND track_id = {track})"
            return self.tables.vectors([row["key"]])[0], own
        if isinstance(example, str) and not Path(example).is_file():
            close = ", ".join(self._rows.close_keys(example)) or "none"
            raise ValueError(
                f"{example!r} is neither the key of a stem in {self.tables.uri} nor a file; "
                f"expected <corpus>/<stem_id> (close ones: {close}) or the path of an audio file"
            )
        chunks = read_chunks(example, self.model.rate_hz, self.model.chunk_s, "example")
        return stem_vectors(self.model, chunks).mean, None

    def _check(self, k: int, per_track: int | None) -> None:
        if not 1 <= k <= len(self.tables):
            raise ValueError(f"k = {k}; expected 1…{len(self.tables)} (stems in {self.tables.uri})")
        if per_track is not None and per_track < 1:
            raise ValueError(f"per_track = {per_track}; expected at least 1, or None")

    def _check_where(self, where: str | None, vector: np.ndarray) -> None:
        """Refuse a filter alone, before others are added to it."""
        if where is not None:
            self.tables.search(vector, 1, where=where)


def _both(condition: str | None, where: str | None) -> str | None:
    parts = [part for part in (condition, where and f"({where})") if part]
    return " AND ".join(parts) or None


def _not_blank(instrument: str) -> str:
    if not instrument.strip():
        raise ValueError("the instrument is blank; name one, or leave it out")
    return instrument


def _tables(table: Any) -> StemTables:
    if isinstance(table, StemTables):
        return table
    if isinstance(table, (str, Path)):
        return StemTables(table)
    return StemTables(str(table.uri).rsplit("/", maxsplit=1)[0])  # a LanceDB table


def _encoder_of(model: EmbeddingModel) -> LabelEncoder:
    """Load the label encoder that a model was trained with."""
    if "name" not in model.label_encoder:
        raise ValueError(
            f"model {model.name} was trained without a label encoder; to search by text, open the "
            f"retriever with one: StemRetriever(model, table, label_encoder)"
        )
    encoder = build_label_encoder(model.label_encoder["name"])
    _check_encoder(model, encoder)
    return encoder


def _check_encoder(model: EmbeddingModel, encoder: LabelEncoder) -> None:
    check_label_encoder(model, described_encoder(encoder))


def open_retriever(
    home: Settings | Path | str | None = None, model: str | None = None, *, has_files: bool = True
) -> StemRetriever:
    """Open what answers the queries of a home.

    Args:
        home: its folder, or its settings; None: ``STEMS_HOME`` of the environment, else ``./data``.
        model: as ``find_model`` takes it; None: the champion, and before there is one ``starter``.
        has_files: whether it reads the stems' audio and titles; False: variants stay by
            themselves, and places are chosen by vectors alone.

    Raises:
        ArtifactError: no such model, no champion yet, no table of it, a table of another model,
            or files of the label encoder are missing.
        SettingsError: there is no such home, or its settings are wrong.
    """
    settings = home if isinstance(home, Settings) else _settings_of(home)
    loaded = load_model(find_checkpoint(settings.layout, model, settings.tracking_uri))
    uri = database_uri(settings.layout, loaded.model_id)
    encoder = _label_encoder(settings, loaded)
    texts = None if encoder is None else TextVectors(encoder, settings.layout)
    files = StemFiles(settings.layout) if has_files else None
    retriever = StemRetriever(loaded, uri, texts, files)
    if loaded.name == kinds.STARTER and not champion_path(settings.layout).is_file():
        _log.info("no model was promoted yet: %s answers", kinds.STARTER)
    return retriever


class Retrievers:
    """The retriever of now, for a program that answers many queries; any thread may ask.

    Args:
        settings: of the home.
        model: as ``find_model`` takes it; None: whichever model is champion at each query.
    """

    def __init__(self, settings: Settings, model: str | None = None):
        self._settings = settings
        self._model_name = model
        self._lock = threading.Lock()
        self._checkpoint: Path | None = None
        self._retriever: StemRetriever | None = None

    def current(self) -> StemRetriever:
        """Return the retriever for one query; what was loaded is used while it is still right.

        ``champion.json`` is read once a call. After a promotion the next call loads the new
        model, after a publication it reads the tables again; who holds an earlier retriever may
        finish with it.

        Raises:
            ArtifactError: as ``open_retriever``; the next call tries again.
        """
        with self._lock:
            settings = self._settings
            checkpoint = find_checkpoint(settings.layout, self._model_name, settings.tracking_uri)
            held = self._retriever
            if held is None or checkpoint != self._checkpoint:
                held = open_retriever(self._settings, str(checkpoint))
            elif not held.tables.is_current():
                held = held.with_tables(StemTables(held.tables.uri))
            self._checkpoint, self._retriever = checkpoint, held
            return held


def _settings_of(home: Path | str | None) -> Settings:
    return load_settings(existing_home(None if home is None else Path(home)))


def _label_encoder(settings: Settings, model: StemJepa) -> LabelEncoder | None:
    """Open the encoder that the model was trained with; if it takes none, that of the settings.

    The latter only compares labels; missing files of CLAP are no hindrance then.
    """
    from ml.labels.encoders import label_encoder_of

    if model.condition_dim is not None and model.label_encoder:
        return label_encoder_of(settings, model.label_encoder["name"])
    try:
        return label_encoder_of(settings)
    except ArtifactError:
        return None
