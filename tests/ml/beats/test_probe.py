"""Labels, alignment, streaming, early stopping, and what the probe may not look at."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.beats.features import BeatInput
from ml.beats.peaks import pick_peaks
from ml.beats.probe import (
    FPS,
    ProbeConfig,
    ProbeTrack,
    StepBlocks,
    frame_labels,
    probes_per_step,
    train_probe,
)

MakeTrack = Callable[..., ProbeTrack]
QUICK = ProbeConfig(batch_steps=128, learning_rate=1e-2, epochs=8)


def test_widened_labels_by_hand():
    """Beats at 0.1 s (frame 5), 0.139 s (frame 7), 0.32 s (frame 16), and beyond the end."""
    labels = frame_labels(np.array([0.1, 0.139, 0.32, 9.0]), 3, 8, (0.5, 0.25))
    expected = np.zeros(24)
    expected[[5, 7, 16]] = 1
    expected[[4, 6, 8, 15, 17]] = 0.5
    expected[[3, 9, 14, 18]] = 0.25
    assert np.array_equal(labels, expected.reshape(3, 8))
    assert frame_labels(np.array([0.0]), 1, 8, (0.5,))[0].tolist() == [1, 0.5] + [0] * 6


def test_no_beats_give_no_labels():
    assert not frame_labels(np.array([]), 2, 8, (0.5,)).any()


@pytest.mark.parametrize("kind", ["log-mel", "encoder"])
def test_activations_are_at_the_time_of_the_sound(
    kind: str,
    mel_input: BeatInput,
    make_encoder: Callable[..., BeatInput],
    make_track: MakeTrack,
):
    """Clicks at any time, no tempo: probe j of step k is at (8k + j) / 50 s."""
    source = mel_input if kind == "log-mel" else make_encoder(layers=(2,))
    train = [make_track(source, seed) for seed in range(14)]
    probe = train_probe(train[2:], train[:2], 0, QUICK).probe
    tested = [make_track(source, seed) for seed in range(100, 104)]
    offsets = []
    for track in tested:
        found = pick_peaks(probe.activation(track.read(0), track.frames), FPS, threshold=0.2)
        nearest = np.abs(found[:, None] - track.beats[None]).argmin(axis=1)
        near = found - track.beats[nearest]
        offsets += near[np.abs(near) < 0.07].tolist()
    assert len(offsets) > 0.8 * sum(len(track.beats) for track in tested)
    assert abs(np.median(offsets)) < 0.010


def test_equal_seeds_give_equal_probes(mel_input: BeatInput, make_track: MakeTrack):
    tracks = [make_track(mel_input, seed, duration_s=4.0) for seed in range(4)]
    first, again = (train_probe(tracks[1:], tracks[:1], 0, QUICK) for _ in range(2))
    other = train_probe(tracks[1:], tracks[:1], 0, replace(QUICK, seed=1))
    assert torch.equal(first.probe.linear.weight, again.probe.linear.weight)
    assert not torch.equal(first.probe.linear.weight, other.probe.linear.weight)


def test_the_best_epoch_on_other_tracks_is_kept(mel_input: BeatInput, make_track: MakeTrack):
    """A probe that learns noise by heart is stopped, and no worse than after its first epoch."""
    tracks = [make_track(mel_input, seed, duration_s=3.0) for seed in range(4)]
    wild = replace(QUICK, learning_rate=0.3, batch_steps=4, epochs=10, patience=2)
    wrong = [replace(track, beats=track.beats + 0.2) for track in tracks[:2]]
    kept = train_probe(tracks[2:], wrong, 0, wild)
    once = train_probe(tracks[2:], wrong, 0, replace(wild, epochs=1, patience=1))
    assert kept.epochs < 10
    assert kept.valid_loss <= once.valid_loss + 1e-6 or kept.epochs == 1


def test_training_without_validation_stops_when_told(mel_input: BeatInput, make_track: MakeTrack):
    tracks = [make_track(mel_input, seed, duration_s=3.0) for seed in range(2)]
    trained = train_probe(tracks, (), 0, QUICK, epochs=3)
    assert trained.epochs == 3
    assert np.isnan(trained.valid_loss)
    with pytest.raises(ValueError, match="no tracks to train"):
        train_probe((), tracks, 0, QUICK)


def test_standardisation_is_by_training_tracks_alone(mel_input: BeatInput, make_track: MakeTrack):
    train = [make_track(mel_input, seed, duration_s=3.0) for seed in range(2)]
    one, other = (
        train_probe(train, [make_track(mel_input, seed, duration_s=3.0)], 0, QUICK).probe
        for seed in (7, 8)
    )
    assert torch.equal(one.mean, other.mean)
    rows = np.concatenate([track.read(0) for track in train]).astype(np.float64)
    np.testing.assert_allclose(one.mean, rows.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.deviation, rows.std(axis=0), rtol=1e-3, atol=1e-3)


def test_blocks_hold_every_step_once_whatever_their_size(
    mel_input: BeatInput, make_track: MakeTrack
):
    tracks = [make_track(mel_input, seed, duration_s=2.0 + seed) for seed in range(4)]
    whole, streamed = (
        StepBlocks(tracks, 0, ProbeConfig(neighbour_weights=(), block_steps=size))
        for size in (10_000, 40)
    )
    sizes = [len(features) for features, _ in streamed.blocks()]
    assert len(sizes) > 1
    assert max(sizes) <= 40
    seen = []
    for blocks in (whole, streamed):
        batches = list(blocks.batches(np.random.default_rng(0), 16))
        rows = torch.cat([torch.cat([x.float(), y], dim=1) for x, y in batches])
        seen.append(rows[torch.argsort(rows.double().sum(1) + rows[:, 3].double() * 1e-3)])
    torch.testing.assert_close(seen[0], seen[1])
    for one, other in zip(whole.statistics(), streamed.statistics(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="neighbour_weights"):
        ProbeConfig(neighbour_weights=(0.2, 0.5))
    with pytest.raises(ValueError, match="positive_weight"):
        ProbeConfig(positive_weight=0)


def test_a_step_has_an_activation_for_each_20_ms():
    assert [probes_per_step(step_s) for step_s in (0.16, 0.32, 0.02)] == [8, 16, 1]
    beats = np.array([0.1, 0.5])
    long, short = (frame_labels(beats, steps, 48 // steps, (0.5,)) for steps in (3, 6))
    assert long.shape == (3, 16)
    assert (long.ravel() == short.ravel()).all()
    with pytest.raises(ValueError, match=r"a step of features lasts 0\.15 s; expected a multiple"):
        probes_per_step(0.15)


def test_tracks_with_steps_of_two_lengths_are_refused(make_encoder, make_track):
    track = make_track(make_encoder(), 0)
    with pytest.raises(ValueError, match=r"\[8, 16\] activations a step"):
        train_probe([track, replace(track, probes=16)], [], 0, QUICK)
