from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from ml.audio.files import AudioError, mix_parts, probe, read_audio, read_stem, resample
from ml.tracks import Stem


def _clicks(rate_hz: int, duration_s: float = 1.53) -> np.ndarray:
    """A tone with a click every quarter second: (samples,) float32."""
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    waveform = 0.2 * np.sin(2 * np.pi * 440 * time_s)
    for start in range(rate_hz // 4, waveform.size - 40, rate_hz // 4):
        waveform[start : start + 20] += 0.6
    return waveform.astype(np.float32)


def _encode(
    path: Path,
    waveform: np.ndarray,
    rate_hz: int,
    options: dict[str, str] | None = None,
    delay: int = 0,
) -> Path:
    """Mono AAC through PyAV; its own padding is declared as the container's options say."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        for start in range(0, waveform.size, 1024):
            block = np.ascontiguousarray(waveform[None, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = start + delay
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _lag(found: np.ndarray, expected: np.ndarray) -> int:
    """By how many samples ``found`` is late."""
    size = 2 ** int(np.ceil(np.log2(found.size + expected.size)))
    spectrum = np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size))
    best = int(np.fft.irfft(spectrum, size).argmax())
    return best if best < size // 2 else best - size


def test_pcm16_mono_at_the_rate_is_exact(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-32768, 32768, 5000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", values, 16000, subtype="PCM_16")
    found = read_audio(tmp_path / "a.wav", rate_hz=16000)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values / np.float32(32768))


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    channels = np.random.default_rng(0).uniform(-0.9, 0.9, (4000, 3)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", channels, 16000, subtype="FLOAT")
    found = read_audio(tmp_path / "a.wav", rate_hz=16000)
    np.testing.assert_allclose(found, channels.mean(1), atol=1e-6)
    soundfile.write(tmp_path / "b.wav", channels[:, :1] * [1, -1], 16000, subtype="FLOAT")
    assert not read_audio(tmp_path / "b.wav", rate_hz=16000).any()


@pytest.mark.parametrize("rate_hz", [8000, 22050, 24000, 44100, 48000, 96000])
def test_resampling_keeps_a_sine_and_the_length(rate_hz: int) -> None:
    samples = rate_hz * 2 + 101
    sine = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(samples) / rate_hz)
    found = resample(sine.astype(np.float32), rate_hz, 16000)
    assert found.dtype == np.float32
    assert found.size == int(samples * 16000 / rate_hz + 0.5)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(found.size) / 16000)
    np.testing.assert_allclose(found[500:-500], expected[500:-500], atol=2e-4)


def test_resampling_removes_what_would_alias() -> None:
    high = np.sin(2 * np.pi * 11000 * np.arange(48000) / 48000).astype(np.float32)
    assert np.abs(resample(high, 48000, 16000)[500:-500]).max() < 1e-4


@pytest.mark.parametrize("rate_hz", [24000, 44100, 48000])
@pytest.mark.parametrize("options", [{}, {"movie_timescale": "90000"}])
def test_twins_in_wav_flac_and_m4a_line_up_to_the_sample(
    tmp_path: Path, rate_hz: int, options: dict[str, str]
) -> None:
    waveform = _clicks(rate_hz)
    soundfile.write(tmp_path / "a.wav", waveform, rate_hz, subtype="PCM_24")
    soundfile.write(tmp_path / "a.flac", waveform, rate_hz, subtype="PCM_16")
    _encode(tmp_path / "a.m4a", waveform, rate_hz, options)
    for name, tolerance in (("a.wav", 1e-6), ("a.flac", 1e-4), ("a.m4a", 0.5)):
        found = read_audio(tmp_path / name, rate_hz=rate_hz)
        assert found.size == waveform.size, name
        assert _lag(found, waveform) == 0, name
        assert np.abs(found - waveform).max() < tolerance, name
    assert len({read_audio(p, rate_hz=16000).size for p in tmp_path.iterdir()}) == 1


def test_mp3_twin_lines_up_to_the_sample(tmp_path: Path) -> None:
    waveform = _clicks(44100)
    soundfile.write(tmp_path / "a.mp3", waveform, 44100)
    found = read_audio(tmp_path / "a.mp3", rate_hz=44100)
    assert _lag(found, waveform) == 0
    assert abs(found.size - waveform.size) <= 1152


def test_an_edit_list_that_delays_becomes_silence(tmp_path: Path) -> None:
    rate_hz, waveform = 48000, _clicks(48000)
    _encode(tmp_path / "a.m4a", waveform, rate_hz, delay=rate_hz)
    found = read_audio(tmp_path / "a.m4a", rate_hz=rate_hz)
    assert abs(_lag(found, waveform) - rate_hz) <= rate_hz // 1000  # the list counts in ms
    assert not found[: rate_hz // 2].any()


def test_apple_padding_tag_is_honoured(tmp_path: Path) -> None:
    rate_hz, waveform = 44100, _clicks(44100)
    padding, tail = 1024, -(waveform.size + 1024) % 1024
    tag = f" 00000000 {padding:08X} {tail:08X} {waveform.size:016X}" + " 00000000" * 8
    path = _encode(tmp_path / "a.m4a", waveform, rate_hz, {"use_editlist": "0"})
    _add_itunes_tag(path, tag)
    found = read_audio(path, rate_hz=rate_hz)
    assert found.size == waveform.size
    assert _lag(found, waveform) == 0


def _add_itunes_tag(path: Path, value: str) -> None:
    """Append moov/udta/meta/ilst/---- iTunSMPB; ``moov`` must be the file's last box."""

    def box(kind: bytes, body: bytes) -> bytes:
        return (len(body) + 8).to_bytes(4, "big") + kind + body

    tag = box(
        b"----",
        box(b"mean", bytes(4) + b"com.apple.iTunes")
        + box(b"name", bytes(4) + b"iTunSMPB")
        + box(b"data", b"\0\0\0\1" + bytes(4) + value.encode()),
    )
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    added = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", tag)))
    data = bytearray(path.read_bytes())
    moov = data.rindex(b"moov") - 4
    size = int.from_bytes(data[moov : moov + 4], "big")
    assert moov + size == len(data)
    old = data.rindex(b"udta")
    data[old : old + 4] = b"free"  # the muxer's own tags
    data[moov : moov + 4] = (size + len(added)).to_bytes(4, "big")
    path.write_bytes(bytes(data) + added)


def test_streams_of_a_container_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.stem.mp4"
    tones = [np.sin(np.arange(16384) * step).astype(np.float32) * 0.3 for step in (0.05, 0.2)]
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=16000, layout="mono") for _ in tones]
        for stream, tone in zip(streams, tones, strict=True):
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    for index, tone in enumerate(tones):
        found = read_audio(path, rate_hz=16000, stream=index)
        assert np.corrcoef(found[: tone.size], tone)[0, 1] > 0.95
    assert probe(path, stream=1).rate_hz == 16000
    with pytest.raises(AudioError, match="2 audio streams, stream 5"):
        read_audio(path, rate_hz=16000, stream=5)


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    waveform = _clicks(16000)
    _encode(tmp_path / "a.m4a", waveform, 16000).rename(tmp_path / "a.wav")
    assert _lag(read_audio(tmp_path / "a.wav", rate_hz=16000), waveform) == 0


def test_probe_agrees_with_reading(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros((4410, 2)), 44100)
    info = probe(tmp_path / "a.flac")
    assert (info.rate_hz, info.channels, info.duration_s) == (44100, 2, 0.1)
    _encode(tmp_path / "b.m4a", _clicks(48000), 48000)
    assert probe(tmp_path / "b.m4a").duration_s == pytest.approx(1.53, abs=2e-3)


def test_a_stem_is_the_sum_of_its_files_padded_and_placed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(1000, 0.75), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", np.full(400, 0.5), 16000, subtype="FLOAT")
    stem = Stem(stem_id="t/s", files=(tmp_path / "a.wav", tmp_path / "b.wav"), start_s=0.01)
    expected = np.concatenate([np.zeros(160), np.full(400, 1.25), np.full(600, 0.75)])
    np.testing.assert_array_equal(read_stem(stem), expected.astype(np.float32))


def test_mix_parts_does_not_write_into_its_inputs() -> None:
    parts = [np.ones(3, np.float32), np.ones(5, np.float32)]
    mix_parts(parts)
    assert parts[1].tolist() == [1] * 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.is_file, "does not exist"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"no audio at all" * 99), "cannot be decoded"),
        (lambda path: soundfile.write(path, np.zeros(0), 16000, format="WAV"), "no samples"),
        (
            lambda path: soundfile.write(
                path, np.array([0] * 2000 + [np.nan, np.inf]), 4000, subtype="FLOAT", format="WAV"
            ),
            r"NaN or infinite samples \(2 of 2002, the first at 0.500 s",
        ),
    ],
)
def test_bad_files_are_one_sentence_with_name_and_remedy(tmp_path: Path, make, message) -> None:
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path, rate_hz=16000)
    assert str(path) in str(caught.value)
    assert "take it out of the corpus" in str(caught.value)


def test_a_torn_container_is_an_audio_error(tmp_path: Path) -> None:
    path = _encode(tmp_path / "a.m4a", _clicks(44100), 44100)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_audio(path, rate_hz=16000)
