"""Corpora of the settings: one that a person names becomes one of them, once; opened, with audio.

A file of its own, since ``open_corpus`` knows no settings and ``ml.config_file`` opens no corpus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml.config_file import add_corpus
from ml.corpora.corpus import open_corpus
from ml.corpora.scan import listed_tracks
from ml.processes import cluster
from ml.settings import Settings, SettingsError
from ml.tracks import Corpus, RenderedCorpus


def register_corpus(
    settings: Settings,
    kind: str,
    root: Path,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Put a corpus into ``config.yaml`` if it is not there; returns its name.

    Args:
        settings: of the home.
        kind: of its layout.
        root: its folder, or the CSV.
        name: default: the name that the settings have for this root, else that of the folder.
        options: of its reader.

    Raises:
        SettingsError: the name is unfit, or stands for another corpus.
        CorpusError: there is no such corpus, or it holds no stems.
    """
    root, options = root.expanduser().resolve(), options or {}
    places = {_place(settings, known): known for known in settings.corpora}
    name = name or places.get((kind, root)) or _fit_name(root.stem if root.is_file() else root.name)
    if name not in settings.corpora:
        listed_tracks(open_corpus(kind, root, **options))
        add_corpus(settings, name, kind=kind, root=root, options=options)
        return name
    if (place := _place(settings, name)) != (kind, root):
        raise SettingsError(
            f"{settings.layout.config_path} has a corpus {name!r} of kind {place[0]} at "
            f"{place[1]}, you said {kind} at {root}; choose another name, or change it there"
        )
    if options and settings.corpora[name].options != options:
        raise SettingsError(
            f"{settings.layout.config_path} has the corpus {name!r} with the options "
            f"{settings.corpora[name].options}, expected {options}; change them there"
        )
    return name


def open_registered(settings: Settings, name: str, **options: Any) -> Corpus:
    """Open a corpus of the settings.

    Args:
        settings: of the home.
        name: of the corpus.
        options: of its reader, beside those of the settings.

    Raises:
        SettingsError: no corpus has this name.
        CorpusError: as ``open_corpus``.
    """
    chosen = settings.corpus(name)
    return open_corpus(chosen.kind, chosen.root, **(chosen.options | options))


def render_missing(settings: Settings, name: str, workers: int = 1) -> None:
    """Render what is not there of a corpus of kind ``midi``; others have what they have.

    The cluster of the settings renders, or else ``workers`` processes.

    Raises:
        CorpusError: its files or soundfonts have gone, or the cluster writes to other disks.
        LockedError: another process is rendering it.
        ml.processes.WorkersError: the cluster cannot be reached, or its workers died.
    """
    if settings.corpus(name).kind == "midi":
        corpus = open_registered(settings, name)
        assert isinstance(corpus, RenderedCorpus)
        with cluster(settings.compute.dask_scheduler) as executor:
            corpus.render(workers=workers, executor=executor)


def _place(settings: Settings, name: str) -> tuple[str, Path]:
    corpus = settings.corpus(name)
    return corpus.kind, corpus.root.resolve()


def _fit_name(text: str) -> str:
    """Make the name of a folder one of a corpus, as far as that can be: "My Stems!", My-Stems."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")
