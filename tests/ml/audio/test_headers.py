"""Files as they come: cut, unfinished, joined, paused, with names and headers that mislead."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from ml.audio.files import (
    MAX_RATE_HZ,
    AudioError,
    Decoded,
    decode_audio,
    probe,
    read_audio,
    read_window,
)
from ml.audio.headers import SIGNATURE_BYTES, may_be_audio, read_header

RATE_HZ = 44100
CLICKS_S = (3.0, 8.5)


def tone(seconds: float, clicks_s: tuple[float, ...] = CLICKS_S, rate_hz: int = RATE_HZ):
    """A quiet tone in noise, with a click at each of some times: (samples,) float32."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    waveform = 0.05 * np.sin(2 * np.pi * 330 * time_s) + 0.01 * rng.standard_normal(time_s.size)
    for at_s in clicks_s:
        place = round(at_s * rate_hz)
        waveform[place : place + 80] += 0.8
    return waveform.astype(np.float32)


def click_s(waveform: np.ndarray, about_s: float, rate_hz: int = 16000) -> float:
    """When the loudest sample near a time is, in s."""
    start = max(0, round((about_s - 0.4) * rate_hz))
    piece = np.abs(waveform[start : start + round(0.8 * rate_hz)])
    return (start + int(piece.argmax())) / rate_hz


def write_container(path: Path, codec: str, waveform: np.ndarray, **options: str) -> Path:
    """Encode through PyAV; before the block that begins at ``gap_at`` the clock jumps by 1 s."""
    gap_at = int(options.pop("gap_at", "-1"))
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=RATE_HZ, layout="mono")
        stream.bit_rate = 128_000
        form = {"aac": "fltp", "libmp3lame": "fltp"}[codec]
        shift = 0
        for start in range(0, waveform.size, 1024):
            shift += RATE_HZ if start == gap_at else 0
            block = np.ascontiguousarray(waveform[None, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format=form, layout="mono")
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = start + shift
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def wav(
    waveform: np.ndarray,
    rate_hz: int = RATE_HZ,
    *,
    riff_size: int | None = None,
    data_size: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A 16-bit WAV by hand, so that its header can lie."""
    data = np.rint(waveform * 32767).astype("<i2").tobytes()
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, rate_hz * 2, 2, 16)
    size = len(data) if data_size is None else data_size
    body = b"WAVE" + before + fmt + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def decoded_or_error(path: Path) -> Decoded | AudioError:
    """What decoding gives; any other error fails the test."""
    try:
        return decode_audio(path, rate_hz=16000)
    except AudioError as error:
        return error


def write_whole(path: Path) -> Path:
    """Ten seconds in the format of a suffix."""
    if path.suffix == ".m4a":
        return write_container(path, "aac", tone(10), movflags="faststart")
    formats = {".aif": "AIFF", ".rf64": "RF64"}
    soundfile.write(path, tone(10), RATE_HZ, format=formats.get(path.suffix))
    return path


@pytest.mark.parametrize(
    "suffix", ["wav", "flac", "aif", "w64", "caf", "au", "rf64", "ogg", "mp3", "m4a"]
)
def test_a_download_that_broke_off_is_named(tmp_path: Path, suffix: str) -> None:
    path = write_whole(tmp_path / f"a.{suffix}")
    whole = decode_audio(path, rate_hz=16000)
    assert (whole.problem, whole.share) == (None, 1.0)
    assert abs(whole.waveform.size - 160_000) < 800
    data = path.read_bytes()
    path.write_bytes(data[: int(0.4 * len(data))])
    cut = decoded_or_error(path)
    if isinstance(cut, AudioError):  # some cannot be read at all without their end
        assert str(path) in str(cut)
        return
    assert 2 * 16000 < cut.waveform.size < 5 * 16000
    assert abs(click_s(cut.waveform, 3.0) - 3.0) < 0.006
    assert cut.problem is not None
    assert str(path) in cut.problem
    assert "cut off" in cut.problem
    if suffix != "ogg":  # its length is not said anywhere, but its end is marked
        assert cut.share == pytest.approx(0.4, abs=0.06)
    assert probe(path).duration_s == pytest.approx(cut.waveform.size / 16000, abs=0.1) or (
        suffix == "flac"  # its frames would have to be walked
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {"riff_size": 0xFFFFFFFF, "data_size": 0xFFFFFFFF},
        {"riff_size": 0x7FFFFFFF, "data_size": 0x7FFFFFDB},
        {"riff_size": 0, "data_size": 0},
        {"riff_size": 36, "data_size": 0},
        {"data_size": 0},
    ],
)
def test_a_wav_that_was_never_finished_is_all_there_is(
    tmp_path: Path, sizes: dict[str, Any]
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(10), **sizes))
    found = decode_audio(path, rate_hz=16000)
    assert (found.waveform.size, found.problem) == (160_000, None)
    assert abs(click_s(found.waveform, 8.5) - 8.5) < 0.006
    assert probe(path).duration_s == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("said_s", [0.5, 4.0])
def test_audio_behind_the_length_of_a_wav_is_read(tmp_path: Path, said_s: float) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(10), data_size=2 * round(said_s * RATE_HZ)))
    found = decode_audio(path, rate_hz=16000)
    assert (found.waveform.size, found.problem) == (160_000, None)
    assert probe(path).duration_s == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("rest", [b"LIST" + bytes(4), b"ID3\x03", b"\0", b"_PMX", b"\0id3 "])
def test_what_else_stands_behind_the_audio_is_not_read(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(1, ())) + rest + bytes(100_000))
    assert read_audio(path, rate_hz=16000).size == 16_000


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(10), RATE_HZ)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the last 36 bits of these 64: samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert not read_header(path).has_length
    found = decode_audio(path, rate_hz=16000)
    assert (found.waveform.size, found.problem) == (160_000, None)
    assert abs(click_s(found.waveform, 8.5) - 8.5) < 0.006
    assert probe(path).duration_s == pytest.approx(10, abs=0.01)
    window, rate_hz = read_window(path, 8.0, 1.0)
    assert abs(click_s(window[:, 0], 0.5, rate_hz) - 0.5) < 0.006


@pytest.mark.parametrize("gain", [(1.0, 30.0), (30.0, 1.0)])
def test_an_mp3_that_says_no_length_is_read_to_its_end(
    tmp_path: Path, gain: tuple[float, float]
) -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal(10 * RATE_HZ).astype(np.float32)
    waveform = tone(10) + noise * np.repeat(np.asarray(gain, np.float32), noise.size // 2)
    options = {"write_xing": "0", "id3v2_version": "0"}
    path = write_container(tmp_path / "a.mp3", "libmp3lame", waveform, **options)
    found = read_audio(path, rate_hz=16000)
    assert abs(found.size / 16000 - 10) < 0.1
    assert probe(path).duration_s == pytest.approx(found.size / 16000, abs=0.06)


@pytest.mark.parametrize("suffix", ["", ".mp3"])
@pytest.mark.parametrize("before", [b"", bytes(2048), b"APETAGEX" + bytes(24), b"TAG" + bytes(125)])
def test_what_stands_before_an_mp3_moves_nothing(
    tmp_path: Path, before: bytes, suffix: str
) -> None:
    soundfile.write(tmp_path / "a", tone(10.0), RATE_HZ, format="MP3")
    path = tmp_path / f"b{suffix}"
    path.write_bytes(before + (tmp_path / "a").read_bytes())
    decoded = decode_audio(path, rate_hz=16000)
    assert (len(decoded.waveform), decoded.problem) == (160_000, None)
    for at_s in CLICKS_S:
        assert click_s(decoded.waveform, at_s) == pytest.approx(at_s, abs=0.003)


@pytest.mark.parametrize("suffix", ["mp3", "flac", "ogg"])
def test_joined_files_are_one_behind_the_other(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(10), RATE_HZ)
    once = read_audio(path, rate_hz=RATE_HZ)
    path.write_bytes(path.read_bytes() * 3)
    found = read_audio(path, rate_hz=RATE_HZ)
    np.testing.assert_array_equal(found, np.tile(once, 3))
    assert probe(path).duration_s == pytest.approx(3 * once.size / RATE_HZ)
    window, rate_hz = read_window(path, 23.0 + 3 * once.size / RATE_HZ - 30, 1.0)
    assert rate_hz == RATE_HZ
    assert window.shape == (RATE_HZ, 1)


def test_what_follows_a_gap_in_time_stamps_keeps_its_time(tmp_path: Path) -> None:
    gap_at = 1024 * (5 * RATE_HZ // 1024)
    path = write_container(tmp_path / "a.m4a", "aac", tone(10), gap_at=str(gap_at))
    found = read_audio(path, rate_hz=16000)
    assert abs(click_s(found, 3.0) - 3.0) < 0.006
    assert abs(click_s(found, 9.5) - 9.5) < 0.006
    assert found.size == pytest.approx(11 * 16000, abs=800)


def test_a_damaged_packet_moves_nothing_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(10), RATE_HZ)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    found = decode_audio(path, rate_hz=16000)
    assert abs(click_s(found.waveform, 3.0) - 3.0) < 0.006
    assert abs(click_s(found.waveform, 8.5) - 8.5) < 0.006
    assert found.waveform.size == 160_000


@pytest.mark.parametrize(
    "name", ["Verse: take 2.m4a", "http:x.m4a", "concat:a|b.m4a", "#1 50%?.m4a"]
)
def test_a_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_container(tmp_path / "a.m4a", "aac", tone(4, (2.0,))).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for given in (name, tmp_path / name):
        assert abs(click_s(read_audio(given, rate_hz=16000), 2.0) - 2.0) < 0.006
        assert probe(given).duration_s == pytest.approx(4, abs=0.05)


def test_a_name_in_latin_1_is_read(tmp_path: Path) -> None:
    for suffix in ("wav", "m4a"):
        whole = write_whole(tmp_path / f"a.{suffix}")
        odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/H\xf6he." + suffix.encode()))
        whole.rename(odd)
        assert read_audio(odd, rate_hz=16000).size == pytest.approx(160_000, abs=800)


def _playlist(path: Path) -> None:
    soundfile.write(path.with_name("neighbour.wav"), tone(1, ()), RATE_HZ)
    path.write_text("ffconcat version 1.0\nfile neighbour.wav\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(wav(tone(1, ()), 1)), "1 samples a second, expected 2000"),
        (
            lambda path: path.write_bytes(wav(tone(1, ()), 2_000_000_000)),
            f"2000000000 samples a second, expected 2000 to {MAX_RATE_HZ}",
        ),
        (_playlist, "cannot be decoded"),
        (os.mkfifo, "is no regular file"),
        (lambda path: path.write_bytes(wav(tone(1, ()))[:44]), "no samples|cannot be decoded"),
        (
            lambda path: soundfile.write(path, np.full(9000, 3e38), RATE_HZ, subtype="FLOAT"),
            "NaN or infinite",
        ),
    ],
)
def test_what_is_no_recording_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path, rate_hz=16000)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aif", "ogg", "mp3", "m4a", "w64", "caf"])
def test_damaged_bytes_are_an_audio_error_or_audio(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        write_container(path, "aac", tone(1, ()))
    else:
        format_ = "AIFF" if suffix == "aif" else None
        soundfile.write(path, tone(1, ()), RATE_HZ, format=format_)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(25):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), 8):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        found = decoded_or_error(path)
        if isinstance(found, AudioError):
            assert str(path) in str(found)
        else:
            assert np.isfinite(found.waveform).all()
        with suppress(AudioError):
            assert np.isfinite(read_window(path, 0.2, 0.3)[0]).all()


def test_where_a_file_lies_in_its_session_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    body = bytes(338) + struct.pack("<Q", 3 * RATE_HZ) + bytes(256)
    path.write_bytes(wav(tone(1, ()), before=b"bext" + struct.pack("<I", len(body)) + body))
    assert read_header(path).place_s is not None


@pytest.mark.parametrize("kind", sorted({*soundfile.available_formats()} - {"RAW", "SD2"}))
def test_whatever_libsndfile_writes_may_be_audio(tmp_path: Path, kind: str):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000)
    subtype = soundfile.default_subtype(kind)
    soundfile.write(tmp_path / "a", noise, 16_000, format=kind, subtype=subtype)
    assert may_be_audio((tmp_path / "a").read_bytes()[:SIGNATURE_BYTES])


@pytest.mark.parametrize(
    "head", [b"%PDF-1.7", b"PK\x03\x04", b"\x89PNG", b"\xff\xd8\xff", b"#EXTM3U", b""]
)
def test_what_begins_otherwise_is_none(head: bytes):
    random = np.random.default_rng(0)
    assert not may_be_audio(head + random.bytes(SIGNATURE_BYTES))
    assert not may_be_audio(head + b"words, no sound" * 4000)
