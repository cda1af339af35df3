"""The default embedder on small random weights: the arithmetic, the order, and the errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmagent.embedders import BundledEmbedder, default_embedder
from mmagent.errors import MediaError, ModelNotFoundError, UsageError


@pytest.fixture(scope="module")
def folder(tiny_fastvlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's layout: a vision-language model, a text embedder, a head."""
    import torch
    from safetensors.torch import save_file
    from tiny_models import build_tokenizer
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("embedder") / "model"
    shutil.copytree(tiny_fastvlm, folder)
    torch.manual_seed(3)
    tokenizer = build_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.5,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "text-embedder")
    tokenizer.save_pretrained(folder / "text-embedder")
    head = {"weight": torch.randn(384, 320), "bias": torch.randn(384) * 0.01}
    save_file(head, folder / "embedding_head.safetensors")
    return folder


def test_texts_are_the_mean_of_their_tokens_whatever_they_are_batched_with(folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    embedder = BundledEmbedder(folder)
    texts = [f"Tell me about picture {n} " * (n % 7 + 1) for n in range(40)]
    vectors = np.array(embedder.embed_documents(texts))
    assert vectors.shape == (40, BundledEmbedder.dims)
    tokenizer = AutoTokenizer.from_pretrained(folder / "text-embedder")
    model = AutoModel.from_pretrained(folder / "text-embedder", add_pooling_layer=False).eval()
    for text, vector in list(zip(texts, vectors, strict=True))[::7]:
        ids = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            mean = model(**ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(embedder.embed_query(texts[3]), vectors[3], atol=1e-5)


@pytest.mark.parametrize("text", [" ", "word " * 5000, "\ud800 alone", "\0", "😀" * 50, "مرحبا"])
def test_odd_texts_get_vectors_of_length_one(folder: Path, text: str) -> None:
    vector = BundledEmbedder(folder).embed_query(text)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_pictures_are_the_head_on_the_mean_of_the_tower(
    folder: Path, picture: Callable[..., bytes]
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mmagent.media import load_image

    pictures = [picture("red"), picture("blue", size=(200, 90)), picture("red", format="JPEG")]
    vectors = np.array(BundledEmbedder(folder).embed_images(pictures))
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder).image_processor
    head = load_file(folder / "embedding_head.safetensors")
    for data, vector in zip(pictures, vectors, strict=True):
        pixels = processor([load_image(data).pil()], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = model.model.vision_tower(pixels).last_hidden_state
            expected = states.mean((2, 3))[0] @ head["weight"].T + head["bias"]
        np.testing.assert_allclose(vector, expected / expected.norm(), atol=1e-4)
    assert BundledEmbedder(folder).embed_images([]) == []


def test_what_is_no_picture_is_refused(folder: Path) -> None:
    with pytest.raises(MediaError):
        BundledEmbedder(folder).embed_images([b"only text"])


def test_a_folder_without_a_head_or_texts_says_what_to_do(
    tiny_fastvlm: Path, picture: Callable[..., bytes]
) -> None:
    embedder = BundledEmbedder(tiny_fastvlm)
    with pytest.raises(ModelNotFoundError, match=r"no embedding_head.*mmagent pull tiny --force"):
        embedder.embed_images([picture()])
    with pytest.raises(ModelNotFoundError, match=r"no text-embedder.*mmagent pull tiny --force"):
        embedder.embed_query("anything")


def test_other_weights_have_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert BundledEmbedder(other).fingerprint == BundledEmbedder(folder).fingerprint
    head = bytearray((other / "embedding_head.safetensors").read_bytes())
    head[-1] ^= 1
    (other / "embedding_head.safetensors").write_bytes(head)
    assert BundledEmbedder(other).fingerprint != BundledEmbedder(folder).fingerprint


def test_the_default_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMAGENT_EMBEDDER", raising=False)
    assert isinstance(default_embedder(), BundledEmbedder)
    assert "all-MiniLM-L6-v2@53aa51172d14" in default_embedder().fingerprint
    monkeypatch.setenv("MMAGENT_EMBEDDER", "hash")
    assert len(default_embedder().embed_query("hello")) == 256
    monkeypatch.setenv("MMAGENT_EMBEDDER", "gpt")
    with pytest.raises(UsageError, match="may be bundled or hash"):
        default_embedder()
