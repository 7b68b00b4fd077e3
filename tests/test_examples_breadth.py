"""The examples of convolution, masks and residual streams run as shown, and their results are right."""

import importlib
import re

import numpy as np
import pytest
import welnorm as wn
from test_examples import EXAMPLES, load_example, run_example


@pytest.fixture(scope="module")
def digits():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("digits_cnn")


@pytest.fixture(scope="module")
def training(digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("train_digits_cnn")


@pytest.fixture(scope="module")
def masked_batch():
    return load_example("masked_batch")


@pytest.fixture(scope="module")
def llama():
    return load_example("llama_block")


def percentages(line):
    return [float(number) / 100 for number in re.findall(r"([0-9.]+)%", line)]


class TestDigits:
    def test_folded_and_unfolded_predict_the_same(self, digits):
        network = digits.load_network()
        _, held_out = digits.load_data()
        unfolded, folded = network(held_out.images), network.fold()(held_out.images)
        np.testing.assert_array_equal(unfolded.argmax(axis=1), folded.argmax(axis=1))
        np.testing.assert_allclose(folded, unfolded, rtol=0, atol=1e-4)
        assert digits.accuracy(folded, held_out.labels) == digits.accuracy(unfolded, held_out.labels) >= 0.97

    def test_held_out_images_are_not_in_the_training_part(self, digits):
        data, held_out = digits.load_data()
        assert (len(data.images), len(held_out.images)) == (1437, 360)
        seen = {image.tobytes() for image in data.images}
        assert not any(image.tobytes() in seen for image in held_out.images)

    def test_convolution(self, digits, rng):
        x, weight = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((3, 3, 3, 6))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        expected = np.zeros((2, 5, 4, 6))
        for i, j in np.ndindex(3, 3):
            expected += padded[:, i : i + 5, j : j + 4] @ weight[i, j]
        np.testing.assert_allclose(digits.convolve(x, weight), expected, rtol=1e-12, atol=1e-12)

    def test_the_weights_are_small_and_those_of_the_log(self, digits):
        assert digits.WEIGHTS.stat().st_size < 100_000
        log = digits.WEIGHTS.with_name("digits_cnn_training.log").read_text(encoding="utf-8").splitlines()
        assert f"{digits.WEIGHTS.stat().st_size} bytes" in log[-1]
        network, parts = digits.load_network(), digits.load_data()
        found = [digits.accuracy(network(images), labels) for images, labels in parts]
        assert log[-2].startswith("precise BN")
        np.testing.assert_allclose(found, percentages(log[-2]), rtol=0, atol=5e-3)

    def test_command_line(self):
        done = run_example("digits_cnn")
        assert done.returncode == 0, done.stdout + done.stderr
        unfolded, folded = (percentages(line) for line in done.stdout.splitlines()[2:4])
        assert unfolded == folded
        assert unfolded[0] >= 0.97
        assert "; 0 predictions differ" in done.stdout

    def test_exit_status_on_low_accuracy(self, digits, monkeypatch):
        monkeypatch.setattr(digits, "LEAST_ACCURACY", 1.01)
        assert digits.main([]) == 1

    def test_exit_status_on_other_predictions(self, digits, monkeypatch):
        fold = wn.fold_batch_norm
        monkeypatch.setattr(wn, "fold_batch_norm", lambda weight, *rest, **how: fold(-weight, *rest, **how))
        assert digits.main([]) == 1

    def test_missing_weights(self, digits, capsys):
        with pytest.raises(SystemExit) as exit_:
            digits.main(["--weights", "no/such/file"])
        assert exit_.value.code == 2
        assert "no/such/file" in capsys.readouterr().err


class TestTraining:
    def test_gradients(self, digits, training, rng):
        network = digits.Network("float64")
        training.initialize(network, rng)
        for norm in network.norms:
            norm.train()
            norm.weight += rng.uniform(-0.5, 0.5, norm.weight.shape)
            norm.bias += rng.uniform(-0.5, 0.5, norm.bias.shape)
        batch = digits.Digits(rng.uniform(size=(6, 8, 8, 1)), np.arange(6))
        _, gradients = training.loss_and_gradients(network, batch)
        assert gradients.keys() == network.parameters().keys()
        step = 1e-6
        for name, parameter in network.parameters().items():
            direction = rng.standard_normal(parameter.shape)
            direction /= np.linalg.norm(direction)
            losses = []
            for end in (step, -step):
                parameter += end * direction
                losses.append(training.loss_and_gradients(network, batch)[0])
                parameter -= end * direction
            slope = (losses[0] - losses[1]) / (2 * step)
            np.testing.assert_allclose(np.sum(gradients[name] * direction), slope, rtol=1e-5, atol=1e-8)

    def test_reproduces_a_model(self, tmp_path, digits):
        output = tmp_path / "quick.npz"
        done = run_example("train_digits_cnn", "--epochs", "4", "--output", output)
        assert done.returncode in (0, 1), done.stderr  # 1: so few epochs may not reach 97 %
        assert not done.stderr
        log = output.with_name("quick_training.log").read_text(encoding="utf-8")
        assert log == done.stdout
        rows = [line for line in log.splitlines() if "%" in line]
        assert len(rows) == 5
        assert percentages(rows[0])[-1] < percentages(rows[-1])[-1]
        losses = [float(row.split()[1]) for row in rows[:-1]]
        assert losses == sorted(losses, reverse=True)

        _, held_out = digits.load_data()
        network = digits.load_network(output)
        assert digits.accuracy(network(held_out.images), held_out.labels) > 0.9
        for norm in network.norms:
            assert norm.num_batches_tracked == 1437 // 64  # one loop over the data, after the last step

    def test_precise_batch_norm_is_the_average_over_batches(self, digits, training):
        network, (data, _) = digits.load_network(), digits.load_data()
        norm = network.norms[0]
        trained = norm.running_mean.copy()
        norm.running_mean[...], norm.running_var[...] = 7, 7  # must not matter
        training.recalibrate(network, data, np.random.default_rng(0))
        first = digits.convolve(data.images, network.convolutions[0])
        mean, var = wn.mean_var(first, (0, 1, 2))
        assert not norm.training
        # Batches of 65 and 66 images count the same, and their means differ: right to a percent or so.
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(norm.running_mean, trained, rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(norm.running_var, var, rtol=2e-2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--epochs", "0"], "--epochs must be at least 1, got 0"),
            (["--output", "weights"], "--output must end in .npz, got weights"),
        ],
    )
    def test_wrong_arguments(self, training, capsys, arguments, message):
        with pytest.raises(SystemExit) as exit_:
            training.main(arguments)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err


class TestMaskedBatch:
    def test_mask_gives_what_packed_data_give(self, masked_batch):
        sentences = [masked_batch.embed_words(text, 32) for text in masked_batch.TEXT.splitlines()]
        packed = np.concatenate(sentences)
        expected, learned = masked_batch.train_once(packed)
        for filler in (0, 1e30, np.nan):
            x, mask = masked_batch.pad(sentences, filler)
            result, norm = masked_batch.train_once(x, mask)
            np.testing.assert_array_equal(result[~mask], 0)
            np.testing.assert_allclose(result[mask], expected, rtol=0, atol=masked_batch.TOLERANCE)
            np.testing.assert_allclose(norm.running_mean, learned.running_mean, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(norm.running_var, learned.running_var, rtol=1e-6)

    def test_embeddings_are_the_same_in_every_run(self, masked_batch):
        words = masked_batch.embed_words("The well, the WELL: a well-deep fall", 8)
        assert words.shape == (7, 8)
        assert words.dtype == np.float32
        np.testing.assert_array_equal(words[0], words[2])
        np.testing.assert_array_equal(words[1], words[3])
        assert np.any(words[0] != words[1])

    @pytest.mark.parametrize("arguments", [[], ["--dim", "1"], ["--dim", "200", "--batch-size", "1"]])
    def test_reports(self, masked_batch, capsys, arguments):
        assert masked_batch.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = {line[:28].strip(): [float(number) for number in line[28:].split()] for line in lines[5:8]}
        assert max(rows["mask, padded with 0"]) <= masked_batch.TOLERANCE
        assert max(rows["mask, padded with NaN"]) <= masked_batch.TOLERANCE
        assert min(rows["no mask, padded with 0"]) > 0.1

    def test_command_line(self):
        done = run_example("masked_batch")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Masked and packed agree; padding came out as 0." in done.stdout

    @pytest.mark.parametrize(
        ("name", "message"),
        [("TOLERANCE", "mask, padded with 0: differs"), ("MOMENTS_TOLERANCE", "moments: differ")],
    )
    def test_exit_status_on_a_difference(self, masked_batch, monkeypatch, capsys, name, message):
        monkeypatch.setattr(masked_batch, name, -1.0)
        assert masked_batch.main([]) == 1
        assert message in capsys.readouterr().out

    def test_wrong_arguments(self, masked_batch, capsys):
        with pytest.raises(SystemExit) as exit_:
            masked_batch.main(["--batch-size", "0"])
        assert exit_.value.code == 2
        assert "--batch-size must be at least 1, got 0" in capsys.readouterr().err


class TestLlama:
    @pytest.mark.parametrize(
        ("layers", "dim", "tokens"), [(1, 64, 1), (2, 128, 7), (3, 192, 33), (1, 1024, 20)]
    )
    def test_one_pass_gives_the_bits_of_two_steps(self, llama, backend, layers, dim, tokens):
        rng = np.random.default_rng(tokens)
        decoder = llama.Decoder(layers, dim, rng)
        embeddings = rng.standard_normal((tokens, dim), dtype=np.float32)
        before = embeddings.copy()
        output, residual, _ = decoder(embeddings, llama.one_pass)
        expected_output, expected_residual, _ = decoder(embeddings, llama.two_steps)
        assert llama.different_bits(output, expected_output) == 0
        assert llama.different_bits(residual, expected_residual) == 0
        assert np.all(np.isfinite(output))
        np.testing.assert_array_equal(embeddings, before)

    def test_attention_is_causal_and_relative(self, llama):
        rng = np.random.default_rng(3)
        decoder = llama.Decoder(2, 128, rng)
        embeddings = rng.standard_normal((12, 128), dtype=np.float32)
        whole = decoder(embeddings, llama.one_pass)[0]
        np.testing.assert_allclose(decoder(embeddings[:5], llama.one_pass)[0], whole[:5], rtol=0, atol=1e-4)
        cos, sin = llama.rotary_angles(12)
        query, key = rng.standard_normal((2, llama.HEAD))
        scores = [
            llama.rotate(query, cos[i], sin[i]) @ llama.rotate(key, cos[i - 3], sin[i - 3]) for i in (3, 11)
        ]
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)

    def test_silu_far_out(self, llama):
        x = np.array([-1e4, -1, 0, 1, 1e4])
        expected = [0, -1 / (1 + np.e), 0, 1 / (1 + 1 / np.e), 1e4]
        np.testing.assert_allclose(llama.silu(x), expected, rtol=1e-12)

    def test_command_line(self):
        done = run_example("llama_block")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 of the output, 0 of the residual stream" in done.stdout
        assert "us/token" in done.stdout

    def test_exit_status_on_other_bits(self, llama, monkeypatch):
        def other(y, residual, weight):
            residual += y
            wn.rms_norm(residual, weight, eps=1e-3, out=y)

        monkeypatch.setattr(llama, "two_steps", other)
        assert llama.main(["--layers", "1", "--tokens", "4", "--repeats", "1"]) == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dim", "100"], "--dim must be a multiple of 64, got 100"),
            (["--layers", "0"], "--layers must be at least 1, got 0"),
        ],
    )
    def test_wrong_arguments(self, llama, capsys, arguments, message):
        with pytest.raises(SystemExit) as exit_:
            llama.main(arguments)
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
