"""Sentences of different lengths in one padded array, through batch norm: with a mask, padding is left out.

Batch norm over tokens takes one mean and one variance per feature, of all tokens of a batch. Where sentences
are padded to one length, (N, L, D), the padding must not be among them. Shown here:

- ``batch_norm(x, training=True, axis=-1, mask=mask)`` gives statistics and results of the same tokens packed
  one after the other, (tokens, D), and padding comes out as 0, whatever was in it;
- how far off they are without the mask;
- ``moments(x, axis=(0, 1), mask=...)`` over batches of different lengths, merged, gives the same statistics.

The text is the beginning of Lewis Carroll's "Alice's Adventures in Wonderland" (1865); a word is embedded as
the mean over its groups of three bytes, each with a random vector.

    python masked_batch.py
    python masked_batch.py --dim 256 --batch-size 3
"""

from __future__ import annotations

import argparse
import re
import sys
import zlib
from collections.abc import Sequence

import numpy as np
import welnorm as wn

TOLERANCE = 4e-6  # 8 units in the last place of a float32 from 4 to 8: each result is promised within 4
MOMENTS_TOLERANCE = 1e-14  # relative, of mean and variance in float64
BUCKETS = 4096
SEED = 1865

TEXT = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to \
do: once or twice she had peeped into the book her sister was reading, but it had no pictures or \
conversations in it, "and what is the use of a book," thought Alice "without pictures or \
conversations?"
So she was considering in her own mind (as well as she could, for the hot day made her feel very \
sleepy and stupid), whether the pleasure of making a daisy-chain would be worth the trouble of \
getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.
There was nothing so very remarkable in that.
In another moment down went Alice after it, never once considering how in the world she was to get \
out again.
Either the well was very deep, or she fell very slowly, for she had plenty of time as she went down \
to look about her and to wonder what was going to happen next.
"Well!" thought Alice to herself, "after such a fall as this, I shall think nothing of tumbling down \
stairs!"
Down, down, down.
Would the fall never come to an end?
"Dinah'll miss me very much to-night, I should think!"
Alice was not a bit hurt, and she jumped up on to her feet in a moment.
She looked up, but it was all dark overhead.
Curiouser and curiouser!"""


def embed_words(text: str, dim: int) -> np.ndarray:
    """Embed the words of a text: (words, dim) float32, the same in every run."""
    # As in real embeddings, features have means of their own. Padding with zeros then shifts the mean, too.
    rng = np.random.default_rng(SEED)
    offset = 0.5 * rng.standard_normal(dim)
    table = (offset + rng.standard_normal((BUCKETS, dim))).astype(np.float32)
    words = []
    for word in re.findall(r"[a-z'-]+", text.lower()):
        letters = f"<{word}>".encode()
        buckets = [zlib.crc32(letters[i : i + 3]) % BUCKETS for i in range(len(letters) - 2)]
        words.append(table[buckets].mean(axis=0))
    return np.array(words)


def pad(sentences: Sequence[np.ndarray], filler: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Stack (length, dim) arrays into (N, longest, dim), and the (N, longest) mask of what is not filler."""
    lengths = np.array([len(sentence) for sentence in sentences])
    mask = np.arange(lengths.max()) < lengths[:, np.newaxis]
    x = np.full((*mask.shape, sentences[0].shape[1]), filler, np.float32)
    x[mask] = np.concatenate(sentences)
    return x, mask


def train_once(x: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, wn.BatchNorm]:
    """Result of one training step of a batch norm, channels last, and the layer with what it has learned."""
    # With momentum=None, the first batch's statistics are the running ones.
    norm = wn.BatchNorm(x.shape[-1], momentum=None, axis=-1).train()
    return norm(x, mask=mask), norm


def stream(sentences: Sequence[np.ndarray], batch_size: int) -> wn.Moments:
    """Moments of all words, from padded batches of sentences."""
    states = []
    for start in range(0, len(sentences), batch_size):
        x, mask = pad(sentences[start : start + batch_size])
        states.append(wn.moments(x, axis=(0, 1), mask=mask[..., np.newaxis]))
    return wn.Moments.merge_all(states)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference."""
    return float(np.abs(a - b).max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Masked batch norm on padded sentences.")
    parser.add_argument("--dim", type=int, default=64, help="length of an embedding (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=5, help="sentences per batch of the stream (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    for name in ("dim", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")

    sentences = [embed_words(sentence, args.dim) for sentence in TEXT.splitlines()]
    packed = np.concatenate(sentences)
    x, mask = pad(sentences)
    print(f"{len(sentences)} sentences of {min(map(len, sentences))} to {max(map(len, sentences))} words")
    print(f"padded {x.shape}, {np.mean(~mask):.0%} of it padding; packed {packed.shape}")

    expected, learned = train_once(packed)
    deviation = np.sqrt(learned.running_var)
    print("\nLargest difference from the packed data, in standard deviations (variance: relative):")
    print(f"{'':28}{'mean':>10}{'variance':>10}{'result':>10}")
    contenders = {
        "mask, padded with 0": train_once(x, mask),
        "mask, padded with NaN": train_once(pad(sentences, np.nan)[0], mask),
        "no mask, padded with 0": train_once(x),
    }
    failures = []
    for name, (result, norm) in contenders.items():
        of_mean = difference(norm.running_mean / deviation, learned.running_mean / deviation)
        of_var = difference(norm.running_var / learned.running_var, np.ones(args.dim))
        of_result = difference(result[mask], expected)
        print(f"{name:28}{of_mean:10.1e}{of_var:10.1e}{of_result:10.1e}")
        if not name.startswith("no mask"):
            if not max(of_mean, of_var, of_result) <= TOLERANCE:
                failures.append(f"{name}: differs by more than {TOLERANCE:.0e}")
            if np.any(result[~mask] != 0):
                failures.append(f"{name}: padding did not come out as 0")

    whole, merged = wn.moments(packed, axis=0), stream(sentences, args.batch_size)
    of_mean = difference(merged.mean / whole.std(), whole.mean / whole.std())
    of_var = difference(merged.var() / whole.var(), np.ones(args.dim))
    count = -(-len(sentences) // args.batch_size)
    print(f"\nMoments of {count} padded batches, merged, and of the packed data:")
    print(f"{merged.count} and {whole.count} words; mean differs by {of_mean:.1e}, variance by {of_var:.1e}")
    if merged.count != whole.count or not max(of_mean, of_var) <= MOMENTS_TOLERANCE:
        failures.append(f"moments: differ by more than {MOMENTS_TOLERANCE:.0e}")
    print("\n".join(["", *failures]) if failures else "\nMasked and packed agree; padding came out as 0.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
