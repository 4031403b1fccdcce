"""LanceDB databases, in a folder or behind a URL: where they lie, how their tables come to be.

A database is a prefix of an object store (``s3://bucket/prefix/<model_id>``) or a folder. Endpoint
and credentials of a store come from the environment alone (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_DEFAULT_REGION``) and are written nowhere.

LanceDB 0.40's own ``create_table`` is not safe among several processes: the second of two that
create a table at once commits an overwrite of the first one's, with the rows in it, or makes the
first one's next write fail. Here a table is made aside, empty, and put in its place by one step
that fails where another table lies: a rename of its folder, or a conditional write of its manifest.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ml.artifacts import ArtifactError, DataLayout, crash_point, put
from ml.locks import lock
from ml.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb import DBConnection
    from lancedb.query import LanceQueryBuilder
    from lancedb.table import Table


T = TypeVar("T")

WAITS_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses between tries when commits collide; one try more than pauses."""
_INDEX_CACHE_BYTES, _METADATA_CACHE_BYTES = 512 << 20, 256 << 20
_CATALOGS = "lance_namespace_urllib3_client"
_IMPORTING = threading.Lock()
_LOCK = ".lock"
_CONFLICTS = ("conflict", "Incompatible transaction", "concurrent writ")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")


def database_uri(layout: DataLayout, model_id: str) -> str:
    """Say where a model's tables lie: what ``lancedb.connect`` takes."""
    if layout.lancedb_uri is None:
        return str(layout.lancedb / model_id)
    if is_url(layout.lancedb_uri):
        return f"{layout.lancedb_uri.rstrip('/')}/{model_id}"
    return str(layout.home / layout.lancedb_uri / model_id)


def is_url(uri: str) -> bool:
    """Tell whether a database lies in an object store."""
    return "://" in uri


def connect(uri: str) -> DBConnection:
    """Connect to LanceDB with bounded caches: by default it keeps 6 GB of an index."""
    lancedb = _import_lancedb()
    session = lancedb.Session(
        index_cache_size_bytes=_INDEX_CACHE_BYTES, metadata_cache_size_bytes=_METADATA_CACHE_BYTES
    )
    if not is_url(uri):
        return lancedb.connect(uri, session=session)
    # LanceDB refuses plain HTTP unless told otherwise; an endpoint that says http:// is telling.
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    options = {"allow_http": "true"} if endpoint.startswith("http://") else None
    return lancedb.connect(uri, storage_options=options, session=session)


def _import_lancedb() -> Any:
    """Import LanceDB; its client of remote catalogs without checks of arguments.

    Nothing uses that client here, yet it is always imported, and pydantic takes a second to prepare
    the checks of its 366 methods: a third of a cold query.
    """
    with _IMPORTING:
        if _CATALOGS not in sys.modules:
            import pydantic

            checked = pydantic.validate_call
            pydantic.validate_call = lambda function: function  # type: ignore[assignment]
            try:
                with contextlib.suppress(ImportError):
                    importlib.import_module(_CATALOGS)
            finally:
                pydantic.validate_call = checked
    import lancedb

    return lancedb


def table_names(uri: str) -> list[str]:
    """List the tables of a database; none where there is no database.

    Raises:
        ArtifactError: the object store cannot be reached, or refuses.
    """
    return _database(uri)[1]


def _database(uri: str) -> tuple[DBConnection | None, list[str]]:
    """Connect to a database and list its tables; None where there is none."""
    if not is_url(uri) and not Path(uri).is_dir():
        return None, []  # connecting would make the folder
    try:
        database = connect(uri)
        return database, list(database.list_tables().tables)
    except (ValueError, RuntimeError, OSError) as error:
        raise ArtifactError(
            f"{uri} cannot be read: {first_line(error)}; check that the bucket exists, the "
            f"network, AWS_ENDPOINT_URL and the credentials in the environment "
            f"(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION)"
        ) from None


def open_table(uri: str, name: str) -> Table:
    """Open a table at its newest version.

    Raises:
        ArtifactError: there is none, or the object store cannot be reached.
    """
    table = find_table(uri, name)
    if table is None:
        raise ArtifactError(
            f"{uri} holds no table {name}; publish a corpus with: stems embed CORPUS, or stems "
            f"index FOLDER"
        )
    return table


def find_table(uri: str, name: str) -> Table | None:
    """Open a table at its newest version; None where there is none.

    Raises:
        ArtifactError: the object store cannot be reached.
    """
    database, names = _database(uri)
    if database is None or name not in names:
        return None
    with reading():
        return database.open_table(name)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Take what LanceDB cannot read in the block for damage, however it reports that.

    Raises:
        ArtifactError: says how the tables are made again.
    """
    try:
        yield
    except ArtifactError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"the tables of the model cannot be read ({first_line(error)}); if that is not its "
            "disk or network, delete their folder (stems table path) and publish every corpus "
            "again with: stems embed CORPUS"
        ) from None


def read(query: LanceQueryBuilder) -> pa.Table:
    """Read what a query finds.

    Raises:
        ArtifactError: a file of the table is missing or damaged.
    """
    with reading():
        return query.to_arrow()


def ensure_table(uri: str, name: str, schema: pa.Schema) -> Table:
    """Open a table, made empty where there is none; of several makers at once one wins.

    Raises:
        ArtifactError: the object store cannot be reached.
    """
    if name not in table_names(uri):
        _create_table(uri, name, schema)
    with reading():
        return connect(uri).open_table(name)


def commit(table: Table, write: Callable[[], T]) -> T:
    """Write to a table, and try again when another's commit came in between.

    Raises:
        ArtifactError: others' commits came in between every time.
    """
    for wait_s in (*WAITS_S, None):
        crash_point()
        try:
            written = write()
            crash_point()
            return written
        except RuntimeError as error:  # how LanceDB reports everything that a commit meets
            if not any(words in str(error) for words in _CONFLICTS):
                raise
            if wait_s is None:
                raise ArtifactError(
                    f"table {table.name} is being written by others, tried {len(WAITS_S) + 1} "
                    f"times ({first_line(error)}); wait for them and start again"
                ) from None
        time.sleep(wait_s * random.uniform(0.5, 1.5))
        table.checkout_latest()
    raise AssertionError("the last try returns or raises")


def sql_text(value: str) -> str:
    """Quote a string for a filter."""
    return "'" + value.replace("'", "''") + "'"


def checked_filter(table: Table, where: str) -> str:
    """Put a condition in parentheses, safe to join with others.

    Raises:
        ValueError: LanceDB does not understand it; names the columns there are.
        ArtifactError: a file of the table is missing or damaged.
    """
    # LanceDB reads a condition up to where it ends and ignores what follows: "a = 1) OR b" is "a".
    condition = f"({where}\n)"
    try:
        if not _is_one_condition(where):
            raise ValueError("one condition with its parentheses closed is expected")
        table.count_rows(condition)
    except (ValueError, RuntimeError) as error:  # the latter for what only rows show, as types
        columns = [name for name in table.schema.names if name != "vector"]
        with reading():  # nothing in the error says whether the filter or the table is at fault
            for _ in table.search().select(columns).to_batches():
                pass
        raise ValueError(
            f"the filter {where!r} is not understood ({first_line(error)}); expected an SQL "
            f"condition such as category = 'guitar' on the columns {', '.join(columns)}"
        ) from None
    return condition


def count_values(table: Table, column: str) -> dict[str, int]:
    """Count the rows of each value, sorted by value; the table passes by in batches."""
    counts: Counter[str] = Counter()
    with reading():
        for batch in table.search().select([column]).to_batches():
            for pair in batch[column].value_counts().to_pylist():
                counts[pair["values"]] += pair["counts"]
    return dict(sorted(counts.items()))


def stored_bytes(uri: str, name: str) -> int:
    """Measure all files of a table, those of earlier versions included.

    Raises:
        ArtifactError: the object store cannot be reached.
    """
    if not is_url(uri):
        files = (Path(uri) / f"{name}.lance").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())
    from ml.object_store import open_url, persistently

    url = f"{uri}/{name}.lance"

    def measure() -> int:
        system, place = open_url(url)
        system.invalidate_cache()
        return system.du(place)

    return persistently(url, measure)


def drop_tables(uri: str) -> None:
    """Remove all tables of a database, and its folder if nothing else lies in it.

    Raises:
        ArtifactError: the object store cannot be reached, or refuses.
    """
    for name in table_names(uri):
        connect(uri).drop_table(name)
    folder = Path(uri)
    if not is_url(uri) and folder.is_dir() and {p.name for p in folder.iterdir()} <= {_LOCK}:
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _create_table(uri: str, name: str, schema: pa.Schema) -> None:
    if is_url(uri):
        with _empty_table(None, name, schema) as made:
            _upload(made, f"{uri}/{made.name}")
        return
    folder = Path(uri)
    # The lock is not what makes this safe; it tells `stems gc` that the temporary is in use.
    with lock(folder / _LOCK, waits=True), _empty_table(folder, name, schema) as made:
        try:
            put(made, folder / made.name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # otherwise another process has made the table


@contextlib.contextmanager
def _empty_table(folder: Path | None, name: str, schema: pa.Schema) -> Iterator[Path]:
    lancedb = _import_lancedb()
    with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=folder) as aside:
        lancedb.connect(aside).create_table(name, schema=schema)
        yield Path(aside) / f"{name}.lance"


def _upload(made: Path, url: str) -> None:
    """Send an empty table; its manifest, last, only where there is none yet."""
    from ml.object_store import open_url, persistently

    (manifest,) = (made / "_versions").glob("*.manifest")
    for path in (*(made / "_transactions").iterdir(), manifest):
        target = f"{url}/{path.parent.name}/{path.name}"

        def put(path: Path = path, target: str = target) -> None:
            system, place = open_url(target)
            with contextlib.suppress(FileExistsError):  # another process has made the table
                system.pipe_file(place, path.read_bytes(), mode="create")

        persistently(target, put)


def _is_one_condition(where: str) -> bool:
    bare = _QUOTED.sub("", where)
    depth = 0
    for character in bare:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0 and ";" not in bare
