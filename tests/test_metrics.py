"""Each metric against cases that were worked out by hand, and against scorers that we did not write."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from zoo_models import needs_zoo, zoo

from edgeq.metrics import METRICS, ErrorPower, map50, miou, perplexity, psnr, sqnr, top1, top5, wer


def scores(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_top1_and_top5_count_classes_in_percent() -> None:
    predictions = [scores(1, 5, 2, 0, 0, 4, 3), scores(9, 1, 2, 3, 4, 5, 6),
                   scores(0, 0, 1, 0, 0, 0, 0).reshape(1, 7, 1, 1)]
    targets = [1, np.array([1]), np.array([2])]
    assert top1(predictions, targets) == pytest.approx(200 / 3)
    assert top5(predictions, targets) == pytest.approx(200 / 3), "class 1 is the sixth of the second sample"


def test_top1_of_a_batch_counts_its_rows() -> None:
    assert top1([np.array([[1, 2], [2, 1], [0, 3]])], [np.array([1, 1, 1])]) == pytest.approx(200 / 3)


def test_miou_leaves_void_pixels_and_absent_classes_out() -> None:
    truth = np.array([[0, 0, 1], [1, 255, 255]])
    found = np.array([[0, 1, 1], [1, 2, 0]])
    prediction = np.eye(4, dtype=np.float32)[found].transpose(2, 0, 1)[None]
    # class 0: 1 of 2, class 1: 2 of 3; classes 2 and 3 are not in the truth, and what lies on 255 does not count
    assert miou([prediction], [truth]) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def test_psnr_of_eight_bit_targets_rounds_as_saving_does() -> None:
    target = np.array([[0, 255], [128, 10]], np.uint8)
    image = np.array([[-0.2, 1.3], [128.4 / 255, 12 / 255]], np.float32)[None, None]
    assert psnr([image], [target]) == pytest.approx(10 * math.log10(255**2 / (4 / 4)))
    assert psnr([np.full((1, 1, 2, 2), 0.5)], [np.full((2, 2), 0.4)]) == pytest.approx(20)


def test_perplexity_is_the_mean_over_tokens_not_over_samples() -> None:
    probability = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    logits = np.log(probability)[None] + 7
    got = perplexity([logits, logits], [np.array([0, 1, -1]), np.array([2])])
    assert got == pytest.approx((0.5 * 0.8 * 0.25) ** (-1 / 3))


def test_perplexity_is_what_torch_computes() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    logits, target = generator.normal(size=(1, 9, 17)).astype(np.float32) * 4, generator.integers(0, 17, 9)
    entropy = torch.nn.functional.cross_entropy(torch.from_numpy(logits[0]), torch.from_numpy(target))
    assert perplexity([logits], [target]) == pytest.approx(float(entropy.exp()), rel=1e-5)


@pytest.mark.parametrize(("heard", "said", "errors"), [
    ("the cat sat", "the cat sat", 0), ("a cat sat", "the cat sat", 1), ("cat", "the cat sat", 2),
    ("the big cat sat down", "the cat sat", 2), ("", "the cat sat", 3),
])
def test_wer_counts_words(heard: str, said: str, errors: int) -> None:
    assert wer([heard], [said]) == pytest.approx(100 * errors / 3)


def test_wer_takes_token_ids() -> None:
    assert wer([np.array([[4, 9, 7, -1]])], [np.array([4, 7, -1])]) == pytest.approx(50)


def test_map50_of_a_worked_case() -> None:
    """Two boxes of class 0, one of class 1. The surest detection hits, the second is a duplicate, the third misses by
    overlap, the fourth hits: precision 1, 1/2, 1/3, 2/4 at recall 1/2, 1/2, 1/2, 1, so AP is 1/2 * 1 + 1/2 * 1/2.
    """
    truth = np.array([[0, 0, 10, 10, 0], [20, 20, 30, 30, 0], [0, 0, 10, 10, 1], [0, 0, 0, 0, -1]], float)
    found = np.array([
        [0, 0, 10, 9, 0.9, 0], [0, 0, 10, 10, 0.8, 0], [24, 24, 34, 34, 0.7, 0], [20, 20, 30, 31, 0.6, 0],
        [0, 0, 10, 10, 0.5, 1], [0, 0, 10, 10, 0.0, 1]], np.float32)
    assert map50([found], [truth]) == pytest.approx(100 * (0.75 + 1) / 2)


def test_sqnr_is_power_over_power() -> None:
    assert sqnr([np.array([1.1, 2.0])], [np.array([1.0, 2.0])]) == pytest.approx(10 * math.log10(5 / 0.01), rel=1e-4)
    assert sqnr([np.ones(2)], [np.ones(2)]) == 200
    assert sqnr([np.array([np.nan, 1])], [np.ones(2)]) == sqnr([np.full(2, np.inf)], [np.ones(2)]) == -200


def test_infinities_of_both_are_equal_in_every_measure() -> None:
    reference, lowest = np.array([1, -np.inf, np.nan, 2], np.float32), np.finfo(np.float32).min
    same, other = np.array([1, lowest, np.nan, 1], np.float32), np.array([1, 0, np.nan, 2], np.float32)
    assert ErrorPower.of([reference], [same]) == ErrorPower(1.0, 5.0)
    for wrong in (ErrorPower.of([reference], [other]), ErrorPower.of([other[:2]], [reference[:2]])):
        assert (wrong.ratio, wrong.sqnr_db) == (np.inf, -200)


def test_noise_without_a_signal_is_as_large_as_a_signal() -> None:
    assert ErrorPower.of([np.zeros(2)], [np.array([1e-9, 0])]).ratio == 1
    assert ErrorPower.of([np.zeros(2)], [np.zeros(2)]).ratio == 0


@pytest.mark.parametrize(("metric", "prediction", "target", "message"), [
    (top1, scores(1, 2, 3), 3, "sample 0: label 3 where the model has classes 0 to 2"),
    (top1, scores(1, 2, 3), 1.5, "labels are class numbers, not float64"),
    (top1, scores(1, 2, 3), [1, 2], "2 labels for scores of shape"),
    (miou, np.zeros((1, 3, 4, 5)), np.zeros((5, 4), int), "one class for each pixel"),
    (miou, np.zeros((1, 3)), np.zeros((1, 3), int), "one class for each pixel"),
    (psnr, np.zeros((1, 1, 4, 4)), np.zeros((5, 4)), "an image of shape"),
    (perplexity, np.zeros((1, 2, 5)), [1, 2, 3], "3 tokens for logits"),
    (perplexity, np.zeros((1, 2, 5)), [-1, -1], "no token to score"),
    (wer, np.zeros((1, 9, 30), np.float32), "yes", "decode them in a scoring function"),
    (map50, np.zeros((1, 85, 22, 22)), np.zeros((1, 5)), r"detections must be \[n, 6\]"),
    (map50, np.zeros((1, 6)), np.zeros((1, 4)), r"labels must be \[m, 5\]"),
    (sqnr, np.zeros((1, 6)), np.zeros((1, 4)), "for an output of"),
    (sqnr, np.zeros((1, 2)), np.array([[1, np.nan]]), "sample 0: the target holds NaN or infinity"),
])
def test_what_does_not_fit_is_named(metric: Any, prediction: np.ndarray, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric([prediction], [target])


def test_drops_are_positive_where_a_score_is_worse() -> None:
    assert METRICS["top1"].drop(80, 79) == 1
    assert METRICS["perplexity"].drop(4, 5) == 1


@needs_zoo
def test_map50_is_the_zoo_scorer() -> None:
    """On noisy detections over the true boxes of the evaluation images."""
    generator = np.random.default_rng(1)
    detections, truth = [], []
    for _, boxes in list(zoo().samples("coco_fastestdet"))[:20]:
        corners = np.stack([boxes[:, 1] - boxes[:, 3] / 2, boxes[:, 2] - boxes[:, 4] / 2,
                            boxes[:, 1] + boxes[:, 3] / 2, boxes[:, 2] + boxes[:, 4] / 2], 1)
        truth.append((corners, boxes[:, 0].astype(int)))
        noisy = np.repeat(corners, 2, 0) + generator.normal(scale=0.03, size=(2 * len(corners), 4))
        detections.append((noisy, generator.random(len(noisy)), np.repeat(boxes[:, 0].astype(int), 2)))
    expected = type(zoo()).score.__globals__["mean_average_precision"](detections, truth)
    got = map50([np.column_stack([b, s, c]) for b, s, c in detections], [np.column_stack(pair) for pair in truth])
    assert 0.2 < expected < 0.9
    assert got == pytest.approx(100 * expected)
