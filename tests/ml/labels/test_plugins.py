"""A label encoder that an installed package brings."""

from pathlib import Path

import numpy as np
import pytest

from ml.labels.encoder import CheckedEncoder
from ml.labels.encoders import build_label_encoder

MODULE = '''
import numpy as np

class Letters:
    """How often each letter stands in a text."""
    name, dim, licence, fingerprint = "letters", 26, "CC0 1.0", "1" * 64

    def encode(self, texts):
        counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts])
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

class Long(Letters):
    name = "long"
    def encode(self, texts):
        return 2 * super().encode(texts)

class Nameless(Letters):
    licence = None
'''


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution, as pip leaves it."""
    (tmp_path / "letters.py").write_text(MODULE)
    described = tmp_path / "letters-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        "[stem_retrieval.label_encoders]\nletters = letters:Letters\nlong = letters:Long\n"
        "other = letters:Letters\nnameless = letters:Nameless\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_it_is_built_by_its_name() -> None:
    encoder = build_label_encoder("letters")
    assert isinstance(encoder, CheckedEncoder)
    assert (encoder.name, encoder.dim, encoder.licence) == ("letters", 26, "CC0 1.0")
    vectors = encoder.encode(["bass", "drum"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0, [0, 1, 18]], np.array([1, 1, 2]) / 6**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lettres", "'lettres' is unknown; expected one of: clap, minilm, letters, long, nameless"),
        ("other", "'other' calls itself 'letters'"),
        ("nameless", "'nameless' has licence = None; expected str"),
    ],
)
def test_what_is_no_label_encoder_is_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_label_encoder(name)


def test_vectors_that_are_not_of_unit_norm_are_refused() -> None:
    with pytest.raises(ValueError, match=r"norms 2 to 2; expected \(1, 26\) of norm 1"):
        build_label_encoder("long").encode(["bass"])
