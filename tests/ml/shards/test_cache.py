import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import time

import pytest

from ml.shards.cache import CacheRoomError, ShardCache, WrongContentError


def content(seed, size=1000):
    return bytes((seed + i) % 251 for i in range(size))


def digest(data):
    return hashlib.sha256(data).hexdigest()


def get(cache, data, fetched=None, **options):
    """The bytes of a tar through the cache."""

    def fetch():
        if fetched is not None:
            fetched.append(digest(data))
        yield data[:400]
        yield data[400:]

    handle = cache.open(options.get("sha256", digest(data)), len(data), fetch)
    found = os.pread(handle, 10**6, 0)
    os.close(handle)
    return found


def kept(cache):
    return {path.name.removesuffix(".tar") for path in cache.folder.glob("[!.]*.tar")}


def test_what_is_here_is_not_fetched_again(tmp_path):
    cache, fetched = ShardCache(folder=tmp_path / "cache", limit_gb=1.0), []
    assert get(cache, content(1), fetched) == get(cache, content(1), fetched) == content(1)
    assert len(fetched) == 1


def test_the_least_recently_used_makes_room(tmp_path):
    cache = ShardCache(folder=tmp_path, limit_gb=3.5e-6)
    tars = [content(seed) for seed in range(4)]
    for data in tars[:3]:
        get(cache, data)
        time.sleep(0.01)
    get(cache, tars[0])  # used again, so the second is the oldest
    time.sleep(0.01)
    get(cache, tars[3])
    assert kept(cache) == {digest(tars[i]) for i in (0, 2, 3)}


def test_a_tar_removed_under_a_reader_stays_readable(tmp_path):
    cache = ShardCache(folder=tmp_path, limit_gb=1.5e-6)
    one, other = content(1), content(2)
    handle = cache.open(digest(one), len(one), lambda: [one])
    get(cache, other)
    assert kept(cache) == {digest(other)}
    assert os.pread(handle, 2000, 0) == one
    os.close(handle)


@pytest.mark.parametrize("wrong", [content(2), content(1)[:-1], content(1) + b"x"])
def test_wrong_content_is_not_kept(tmp_path, wrong):
    cache = ShardCache(folder=tmp_path, limit_gb=1.0)
    with pytest.raises(WrongContentError, match="expected 1000 with"):
        cache.open(digest(content(1)), 1000, lambda: [wrong])
    assert not list(tmp_path.glob("*.t*")) + list(tmp_path.glob(".*.tmp"))
    assert get(cache, content(1)) == content(1)


def test_a_tar_cut_short_in_the_cache_is_fetched_again(tmp_path):
    cache = ShardCache(folder=tmp_path, limit_gb=1.0)
    get(cache, content(1))
    os.truncate(tmp_path / f"{digest(content(1))}.tar", 10)
    assert get(cache, content(1)) == content(1)


def test_an_interrupted_fetch_leaves_nothing(tmp_path):
    cache = ShardCache(folder=tmp_path, limit_gb=1.0)

    def fetch():
        yield content(1)[:400]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        cache.open(digest(content(1)), 1000, fetch)
    assert not kept(cache)
    assert not list(tmp_path.glob(".*.tmp"))


def test_what_a_killed_process_left_is_swept(tmp_path):
    cache = ShardCache(folder=tmp_path, limit_gb=1.5e-6)
    (tmp_path / ".dead.1.tmp").write_bytes(bytes(1000))
    assert get(cache, content(1)) == content(1)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_tar_larger_than_the_bound_is_an_error(tmp_path):
    cache = ShardCache(folder=tmp_path, limit_gb=0.5e-6)
    with pytest.raises(CacheRoomError, match=r"0\.000 GB does not fit .* bound is 5e-07 GB"):
        get(cache, content(1))


def test_a_full_disk_is_an_error(tmp_path):
    cache = ShardCache(folder=tmp_path, limit_gb=1e9)
    with pytest.raises(CacheRoomError, match="its disk has"):
        cache.open("0" * 64, 1 << 60, lambda: [])


def test_downloads_under_way_count(tmp_path):
    """A process waits for the room that another fills, and gets it when that is done."""
    cache = ShardCache(folder=tmp_path, limit_gb=1.5e-6)
    aside = tmp_path / ".other.1.tmp"
    aside.write_bytes(bytes(1000))
    with aside.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        context = multiprocessing.get_context("fork")
        waiting = context.Process(target=get, args=(cache, content(1)))
        waiting.start()
        waiting.join(0.4)
        assert waiting.is_alive()
        aside.unlink()
    waiting.join(10)
    assert waiting.exitcode == 0
    assert kept(cache) == {digest(content(1))}


def hammer(cache, seed, log):
    """Read random tars for a while; each must be whole."""
    import random

    rng, fetched = random.Random(seed), []
    for _ in range(60):
        data = content(rng.randrange(6), 20_000)
        assert get(cache, data, fetched) == data
        assert sum(sizes(cache.folder)) <= cache.limit_gb * 1e9
    log.put(len(fetched))


def sizes(folder):
    """Of tars and downloads; others rename and remove them meanwhile."""
    for path in folder.glob("*.t*"):
        with contextlib.suppress(FileNotFoundError):
            yield path.stat().st_size


def test_several_processes_share_a_small_cache(tmp_path):
    """Four processes, six tars, room for three: no deadlock, nothing half-read, bound kept."""
    cache = ShardCache(folder=tmp_path / "cache", limit_gb=3.2 * 20_000 / 1e9)
    context = multiprocessing.get_context("fork")
    log = context.Queue()
    processes = [context.Process(target=hammer, args=(cache, seed, log)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert 6 <= sum(log.get() for _ in processes) < 240


def test_one_process_fetches_what_many_want(tmp_path):
    cache = ShardCache(folder=tmp_path / "cache", limit_gb=1.0)
    context = multiprocessing.get_context("fork")
    log = context.Queue()

    def want():
        fetched = []
        assert get(cache, content(1), fetched) == content(1)
        log.put(len(fetched))

    processes = [context.Process(target=want) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert sum(log.get(timeout=10) for _ in processes) == 1
