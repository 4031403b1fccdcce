"""The benchmark ``rendered``: compositions kept aside, played the same way everywhere.

``COMPOSITIONS`` are files that the kind ``midi`` puts into ``test`` by its defaults, so no model
that was trained on such a corpus has met them. They are known by content, and stand in the home
under the names here: songs then have one id on every machine. With one soundfont, one seed and one
version of FluidSynth their bytes are the same too.

Fifteen compositions, twelve excerpts of each at other tempi, keys and programs: half of the stems
share their label with 41 others or more, so that looking a label up is weak.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml.artifacts import file_fingerprint, write_aside
from ml.corpora.midi.corpus import midi_files
from ml.tracks import CorpusError

NAME = "rendered"
"""What the corpus is called in a home."""
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
"""Where Debian's package ``fluid-soundfont-gm`` (MIT) puts it."""
SOUNDFONT_SHA256 = "74594e8f4250680adf590507a306655a299935343583256f3b722c48a1bc1cb0"
SOURCES = {
    "freedoom": "https://github.com/freedoom/freedoom (musics, BSD-3-Clause)",
    "tannerhelland": "https://github.com/tannerhelland/free-music (midi, CC BY 4.0)",
}
"""Where the files come from, by the first word of their names."""
COMPOSITIONS = {
    "freedoom-d-bunny": "13a6808b1189bf28c2bcfbc7b2d1e4d5a660b9f0b73d49a8f2a5dcda5d218fcd",
    "freedoom-d-dm07": "0c6010ccc50ce891c38a6a64c4aa7d88ebe405ae2fddd8b99ffed18051f4d4d7",
    "freedoom-d-dm12": "14cf4a803876ff2e5b0049a64555e151c026bab919a72f1372e2c7b638b9e633",
    "freedoom-d-dm14": "18570ed68dc9293ff24672719f5a9d7ba274705295477425c7c94f116363ccc3",
    "freedoom-d-dm2int": "1754e938d226682e287ae6e4fb37a728f8441334510c7655ac501d9f8bc6dbed",
    "freedoom-d-e1m2": "0a4513acddd7850453f2ad3ecfe09c2058f9e09fcad059a08cd6762d12e11a66",
    "freedoom-d-e2m1": "0b200b31e02fa72c1a9418086ea11adbf8e80cc71bdcb27b03a6810c955fb65d",
    "freedoom-d-e3m5": "01fee021e308eda248fe235923dffd891674a57e147b2c1d20632cfe61a5de98",
    "freedoom-d-e4m9": "10e4988a40ad1a7c0ae21680c251683c398dd80ae790477f0e0e68db980ef69b",
    "freedoom-d-fdmttl": "15d3212f3c5ce5f5d576da27d0e4fe955002bf3fd06c008b0c69c818e16bf0ab",
    "freedoom-d-map09": "18738ce63c1872796d09c38dd89306fa38f984463153f3d439a4d2a4facca879",
    "freedoom-d-map12": "0c9383938ce15507886b3c5982dbc883cc5021ac9ea6f913d6120e9a716c1ac0",
    "freedoom-d-map14": "0403bcab693d50d58e8826f4042c3acd8b43081c3dff224ad597344a5aad20f4",
    "tannerhelland-crossroads": "0bef822e500e79027dadb0454aa49905ee59e527f0eeeed510f5ce6d7b30af40",
    "tannerhelland-daybreak": "0361ebcc23e0586c806f1d6aec4d537a2639ac6c5d1ebfa0e7f458f62a843271",
}
"""Name → SHA-256 of the file."""
RENDERING: Mapping[str, Any] = {"seed": 0, "renderings": 12, "seconds": 20.0}
"""Options of the kind ``midi``."""


def gather_compositions(root: Path, folder: Path) -> None:
    """Copy the benchmark's files, whatever they are called, to where its corpus reads them.

    Args:
        root: a folder that holds them, in it or in folders below.
        folder: of the home.

    Raises:
        CorpusError: some are neither in ``root`` nor in ``folder``; names them, and where to get
            them.
    """
    found = {file_fingerprint(path): path for at in (root, folder) for path in midi_files(at)}
    if missing := [name for name, sha256 in COMPOSITIONS.items() if sha256 not in found]:
        sources = {SOURCES[name.partition("-")[0]] for name in missing}
        raise CorpusError(
            f"{root} lacks {len(missing)} of the {len(COMPOSITIONS)} files of the benchmark: "
            f"{', '.join(missing)} (known by their bytes, not by their names); get them from "
            f"{' and '.join(sorted(sources))}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, sha256 in COMPOSITIONS.items():
        if not (place := folder / f"{name}.mid").is_file():
            with write_aside(place) as aside:
                aside.write_bytes(found[sha256].read_bytes())


def rendering_options(soundfont: Path) -> dict[str, Any]:
    """Give the options of the corpus.

    Raises:
        CorpusError: it is not the soundfont that the benchmark is defined with.
    """
    soundfont = soundfont.expanduser().resolve()
    is_file = soundfont.is_file()
    if not is_file or file_fingerprint(soundfont) != SOUNDFONT_SHA256:
        raise CorpusError(
            f"{soundfont} {'has other bytes than' if is_file else 'does not exist; expected'} "
            f"the benchmark's soundfont, FluidR3_GM.sf2 (SHA-256 {SOUNDFONT_SHA256[:16]}…); "
            "install it with: apt-get install fluid-soundfont-gm, or name it with --soundfont"
        )
    return {"soundfonts": str(soundfont), **RENDERING}
