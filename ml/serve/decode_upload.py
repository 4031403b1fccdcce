"""The decoder of uploads: ``python -m ml.serve.decode_upload``, a process of its own.

It reads requests, a line of JSON each, and forks a process for each of them, so that the libraries
are imported once. Files of strangers meet the decoders there, with bounded memory and time; the
kernel ends what takes longer. An answer is a line too: what was found as JSON, a tab, the exit
code. It ends when its requests do, with the server; what decoders write to stderr is nobody's
answer.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ml.audio.files import AudioError, probe, read_audio, read_window
from ml.serve.sounds import QUERY_RATE_HZ, as_played, write_sound

_NO_CORPUS = ", or take it out of the corpus"
"""Advice that is none for an upload."""


def main() -> None:
    """Answer requests until there are no more; see ``answer``."""
    import av  # noqa: F401 - here, not in each of the processes below
    import soxr  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    for line in sys.stdin:
        if not (child := os.fork()):
            sys.stdout.write(json.dumps(answer(**json.loads(line))))
            sys.stdout.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"\t{code}", flush=True)  # noqa: T201 - the other half of the answer


def answer(
    *,
    source: str,
    wav: str,
    npy: str,
    name: str,
    longest_s: float,
    memory_bytes: int,
    seconds: float,
) -> dict[str, Any]:
    """Decode a file in this process, which has so much memory and time from now on.

    Args:
        source: as in ``decode``.
        wav: as in ``decode``.
        npy: as in ``decode``.
        name: what to call the file.
        longest_s: as in ``decode``.
        memory_bytes: address space.
        seconds: after which the kernel ends the process, by SIGALRM.

    Returns:
        ``{"sound": fields of Sound}`` or ``{"problem": sentence}``.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return {"sound": decode(Path(source), Path(wav), Path(npy), longest_s=longest_s)}
    except AudioError as error:
        return {"problem": str(error).replace(source, name).removesuffix(_NO_CORPUS)}
    except MemoryError:
        return {"problem": f"{name} needs too much memory to decode; give a shorter file"}


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
    main()
