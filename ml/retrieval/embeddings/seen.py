"""Which tracks of a corpus a model has seen in training, under whatever name.

A song may come back in another corpus: MUSDB18 took 46 of its songs from MedleyDB, cut and mixed
anew, so that neither ids nor contents agree. The rule therefore has three parts, any of which
makes a track a seen one: its id in the same corpus, the content of one of its sounding stems, or
its artist and title. It is applied to queries; galleries keep all stems.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml.artifacts import MANIFEST_NAME, DataLayout

if TYPE_CHECKING:
    import polars as pl

BY_ID, BY_CONTENT, BY_NAME = "id", "content", "artist and title"
"""How a track was recognised."""
_GUEST_WORD = r"(?:feat|ft|featuring)\b\.?"
_GUESTS = re.compile(rf"[(\[]\s*{_GUEST_WORD}[^)\]]*[)\]]?|\s{_GUEST_WORD}.*$", re.IGNORECASE)

Name = tuple[str | None, str | None]
"""Artist and title as written."""


def seen_tracks(
    table: pl.DataFrame,
    training_tracks: Sequence[Mapping[str, Any]],
    layout: DataLayout | None = None,
) -> dict[str, str]:
    """Tracks of a corpus that a model was trained on.

    Args:
        table: ``corpus_tracks`` of the corpus.
        training_tracks: ``corpus``, ``track_id``, ``content_hash`` (of the track, or a list of
            those of its stems; may be missing) and, where known, ``artist`` and ``title`` of each
            training track.
        layout: a home whose ``corpus_tracks`` give artist and title where ``training_tracks``
            lack them; a training corpus that was never scanned there is matched by id and content.

    Returns:
        Track id → ``BY_ID``, ``BY_CONTENT`` or ``BY_NAME``, in the order of the table.

    Raises:
        ArtifactError: a table of the home is damaged or has a newer format.
    """
    ids = {(track["corpus"], track["track_id"]) for track in training_tracks}
    hashes = {content for track in training_tracks for content in _hashes(track)}
    names = _song_keys(_names(training_tracks, layout))
    sounding = table.filter(table["active_s"] > 0)
    columns = ("corpus", "track_id", "content_hash", "artist", "title")
    seen: dict[str, str] = {}
    for corpus, track_id, content, artist, title in sounding.select(columns).iter_rows():
        if (corpus, track_id) in ids:
            seen.setdefault(track_id, BY_ID)
        elif content in hashes:
            seen.setdefault(track_id, BY_CONTENT)
        elif song_key(artist, title) in names:
            seen.setdefault(track_id, BY_NAME)
    return seen


def seen_of_corpus(
    corpus: str, layout: DataLayout, training_tracks: Iterable[Sequence[Mapping[str, Any]]]
) -> set[str]:
    """Tracks of a corpus that any of several models was trained on.

    Args:
        corpus: its name; its ``corpus_tracks`` must have been built.
        layout: where they lie.
        training_tracks: of each model, as for ``seen_tracks``.

    Raises:
        ArtifactError: ``corpus_tracks`` was not built or cannot be read.
    """
    from ml.corpora.table import read_corpus_tracks

    table = read_corpus_tracks(layout, corpus)
    return set(seen_tracks(table, [t for tracks in training_tracks for t in tracks], layout))


def song_key(artist: str | None, title: str | None) -> str | None:
    """Equal for two ways of writing the same song; None where artist or title is unknown.

    Case, accents, spaces, punctuation and guests ("feat. …") do not count, "&" is "and".
    """
    parts = [_plain(part or "") for part in (artist, title)]
    return "/".join(parts) if all(parts) else None


def _plain(text: str) -> str:
    text = _GUESTS.sub("", text).replace("&", " and ")
    # Decomposed, an accent is a character of its own and no letter.
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in letters if letter.isalnum())


def _song_keys(names: Iterable[Name]) -> set[str]:
    keys = (song_key(artist, title) for artist, title in set(names))
    return {key for key in keys if key is not None}


def _hashes(track: Mapping[str, Any]) -> list[str]:
    content = track.get("content_hash") or []
    return [content] if isinstance(content, str) else list(content)


def _names(
    training_tracks: Sequence[Mapping[str, Any]], layout: DataLayout | None
) -> Iterator[Name]:
    """Artist and title of each training track for which they are known."""
    nameless: dict[str, set[str]] = {}
    for track in training_tracks:
        if track.get("artist") and track.get("title"):
            yield track["artist"], track["title"]
        else:
            nameless.setdefault(track["corpus"], set()).add(track["track_id"])
    if layout is not None:
        for corpus, track_ids in nameless.items():
            yield from _scanned_names(layout, corpus, track_ids)


def _scanned_names(layout: DataLayout, corpus: str, track_ids: set[str]) -> Iterator[Name]:
    from ml.corpora.table import read_corpus_tracks

    if (layout.tracks(corpus) / MANIFEST_NAME).is_file():
        columns = read_corpus_tracks(layout, corpus).select("track_id", "artist", "title")
        for track_id, artist, title in columns.iter_rows():
            if track_id in track_ids:
                yield artist, title
