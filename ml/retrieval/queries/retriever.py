"""Ask for a stem: by a mix and an instrument in words, by an example, or by words alone.

``instrument_note`` says beside the answer how the model takes an instrument it was not trained on.
``open_retriever`` puts model, label encoder and tables of a home together, once; ``Retrievers``
does for a program that answers for a long time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
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
    nearest_labels,
    search_by_label,
)
from ml.retrieval.queries.candidates import (
    Candidate,
    candidates_of,
    owner_of,
    place_alone,
    place_with_mix,
)
from ml.retrieval.queries.mix import (
    ChunkVectors,
    Mix,
    query_vectors,
    read_chunks,
    stem_vectors,
)
from ml.retrieval.tables.database import database_uri, sql_text
from ml.retrieval.tables.search import Hit, StemTables, TableRows, label_filter
from ml.settings import Settings, existing_home, load_settings
from ml.tracks import MUSIC
from ml.training.models import champion_path, find_checkpoint

_log = logging.getLogger(__name__)


class StemRetriever:
    """Finds stems in a model's table; any thread may ask.

    Args:
        model: makes the queries; must be the one that made the table.
        table: the model's database (``stems table path``), its ``stem_embeddings`` opened with
            LanceDB, or ``StemTables``.
        label_encoder: what turns an instrument into a condition; default: the one that the model
            was trained with.

    Raises:
        ArtifactError: the table is missing, or of another model; or the label encoder is not the
            one that the model was trained with.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        table: Any,
        label_encoder: LabelEncoder | None = None,
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

    def with_tables(self, tables: StemTables) -> StemRetriever:
        """Search other tables of the same model (a newer version); nothing is loaded again."""
        return StemRetriever(self.model, tables, self._encoder)

    def query(
        self,
        mix: Mix,
        instrument: str | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
        uses_labels: bool = True,
    ) -> list[Candidate]:
        """Find the stems that fit best with a mix.

        What a label says need not be heard: a stem that is labelled with the instrument counts as
        if it sounded wholly like it, any other as it sounds (models whose vectors have parts).

        Args:
            mix: a path, (array, rate in Hz), or a list of these to sum; from 1 s up. Of over ten
                minutes a spread of ten is listened to. An array without a rate is taken to have
                the model's (``model.rate_hz``, 16 kHz); nothing can tell that it has another.
            instrument: what the stem should play, free text; None: any music.
            k: how many.
            where: an SQL condition on the table's columns: ``category = 'guitar'``.
            exclude_tracks: ids of tracks that must not be found.
            per_track: at most so many stems of one track.
            uses_labels: False: stems count as they sound, whatever their labels say.

        Returns:
            Best first; fewer than k when the filters leave fewer.

        Raises:
            AudioError: a file cannot be read.
            ValueError: the mix is silent or too short, k is out of range, the instrument is
                blank, or the filter is not understood.
        """
        self._check(k, per_track)
        asked = self._ask(mix, instrument)
        filters = {"exclude_tracks": exclude_tracks, "per_track": per_track}
        hits = self.tables.search(asked.mean, k, where=where, **filters)
        if uses_labels and instrument is not None:
            named = self._search_named(asked.mean, instrument, k, where=where, **filters)
            hits = best_hits([*named, *hits], k, per_track)
        chunks = self._rows.chunks([owner_of(hit) for hit in hits])
        return candidates_of(hits, {key: place_with_mix(c, asked) for key, c in chunks.items()})

    def query_by_stem(
        self,
        example: Mix,
        k: int = 10,
        *,
        exclude_own_track: bool = False,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
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
        hits = self.tables.search(
            vector,
            k,
            where=_both(condition, where),
            exclude_tracks=exclude_tracks,
            per_track=per_track,
        )
        chunks = self._rows.chunks([owner_of(hit) for hit in hits])
        return candidates_of(hits, {key: place_alone(c, vector) for key, c in chunks.items()})

    def query_by_text(
        self,
        instrument: str,
        k: int = 10,
        *,
        where: str | None = None,
        exclude_tracks: Sequence[str] = (),
        per_track: int | None = None,
    ) -> list[Candidate]:
        """Find stems of an instrument, without a mix: by their labels alone (``by_label``).

        Args:
            instrument: free text.
            k: how many.
            where: as in ``query``.
            exclude_tracks: as in ``query``.
            per_track: as in ``query``.

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
        hits = search_by_label(self.tables, self._rows, cosines, k, where=where, **filters)
        chunks = self._rows.chunks([owner_of(hit) for hit, _ in hits])
        places = {
            owner_of(hit): place_alone(chunks[owner_of(hit)], self._rows.centroid(label))
            for hit, label in hits
            if owner_of(hit) in chunks
        }
        return candidates_of([hit for hit, _ in hits], places)

    def embed_mix(self, mix: Mix, instrument: str | None = None) -> np.ndarray:
        """Predict the embedding of the stem that a mix lacks: (dim,) float32, unit norm."""
        return self._ask(mix, instrument).mean

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

    def _ask(self, mix: Mix, instrument: str | None) -> ChunkVectors:
        """Predict the stem from each chunk of a mix."""
        text = MUSIC if instrument is None else _not_blank(instrument)
        chunks = read_chunks(mix, self.model.rate_hz, self.model.chunk_s)
        vector = None if self.model.condition_dim is None else self.encode_texts([text])[0]
        return query_vectors(self.model, chunks, text, vector)

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


def instrument_note(retriever: StemRetriever, instrument: str) -> str | None:
    """Say how a model takes an instrument that its training has not met; None: nothing to say.

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
    home: Settings | Path | str | None = None, model: str | None = None
) -> StemRetriever:
    """Open what answers the queries of a home.

    Args:
        home: its folder, or its settings; None: ``STEMS_HOME`` of the environment, else ``./data``.
        model: a name in ``runs/models.json``, or a checkpoint folder; None: the champion, and
            before there is one ``starter``.

    Raises:
        ArtifactError: no such model, no champion yet, no table of it, a table of another model,
            or files of the label encoder are missing.
        SettingsError: there is no such home, or its settings are wrong.
    """
    settings = home if isinstance(home, Settings) else _settings_of(home)
    loaded = load_model(find_checkpoint(settings.layout, model))
    uri = database_uri(settings.layout, loaded.model_id)
    encoder = _label_encoder(settings, loaded)
    texts = None if encoder is None else TextVectors(encoder, settings.layout)
    retriever = StemRetriever(loaded, uri, texts)
    if loaded.name == kinds.STARTER and not champion_path(settings.layout).is_file():
        _log.info("no model was promoted yet: %s answers", kinds.STARTER)
    return retriever


class Retrievers:
    """The retriever of now, for a program that answers many queries; any thread may ask.

    Args:
        settings: of the home.
        model: a name or a checkpoint folder; None: whichever model is champion at each query.
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
            checkpoint = find_checkpoint(self._settings.layout, self._model_name)
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
