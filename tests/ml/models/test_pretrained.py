"""A model that was written for others is the same model, and nothing else is taken for one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ml.artifacts import ArtifactError, DataLayout, read_json
from ml.models import pretrained
from ml.models.pretrained import CARD_NAME, CONFIG_NAME, FILES, WEIGHTS_NAME
from ml.models.stem_jepa import StemJepa, load_model
from ml.training.models import find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkpoint(untrained_starter: Path) -> Path:
    return untrained_starter / "runs" / "random" / "model"


@pytest.fixture
def exported(checkpoint: Path, tmp_path: Path) -> Path:
    load_model(checkpoint).save_pretrained(tmp_path / "exported")
    return tmp_path / "exported"


class Hub(BaseHTTPRequestHandler):
    """Answers of a hub by path; ``server.answers`` has them."""

    def do_GET(self):
        body = self.server.answers.get(self.path.partition("?")[0])  # type: ignore[attr-defined]
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("ETag", f'"{Path(self.path).name}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format, *args):
        pass


@pytest.fixture
def hub(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A hub on the loopback that has ``somebody/stems``."""
    from huggingface_hub import constants

    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    tree = [{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in files.items()]
    api, raw = "/api/models/somebody/stems", f"/somebody/stems/resolve/{COMMIT}"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.answers = {  # type: ignore[attr-defined]
            f"{api}/revision/main": json.dumps({"id": "somebody/stems", "sha": COMMIT}).encode(),
            f"{api}/tree/{COMMIT}": json.dumps(tree).encode(),
            **{f"{raw}/{name}": content for name, content in files.items()},
        }
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_same_model_comes_back(checkpoint: Path, exported: Path, tmp_path: Path):
    first, again = load_model(checkpoint), StemJepa.from_pretrained(exported)
    samples = np.random.default_rng(0).normal(scale=0.1, size=40_000).astype(np.float32)
    for ours, theirs in (
        (first.embed_stem(samples), again.embed_stem(samples)),
        (first.predict(samples, "bass guitar"), again.predict(samples, "bass guitar")),
    ):
        assert torch.equal(ours, theirs)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        assert (exported / name).read_bytes() == (checkpoint / name).read_bytes()
    found = find_model(DataLayout(home=tmp_path), str(exported))
    assert (found.name, found.model_id) == ("two-part", first.model_id)
    assert f"`{first.model_id}`" in (exported / CARD_NAME).read_text()


def test_weights_in_bf16_stay_so_and_other_weights_are_another_model(starter: Path, tmp_path: Path):
    model = load_model(starter)
    model.save_pretrained(tmp_path / "same")
    assert (tmp_path / "same" / WEIGHTS_NAME).read_bytes() == (starter / WEIGHTS_NAME).read_bytes()
    model.encoder.patch_embed.weight.data += 1e-5  # less than bf16 can tell
    model.save_pretrained(tmp_path / "same")
    other = StemJepa.from_pretrained(tmp_path / "same")
    assert other.model_id != model.model_id
    assert torch.equal(other.encoder.patch_embed.weight, model.encoder.patch_embed.weight)


def test_a_file_is_heard_as_its_samples_are(exported: Path, tmp_path: Path):
    model = StemJepa.from_pretrained(exported)
    samples = np.random.default_rng(1).normal(scale=0.1, size=30_000).astype(np.float32)
    soundfile.write(tmp_path / "mix.wav", samples, 12_000, subtype="FLOAT")
    heard = model.predict(tmp_path / "mix.wav", "bass")
    torch.testing.assert_close(heard, model.predict((samples, 12_000), "bass"))
    assert not torch.allclose(heard, model.predict(samples, "bass"))
    with pytest.raises(ValueError, match="rate of 0 Hz"):
        model.predict((samples, 0), "bass")
    with pytest.raises(ValueError, match="NaN"):
        model.embed_stem(samples * np.nan)


def test_only_an_export_is_replaced(checkpoint: Path, exported: Path, tmp_path: Path):
    model = load_model(checkpoint)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")
    model.save_pretrained(exported)
    (exported / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in (*exported.iterdir(), *checkpoint.iterdir())}
    for place in (exported, checkpoint, tmp_path / "file"):
        with pytest.raises(ArtifactError, match="no exported model"):
            model.save_pretrained(place)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (CONFIG_NAME, None, f"lacks {CONFIG_NAME}"),
        (WEIGHTS_NAME, None, "pickled ones are never loaded"),
        (CONFIG_NAME, b'{"architectures": ["Bert"]}', "describes no model"),
        (CONFIG_NAME, {"chunk_s": 8.0}, "size mismatch"),
        (WEIGHTS_NAME, b"\x80\x04pickle", "does not hold the weights"),
        ("manifest.json", b'{"format_version": 99}', "format version 99"),
    ],
)
def test_what_is_no_model_of_ours_is_refused(
    exported: Path, name: str, content: bytes | dict | None, says: str
):
    if content is None:
        (exported / name).rename(exported / "pytorch_model.bin")
    elif isinstance(content, dict):
        config = read_json(exported / name)
        (exported / name).write_text(json.dumps(config | {"model": config["model"] | content}))
    else:
        (exported / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=says) as refused:
        StemJepa.from_pretrained(exported)
    assert "\n" not in str(refused.value)


def test_a_hub_serves_it(hub: ThreadingHTTPServer, exported: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    loaded = StemJepa.from_pretrained("somebody/stems", cache_dir=cache)
    assert loaded.model_id == read_json(exported / "manifest.json")["model_id"]
    with pytest.raises(ArtifactError, match="cannot be had from the hub"):
        StemJepa.from_pretrained("somebody/else", cache_dir=cache)
    hub.shutdown()
    hub.server_close()
    assert StemJepa.from_pretrained("somebody/stems", cache_dir=cache).model_id == loaded.model_id
    with pytest.raises(ArtifactError, match=r"cannot be had from the hub .*refused.*HF_ENDPOINT"):
        StemJepa.from_pretrained("somebody/else", cache_dir=cache)
    with pytest.raises(ArtifactError, match="no name on a hub"):
        StemJepa.from_pretrained("no/such/folder")


def test_a_hubs_name_is_a_model_of_the_home_once_it_was_fetched(
    hub: ThreadingHTTPServer, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    layout = DataLayout(home=tmp_path / "home")
    with pytest.raises(ArtifactError, match="cannot be had from the hub"):
        find_model(layout, "somebody/else")
    manifest, config = (read_json(exported / f"{name}.json") for name in ("manifest", "config"))
    weights = (exported / WEIGHTS_NAME).read_bytes()
    longer = config | {"model": config["model"] | {"chunk_s": 8.0}}
    answers = hub.answers  # type: ignore[attr-defined]
    right = dict(answers)
    for broken_config, model_id, says in (
        (config, "../../x", r"says model_id '../../x'"),
        (longer, pretrained._model_id(longer, weights), "does not hold the weights"),
    ):
        broken = {"config": broken_config, "manifest": manifest | {"model_id": model_id}}
        for name, value in broken.items():
            answers[f"/somebody/stems/resolve/{COMMIT}/{name}.json"] = json.dumps(value).encode()
        with pytest.raises(ArtifactError, match=says):
            find_model(layout, "somebody/stems")
        assert not layout.runs.exists()
        shutil.rmtree(tmp_path / "cache")
    answers |= right
    found = find_model(layout, "somebody/stems")
    hub.shutdown()
    hub.server_close()
    shutil.rmtree(tmp_path / "cache")
    for text in ("somebody/stems", manifest["model_id"]):
        assert find_model(layout, text) == found
    assert load_model(found.checkpoint or "").model_id == manifest["model_id"]
    assert layout.runs in (found.checkpoint or Path()).parents
    monkeypatch.chdir(tmp_path)  # no stranger is asked for what looks like a path
    with pytest.raises(ArtifactError, match="is no model here"):
        find_model(layout, "home/x")


def test_a_hub_that_is_turned_off_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match="HF_HUB_OFFLINE") as refused:
        StemJepa.from_pretrained("somebody/stems", cache_dir=tmp_path)
    assert "\n" not in str(refused.value)
    assert not set(FILES) & {path.name for path in tmp_path.rglob("*")}
