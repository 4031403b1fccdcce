"""Builds the demo corpora and reads them back: songs as folders of WAV files with a ``song.json``.

Three corpora are built side by side: ``demo`` (training songs, and held-out songs as records have
them), ``demo-plain`` (the held-out songs with nothing in common but what is played) and
``demo-swapped`` (plain, and every stem has the production character of another song). The
compositions are the same. Training songs are made like ``demo-swapped``: in songs whose stems share
timbre and production, a model learns these and does not listen to the music.
"""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ml import kinds
from ml.artifacts import (
    MANIFEST_NAME,
    Artifact,
    ArtifactError,
    find_current,
    fingerprint,
    finish,
    read_json,
    read_manifest,
    write_folder_aside,
    write_json,
)
from ml.corpora.demo.songs import (
    KINDS,
    DemoConfig,
    Song,
    apply_production,
    describe,
    make_song,
    render_dry,
    track_id,
)
from ml.corpora.demo.synths import RATE_HZ
from ml.locks import lock
from ml.processes import completed, process_pool
from ml.progress import progress
from ml.tracks import CorpusError, Stem, Track

SONG_NAME = "song.json"
SONGS_FOLDER = "songs"
_LABEL = "demo songs"
PRODUCTIONS = {"demo": "own", "demo-plain": "none", "demo-swapped": "swapped"}
"""Corpus → what ``apply_production`` is asked for; training songs are always ``swapped``."""


def build_demo_corpora(
    folder: Path,
    config: DemoConfig,
    *,
    corpora: Collection[str] = tuple(PRODUCTIONS),
    workers: int = 1,
) -> dict[str, Artifact]:
    """Build ``demo``, ``demo-plain`` and ``demo-swapped``, or some of them, below ``folder``.

    Songs that are there already (of the same configuration) are kept, so an interrupted build
    continues; a finished one is reused at once.

    Args:
        folder: gets one folder per corpus.
        config: how many songs, how long, which seed.
        corpora: which of the three.
        workers: processes; the bytes written do not depend on it.

    Returns:
        Corpus name → artifact.

    Raises:
        LockedError: another process is building there.
    """
    wanted = [name for name in PRODUCTIONS if name in corpora]
    on_disk = {name: _find(folder, config, name) for name in wanted}
    current = {name: artifact for name, artifact in on_disk.items() if artifact is not None}
    if len(current) == len(wanted):
        return current
    with lock(folder / ".demo.lock"):
        _clear_outdated(folder, config)
        build = partial(_build_song, folder, config, wanted)
        tasks = [t for t in _tasks(config, wanted) if not _is_done(folder, config, wanted, *t)]
        for _ in progress(_build(build, tasks, workers), total=len(tasks), label=_LABEL):
            pass
        return {name: _finish(folder, config, name) for name in wanted}


def corpus_songs(config: DemoConfig, corpus: str) -> list[tuple[str, int]]:
    """List the songs of a corpus as (kind, index), in order."""
    kinds = KINDS if corpus == "demo" else ("heldout",)
    return [(kind, index) for kind in kinds for index in range(config.count(kind))]


def _identity(config: DemoConfig, corpus: str) -> dict[str, Any]:
    return {"corpus": corpus, "config": config}


def _find(folder: Path, config: DemoConfig, corpus: str) -> Artifact | None:
    identity = _identity(config, corpus)
    return find_current(folder / corpus, identity, kinds.DEMO_CORPUS)


def _tasks(config: DemoConfig, corpora: Sequence[str]) -> list[tuple[str, int]]:
    """All songs, the expensive ones (of several corpora) first."""
    tasks = {task for corpus in corpora for task in corpus_songs(config, corpus)}
    return sorted(tasks, key=lambda task: (task[0] != "heldout", *task))


def _corpora_of(kind: str, corpora: Sequence[str]) -> list[str]:
    return [name for name in corpora if kind == "heldout" or name == "demo"]


def _song_version(config: DemoConfig, corpus: str) -> str:
    return fingerprint([_identity(config, corpus), kinds.DEMO_CORPUS.format_version])


def _is_done(
    folder: Path, config: DemoConfig, corpora: Sequence[str], kind: str, index: int
) -> bool:
    return all(
        _version_on_disk(folder / corpus / SONGS_FOLDER / track_id(kind, index))
        == _song_version(config, corpus)
        for corpus in _corpora_of(kind, corpora)
    )


def _version_on_disk(song_folder: Path) -> str | None:
    try:
        song = read_json(song_folder / SONG_NAME)
    except ArtifactError:
        return None
    return song.get("version") if isinstance(song, Mapping) else None


def _clear_outdated(folder: Path, config: DemoConfig) -> None:
    """Remove manifests that no longer hold, songs of other configurations, and leftovers."""
    for corpus in PRODUCTIONS:
        if _find(folder, config, corpus) is not None:
            continue
        (folder / corpus / MANIFEST_NAME).unlink(missing_ok=True)
        version = _song_version(config, corpus)
        for song_folder in sorted((folder / corpus / SONGS_FOLDER).glob("*")):
            is_leftover = song_folder.name.startswith(".") and song_folder.suffix == ".tmp"
            if is_leftover or _version_on_disk(song_folder) not in (None, version):
                shutil.rmtree(song_folder)


def _build(
    build: Callable[[tuple[str, int]], None], tasks: list[tuple[str, int]], workers: int
) -> Iterator[None]:
    """Build songs here, or in several processes."""
    if min(workers, len(tasks)) <= 1:
        yield from map(build, tasks)
        return
    with process_pool(min(workers, len(tasks))) as pool:
        yield from completed(pool, build, tasks)


def _build_song(
    folder: Path, config: DemoConfig, corpora: Sequence[str], task: tuple[str, int]
) -> None:
    kind, index = task
    song = make_song(config, kind, index)
    render = cache(partial(render_dry, config, song))
    for corpus in _corpora_of(kind, corpora):
        production = "swapped" if kind == "train" else PRODUCTIONS[corpus]
        is_one_timbre = production == "own"
        dry = render(is_one_timbre=is_one_timbre)
        stems, characters = apply_production(config, song, dry, production)
        described = {
            "version": _song_version(config, corpus),
            "split": config.split(kind, index),
            **describe(song, is_one_timbre=is_one_timbre),
            "stems": _describe_stems(song, characters),
        }
        with write_folder_aside(folder / corpus / SONGS_FOLDER / song.track_id) as aside:
            for entry, stem in zip(described["stems"], stems, strict=True):
                write_wav(aside / entry["file"], stem)
            write_json(aside / SONG_NAME, described)


def _describe_stems(song: Song, characters: list[str | None]) -> list[dict[str, Any]]:
    return [
        {
            "file": f"{i:02d}-{player.instrument.name.replace(' ', '-')}.wav",
            "instrument": player.instrument.name,
            "labels": player.labels,
            "zero_shot": player.zero_shot,
            "character_of": character,
            "notes": len(song.composition.parts[i]),
        }
        for i, (player, character) in enumerate(zip(song.cast, characters, strict=True))
    ]


def write_wav(path: Path, waveform: np.ndarray) -> None:
    """Write (samples,) within ±1 as mono PCM16 at 16 kHz.

    Raises:
        ValueError: samples that are not finite or beyond full scale.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    if not peak <= 1.0:
        raise ValueError(f"{path}: the peak is {peak}, expected at most 1; this is a bug")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.rint(waveform * 32767).astype("<i2").tobytes())


def _finish(folder: Path, config: DemoConfig, corpus: str) -> Artifact:
    root = folder / corpus
    songs = []
    stems = zero_shot = 0
    seconds = 0.0
    for kind, index in corpus_songs(config, corpus):
        song = json.loads((root / SONGS_FOLDER / track_id(kind, index) / SONG_NAME).read_text())
        songs.append({"track_id": song["track_id"], "split": song["split"]})
        stems += len(song["stems"])
        zero_shot += sum(stem["zero_shot"] is not None for stem in song["stems"])
        seconds += len(song["stems"]) * song["duration_s"]
    summary = {
        "songs": len(songs),
        "stems": stems,
        "stem_hours": round(seconds / 3600, 2),
        "zero_shot_stems": zero_shot,
    }
    return finish(
        root,
        _identity(config, corpus),
        kinds.DEMO_CORPUS,
        summary=summary,
        kind="demo",
        songs=songs,
    )


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
        for name in self._track_ids:
            yield self._track(self.song(name))

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
