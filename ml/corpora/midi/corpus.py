"""The corpus kind ``midi``: the songs of a folder of MIDI files, and their audio.

A song has a folder of its own, named by its id and by what decides its samples (file, seed,
options, soundfonts, FluidSynth's version). It is written aside and renamed, so that a folder that
is there is whole, and what was rendered is not rendered again. Folders of songs that are not of the
corpus any more are removed. What made them is noted beside them: where all are there, nothing that
plays is asked for, and who has something else to play with plays nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import soundfile

from ml.artifacts import (
    ArtifactError,
    file_fingerprint,
    fingerprint,
    read_json,
    read_object,
    write_folder_aside,
    write_json,
)
from ml.corpora.midi.files import MidiError
from ml.corpora.midi.fluidsynth import RATE_HZ, fluidsynth_version
from ml.corpora.midi.renderings import MidiConfig, Rendering, plan_renderings, render
from ml.labels.names import Labels
from ml.locks import lock
from ml.processes import completed, process_pool
from ml.progress import progress
from ml.tracks import CorpusError, Split, Stem, Track, shown

_SUFFIXES = (".mid", ".midi")
LISTING = "songs.json"
"""Names the songs of a folder of audio."""
MADE_WITH = "made-with.json"
"""Says what played them: the version of FluidSynth, and the SHA-256 of each soundfont."""
_FLUIDSYNTH = "FluidSynth"
_FORMAT_VERSION = 1
"""Of what is drawn and how it is played; part of a song's folder name."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Song:
    """A song as it is listed."""

    track_id: str
    folder: str
    """Below the folder of audio."""
    split: Split
    stems: tuple[tuple[str, Labels], ...]
    """File and labels of each."""

    @classmethod
    def read(cls, song: dict[str, Any]) -> _Song:
        """Make a song of what JSON keeps of it."""
        stems = ((name, tuple(labels)) for name, labels in song["stems"])
        return cls(
            track_id=song["track_id"],
            folder=song["folder"],
            split=song["split"],
            stems=tuple(stems),
        )


_Songs: TypeAlias = list[_Song] | str
"""The songs of a file, or why there are none."""


class MidiCorpus:
    """The songs of a folder of MIDI files.

    Args:
        root: the folder; files lie in it or in folders below.
        soundfonts: files (SF2 or SF3), with commas between them or as a list.
        audio: folder of the rendered songs; a home has one for each corpus.
        seed: see ``MidiConfig``, as for the other options.

    Raises:
        CorpusError: no MIDI file, a wrong option; no soundfont or no FluidSynth, unless the audio
            notes what it was made with.
    """

    def __init__(
        self,
        root: str | Path,
        soundfonts: str | Sequence[str] = (),
        audio: str | Path = "",
        *,
        seed: int | str = 0,
        renderings: int | str = 1,
        seconds: float | str = 75.0,
        valid_share: float | str = 0.05,
        test_share: float | str = 0.1,
        split_drums: bool = False,
    ) -> None:
        self.root = Path(root)
        self._files = midi_files(self.root)
        if not self._files:
            raise CorpusError(f"{root} holds no MIDI files; looked for *.mid and *.midi")
        try:
            config = MidiConfig(
                seed=int(seed),
                renderings=int(renderings),
                seconds=float(seconds),
                valid_share=float(valid_share),
                test_share=float(test_share),
                split_drums=split_drums,
            )
        except ValueError as error:
            raise CorpusError(f"an option of the corpus {root} is wrong: {error}") from None
        fonts = _soundfonts(soundfonts)
        self._has_audio = bool(audio)
        audio = Path(audio or "not-rendered")
        self._player = _Player(
            root=self.root,
            audio=audio,
            soundfonts=fonts,
            config=config,
            made_with=_made_with(fonts, audio),
        )
        self.left_out: dict[str, str] = {}
        """File → why it is not among the songs; known after ``tracks``."""

    def tracks(self) -> Iterator[Track]:
        """List all songs, by file and number; their audio is there after ``render``."""
        listed = self._read_listing()
        for file in self._contents():
            songs = listed.get(self._player.version(*file))
            if songs is None:
                songs = self._player.list_songs(*file)
            if isinstance(songs, str):
                self._leave_out(file[0], songs)
            else:
                yield from (self._track(file[0], song) for song in songs)

    def render(self, *, workers: int = 1, executor: Executor | None = None) -> None:
        """Render the songs that are not there, and remove what is not of the corpus any more.

        Args:
            workers: processes; the samples do not depend on it.
            executor: who renders instead, a MIDI file a unit; must see all files at their paths.

        Raises:
            CorpusError: nobody said where the audio goes, the executor put it elsewhere, or who
                renders would play something else.
            LockedError: another process is rendering there.
            ml.processes.WorkersError: the executor's workers cannot be reached, or died.
        """
        player = self._player
        if not self._has_audio:
            raise CorpusError(
                f"where the audio of {self.root} goes is not known; add the corpus to a home "
                "(stems corpus add NAME midi ROOT) or give the option audio"
            )
        with lock(player.audio / ".lock"):
            listed = self._read_listing()
            files = {player.version(*file): file for file in self._contents()}
            todo = [file for key, file in files.items() if not self._is_whole(listed.get(key))]
            made = _rendered(player, todo, workers, executor)
            found = dict(progress(made, total=len(todo), label="MIDI files"))
            if not all(map(self._is_whole, found.values())):
                raise CorpusError(
                    f"songs were rendered, but {player.audio} here does not hold them; expected a "
                    "folder that the workers of compute.dask_scheduler share: mount it there, or "
                    "set compute.dask_scheduler to null"
                )
            listed |= found
            listed = {version: listed[version] for version in files}
            write_json(player.audio / LISTING, listed)
            write_json(player.audio / MADE_WITH, player.made_with)
            kept = {song.folder for songs in listed.values() for song in _songs(songs)}
            for folder in player.audio.iterdir():
                if folder.is_dir() and folder.name not in kept:
                    shutil.rmtree(folder)

    def _track(self, path: Path, song: _Song) -> Track:
        return Track(
            track_id=song.track_id,
            split=song.split,
            title=shown(path.stem),
            stems=tuple(
                Stem(
                    stem_id=f"{song.track_id}/{name.removesuffix('.flac')}",
                    files=(self._player.audio / song.folder / name,),
                    labels=labels,
                    has_bleed=False,
                )
                for name, labels in song.stems
            ),
        )

    def _contents(self) -> Iterator[tuple[Path, str]]:
        """Yield the files with the hash of their content, of two that are the same the first."""
        seen: dict[str, Path] = {}
        for path in self._files:
            content = file_fingerprint(path)
            if content in seen:
                self._leave_out(path, f"has the bytes of {shown(seen[content].name)}")
            else:
                seen[content] = path
                yield path, content

    def _leave_out(self, path: Path, why: str) -> None:
        name = shown(path.relative_to(self.root).as_posix())
        if name not in self.left_out:
            self.left_out[name] = why
            _log.warning("%s is left out: it %s", name, why)

    def _is_whole(self, songs: _Songs | None) -> bool:
        folders = (self._player.audio / song.folder for song in _songs(songs or ""))
        return songs is not None and all(folder.is_dir() for folder in folders)

    def _read_listing(self) -> dict[str, _Songs]:
        """Read what the last rendering listed, so that nobody plays the files again to know it."""
        try:
            listed = read_json(self._player.audio / LISTING)
        except ArtifactError:
            return {}
        return {
            version: songs if isinstance(songs, str) else [_Song.read(song) for song in songs]
            for version, songs in listed.items()
        }


@dataclass(frozen=True, kw_only=True)
class _Player:
    """What all files of a corpus are played by; goes to the processes that do it."""

    root: Path
    audio: Path
    soundfonts: tuple[Path, ...]
    config: MidiConfig
    made_with: Mapping[str, str]
    """FluidSynth's version, and the content of each soundfont by its path."""

    def version(self, path: Path, content: str) -> str:
        """Fingerprint all that decides the songs of a file and what they are called."""
        name = path.relative_to(self.root)
        played_by = [self.made_with[thing] for thing in (*map(str, self.soundfonts), _FLUIDSYNTH)]
        return fingerprint([_FORMAT_VERSION, name, content, self.config, fingerprint(played_by)])

    def list_songs(self, path: Path, content: str) -> _Songs:
        """Plan the songs of a file."""
        try:
            return [song for song, _ in self._plan(path, content)]
        except MidiError as error:
            return str(error)

    def render(self, file: tuple[Path, str]) -> tuple[str, _Songs]:
        """Render the songs of a file that are not there.

        Args:
            file: where it lies, and the hash of its content.

        Returns:
            Its version, and its songs.

        Raises:
            CorpusError: what plays here is not what the corpus is made with.
        """
        self._check_machine()
        try:
            planned = self._plan(*file)
        except MidiError as error:
            return self.version(*file), str(error)
        for song, rendering in planned:
            if (self.audio / song.folder).is_dir():
                continue
            stems = render(rendering, self.soundfonts)
            with write_folder_aside(self.audio / song.folder) as aside:
                for (name, _), stem in zip(song.stems, stems, strict=True):
                    soundfile.write(aside / name, stem, RATE_HZ, subtype="PCM_16")
        return self.version(*file), [song for song, _ in planned]

    def _check_machine(self) -> None:
        """Refuse a machine (a Dask worker's, say) on which other samples would come out."""
        host = socket.gethostname()
        try:
            here = _played_here(self.soundfonts)
        except CorpusError as error:
            raise CorpusError(f"{host} cannot play the songs: {error}") from None
        if other := [thing for thing in here if here[thing] != self.made_with[thing]]:
            differing = (f"{x} is {here[x][:16]}, not {self.made_with[x][:16]}" for x in other)
            raise CorpusError(
                f"{host} would play other samples than the corpus is made with: "
                f"{'; '.join(differing)}; install the same there, or set compute.dask_scheduler to "
                "null"
            )

    def _plan(self, path: Path, content: str) -> list[tuple[_Song, Rendering]]:
        name = _slug(path.relative_to(self.root).with_suffix("").as_posix())
        planned = []
        for rendering in plan_renderings(path, content, self.config, len(self.soundfonts)):
            track_id = f"{name}-{content[:6]}-{rendering.number}"
            stems = tuple(
                (f"{number:02d}-{_slug(part.labels[-1])}.flac", part.labels)
                for number, part in enumerate(rendering.parts)
            )
            folder = f"{track_id}-{self.version(path, content)[:12]}"
            song = _Song(track_id=track_id, folder=folder, split=rendering.split, stems=stems)
            planned.append((song, rendering))
        return planned


def _rendered(
    player: _Player, files: Sequence[tuple[Path, str]], workers: int, executor: Executor | None
) -> Iterator[tuple[str, _Songs]]:
    """Render files here, in several processes, or where the executor is."""
    if executor is not None:
        yield from completed(executor, player.render, files)
    elif min(workers, len(files)) <= 1:
        yield from map(player.render, files)
    else:
        with process_pool(min(workers, len(files))) as pool:
            yield from completed(pool, player.render, files)


def _songs(songs: _Songs) -> list[_Song]:
    return [] if isinstance(songs, str) else songs


def _slug(text: str) -> str:
    """Make a file name of a text."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "x"


def midi_files(root: Path) -> list[Path]:
    """List MIDI files, in an order that is the same on every machine."""
    return sorted(
        Path(folder) / name
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
    )


def _made_with(soundfonts: Sequence[Path], audio: Path) -> Mapping[str, str]:
    """Say what the songs are made with: what is here or, where that is missing, what is noted.

    Raises:
        CorpusError: something is missing, and no note says what these soundfonts held.
    """
    try:
        return _played_here(soundfonts)
    except CorpusError:
        with contextlib.suppress(ArtifactError):
            noted = read_object(audio / MADE_WITH)
            if noted.keys() == {_FLUIDSYNTH, *map(str, soundfonts)}:
                return noted
        raise


def _played_here(soundfonts: Sequence[Path]) -> dict[str, str]:
    for path in soundfonts:
        if not path.is_file():
            raise CorpusError(f"the soundfont {path} does not exist")
    contents = {str(path): _content(path, path.stat().st_mtime_ns) for path in soundfonts}
    return {_FLUIDSYNTH: fluidsynth_version()} | contents


@cache
def _content(path: Path, time_ns: int) -> str:  # noqa: ARG001 - hundreds of MB, once a process
    return file_fingerprint(path)


def _soundfonts(given: str | Sequence[str]) -> tuple[Path, ...]:
    names = given.split(",") if isinstance(given, str) else list(given)
    paths = [Path(name.strip()).expanduser() for name in names if name.strip()]
    if not paths:
        raise CorpusError(
            "no soundfont is given; expected soundfonts=A.sf2,B.sf3 (such as "
            "/usr/share/sounds/sf2/FluidR3_GM.sf2, of: apt-get install fluid-soundfont-gm)"
        )
    for path in paths:
        if not path.is_absolute():
            raise CorpusError(f"soundfont {path}: give its whole path, such as {path.resolve()}")
    return tuple(paths)
