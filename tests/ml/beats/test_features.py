"""Log-mel of the whole file, chunks that leave no trace, any length, memory of one batch."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.beats.features import (
    BeatInput,
    FeatureConfig,
    chunk_plan,
    frame_count,
    mel_between,
    step_count,
    track_features,
)

FP32 = FeatureConfig(precision="fp32")
Features = Callable[..., dict[int, np.ndarray]]
MakeEncoder = Callable[..., BeatInput]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000))
    return values.astype(np.float32)


def test_a_part_of_the_log_mel_is_that_of_the_whole_file(mel_input: BeatInput):
    sound = torch.from_numpy(noise(3.21))
    whole = mel_input.log_mel(sound[None])[0]
    frames = frame_count(mel_input.log_mel, len(sound))
    assert whole.shape[1] == frames
    for first, stop in [(0, frames), (0, 16), (1, 2), (100, 200), (frames - 1, frames)]:
        part = mel_between(mel_input.log_mel, sound, first, stop)
        torch.testing.assert_close(part, whole[:, first:stop], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 24, 25, 26, 44, 63, 64, 200])
def test_chunks_cover_a_track_once_and_seams_lie_inside_both(steps: int):
    plan = chunk_plan(steps, 25, 3)
    assert [plan[0].first, *(chunk.stop for chunk in plan)] == [
        *(chunk.first for chunk in plan),
        steps,
    ]
    for before, after in itertools.pairwise(plan):
        assert before.stop <= before.start + 25 - 3
        assert after.first >= after.start + 3
    assert all(chunk.start <= chunk.first < chunk.stop <= chunk.start + 25 for chunk in plan)
    assert steps < 25 or plan[-1].start + 25 == steps


def test_the_log_mel_input_does_not_know_where_borders_fall(
    features_of: Features, mel_input: BeatInput
):
    waveform = noise(9.3)
    whole = features_of(replace(mel_input, chunk_s=16.0), waveform)[0]
    cut = features_of(replace(mel_input, chunk_s=1.0), waveform)[0]
    assert np.array_equal(whole, cut)
    mel = mel_input.log_mel(torch.from_numpy(waveform)[None])[0]  # (mel_bin, frame)
    for step in (0, 7, 40):
        own = mel[:, 16 * step : 16 * step + 16].flatten().half().numpy()
        np.testing.assert_allclose(whole[step], own, rtol=2e-3, atol=2e-3)


def test_features_are_those_of_the_chunk_a_step_is_kept_from(
    features_of: Features,
    make_encoder: Callable[..., BeatInput],
):
    """Oracle: the encoder on one chunk after the other, the frequency rows side by side."""
    source, waveform = make_encoder(), noise(11.0)
    found = features_of(source, waveform)
    mel = source.log_mel(torch.from_numpy(waveform)[None])[0]
    steps = step_count(source, len(waveform))
    mel = torch.nn.functional.pad(mel, (0, 16 * steps - mel.shape[1]))
    assert source.encoder is not None
    for chunk in chunk_plan(steps, 25, 3):
        seen = mel[None, :, 16 * chunk.start : 16 * (chunk.start + 25)]
        patches = source.encoder(seen)[0]  # (freq_patch, step, dim)
        for step in range(chunk.first, chunk.stop):
            own = patches[:, step - chunk.start].flatten().detach().numpy()
            np.testing.assert_allclose(found[2][step], own, rtol=5e-3, atol=5e-3)


def test_seams_are_no_worse_than_other_places(features_of: Features, make_encoder: MakeEncoder):
    """Positions and attention know the chunk, so borders leave a trace, but not at the seams.

    Measured on demo songs: features of the tiny encoders differ by 0.7 to 1.0 of their deviation
    when borders fall elsewhere (the sines of the positions), what probes make of them by 0.006 to
    0.010. Next to a seam it is the same, which it is not where edges are kept.
    """
    source, waveform = make_encoder(), noise(20.0) * np.repeat(noise(20.0, 1)[::1600], 1600) * 30
    shift = 7
    whole = features_of(source, waveform)[2].astype(np.float64)
    later = features_of(source, waveform[shift * 2560 :])[2].astype(np.float64)
    difference = np.abs(later[6:-6] - whole[shift + 6 : -6]).mean(axis=1)
    spread = np.abs(whole - whole.mean(axis=0)).mean()
    seams = [chunk.first - 6 for chunk in chunk_plan(len(later), 25, 3)[1:]]
    near = np.zeros(len(difference), dtype=bool)
    for seam in seams:
        near[max(0, seam - 3) : seam + 3] = True
    assert difference[near].mean() < 1.2 * difference[~near].mean()
    assert difference.mean() < spread


@pytest.mark.parametrize("samples", [1, 150, 201, 2559, 2560, 2561, 40_000])
def test_any_length_works(features_of: Features, make_encoder: MakeEncoder, samples: int):
    source = make_encoder()
    steps = max(1, -(-(samples // 160) // 16))
    found = features_of(source, noise(4.0)[:samples])
    assert {layer: values.shape for layer, values in found.items()} == dict.fromkeys(
        (0, 1, 2), (steps, 5 * 32)
    )
    assert all(np.isfinite(values).all() for values in found.values())


def test_padding_of_a_short_file_is_discarded(features_of: Features, mel_input: BeatInput):
    found = features_of(mel_input, noise(1.0))[0]
    assert found.shape == (7, 1280)  # 100 frames: six full steps and a quarter of one
    last = found[6].reshape(80, 16)
    assert (last[:, 4:] == 0).all()
    assert (last[:, :4] != 0).any()


def test_a_long_track_comes_in_blocks(mel_input: BeatInput):
    """Twenty minutes need the memory of a batch of chunks, not of all."""
    config = replace(FP32, batch_chunks=4)
    waveform = noise(120.0)
    blocks = [part for _, part, _ in track_features([mel_input], waveform, config)]
    assert max(part.stop - part.start for part in blocks) <= 4 * 50
    assert [blocks[0].start, *(p.stop for p in blocks)] == [*(p.start for p in blocks), 750]


def test_inputs_with_one_frontend_share_it(
    features_of: Features, mel_input: BeatInput, make_encoder: Callable[..., BeatInput]
):
    source = make_encoder()
    both = [replace(mel_input, chunk_s=4.0, log_mel=source.log_mel), source]
    alone = features_of(source, noise(9.0))
    found = [(used.name, layers) for used, _, layers in track_features(both, noise(9.0), FP32)]
    together = torch.cat([layers[2] for name, layers in found if name == "untrained"])
    assert np.array_equal(together.numpy(), alone[2])


def test_wrong_cuts_are_refused():
    with pytest.raises(ValueError, match=r"edge_share=0\.5"):
        FeatureConfig(edge_share=0.5)
