"""Retrievers of a home: model, label encoder and tables put together, once or for a long time."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ml import kinds
from ml.artifacts import ArtifactError
from ml.corpora.label_embeddings import TextVectors
from ml.models.stem_jepa import StemJepa, load_model
from ml.retrieval.queries.retriever import StemRetriever
from ml.retrieval.tables.database import database_uri
from ml.retrieval.tables.search import StemTables
from ml.settings import Settings, existing_home, load_settings
from ml.training.models import champion_path, find_checkpoint

if TYPE_CHECKING:
    from ml.labels.encoder import LabelEncoder

_log = logging.getLogger(__name__)


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
