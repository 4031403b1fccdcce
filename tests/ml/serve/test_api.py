"""The API without a network: what it answers, and what it refuses."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from ml.audio.files import read_stem
from ml.retrieval.queries.mix import ChunkVectors
from ml.retrieval.queries.retriever import Retrievers, StemRetriever
from ml.retrieval.tables.database import database_uri, open_table
from ml.retrieval.tables.publish import STEM_TABLE
from ml.serve.app import build_app
from ml.serve.limits import ServeLimits
from ml.serve.stem_audio import read_sound
from ml.settings import load_settings
from ml.tracks import Stem

Wav = Callable[..., bytes]
Noise = Callable[..., np.ndarray]


def keys(answer: dict) -> list[str]:
    return [candidate["key"] for candidate in answer["candidates"]]


def test_says_what_answers(client: TestClient, retrievers: Retrievers) -> None:
    health = client.get("/healthz").json()
    retriever = retrievers.current()
    assert health["status"] == "ok"
    assert (health["model"], health["model_id"]) == ("film", retriever.model.model_id)
    assert (health["table_version"], health["rows"]) == (
        retriever.tables.version,
        len(retriever.tables),
    )


def test_lists_what_can_be_asked_for(client: TestClient) -> None:
    words = client.get("/api/instruments").json()
    assert {"label": "piano", "stems": 2} in words["table"]
    assert "drum kit" in words["training"]
    assert words["categories"] == sorted(words["categories"])
    assert "drums" in words["categories"]
    corpora = client.get("/api/corpora").json()
    assert {"corpus": "noises", "stems": 6, "tracks": 2} in corpora
    found = client.get("/api/tracks", params={"corpus": "noises", "contains": "SONG 1"}).json()
    assert found["total"] == 1
    (track,) = found["tracks"]
    assert (track["track_id"], track["duration_s"]) == ("song 1", 6.0)
    assert [stem["label"] for stem in track["stems"]] == ["drum kit", "bass guitar", "piano"]
    all_tracks = client.get("/api/tracks", params={"limit": 1}).json()
    assert len(all_tracks["tracks"]) == 1
    assert all_tracks["total"] == sum(corpus["tracks"] for corpus in corpora)


def test_finds_what_a_query_of_the_same_file_finds(
    client: TestClient, retrievers: Retrievers, make_noise: Noise, make_wav: Wav, tmp_path: Path
) -> None:
    path = tmp_path / "mix.wav"
    path.write_bytes(make_wav(make_noise(5, 5.0)))
    sent = client.post("/api/mixes", content=path.read_bytes()).json()
    asked = {"mix": sent["id"], "instrument": "bass guitar", "k": 5}
    found = client.get("/api/search", params=asked).json()
    expected = retrievers.current().query(path, "bass guitar", 5)
    assert keys(found) == [candidate.key for candidate in expected]
    for candidate, wanted in zip(found["candidates"], expected, strict=True):
        assert candidate["score"] == pytest.approx(wanted.score, abs=1e-5)
        assert candidate["best_start_s"] == wanted.best_start_s
        assert candidate["mix_start_s"] == wanted.mix_start_s
        assert str(tmp_path) not in str(candidate)
        assert ".wav" not in candidate["audio"]
    assert found["chunk_s"] == retrievers.current().model.chunk_s


def test_filters_narrow_what_is_found(client: TestClient, mix_id: str) -> None:
    def find(**asked: Any) -> list[dict]:
        answer = client.get("/api/search", params={"mix": mix_id, "k": 6, **asked})
        assert answer.status_code == 200, answer.text
        return answer.json()["candidates"]

    assert {c["corpus"] for c in find(corpus="noises")} == {"noises"}
    assert {c["category"] for c in find(category=["bass", "drums"])} <= {"bass", "drums"}
    assert {c["track_id"] for c in find(where="track_id = 'song 1'")} == {"song 1"}
    both = find(corpus="noises", where="track_id = 'song 1' OR label = 'piano'")
    assert {c["corpus"] for c in both} == {"noises"}
    tracks = [(c["corpus"], c["track_id"]) for c in find(per_track=1)]
    assert len(tracks) == len(set(tracks))
    assert find(where="1 = 0") == []


def test_a_mix_is_listened_to_once_for_questions_that_differ_in_filters(
    client: TestClient, mix_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, ask = [], StemRetriever.ask

    def count(retriever: StemRetriever, mix: Any, instrument: str | None) -> ChunkVectors:
        heard.append(instrument)
        return ask(retriever, mix, instrument)

    monkeypatch.setattr(StemRetriever, "ask", count)

    def found(instrument: str, k: int) -> list[str]:
        asked = {"mix": mix_id, "instrument": instrument, "k": k}
        return keys(client.get("/api/search", params=asked).json())

    assert found("piano", 3) == found("piano", 6)[:3]
    found("bass guitar", 3)
    assert heard == ["piano", "bass guitar"]


def test_a_mix_of_a_track_is_the_sum_of_the_stems_that_are_left(
    client: TestClient, served_home: Path
) -> None:
    (track,) = client.get("/api/tracks", params={"contains": "song 0"}).json()["tracks"]
    out = track["stems"][0]["key"]
    wanted = {"corpus": "noises", "track_id": "song 0", "leave_out": [out]}
    answer = client.post("/api/tracks/mix", json=wanted)
    assert answer.status_code == 201, answer.text
    mix = answer.json()
    assert [stem["key"] for stem in mix["left_out"]] == [out]
    heard, rate_hz = soundfile.read(io.BytesIO(client.get(mix["audio"]).content))
    folder = served_home / "corpora" / "noises" / "song 0"
    parts = [soundfile.read(folder / f"stem {i}.wav")[0] for i in (1, 2)]
    assert rate_hz == 44_100
    np.testing.assert_allclose(heard, sum(parts) * mix["waveform"]["served_gain"], atol=1e-4)
    assert client.post("/api/tracks/mix", json=wanted).json()["id"] == mix["id"]
    asked = {"mix": mix["id"], "k": 20, "corpus": "noises"}
    others = client.get("/api/search", params=asked).json()
    assert {c["track_id"] for c in others["candidates"]}.isdisjoint({"song 0"})
    own = client.get("/api/search", params={**asked, "own_track": True}).json()
    assert "song 0" in {c["track_id"] for c in own["candidates"]}


def test_finds_more_like_a_stem_and_by_words_alone(client: TestClient) -> None:
    key = keys(client.get("/api/search?instrument=piano&corpus=noises&k=1").json())[0]
    found = client.get("/api/search", params={"like": key, "k": 5, "own_track": True}).json()
    assert key not in keys(found)
    assert len(keys(found)) == 5
    words = client.get("/api/search", params={"instrument": "piano", "k": 2}).json()
    assert {c["category"] for c in words["candidates"]} == {"piano"}
    assert client.get("/api/search", params={"like": "noises/0"}).status_code == 404


def test_says_how_the_model_takes_words_it_does_not_know(client: TestClient, mix_id: str) -> None:
    def note(text: str) -> str | None:
        return client.get("/api/search", params={"mix": mix_id, "instrument": text}).json()["note"]

    assert note("drum kit") is None
    assert "acts like" in (note("a kettle that whistles") or "")


def test_words_that_nothing_here_knows_are_answered_as_a_guess(
    client: TestClient, mix_id: str
) -> None:
    def ask(text: str, **asked: Any) -> dict:
        return client.get("/api/search", params={"instrument": text, "k": 3, **asked}).json()

    for mix in ({"mix": mix_id}, {}):
        assert ask("xyzzy", **mix)["is_guess"]
        assert ask("xyzzy", **mix)["note"].startswith("only a guess: ")
        for known in ("piano", "Piano", "drum kit", "pno"):
            assert not ask(known, **mix)["is_guess"], known
    assert ask("xyzzy")["matching"] == []
    for meant in ("Piano", "pno", "pianno"):  # by another case, as engineers write it, a slip
        (offered,) = ask(meant)["matching"]
        assert offered["label"] == "piano"
        only = ask(meant, label="piano", k=6)["candidates"]
        assert sum(1 + len(c["variants"]) for c in only) == min(6, offered["stems"])
        assert all("piano" in (c["label"], c["category"]) for c in only)


def test_says_what_a_score_compares(client: TestClient, mix_id: str) -> None:
    found = client.get("/api/search?instrument=piano&k=1").json()
    assert found["compares"] == "label"
    key = keys(found)[0]
    assert client.get("/api/search", params={"like": key, "k": 1}).json()["compares"] == "stem"
    asked = {"mix": mix_id, "instrument": "piano", "k": 1}
    assert client.get("/api/search", params=asked).json()["compares"] == "mix"


def test_a_stem_sounds_as_its_files_do(client: TestClient, served_home: Path) -> None:
    rows = client.get("/api/tracks", params={"contains": "song 0"}).json()["tracks"][0]["stems"]
    key = rows[1]["key"]
    base = f"/api/stems/{quote(key, safe='')}"
    path = served_home / "corpora" / "noises" / "song 0" / "stem 1.wav"
    original = soundfile.read(path)[0]
    answer = client.get(f"{base}/audio")
    assert answer.headers["content-type"] == "audio/wav"
    heard = soundfile.read(io.BytesIO(answer.content))[0]
    np.testing.assert_allclose(heard, original, atol=1e-4)
    piece = client.get(f"{base}/audio", params={"start_s": 2, "duration_s": 1.5}).content
    heard = soundfile.read(io.BytesIO(piece))[0]
    np.testing.assert_allclose(heard, original[2 * 44_100 : round(3.5 * 44_100)], atol=1e-4)
    peaks = client.get(f"{base}/peaks").json()
    assert peaks["duration_s"] == 6.0
    assert max(peaks["peaks"]) == pytest.approx(np.abs(original).max(), abs=1e-3)
    kept = client.get(f"{base}/file")
    assert kept.content == path.read_bytes()
    assert kept.headers["content-disposition"].startswith(
        'attachment; filename="noises-song-0-bass-guitar.wav"'
    )


def test_links_of_candidates_lead_somewhere(client: TestClient, mix_id: str) -> None:
    found = client.get("/api/search", params={"mix": mix_id, "k": 3}).json()["candidates"]
    for candidate in found:
        for link in (candidate["audio"], candidate["peaks"], candidate["file"]):
            assert client.get(link).status_code == 200, link


def test_without_a_table_it_says_what_to_do(served_home: Path, tmp_path: Path) -> None:
    home = shutil.copytree(served_home, tmp_path / "home", ignore=shutil.ignore_patterns("*.lance"))
    settings = load_settings(home)
    with TestClient(build_app(settings, Retrievers(settings)), base_url="http://localhost") as late:
        for path in ("/healthz", "/api/search?instrument=bass", "/api/tracks", "/api/instruments"):
            answer = late.get(path)
            assert answer.status_code == 503
            assert "publish a corpus with" in answer.json()["detail"]
            assert answer.headers["retry-after"]
        assert late.get("/").status_code == 200


@pytest.mark.faults
@pytest.mark.parametrize("is_open", [False, True])
def test_a_damaged_table_is_nobodys_fault(served_home: Path, tmp_path: Path, is_open: bool) -> None:
    """Neither the filter's nor the client's, whether it was read before or not."""
    home = shutil.copytree(served_home, tmp_path / "home")
    settings = load_settings(home)
    search = "/api/search?instrument=bass"
    paths = ("/api/tracks", f"{search}&where=category='bass'", f"{search}&category=bass")
    with TestClient(build_app(settings, Retrievers(settings)), base_url="http://localhost") as late:
        assert not is_open or late.get(search).status_code == 200
        for file in home.glob("lancedb/*/stem_embeddings.lance/data/*"):
            file.write_bytes(bytes(file.stat().st_size))
        for path in paths if is_open else (search, "/api/instruments", "/api/corpora", *paths):
            answer = late.get(path)
            assert answer.status_code == 503, (path, answer.text)
            assert "stems embed CORPUS" in answer.json()["detail"]
            assert not any(word in answer.text for word in (str(tmp_path), ".rs:", "filter"))


def test_a_stem_whose_file_went_is_not_found(served_home: Path, tmp_path: Path) -> None:
    home = shutil.copytree(served_home, tmp_path / "home")
    shutil.rmtree(home / "tracks" / "noises")
    settings = load_settings(home)
    retrievers = Retrievers(settings)
    uri = database_uri(settings.layout, retrievers.current().model.model_id)
    here = f"replace(audio, '{served_home}', '{home}')"
    open_table(uri, STEM_TABLE).update(values_sql={"audio": here})
    moved = home / "corpora" / "noises" / "song 1" / "stem 2.wav"
    with TestClient(build_app(settings, retrievers), base_url="http://localhost") as client:
        rows = client.get("/api/tracks", params={"contains": "song 1"}).json()["tracks"][0]["stems"]
        link = f"/api/stems/{quote(rows[2]['key'], safe='')}/audio"
        moved.rename(moved.with_suffix(".away"))
        answer = client.get(link)
        moved.with_suffix(".away").rename(moved)
        assert answer.status_code == 404
        assert "does not exist" in answer.json()["detail"]
        assert client.get(link).status_code == 200


def test_several_files_of_a_stem_are_summed(tmp_path: Path) -> None:
    for name, rate_hz in (("a", 44_100), ("b", 22_050)):
        low = np.sin(2 * np.pi * 300 * np.arange(rate_hz) / rate_hz) / 4
        soundfile.write(tmp_path / f"{name}.wav", low, rate_hz, subtype="FLOAT")
    stem = Stem(stem_id="s", files=(tmp_path / "a.wav", tmp_path / "b.wav"), start_s=0.5)
    heard = read_sound(stem)
    assert heard.shape == (round(1.5 * 44_100), 1)
    expected = read_stem(stem, rate_hz=44_100)
    np.testing.assert_allclose(heard[2000:-2000, 0], expected[2000:-2000], atol=2e-3)


def test_only_so_many_mixes_are_kept(client: TestClient, make_noise: Noise, make_wav: Wav) -> None:
    sent = [
        client.post("/api/mixes", content=make_wav(make_noise(200 + i, 1.5))).json()["id"]
        for i in range(6)
    ]
    found = [client.get(f"/api/mixes/{mix_id}").status_code for mix_id in sent]
    assert found == [404, 404, 200, 200, 200, 200]  # the newest four of LIMITS


def test_bounds_must_make_sense() -> None:
    with pytest.raises(ValueError, match="mixes = 0; expected more than 0"):
        ServeLimits(mixes=0)


def test_every_operation_says_how_it_fails(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert {"422", "503"} <= set(operation["responses"]), path
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")):
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}


def test_a_stem_is_brought_to_a_mix_as_far_as_both_allow(client: TestClient, mix_id: str) -> None:
    """Noise has neither tempo nor key, and says so; what is asked to be faster is."""
    asked = {"mix": mix_id, "corpus": "noises", "k": 1}
    (stem,) = client.get("/api/search", params=asked).json()["candidates"]
    assert (stem["bpm"], stem["musical_key"]) == (None, None)
    places = {"mix": mix_id, "start_s": 1, "mix_start_s": 0.5, "to_key": True}
    fit = client.get(stem["audio"].removesuffix("audio") + "fit", params=places).json()
    assert (fit["speed"], fit["semitones"], fit["start_s"], fit["mix_start_s"]) == (1, 0, 1, 0.5)
    assert [note.rpartition(":")[2] for note in fit["notes"]] == [
        " not stretched",
        " not transposed",
    ]
    faster = client.get(stem["audio"], params={"speed": 1.25, "semitones": -2})
    assert soundfile.info(io.BytesIO(faster.content)).duration == pytest.approx(6 / 1.25, abs=0.01)
    assert client.get(stem["audio"], params={"speed": 3}).status_code == 422
    excerpt = client.get(fit["excerpt"])
    piece = client.get(stem["audio"], params={"start_s": 1, "duration_s": 2})
    assert excerpt.content[44 : 44 + 1000] == piece.content[44 : 44 + 1000]


def test_tempo_and_key_are_filters(client: TestClient) -> None:
    asked = {"instrument": "piano", "k": 3}
    none = client.get("/api/search", params={**asked, "bpm": "1..2", "musical_key": "Am"})
    assert none.json()["candidates"] == []
    for wrong, why in (({"bpm": "fast"}, "no range of tempi"), ({"musical_key": "H"}, "no key")):
        answer = client.get("/api/search", params={**asked, **wrong})
        assert (answer.status_code, why in answer.json()["detail"]) == (422, True)
