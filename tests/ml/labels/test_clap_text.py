from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.artifacts import ArtifactError
from ml.labels.clap import load_clap_text, read_clap_weights
from ml.labels.clap_files import CHECKPOINT, PUBLISHED, ClapFiles, clap_files
from ml.labels.encoder import LabelEncoder
from ml.labels.encoders import build_label_encoder

TEXTS = [
    "bass",
    "lead female singer",
    "Ein Flügel, двойной бас, 三味線, 🎸",  # noqa: RUF001
    "a very long description of an acoustic guitar " * 12,
]


@pytest.fixture(scope="module")
def clap(tiny_clap: ClapFiles) -> LabelEncoder:
    return build_label_encoder("clap", checkpoint=tiny_clap.checkpoint)


@pytest.fixture
def copied(tiny_clap: ClapFiles, tmp_path: Path) -> ClapFiles:
    folder = shutil.copytree(tiny_clap.checkpoint.parent, tmp_path / "clap")
    return ClapFiles(checkpoint=folder / tiny_clap.checkpoint.name, tokenizer=folder)


def oracle(files: ClapFiles, texts: list[str]) -> np.ndarray:
    """The branch as ``laion_clap`` runs it: transformers' parts, every text padded to 77 tokens."""
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    saved = torch.load(files.checkpoint, weights_only=False)["state_dict"]
    weights = {key.removeprefix("module."): value for key, value in saved.items()}
    config = RobertaConfig.from_pretrained(str(files.tokenizer))
    model = RobertaModel(config).eval()
    own = {k.removeprefix("text_branch."): v for k, v in weights.items() if "text_branch." in k}
    del own["embeddings.position_ids"]
    model.load_state_dict(own, strict=True)
    tokenizer = RobertaTokenizer.from_pretrained(str(files.tokenizer), local_files_only=True)
    tokens = tokenizer(
        texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.inference_mode():
        pooled = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        first = pooled @ weights["text_projection.0.weight"].T + weights["text_projection.0.bias"]
        last = (
            first.clamp(min=0) @ weights["text_projection.2.weight"].T
            + weights["text_projection.2.bias"]
        )
    return (last / last.norm(dim=1, keepdim=True)).numpy()


def test_equals_robertas_pooled_output_projected(clap: LabelEncoder, tiny_clap: ClapFiles) -> None:
    found = clap.encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(tiny_clap, TEXTS), atol=1e-5)
    assert abs(found[0] @ found[1]) < 0.99  # not all the same


def test_an_empty_text_is_refused_but_the_branch_could_read_it(
    clap: LabelEncoder, tiny_clap: ClapFiles
) -> None:
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        clap.encode(["bass", " "])
    np.testing.assert_allclose(load_clap_text(tiny_clap)(""), oracle(tiny_clap, [""])[0], atol=1e-5)


def test_unit_vectors_in_order_equal_texts_once(clap: LabelEncoder) -> None:
    vectors = clap.encode(["violin", "drum kit", "violin"])
    assert vectors.shape == (3, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_array_equal(vectors[1:2], clap.encode(["drum kit"]))
    assert clap.encode([]).shape == (0, 512)


def test_what_is_cut_off_is_logged_and_does_not_count(
    clap: LabelEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    text = "x" * 100
    with caplog.at_level(logging.WARNING):
        vectors = clap.encode([text, text + "tail", "short"])
    assert [text in message for message in caplog.messages] == [True, True]
    assert "77" in caplog.messages[0]
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_checkpoint_cannot_run_code(tmp_path: Path, tiny_clap: ClapFiles) -> None:
    trap = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trap,)

    path = tmp_path / "bad.pt"
    torch.save({"state_dict": {"text_branch.x": torch.zeros(1)}, "extra": Malicious()}, path)
    encoder = build_label_encoder("clap", checkpoint=path, tokenizer=tiny_clap.tokenizer)
    with pytest.raises(ArtifactError, match="could run code"):
        encoder.encode(["bass"])
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ArtifactError, match="stems labels fetch"):
        encoder.encode(["bass"])
    assert not trap.exists()
    torch.load(_with(path, Malicious()), weights_only=False)  # the trap does work
    assert trap.exists()


def _with(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("has_envelope", [True, False])
def test_all_shapes_of_checkpoints_give_the_same_vectors(
    prefix: str, has_envelope: bool, copied: ClapFiles, clap: LabelEncoder
) -> None:
    saved = torch.load(copied.checkpoint, weights_only=False)["state_dict"]
    state = {prefix + key.removeprefix("module."): value for key, value in saved.items()}
    torch.save({"state_dict": state} if has_envelope else state, copied.checkpoint)
    encoder = build_label_encoder("clap", checkpoint=copied.checkpoint)
    np.testing.assert_array_equal(encoder.encode(["bass"]), clap.encode(["bass"]))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"text_branch.pooler.dense.weight": None}, "other weights.*pooler"),
        ({"text_projection.2.weight": torch.zeros(8, 512)}, "other weights.*size mismatch"),
        ({"text_branch.more": torch.zeros(1)}, "other weights.*more"),
        ({"text_branch.embeddings.word_embeddings.weight": None}, "not RoBERTa"),
        ({"text_branch.pooler.dense.weight": "no tensor"}, "is of type str"),
    ],
)
def test_weights_must_fit_exactly(broken: dict[str, Any], message: str, copied: ClapFiles) -> None:
    saved = torch.load(copied.checkpoint, weights_only=False)
    for key, value in broken.items():
        saved["state_dict"].pop(f"module.{key}", None)
        if value is not None:
            saved["state_dict"][f"module.{key}"] = value
    torch.save(saved, copied.checkpoint)
    with pytest.raises(ArtifactError, match=message) as caught:
        build_label_encoder("clap", checkpoint=copied.checkpoint).encode(["bass"])
    assert str(copied.checkpoint) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>", "cannot be read"),
        (b"", "cannot be read"),
        ([1, 2], "holds list, no weights"),
        ({"encoder.weight": torch.zeros(2)}, r"holds no text_branch\.\* \(but encoder\)"),
    ],
)
def test_another_file_is_named_in_a_sentence(content: Any, message: str, copied: ClapFiles) -> None:
    if isinstance(content, bytes):
        copied.checkpoint.write_bytes(content)
    else:
        torch.save(content, copied.checkpoint)
    with pytest.raises(ArtifactError, match=f"{message}.*expected LAION"):
        build_label_encoder("clap", checkpoint=copied.checkpoint).encode(["bass"])


def test_the_vocabulary_must_be_one_and_fit(copied: ClapFiles) -> None:
    words = copied.tokenizer / "vocab.json"
    vocabulary = json.loads(words.read_text())
    words.write_text(json.dumps(vocabulary | {f"w{i}": 1000 + i for i in range(20)}))
    with pytest.raises(ArtifactError, match=r"tokens, but .* knows"):
        build_label_encoder("clap", checkpoint=copied.checkpoint).encode(["bass"])
    words.write_text("{}")
    with pytest.raises(ArtifactError, match="does not hold RoBERTa's vocabulary"):
        build_label_encoder("clap", checkpoint=copied.checkpoint).encode(["bass"])


def test_parts_are_read_alone(tiny_clap: ClapFiles) -> None:
    weights = read_clap_weights(tiny_clap.checkpoint, "text_projection.")
    assert sorted(weights) == [
        f"text_projection.{i}.{n}" for i in (0, 2) for n in ("bias", "weight")
    ]


def test_missing_files_say_how_to_get_them(
    tiny_clap: ClapFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMS_HOME", str(tmp_path))
    with pytest.raises(ArtifactError, match=r"models/clap/music_audioset.*stems labels fetch"):
        build_label_encoder("clap")
    with pytest.raises(ArtifactError, match=r"vocab\.json does not exist.*stems labels fetch"):
        build_label_encoder("clap", checkpoint=tiny_clap.checkpoint, tokenizer=tmp_path)
    with pytest.raises(ValueError, match="clap"):
        build_label_encoder("clap", model="x")


def test_the_fingerprint_is_of_the_content(copied: ClapFiles, clap: LabelEncoder) -> None:
    assert copied.fingerprint() == clap.fingerprint == copied.fingerprint()
    os.utime(copied.checkpoint)
    assert copied.fingerprint() == clap.fingerprint
    data = bytearray(copied.checkpoint.read_bytes())
    data[-1000] ^= 1
    copied.checkpoint.write_bytes(data)
    changed = copied.fingerprint()
    assert changed != clap.fingerprint
    (copied.tokenizer / "merges.txt").write_text("#version: 0.2\n")
    assert len({changed, clap.fingerprint, copied.fingerprint()}) == 3


def test_files_lie_where_fetch_puts_them(tmp_path: Path) -> None:
    files = clap_files(tmp_path)
    assert {files.checkpoint, *(files.tokenizer / n for n in ("vocab.json", "merges.txt"))} == {
        tmp_path / file.path for file in PUBLISHED
    }
    assert CHECKPOINT.url("https://mirror.example/") == (
        "https://mirror.example/lukewys/laion_clap/resolve/"
        "b3708341862f581175dba5c356a4ebf74a9b6651/music_audioset_epoch_15_esc_90.14.pt"
    )


LAION = """
import sys, torch, numpy as np
import laion_clap
folder = sys.argv[1]
torch.manual_seed(0); torch.set_num_threads(1)
clap = laion_clap.CLAP_Module(enable_fusion=False, amodel="HTSAT-tiny", device="cpu").eval()
with torch.no_grad():
    clap.model.text_branch.embeddings.word_embeddings.weight.normal_(std=1.0)
    for name, value in clap.model.audio_branch.bn0.named_buffers():
        if "running" in name: value.uniform_(0.5, 2.0)
state = {"module." + key: value for key, value in clap.model.state_dict().items()}
state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
torch.save({"epoch": 0, "score": np.float64(1), "state_dict": state}, folder + "/laion.pt")
given = np.load(folder + "/given.npz")
text = clap.get_text_embedding([str(text) for text in given["texts"]])
clips = [given[key] for key in sorted(given.files) if key.startswith("clip")]
audio = clap.get_audio_embedding_from_data(clips)
np.savez(folder + "/laion.npz", text=text, audio=audio)
"""


def _write_hub_cache(home: Path, tokenizer: Path) -> None:
    """What ``laion_clap`` looks for on the hub, as if it had been downloaded."""
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    config = RobertaConfig.from_pretrained(str(tokenizer))
    for name in ("roberta-base", "bert-base-uncased", "facebook--bart-base"):
        folder = home / "hub" / f"models--{name}"
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40)
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(tokenizer / file, snapshot)
        if name == "roberta-base":
            RobertaModel(config).save_pretrained(snapshot)
            RobertaTokenizer.from_pretrained(str(tokenizer)).save_pretrained(snapshot)
        else:
            config.save_pretrained(snapshot)


@pytest.mark.slow
def test_equals_laion_clap_for_text_and_audio(tiny_clap: ClapFiles, tmp_path: Path) -> None:
    from ml.labels.clap import load_clap_audio

    rng = np.random.default_rng(0)
    lengths = {"clip0": 480_000, "clip1": 384_000, "clip2": 100_001}
    clips = {k: rng.uniform(-1, 1, n).astype(np.float32) * 0.5 for k, n in lengths.items()}
    clips["clip0"] *= np.linspace(0, 1, 480_000, dtype=np.float32)
    np.savez(tmp_path / "given.npz", texts=np.array([*TEXTS, ""]), **clips)
    _write_hub_cache(tmp_path / "hf", tiny_clap.tokenizer)
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LAION, str(tmp_path)],
        env=os.environ | offline,
        check=True,
    )
    theirs = np.load(tmp_path / "laion.npz")
    files = ClapFiles(checkpoint=tmp_path / "laion.pt", tokenizer=tiny_clap.tokenizer)
    encode_one = load_clap_text(files)
    texts = np.stack([encode_one(text) for text in [*TEXTS, ""]])
    np.testing.assert_allclose(texts, theirs["text"], atol=1e-5)
    model = load_clap_audio(files.checkpoint)
    with torch.inference_mode():
        audio = [model(model.log_mel(torch.from_numpy(clips[key])[None]))[0] for key in clips]
    np.testing.assert_allclose(np.stack(audio), theirs["audio"], atol=1e-5)
    assert abs(theirs["audio"][0] @ theirs["audio"][2]) < 0.9999
