"""Every kind of artifact: where it lies, in which format, and the command that makes it.

Kinds of corpora are ``ml.tracks.Kind``.

The one table of formats: a reader refuses an artifact of another format and names the command here.
Change what a kind's files hold, and its ``format_version`` goes up by one in the same commit; what
lies in homes is then made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STARTER = "starter"
"""The name of the model that comes with the package."""
SHIPPED = Path(__file__).resolve().parent / STARTER / "model"
"""Its folder, made by ``ml.starter``; a checkpoint like any other."""


@dataclass(frozen=True, kw_only=True)
class ArtifactKind:
    """One kind of artifact."""

    name: str
    """What people call it."""
    format_version: int = 1
    """Part of each artifact's fingerprint, and of an asset's ``code_version``."""
    folders: str = ""
    """Where such artifacts lie below a home, as a glob pattern."""
    made_by: str
    """The command that makes one; ``{0}``: its folder's name, ``{1}``: the parent's."""

    def remedy(self, folder: Path) -> str:
        """Say which command makes the artifact in ``folder``."""
        if folder == SHIPPED:
            return "pip install --force-reinstall stem-retrieval"
        above = folder.parent.name
        for protocol in ("predecessor", "paper"):
            above = above.replace(f"-{protocol}", f" --protocol {protocol}")
        return self.made_by.format(folder.name, above)


DEMO_CORPUS = ArtifactKind(
    name="demo corpus", folders="corpora/*", made_by="stems demo", format_version=2
)
CORPUS_TRACKS = ArtifactKind(
    name="corpus tracks", folders="tracks/*", made_by="stems corpus build {0}"
)
TRACK_MUSIC = ArtifactKind(name="tempo and key", folders="music/*", made_by="stems embed {0}")
LABEL_EMBEDDINGS = ArtifactKind(
    name="label embeddings", folders="labels/*", made_by="stems labels build {0}"
)
STEM_SHARDS = ArtifactKind(name="shards", folders="shards/*", made_by="stems shards build {0}")
MODEL = ArtifactKind(name="model", folders="runs/*/[!.]*", made_by="stems train")
EMBEDDINGS = ArtifactKind(name="embeddings", folders="embeddings/*/*", made_by="stems embed {0}")
PREDECESSOR_EMBEDDINGS = ArtifactKind(
    name="predecessor embeddings",
    folders="embeddings/*/*/predecessor",
    made_by="stems evaluate retrieval --protocol predecessor --corpus {1}",
    format_version=2,
)
PUBLICATION = ArtifactKind(
    name="publication", folders="lancedb/*/published/*", made_by="stems embed {0}"
)
SCORES = ArtifactKind(
    name="scores", folders="scores/*/*", made_by="stems evaluate {1} --corpus {0}"
)
BEAT_FEATURES = ArtifactKind(
    name="beat features",
    folders="beats/features/*/*",
    made_by="stems evaluate beats --corpus {0}",
)
BEAT_PROBES = ArtifactKind(
    name="beat probes", folders="beats/probes/*", made_by="stems evaluate beats --model {0}"
)
REPORT = ArtifactKind(name="report", folders="reports", made_by="stems report")
CLAP_FILES = ArtifactKind(name="CLAP files", folders="models/clap", made_by="stems labels fetch")

KINDS = tuple(value for value in list(vars().values()) if isinstance(value, ArtifactKind))
"""All of them, in the order of the data."""
