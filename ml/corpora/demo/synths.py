"""How the instruments sound: tones for what has a pitch, kits for drums.

A *tone* is an instrument in numbers. Its harmonics come from two single-cycle tables (how it
starts, what it fades to), or from inharmonic partials with a decay each; every pitch of a stem is
rendered once at its longest and then cut to its notes. A *kit* is a song's set of drums, each
rendered once and then placed. A *family* is what the tones of one song share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ml.corpora.demo.score import Drum, Note

RATE_HZ = 16_000
"""Sampling rate of the demo corpus."""
_TABLE = 8192
_TOP_HZ = 7600.0
_NOISE_LOOP = 1 << 15
_LONGEST_S = 8.0

Kit = dict[int, np.ndarray]
"""General MIDI number → the drum struck once: (samples,) float32."""


@dataclass(frozen=True, kw_only=True)
class Tone:
    """How an instrument sounds."""

    slope_db: float
    """Fall of the harmonics in dB per octave."""
    even: float = 1.0
    """Gain of the even harmonics (0: clarinet, square wave)."""
    harmonics: tuple[float, ...] = ()
    """Gains of the harmonics instead of ``slope_db`` (organ)."""
    formants: tuple[tuple[float, float, float], ...] = ()
    """Resonances at fixed frequencies: (Hz, width in octaves, gain in dB)."""
    vowels: tuple[tuple[tuple[float, float, float], ...], ...] = ()
    """Formants that take turns from pitch to pitch (voices)."""
    partials: tuple[tuple[float, float, float], ...] = ()
    """Inharmonic partials instead of harmonics: (ratio, gain, decay relative to the tone's)."""
    fade_slope_db: float = 0.0
    """Further fall of the harmonics that the tone fades to."""
    fade_s: float = 0.3
    """Time constant of that fade; negative: it brightens instead."""
    decay_s: float | None = None
    """Time constant of the level at middle C, None: sustained."""
    attack_s: float = 0.005
    release_s: float = 0.06
    voices: int = 1
    """Detuned copies."""
    detune_cents: float = 0.0
    """Spread of the copies."""
    vibrato_hz: float = 5.5
    vibrato_cents: float = 0.0
    vibrato_delay_s: float = 0.25
    scoop_cents: float = 0.0
    """The pitch starts so much lower."""
    tremolo_hz: float = 0.0
    tremolo: float = 0.0
    """Depth 0 to 1."""
    noise: float = 0.0
    """Level of breath, bow, hammer or pick beside the tone."""
    noise_hz: tuple[float, float] = (500.0, 4000.0)
    noise_decay_s: float | None = None
    """Time constant of the noise, None: as long as the note."""
    drive: float = 0.0
    """Distortion of the sum of all notes."""
    cabinet_hz: float = 0.0
    """Cut-off behind the distortion, 0: none."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the instruments of one song have in common in timbre."""

    brightness_db: float
    """Added to every slope, dB per octave."""
    sustain: float
    """Factor on decay and release times."""
    attack: float
    """Factor on attack times."""
    vibrato_hz: float
    tremolo_hz: float
    detune: float
    """Factor on detuning."""
    tuning_cents: float


def draw_family(rng: np.random.Generator, tuning_cents: float) -> Family:
    """Draw the timbre that the instruments of a song share."""
    return Family(
        brightness_db=float(rng.uniform(-2.5, 2.5)),
        sustain=float(np.exp(rng.uniform(-0.7, 0.7))),
        attack=float(np.exp(rng.uniform(-0.6, 0.6))),
        vibrato_hz=float(rng.uniform(4.3, 7.0)),
        tremolo_hz=float(rng.uniform(3.0, 8.0)),
        detune=float(np.exp(rng.uniform(-0.7, 0.5))),
        tuning_cents=tuning_cents,
    )


def vary(tone: Tone, family: Family, rng: np.random.Generator) -> Tone:
    """Draw this song's specimen of an instrument: the family's timbre and some of its own."""

    def about(value: float, spread: float) -> float:
        return value * float(np.exp(spread * np.clip(rng.normal(), -2, 2)))

    shift = about(1.0, 0.06)

    def moved(
        formants: tuple[tuple[float, float, float], ...],
    ) -> tuple[tuple[float, float, float], ...]:
        return tuple((hz * shift, width, gain) for hz, width, gain in formants)

    return replace(
        tone,
        slope_db=tone.slope_db + family.brightness_db + float(rng.uniform(-0.8, 0.8)),
        formants=moved(tone.formants),
        vowels=tuple(moved(vowel) for vowel in tone.vowels),
        decay_s=None if tone.decay_s is None else about(tone.decay_s * family.sustain, 0.15),
        release_s=about(tone.release_s * family.sustain, 0.15),
        attack_s=about(tone.attack_s * family.attack, 0.15),
        fade_s=about(tone.fade_s, 0.2),
        detune_cents=about(tone.detune_cents * family.detune, 0.15),
        vibrato_hz=family.vibrato_hz,
        vibrato_cents=about(tone.vibrato_cents, 0.25),
        tremolo_hz=family.tremolo_hz if tone.tremolo_hz else 0.0,
        noise=about(tone.noise, 0.25),
        drive=about(tone.drive, 0.2),
    )


def render_tones(
    notes: Sequence[Note], tone: Tone, tuning_cents: float, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Render the notes of a stem.

    Args:
        notes: what is played.
        tone: the instrument, as ``vary`` made it for this song.
        tuning_cents: deviation from 440 Hz.
        samples: length of the result.
        rng: phases and detuning.

    Returns:
        (samples,) float32 of no particular level.
    """
    stem = np.zeros(samples, np.float32)
    noise = _noise_loop(tone.noise_hz) * np.float32(tone.noise) if tone.noise else None
    release = np.exp(-np.arange(_samples(4 * tone.release_s)) / (tone.release_s * RATE_HZ))
    release = ((release - release[-1]) / (1 - release[-1])).astype(np.float32)
    attack = np.linspace(0, 1, max(2, _samples(tone.attack_s)), dtype=np.float32)
    for pitch in sorted({note.pitch for note in notes}):
        played = [note for note in notes if note.pitch == pitch]
        longest = min(_LONGEST_S, max(note.duration_s for note in played)) + 4 * tone.release_s
        sound = _long_tone(tone, pitch, tuning_cents, _samples(longest) + 2, rng)
        if noise is not None:
            sound += _breath(noise, tone, len(sound), rng)
        for note in played:
            _add_note(stem, sound, note, attack, release)
    return _finish(stem, tone)


def _samples(seconds: float) -> int:
    return round(seconds * RATE_HZ)


def _add_note(
    stem: np.ndarray, sound: np.ndarray, note: Note, attack: np.ndarray, release: np.ndarray
) -> None:
    start = _samples(note.start_s)
    held = min(_samples(min(note.duration_s, _LONGEST_S)), len(sound) - len(release))
    played = sound[: held + len(release)] * np.float32(note.velocity)
    rise = min(len(attack), held)
    played[:rise] *= attack[:rise]
    played[held:] *= release * (attack[rise - 1] if rise < len(attack) else 1)
    played = played[: max(0, len(stem) - start)]
    stem[start : start + len(played)] += played


def _long_tone(
    tone: Tone, pitch: int, tuning_cents: float, samples: int, rng: np.random.Generator
) -> np.ndarray:
    hz = 440.0 * 2 ** ((pitch - 69 + tuning_cents / 100) / 12)
    decay_s = None if tone.decay_s is None else tone.decay_s * 2 ** ((60 - pitch) / 24)
    if tone.partials:
        return _inharmonic(tone.partials, hz, decay_s or 1.0, samples, rng)
    cycles = _cycles(tone, hz, samples)
    bright, dark = _tables(tone, pitch, hz)
    sound = np.zeros(samples, np.float32)
    faded = np.zeros(samples, np.float32)
    spread = np.linspace(-1, 1, tone.voices) if tone.voices > 1 else np.zeros(1)
    for cents in spread * tone.detune_cents:
        detuned = cycles * 2 ** (cents / 1200) + rng.random()
        index = (detuned * _TABLE).astype(np.int32) & (_TABLE - 1)
        sound += bright[index]
        faded += dark[index]
    seconds = np.arange(samples, dtype=np.float32) / RATE_HZ
    share = np.exp(-seconds / abs(tone.fade_s))
    if tone.fade_s < 0:
        share = 1 - share
    sound = faded + share * (sound - faded)
    if decay_s is not None:
        sound *= np.exp(-seconds / decay_s)
    return sound / np.float32(np.sqrt(tone.voices))


def _cycles(tone: Tone, hz: float, samples: int) -> np.ndarray:
    """Compute the phase in cycles: (sample,)."""
    seconds = np.arange(samples) / RATE_HZ
    if not tone.vibrato_cents and not tone.scoop_cents:
        return hz * seconds
    depth = np.clip((seconds - tone.vibrato_delay_s) / 0.3, 0, 1) * tone.vibrato_cents
    cents = depth * np.sin(2 * np.pi * tone.vibrato_hz * seconds)
    cents -= tone.scoop_cents * np.exp(-seconds / 0.04)
    return np.cumsum(hz * (1 + cents * (np.log(2) / 1200))) / RATE_HZ


def _tables(tone: Tone, pitch: int, hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Make one cycle of how the tone starts and one of what it fades to: (_TABLE,) each."""
    number = np.arange(1, max(2, int(_TOP_HZ / hz) + 1))
    if tone.harmonics:
        gain = np.zeros(len(number))
        count = min(len(number), len(tone.harmonics))
        gain[:count] = tone.harmonics[:count]
    else:
        gain = 10 ** (tone.slope_db * np.log2(number) / 20)
    gain = np.where(number % 2 == 0, gain * tone.even, gain)
    formants = tone.vowels[pitch % len(tone.vowels)] if tone.vowels else tone.formants
    gain = gain * 10 ** (resonances_db(number * hz, formants) / 20)
    phases = np.exp(2j * np.pi * np.modf(number**2 * 0.381966)[0])  # flat crest, the same always
    tables = []
    for fall_db in (0.0, tone.fade_slope_db):
        spectrum = np.zeros(_TABLE // 2 + 1, complex)
        spectrum[number] = gain * 10 ** (fall_db * np.log2(number) / 20) * phases
        tables.append(np.fft.irfft(spectrum).astype(np.float32) * _TABLE)
    level = np.float32(1 / np.sqrt(np.mean(tables[0] ** 2)))
    return tables[0] * level, tables[1] * level


def _inharmonic(
    partials: Sequence[tuple[float, float, float]],
    hz: float,
    decay_s: float,
    samples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    seconds = np.arange(samples, dtype=np.float32) / RATE_HZ
    sound = np.zeros(samples, np.float32)
    for ratio, gain, decay in partials:
        if ratio * hz > _TOP_HZ:
            continue
        audible = min(samples, _samples(7 * decay_s * decay))
        time_s = seconds[:audible]
        turn = np.float32(2 * np.pi * ratio * hz)
        wave = np.sin(turn * time_s + np.float32(2 * np.pi * rng.random()))
        sound[:audible] += np.float32(gain) * wave * np.exp(-time_s / np.float32(decay_s * decay))
    return sound


@lru_cache(maxsize=32)
def _noise_loop(band_hz: tuple[float, float]) -> np.ndarray:
    hz = np.fft.rfftfreq(_NOISE_LOOP, 1 / RATE_HZ)
    low, high = band_hz
    gain = 1 / np.sqrt((1 + (low / np.maximum(hz, 1)) ** 4) * (1 + (hz / high) ** 4))
    return shaped_noise(gain, np.random.default_rng(0))


def _breath(noise: np.ndarray, tone: Tone, samples: int, rng: np.random.Generator) -> np.ndarray:
    first = int(rng.integers(len(noise)))
    breath = np.take(noise, np.arange(first, first + samples), mode="wrap")
    if tone.noise_decay_s is not None:
        seconds = np.arange(samples, dtype=np.float32) / RATE_HZ
        breath *= np.exp(-seconds / np.float32(tone.noise_decay_s))
    return breath


def _finish(stem: np.ndarray, tone: Tone) -> np.ndarray:
    if tone.tremolo:
        seconds = np.arange(len(stem), dtype=np.float32) / RATE_HZ
        lfo = np.sin(np.float32(2 * np.pi * tone.tremolo_hz) * seconds)
        stem *= 1 - np.float32(tone.tremolo) * (0.5 + 0.5 * lfo)
    if tone.drive:
        stem = np.tanh(stem * np.float32(tone.drive))
    if tone.cabinet_hz:
        spectrum = np.fft.rfft(stem)
        hz = np.fft.rfftfreq(len(stem), 1 / RATE_HZ)
        spectrum *= 1 / (1 + (hz / tone.cabinet_hz) ** 6)
        stem = np.fft.irfft(spectrum, len(stem)).astype(np.float32)
    return stem


def acoustic_kit(rng: np.random.Generator) -> Kit:
    """Strike a drum kit in a room: skins, wires, bronze."""
    return {
        Drum.KICK: _skin(
            rng, rng.uniform(48, 70), bend=1.8, decay_s=rng.uniform(0.07, 0.14), click=0.5
        ),
        Drum.SNARE: _snare(rng, rng.uniform(160, 240), wires_s=rng.uniform(0.07, 0.16)),
        Drum.HAT: _bronze(rng, 5200, decay_s=rng.uniform(0.02, 0.05)),
        Drum.OPEN_HAT: _bronze(rng, 4800, decay_s=rng.uniform(0.15, 0.3)),
        Drum.CRASH: _bronze(rng, 3200, decay_s=rng.uniform(0.4, 0.8)) * np.float32(0.9),
        Drum.TOM_LOW: _skin(rng, rng.uniform(85, 110), bend=1.35, decay_s=0.18, click=0.3),
        Drum.TOM_HIGH: _skin(rng, rng.uniform(140, 180), bend=1.35, decay_s=0.15, click=0.3),
    }


def machine_kit(rng: np.random.Generator) -> Kit:
    """Strike a drum machine: a long low kick, a clap, ticking hats."""
    kick = _skin(rng, rng.uniform(42, 55), bend=4.0, decay_s=rng.uniform(0.25, 0.5), click=0.05)
    return {
        Drum.KICK: kick,
        Drum.SNARE: _clap(rng),
        Drum.HAT: _tick(rng, decay_s=rng.uniform(0.012, 0.03)),
        Drum.OPEN_HAT: _tick(rng, decay_s=rng.uniform(0.12, 0.25)),
        Drum.CRASH: _tick(rng, decay_s=0.4),
        Drum.TOM_LOW: _skin(rng, 100, bend=2.2, decay_s=0.22, click=0.0),
        Drum.TOM_HIGH: _skin(rng, 170, bend=2.2, decay_s=0.2, click=0.0),
    }


def shaker_kit(rng: np.random.Generator) -> Kit:
    """Shake a shaker: noise that swells and falls."""
    hz = rng.uniform(4500, 6000)
    seconds = _seconds(0.14)
    swell = seconds / 0.025 * np.exp(1 - seconds / 0.025)
    return {Drum.SHAKER: (_band(rng, len(seconds), hz, 0.35) * swell).astype(np.float32)}


def conga_kit(rng: np.random.Generator) -> Kit:
    """Strike two congas: short pitched skins without wires."""
    hz = rng.uniform(190, 240)
    return {
        Drum.CONGA_LOW: _skin(rng, hz, bend=1.08, decay_s=rng.uniform(0.08, 0.13), click=0.35),
        Drum.CONGA_HIGH: _skin(
            rng, hz * 1.5, bend=1.08, decay_s=rng.uniform(0.05, 0.09), click=0.45
        ),
    }


def render_drums(notes: Sequence[Note], kit: Kit, samples: int) -> np.ndarray:
    """Place the drums of a kit: (samples,) float32 of no particular level."""
    stem = np.zeros(samples, np.float32)
    for note in notes:
        start = round(note.start_s * RATE_HZ)
        struck = kit[note.pitch][: max(0, samples - start)]
        stem[start : start + len(struck)] += struck * np.float32(note.velocity)
    return stem


def _seconds(duration_s: float) -> np.ndarray:
    return np.arange(round(duration_s * RATE_HZ)) / RATE_HZ


def _band(rng: np.random.Generator, samples: int, centre_hz: float, octaves: float) -> np.ndarray:
    """Make noise around a frequency, root mean square 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hz = np.maximum(np.fft.rfftfreq(samples, 1 / RATE_HZ), 1.0)
    spectrum *= np.exp(-0.5 * (np.log2(hz / centre_hz) / octaves) ** 2)
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def _skin(
    rng: np.random.Generator, hz: float, *, bend: float, decay_s: float, click: float
) -> np.ndarray:
    """Strike a skin whose pitch falls from ``bend`` times to ``hz``."""
    seconds = _seconds(6 * decay_s)
    falling = hz * (1 + (bend - 1) * np.exp(-seconds / 0.025))
    body = np.sin(2 * np.pi * np.cumsum(falling) / RATE_HZ) * np.exp(-seconds / decay_s)
    body += 0.25 * np.sin(2 * np.pi * 1.59 * hz * seconds) * np.exp(-seconds / (0.4 * decay_s))
    body += click * _band(rng, len(seconds), 2500, 0.7) * np.exp(-seconds / 0.004)
    return _struck(body, seconds)


def _snare(rng: np.random.Generator, hz: float, *, wires_s: float) -> np.ndarray:
    seconds = _seconds(6 * wires_s)
    body = np.sin(2 * np.pi * hz * seconds) + 0.6 * np.sin(2 * np.pi * 1.78 * hz * seconds)
    wires = _band(rng, len(seconds), rng.uniform(2200, 4000), 0.9)
    return _struck(
        0.55 * body * np.exp(-seconds / 0.06) + 0.5 * wires * np.exp(-seconds / wires_s), seconds
    )


def _bronze(rng: np.random.Generator, low_hz: float, *, decay_s: float) -> np.ndarray:
    """Strike a cymbal: noise above ``low_hz`` with a few ringing partials."""
    seconds = _seconds(6 * decay_s)
    noise = _band(rng, len(seconds), low_hz * 1.25, 0.35)
    for hz in rng.uniform(low_hz, 7500, size=6):
        noise += 0.25 * np.sin(2 * np.pi * hz * seconds + rng.uniform(0, 6))
    return _struck(0.3 * noise * np.exp(-seconds / decay_s), seconds)


def _clap(rng: np.random.Generator) -> np.ndarray:
    seconds = _seconds(0.4)
    noise = _band(rng, len(seconds), rng.uniform(1000, 1600), 0.45)
    level = 0.5 * np.exp(-seconds / rng.uniform(0.04, 0.09))
    for late_s in (0.0, 0.011, 0.022):
        since = seconds - late_s
        level += np.where(since >= 0, np.exp(-np.maximum(since, 0) / 0.004), 0)
    return _struck(0.4 * noise * level, seconds)


def _tick(rng: np.random.Generator, *, decay_s: float) -> np.ndarray:
    """Strike a synthetic hat: six square waves, only their top."""
    seconds = _seconds(6 * decay_s)
    squares = sum(np.sign(np.sin(2 * np.pi * hz * seconds)) for hz in rng.uniform(400, 1400, 6))
    top = np.diff(np.diff(squares, prepend=0), prepend=0)
    return _struck(0.06 * top * np.exp(-seconds / decay_s), seconds)


def _struck(sound: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Fade the end out so that it stops without a click."""
    left_s = seconds[-1] - seconds
    return (sound * np.minimum(1, left_s / 0.01)).astype(np.float32)


KITS: dict[str, Callable[[np.random.Generator], Kit]] = {
    "acoustic": acoustic_kit,
    "machine": machine_kit,
    "shaker": shaker_kit,
    "congas": conga_kit,
}


def resonances_db(hz: np.ndarray, resonances: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """Sum bells on a logarithmic frequency axis, in dB, at each ``hz``."""
    octaves = np.log2(np.maximum(hz, 1.0))
    total = np.zeros(len(hz))
    for centre_hz, width, gain_db in resonances:
        total += gain_db * np.exp(-0.5 * ((octaves - np.log2(centre_hz)) / width) ** 2)
    return total


def shaped_noise(gain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make noise with the given spectrum that repeats without a seam.

    Args:
        gain: (bin,) gain at ``np.fft.rfftfreq(2 * (bin - 1))``.
        rng: the phases.

    Returns:
        (2 * (bin - 1),) float32 with root mean square 1.
    """
    phases = np.exp(2j * np.pi * rng.random(len(gain)))
    noise = np.fft.irfft(gain * phases)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)
