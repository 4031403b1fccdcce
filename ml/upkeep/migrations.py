"""Artifacts of older formats, brought to the present one without making them again.

``stems migrate`` looks at every artifact of a home. A format that is raised gets a step in
``STEPS`` where what was made before can be rewritten; where it has none, the artifact is made
again, and with it whatever was made from it. After a step the artifact has another fingerprint,
which the manifests of what was made from it name: these are rewritten too, so nothing is made again
because an input was migrated. Interrupted, it goes on when run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ml.artifacts import (
    MANIFEST_NAME,
    ArtifactError,
    DataLayout,
    identity_fingerprint,
    read_json,
    write_json,
)
from ml.locks import lock, lock_above

Step = Callable[[Path, Mapping[str, Any]], Mapping[str, Any]]
"""The folder of an artifact and its manifest → the manifest in the next format.

It writes files aside and renames them, and stands being run again on what it has left half done;
version, fingerprint and manifest are written after it.
"""

STEPS: Mapping[tuple[str, int], Step] = {}
"""(kind, format version) → the step to the next version. None yet: no format was ever raised."""

Outcome = Literal["current", "upgraded", "older", "newer", "unreadable"]
_FORMERLY = "formerly"
"""Manifest entry: the fingerprints that an artifact had before it was migrated."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of artifact."""

    name: str
    folders: str
    """Pattern below the home."""
    version: int
    """What this program writes."""
    remedy: str
    """What makes it again."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An artifact of a home."""

    folder: Path
    kind: Kind
    version: int | None
    """On disk; None: it does not say."""
    outcome: Outcome
    """``upgraded`` in a dry run: would be. ``older``: there is no step, it has to be made again."""


def known_kinds() -> list[Kind]:
    """Every kind of artifact that a home holds."""
    from ml.beats import feature_files, probe_files
    from ml.corpora import labels, table
    from ml.corpora.demo import build
    from ml.models import clap_fetch, stem_jepa
    from ml.reports import report
    from ml.retrieval import embedding_files, predecessor_files, score_files, store
    from ml.shards import index

    beats = "stems evaluate beats"
    rows = [
        ("demo corpus", "corpora/*", build.FORMAT_VERSION, "stems demo"),
        ("corpus tracks", "tracks/*", table.FORMAT_VERSION, "stems corpus build CORPUS"),
        ("label embeddings", "labels/*", labels.FORMAT_VERSION, "stems labels build CORPUS"),
        ("shards", "shards/*", index.FORMAT_VERSION, "stems shards build CORPUS --fresh"),
        ("model", "runs/*/[!.]*", stem_jepa.FORMAT_VERSION, "stems train"),
        ("model", "runs/*/checkpoints/*", stem_jepa.FORMAT_VERSION, "stems train"),
        ("embeddings", "embeddings/*/*", embedding_files.FORMAT_VERSION, "stems embed CORPUS"),
        (
            "predecessor embeddings",
            f"embeddings/*/*/{predecessor_files.FOLDER}",
            predecessor_files.FORMAT_VERSION,
            "stems evaluate retrieval --protocol predecessor",
        ),
        ("publication", "lancedb/*/published/*", store.FORMAT_VERSION, "stems embed CORPUS"),
        ("scores", "scores/*/*", score_files.FORMAT_VERSION, "stems evaluate"),
        (
            "beat features",
            "beats/features/*/*",
            feature_files.FORMAT_VERSION,
            "stems evaluate beats",
        ),
        ("beat probes", "beats/probes/*", probe_files.FORMAT_VERSION, beats),
        ("report", "reports", report.FORMAT_VERSION, "stems report"),
        ("CLAP files", "models/clap", clap_fetch.FORMAT_VERSION, "stems labels fetch"),
    ]
    return [Kind(name=a, folders=b, version=c, remedy=d) for a, b, c, d in rows]


def migrate(
    layout: DataLayout,
    *,
    kinds: Sequence[Kind] | None = None,
    steps: Mapping[tuple[str, int], Step] = STEPS,
    dry_run: bool = False,
) -> list[Found]:
    """Bring every artifact of a home to the present format, as far as there are steps.

    Args:
        layout: the home.
        kinds: what to look at; default: ``known_kinds()``.
        steps: how.
        dry_run: only say what would be done.

    Returns:
        Every artifact, in the order of the kinds.

    Raises:
        LockedError: another process is writing an artifact that has to be migrated.
    """
    found = [
        _look(folder, kind, steps)
        for kind in (known_kinds() if kinds is None else kinds)
        for folder in sorted(layout.home.glob(kind.folders))
        if (folder / MANIFEST_NAME).is_file()
    ]
    if not dry_run:
        for artifact in found:
            if artifact.outcome == "upgraded":
                _upgrade(artifact, layout.home, steps)
        _rename_inputs([x.folder for x in found if x.outcome in ("current", "upgraded")], layout)
    return found


def _look(folder: Path, kind: Kind, steps: Mapping[tuple[str, int], Step]) -> Found:
    try:
        version = read_json(folder / MANIFEST_NAME).get("format_version")
    except (ArtifactError, AttributeError):
        version = None
    outcome: Outcome = "current"
    if not isinstance(version, int):
        version, outcome = None, "unreadable"
    elif version > kind.version:
        outcome = "newer"
    elif version < kind.version:
        has_steps = all((kind.name, older) in steps for older in range(version, kind.version))
        outcome = "upgraded" if has_steps else "older"
    return Found(folder=folder, kind=kind, version=version, outcome=outcome)


def _upgrade(artifact: Found, home: Path, steps: Mapping[tuple[str, int], Step]) -> None:
    path = artifact.folder / MANIFEST_NAME
    with _locked(path, home):
        before = read_json(path)
        manifest = dict(before)
        while manifest["format_version"] < artifact.kind.version:
            version = manifest["format_version"]
            manifest = dict(steps[artifact.kind.name, version](artifact.folder, manifest))
            manifest["format_version"] = version + 1
        write_json(path, _named_anew(before, manifest))


def _rename_inputs(folders: Sequence[Path], layout: DataLayout) -> None:
    """Where a manifest names what an input was called formerly, write what it is called now.

    An artifact whose inputs are renamed is called otherwise itself: until nothing changes.
    """
    manifests = {folder / MANIFEST_NAME: read_json(folder / MANIFEST_NAME) for folder in folders}
    while True:
        names = {
            former: manifest["fingerprint"]
            for manifest in manifests.values()
            for former in manifest.get(_FORMERLY, ())
        }
        changed = {
            path: _named_anew(manifest, {**manifest, "identity": identity})
            for path, manifest in manifests.items()
            if (identity := _renamed(manifest.get("identity"), names)) != manifest.get("identity")
        }
        if not changed:
            return
        for path, manifest in changed.items():
            with _locked(path, layout.home):
                write_json(path, manifest)
        manifests |= changed


def _named_anew(before: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """With the fingerprint that belongs to identity and format; models are named by their bits."""
    if "identity" not in manifest:
        return dict(manifest)
    version = identity_fingerprint(manifest["identity"], manifest["format_version"])
    former = [*before.get(_FORMERLY, ()), before["fingerprint"]]
    return {**manifest, "fingerprint": version, _FORMERLY: former}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


@contextlib.contextmanager
def _locked(path: Path, home: Path) -> Iterator[None]:
    owner = lock_above(path, home)
    with lock(owner) if owner is not None else contextlib.nullcontext():
        yield
