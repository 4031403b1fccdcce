"""Which songs the demo corpus has, who plays in them, and one song as audio.

A song is a pure function of (seed, kind, index); kind is ``train`` or ``heldout``. Three
instruments occur in held-out songs only and two have other names there (zero-shot).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.corpora.demo.compose import compose, draw_style
from ml.corpora.demo.instruments import (
    INSTRUMENTS,
    OTHER_NAMES,
    UNSEEN,
    Instrument,
    part_writer,
    render,
)
from ml.corpora.demo.production import Character, draw_character, produce
from ml.corpora.demo.score import KEY_NAMES, Composition
from ml.corpora.demo.synths import RATE_HZ, draw_family

KINDS = ("train", "heldout")

_TUNING_CENTS = 15.0
"""Of stems without a common tuning: ± this, which two players may differ by and still fit."""
_DRUMLESS = 0.15
_UNLABELLED = 0.03
_STEM_COUNTS = {3: 0.12, 4: 0.26, 5: 0.3, 6: 0.2, 7: 0.12}
# fmt: off
_HARMONY = {
    "piano": 1.0, "electric piano": 0.9, "organ": 0.9, "acoustic guitar": 1.1,
    "clean electric guitar": 1.0, "distorted electric guitar": 1.0, "synth pad": 0.8,
    "string section": 0.8, "vibraphone": 0.6, "choir": 0.6,
}
_LEADS = {
    "lead vocals": 1.5, "synth lead": 1.0, "saxophone": 1.0, "flute": 1.0, "brass section": 0.8,
}
# fmt: on
_STANDS_FOR = {"ukulele": "acoustic guitar", "violin": "string section", "clarinet": "flute"}


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How much of the demo corpus to make."""

    seed: int = 0
    """All songs follow from it."""
    train_songs: int = 400
    """Songs to train on; a few of them are the split ``valid``."""
    valid_share: float = 0.04
    """Share of the training songs that are split ``valid`` (rounded up)."""
    heldout_songs: int = 60
    """Songs of the split ``test``."""
    train_s: float = 20.0
    """Length of a training song."""
    heldout_s: float = 30.0
    """Length of a held-out song."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        if self.train_songs < 2 or self.heldout_songs < 2:
            raise ValueError(
                f"train_songs is {self.train_songs} and heldout_songs {self.heldout_songs}; both "
                "must be at least 2 (characters are swapped between held-out songs)"
            )
        if not 0 <= self.valid_share < 1:
            raise ValueError(f"valid_share is {self.valid_share}; it must be at least 0, below 1")
        for name, value in (("train_s", self.train_s), ("heldout_s", self.heldout_s)):
            if not 8 <= value <= 600:
                raise ValueError(f"{name} is {value}; it must be between 8 and 600 seconds")

    def count(self, kind: str) -> int:
        """Return the number of songs of a kind."""
        return self.train_songs if kind == "train" else self.heldout_songs

    def duration_s(self, kind: str) -> float:
        """Return the length of the songs of a kind."""
        return self.train_s if kind == "train" else self.heldout_s

    def split(self, kind: str, index: int) -> str:
        """Say which split a song is of; ``valid`` is spread evenly over the training songs."""
        if kind == "heldout":
            return "test"
        valid = int(np.ceil(self.valid_share * self.train_songs))
        chosen = {int((i + 0.5) * self.train_songs / valid) for i in range(valid)}
        return "valid" if index in chosen else "train"


@dataclass(frozen=True, kw_only=True)
class Player:
    """Who plays a part."""

    instrument: Instrument
    labels: tuple[str, ...]
    """As the corpus gives them: empty for a few."""
    zero_shot: str | None
    """``unseen instrument``, ``other name`` or None."""


@dataclass(frozen=True, kw_only=True)
class Song:
    """A composed song, not yet rendered."""

    track_id: str
    kind: str
    index: int
    duration_s: float
    cast: tuple[Player, ...]
    composition: Composition


def track_id(kind: str, index: int) -> str:
    """Name a song: ``train-0007``, ``heldout-007``."""
    return f"train-{index:04d}" if kind == "train" else f"heldout-{index:03d}"


def make_song(config: DemoConfig, kind: str, index: int) -> Song:
    """Compose one song."""
    cast = draw_cast(_generator(config, kind, index, "cast"), kind, index)
    rng = _generator(config, kind, index, "composition")
    style = draw_style(rng)
    writers = [part_writer(player.instrument, style, rng) for player in cast]
    duration_s = config.duration_s(kind)
    return Song(
        track_id=track_id(kind, index),
        kind=kind,
        index=index,
        duration_s=duration_s,
        cast=cast,
        composition=compose(rng, style, writers, duration_s),
    )


def render_dry(config: DemoConfig, song: Song, *, is_one_timbre: bool) -> list[np.ndarray]:
    """Render the stems without production: (samples,) float32 each, peaks below 1.

    Args:
        config: of the corpus.
        song: what is played.
        is_one_timbre: the instruments share brightness, attack, vibrato and the song's tuning, as
            those of one studio do. Else each stem draws its own, and only what is played
            (harmony, tempo, rhythm, register) tells which stems belong together.
    """
    rng = _generator(config, song.kind, song.index, "timbre")
    samples = round(song.duration_s * RATE_HZ)
    family = draw_family(rng, song.composition.style.tuning_cents)
    stems = []
    for player, notes in zip(song.cast, song.composition.parts, strict=True):
        if not is_one_timbre:
            family = draw_family(rng, float(rng.uniform(-_TUNING_CENTS, _TUNING_CENTS)))
        stems.append(render(player.instrument, notes, family, samples, rng))
    return stems


def apply_production(
    config: DemoConfig, song: Song, dry: list[np.ndarray], production: str
) -> tuple[list[np.ndarray], list[str | None]]:
    """Produce the stems as a corpus has them.

    Args:
        config: of the corpus.
        song: whose stems they are.
        dry: from ``render_dry``.
        production: ``own``: the song's character; ``none``; ``swapped``: every stem has the
            character of another song of its kind.

    Returns:
        The stems, and for each the track whose character it has (None: no production).
    """
    if production == "none":
        return dry, [None] * len(dry)
    sources = [song.index] * len(dry)
    if production == "swapped":
        others = [i for i in range(config.count(song.kind)) if i != song.index]
        order = _generator(config, song.kind, song.index, "swap").permutation(others)
        sources = [int(order[i % len(order)]) for i in range(len(dry))]
    rng = _generator(config, song.kind, song.index, "noise")
    stems = [
        produce(stem, character_of(config, song.kind, source), rng)
        for stem, source in zip(dry, sources, strict=True)
    ]
    return stems, [track_id(song.kind, source) for source in sources]


def character_of(config: DemoConfig, kind: str, index: int) -> Character:
    """Draw the production character of a song."""
    return draw_character(_generator(config, kind, index, "production"))


def describe(song: Song, *, is_one_timbre: bool) -> dict[str, Any]:
    """Describe the song as ``song.json`` holds it, but for its stems; see ``render_dry``."""
    style = song.composition.style
    return {
        "track_id": song.track_id,
        "duration_s": song.duration_s,
        "tempo_bpm": style.bpm,
        "tempo_drift": style.drift,
        "beats_per_bar": style.beats_per_bar,
        "key": KEY_NAMES[style.tonic],
        "mode": style.mode,
        "swing": style.swing,
        "tuning_cents": style.tuning_cents if is_one_timbre else None,
        "beats_s": [round(float(t), 6) for t in song.composition.beat_times_s],
        "sections": [
            {
                "letter": section.letter,
                "start_s": round(start, 6),
                "end_s": round(end, 6),
                "playing": [i for i, on in enumerate(section.playing) if on],
            }
            for section, (start, end) in zip(
                song.composition.sections, song.composition.section_times_s, strict=True
            )
        ],
    }


def draw_cast(rng: np.random.Generator, kind: str, index: int) -> tuple[Player, ...]:
    """Draw who plays in a song: 3 to 7 different instruments."""
    count = int(rng.choice(list(_STEM_COUNTS), p=list(_STEM_COUNTS.values())))
    zero_shot = _zero_shot(kind, index)
    names = _draw_names(rng, count)
    if zero_shot:
        names = _with_instrument(names, zero_shot)
    is_unlabelled = rng.random(len(names)) < _UNLABELLED
    return tuple(
        _player(name, name == zero_shot, bool(unlabelled))
        for name, unlabelled in zip(names, is_unlabelled, strict=True)
    )


def _player(name: str, is_zero_shot: bool, is_unlabelled: bool) -> Player:
    instrument = INSTRUMENTS[name]
    if not is_zero_shot:
        labels = () if is_unlabelled else instrument.labels
        return Player(instrument=instrument, labels=labels, zero_shot=None)
    if name in UNSEEN:
        labels, why = instrument.labels, "unseen instrument"
    else:
        labels, why = OTHER_NAMES[name], "other name"
    return Player(instrument=instrument, labels=labels, zero_shot=why)


def _zero_shot(kind: str, index: int) -> str | None:
    """Name the zero-shot instrument of a song: every second held-out song has one, in turn."""
    if kind != "heldout" or index % 2 == 0:
        return None
    names = (*UNSEEN, *OTHER_NAMES)
    return names[index // 2 % len(names)]


def _draw_names(rng: np.random.Generator, count: int) -> list[str]:
    names: list[str] = []
    if rng.random() >= _DRUMLESS:
        names += _draw_drums(rng, count)
    if rng.random() < 0.85:
        names.append(str(rng.choice(["bass guitar", "synth bass"], p=[0.6, 0.4])))
    names.append(_draw_one(rng, _HARMONY))
    if len(names) < count and rng.random() < 0.85:
        names.append(_draw_one(rng, _LEADS))
    more = {**_HARMONY, **_LEADS, "shaker": 1.3, "congas": 1.3}
    while len(names) < count:
        names.append(_draw_one(rng, {k: v for k, v in more.items() if k not in names}))
    return names


def _draw_drums(rng: np.random.Generator, count: int) -> list[str]:
    if count >= 5 and rng.random() < 0.4:
        singles = ["kick drum", "snare drum", "hi-hat"]
        dropped = int(rng.integers(4))
        return [name for i, name in enumerate(singles) if i != dropped]
    if rng.random() < 0.15:
        return [str(rng.choice(["kick drum", "snare drum", "hi-hat"]))]
    return [str(rng.choice(["drum kit", "drum machine"], p=[0.6, 0.4]))]


def _draw_one(rng: np.random.Generator, weights: dict[str, float]) -> str:
    weight = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=weight / weight.sum()))


def _with_instrument(names: list[str], wanted: str) -> list[str]:
    """Put ``wanted`` in the place of what it stands for, or of the last one."""
    if wanted in names:
        return names
    replaced = _STANDS_FOR.get(wanted, "")
    place = names.index(replaced) if replaced in names else len(names) - 1
    return [*names[:place], wanted, *names[place + 1 :]]


def _generator(config: DemoConfig, kind: str, index: int, purpose: str) -> np.random.Generator:
    purposes = ("cast", "composition", "timbre", "production", "noise", "swap")
    key = [config.seed, KINDS.index(kind), index, purposes.index(purpose)]
    return np.random.default_rng(np.random.SeedSequence(key))
