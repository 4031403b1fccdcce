"""Reads the demo corpus back. It lists what ``build`` wrote and decodes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml import kinds
from ml.artifacts import ArtifactError, read_json, read_manifest
from ml.corpora.demo.build import SONG_NAME, SONGS_FOLDER
from ml.tracks import CorpusError, Stem, Track


class DemoCorpus:
    """A corpus made by ``stems demo``.

    Args:
        root: the folder of one corpus (``…/demo``, ``…/demo-plain`` or ``…/demo-swapped``).

    Raises:
        CorpusError: no finished demo corpus lies there.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        try:
            manifest = read_manifest(self.root, kinds.DEMO_CORPUS)
        except ArtifactError as error:
            raise CorpusError(f"no finished demo corpus (stems demo makes one): {error}") from None
        if manifest.get("kind") != "demo" or not isinstance(manifest.get("songs"), list):
            raise CorpusError(
                f"{self.root}/manifest.json is not of a demo corpus (looked for kind 'demo' and "
                "a list of songs); give the folder that stems demo made"
            )
        self._track_ids: list[str] = [song["track_id"] for song in manifest["songs"]]

    def tracks(self) -> Iterator[Track]:
        """Yield all songs, training songs first.

        Raises:
            CorpusError: a song of the manifest is missing or damaged.
        """
        for track_id in self._track_ids:
            yield self._track(self.song(track_id))

    def song(self, track_id: str) -> dict[str, Any]:
        """Read ``song.json`` of a song: tempo, key, ``beats_s``, sections, stems.

        Raises:
            CorpusError: it is missing or damaged.
        """
        path = self.root / SONGS_FOLDER / track_id / SONG_NAME
        try:
            return read_json(path)
        except ArtifactError as error:
            raise CorpusError(
                f"song {track_id} of the demo corpus: {error}; delete {self.root} and make it "
                "again with: stems demo"
            ) from None

    def _track(self, song: dict[str, Any]) -> Track:
        track_id = song["track_id"]
        folder = self.root.resolve() / SONGS_FOLDER / track_id
        return Track(
            track_id=track_id,
            split=song["split"],
            title=f"{track_id} in {song['key']} {song['mode']}",
            stems=tuple(
                Stem(
                    stem_id=f"{track_id}/{Path(stem['file']).stem}",
                    files=(folder / stem["file"],),
                    labels=tuple(stem["labels"]),
                    has_bleed=False,
                )
                for stem in song["stems"]
            ),
        )
