from __future__ import annotations

import numpy as np
import pytest

from ml.corpora.demo.instruments import INSTRUMENTS, OTHER_NAMES, UNSEEN
from ml.corpora.demo.songs import DemoConfig, apply_production, character_of, make_song, render_dry
from ml.corpora.demo.synths import RATE_HZ

CONFIG = DemoConfig()
SHORT = DemoConfig(train_songs=4, heldout_songs=4, train_s=8, heldout_s=8)


@pytest.fixture(scope="module")
def songs():
    train = [make_song(CONFIG, "train", i) for i in range(CONFIG.train_songs)]
    return train, [make_song(CONFIG, "heldout", i) for i in range(CONFIG.heldout_songs)]


def test_a_song_is_a_pure_function_of_seed_kind_and_index():
    def sound(config: DemoConfig, kind: str, index: int) -> bytes:
        return b"".join(
            s.tobytes()
            for s in render_dry(config, make_song(config, kind, index), is_one_timbre=True)
        )

    first = sound(SHORT, "train", 1)
    more_songs = DemoConfig(train_songs=9, heldout_songs=2, train_s=8, heldout_s=8)
    other_seed = DemoConfig(seed=1, train_songs=4, heldout_songs=4, train_s=8, heldout_s=8)
    assert first == sound(SHORT, "train", 1) == sound(more_songs, "train", 1)
    assert first not in (
        sound(other_seed, "train", 1),
        sound(SHORT, "train", 2),
        sound(SHORT, "heldout", 1),
    )


def test_songs_have_three_to_seven_different_instruments(songs):
    for song in songs[0] + songs[1]:
        names = [player.instrument.name for player in song.cast]
        assert 3 <= len(names) <= 7
        assert len(set(names)) == len(names)
        assert all(song.composition.parts), f"{song.track_id}: a part has no notes"


def test_training_songs_hold_many_instruments_and_categories(songs):
    counts: dict[str, int] = {}
    for player in (player for song in songs[0] for player in song.cast):
        counts[player.instrument.name] = counts.get(player.instrument.name, 0) + 1
    often = [INSTRUMENTS[name] for name, count in counts.items() if count >= 20]
    assert len(often) >= 14
    assert len({instrument.labels[0] for instrument in often}) >= 7
    assert any(len(instrument.labels) >= 3 for instrument in often)


def test_zero_shot_instruments_and_names_are_of_held_out_songs_only(songs):
    train, heldout = songs
    train_names = {player.instrument.name for song in train for player in song.cast}
    train_labels = {player.labels for song in train for player in song.cast}
    assert not train_names & set(UNSEEN)
    assert not train_labels & set(OTHER_NAMES.values())
    marked = [p for song in heldout for p in song.cast if p.zero_shot]
    assert {p.instrument.name for p in marked} == {*UNSEEN, *OTHER_NAMES}
    assert all(p.labels and p.labels not in train_labels for p in marked)
    share = len(marked) / sum(len(song.cast) for song in heldout)
    assert 0.05 < share < 0.15


def test_some_songs_have_no_drums_and_a_few_stems_no_label(songs):
    train = songs[0]
    drumless = [all(p.instrument.labels[0] != "drums" for p in song.cast) for song in train]
    unlabelled = [not player.labels for song in train for player in song.cast]
    assert 0.08 < np.mean(drumless) < 0.25
    assert 0.01 < np.mean(unlabelled) < 0.06


@pytest.mark.parametrize(("train_songs", "valid"), [(2, 1), (4, 1), (100, 4), (400, 16)])
def test_splits_share_no_song(train_songs, valid):
    config = DemoConfig(train_songs=train_songs, heldout_songs=3)
    splits = [config.split("train", i) for i in range(train_songs)]
    assert splits.count("valid") == valid
    assert splits.count("train") == train_songs - valid
    assert {config.split("heldout", i) for i in range(3)} == {"test"}


def test_stems_sound_rest_and_never_clip():
    longest_rest_s = []
    for index in range(4):
        song = make_song(CONFIG, "train", index)
        dry = render_dry(CONFIG, song, is_one_timbre=True)
        wet, _ = apply_production(CONFIG, song, dry, "own")
        for stem in dry + wet:
            assert np.isfinite(stem).all()
            assert 10 ** (-13 / 20) < np.abs(stem).max() < 1
        longest_rest_s += [_longest_silence_s(stem) for stem in wet]
    assert sum(rest > 1 for rest in longest_rest_s) >= 4


def test_swapped_stems_have_other_songs_characters():
    song = make_song(CONFIG, "heldout", 0)
    dry = render_dry(CONFIG, song, is_one_timbre=False)
    _, own = apply_production(CONFIG, song, dry, "own")
    plain, none = apply_production(CONFIG, song, dry, "none")
    swapped, others = apply_production(CONFIG, song, dry, "swapped")
    assert set(own) == {song.track_id}
    assert set(none) == {None}
    assert song.track_id not in others
    assert len(set(others)) == len(dry)
    for before, same, after in zip(dry, plain, swapped, strict=True):
        assert np.array_equal(before, same)
        assert not np.array_equal(before, after)


def test_without_one_timbre_each_stem_has_its_own(monkeypatch):
    """The song's tuning is nobody's then, and no two stems share a family."""
    families = []

    def note(_instrument, _notes, family, samples, _rng):
        families.append(family)
        return np.zeros(samples, np.float32)

    monkeypatch.setattr("ml.corpora.demo.songs.render", note)
    song = make_song(CONFIG, "train", 0)
    tuning = song.composition.style.tuning_cents
    render_dry(CONFIG, song, is_one_timbre=True)
    assert len(set(families)) == 1
    assert families[0].tuning_cents == tuning
    families.clear()
    render_dry(CONFIG, song, is_one_timbre=False)
    assert len(set(families)) == len(song.cast)
    assert tuning not in {family.tuning_cents for family in families}


def test_every_song_has_its_own_character():
    characters = {character_of(CONFIG, kind, i) for kind in ("train", "heldout") for i in range(50)}
    assert len(characters) == 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", -1), ("train_songs", 1), ("heldout_songs", 1), ("valid_share", 1), ("train_s", 3)],
)
def test_a_wrong_config_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        DemoConfig(**{field: value})


def _longest_silence_s(stem: np.ndarray) -> float:
    frame = RATE_HZ // 20
    frames = stem[: len(stem) // frame * frame].reshape(-1, frame).astype(float)
    level_db = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    longest = run = 0
    for is_silent in level_db < -60:
        run = run + 1 if is_silent else 0
        longest = max(longest, run)
    return longest / 20
