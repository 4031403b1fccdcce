"""Remove what a home holds of a corpus; its own audio is never touched, only what was rendered."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ml.artifacts import ArtifactError, DataLayout
from ml.locks import lock
from ml.settings import Settings, SettingsError
from ml.upkeep.collect import read_holdings, recorded_sets


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was, or would be, removed."""

    rows: dict[str, int] = field(default_factory=dict)
    """Database → rows of its tables."""
    folders: list[Path] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """What stays although it is of the corpus: one sentence each."""


def remove_corpus(settings: Settings, name: str, *, delete: bool = False) -> Removal:
    """Find what was made of a corpus and, with ``delete``, remove it; run again, it goes on.

    Rows of all databases go in one version each, so queries see all of the corpus or nothing.
    Shards that a training run was trained on stay: it could not be resumed or repeated.

    Args:
        settings: of the home; nothing in them may need the corpus.
        name: of the corpus, which need not be in the settings any more.
        delete: remove it.

    Raises:
        SettingsError: training, beats or promotion name the corpus, or it is no name of one.
        ArtifactError: there is nothing of such a corpus.
        LockedError: something of it is being made.
    """
    if name in ("", "..") or name != Path(name).name:
        raise SettingsError(f"{name!r} is no name of a corpus; expected one without slashes")
    _refuse_needed(settings, name)
    layout, removal = settings.layout, Removal()
    removal.rows.update(_remove_rows(layout, name, delete=delete))
    for folder in _folders(settings, name, removal):
        removal.folders.append(folder)
        if delete:
            with lock(folder / ".lock"):
                shutil.rmtree(folder)
    if not (removal.rows or removal.folders or removal.kept or name in settings.corpora):
        known = ", ".join(sorted(settings.corpora))
        raise ArtifactError(f"{layout.home} holds nothing of a corpus {name!r}; known: {known}")
    return removal


def _refuse_needed(settings: Settings, name: str) -> None:
    needed = {
        "training.corpora": settings.training.corpora,
        "beats.corpora": settings.beats.corpora,
        "beats.heldout": settings.beats.heldout,
        "promotion.corpora": settings.promotion.corpora,
        "promotion.gallery": settings.promotion.gallery,
    }
    places = [key for key, names in needed.items() if name in names]
    if places:
        raise SettingsError(
            f"corpus {name!r} is named by {', '.join(places)} in {settings.layout.config_path}; "
            "take it out there first"
        )


def _remove_rows(layout: DataLayout, name: str, *, delete: bool) -> Iterator[tuple[str, int]]:
    """Remove the rows of each database; yields its URI and how many there are."""
    from ml.retrieval.tables.database import commit, database_uri, open_table, sql_text
    from ml.retrieval.tables.publish import CHUNK_TABLE, STEM_TABLE, count_rows

    models = sorted(path.name for path in layout.lancedb.glob("*") if path.is_dir())
    for uri in (database_uri(layout, model_id) for model_id in models):
        counts = {table: count_rows(uri, table, name) for table in (STEM_TABLE, CHUNK_TABLE)}
        for table_name in (x for x, rows in counts.items() if rows and delete):
            table = open_table(uri, table_name)
            commit(table, lambda table=table: table.delete(f"corpus = {sql_text(name)}"))
        if any(counts.values()):
            yield uri, sum(counts.values())


def _folders(settings: Settings, name: str, removal: Removal) -> Iterator[Path]:
    """Find the folders of what was made of the corpus; records of publications first."""
    layout, only = settings.layout, glob.escape(name)
    yield from sorted(layout.lancedb.glob(f"*/published/{only}"))
    yield from sorted(layout.scores("*", name).parent.parent.glob(f"*/{only}"))
    yield from sorted(layout.beat_features("*", name).parent.parent.glob(f"*/{only}"))
    yield from sorted(layout.embeddings("*", name).parent.parent.glob(f"*/{only}"))
    if layout.shards(name).is_dir():
        if users := _trained_on(layout, name):
            removal.kept.append(
                f"{layout.shards(name)} stays, training runs name it, such as {users[0]}; "
                "remove them first"
            )
        else:
            yield layout.shards(name)
    if layout.shards_uri is not None:
        removal.kept.append(f"shards at {layout.training_shards(name)} stay; remove them there")
    made = [layout.labels(name), layout.music(name), layout.tracks(name)]
    if name in settings.corpora and settings.corpora[name].kind == "midi":
        made.append(Path(settings.corpus(name).options["audio"]))
    yield from (path for path in made if path.is_dir())


def _trained_on(layout: DataLayout, name: str) -> list[str]:
    """List runs that were trained on the shards of a corpus, or may have been."""
    holdings = read_holdings(layout)
    known = set().union(*recorded_sets(layout.shards(name)).values())
    users = {run for fingerprint, run in holdings.shards.items() if fingerprint in known}
    return [*sorted(users), *holdings.unclear]
