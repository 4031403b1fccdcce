"""The worker that decodes an upload: ``python -m ml.serve.decode_upload``, a process of its own.

Files of strangers meet the decoders here, with bounded memory; ``ml.serve.uploads`` kills it when
it takes too long. It prints what it found as JSON, or one sentence and exits with 2; what decoders
write to stderr is nobody's answer.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ml.audio.files import AudioError, probe, read_audio
from ml.audio.windows import read_window
from ml.serve.sounds import QUERY_RATE_HZ, as_played, write_sound

WRONG_FILE = 2
_NO_CORPUS = ", or take it out of the corpus"
"""Advice that is none for an upload."""


def main(arguments: list[str]) -> int:
    """Decode SOURCE to WAV for playing and NPY for queries; see ``decode``."""
    source, wav, npy, name, longest_s, memory_bytes = arguments
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    try:
        sound = decode(Path(source), Path(wav), Path(npy), longest_s=float(longest_s))
    except AudioError as error:
        sys.stdout.write(str(error).replace(source, name).removesuffix(_NO_CORPUS))
        return WRONG_FILE
    except MemoryError:
        sys.stdout.write(f"{name} needs too much memory to decode; give a shorter file")
        return WRONG_FILE
    sys.stdout.write(json.dumps(sound))
    return 0


def decode(source: Path, wav: Path, npy: Path, *, longest_s: float) -> dict[str, object]:
    """Write a file's waveform twice: for playing and for queries.

    Args:
        source: the upload.
        wav: takes it as ``write_sound`` writes it.
        npy: takes it at ``QUERY_RATE_HZ``: (samples,) float32, as a query reads the file itself.
        longest_s: bound of its length.

    Returns:
        The fields of ``Sound``.

    Raises:
        AudioError: not audio, damaged, or longer than the bound.
    """
    _check_length(source, probe(source).duration_s, longest_s)
    waveform = read_audio(source, rate_hz=QUERY_RATE_HZ)
    _check_length(source, len(waveform) / QUERY_RATE_HZ, longest_s)  # a header may lie
    np.save(npy, waveform)
    sound = as_played(*read_window(source, 0.0, len(waveform) / QUERY_RATE_HZ))
    return asdict(write_sound(sound, wav))


def _check_length(source: Path, duration_s: float, longest_s: float) -> None:
    if duration_s > longest_s:
        raise AudioError(
            f"{source} lasts {duration_s:.0f} s; expected at most {longest_s:.0f} s; cut it"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
