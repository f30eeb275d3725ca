"""Negatives are sampled with the frequencies of their distribution."""

import math

import numpy as np
import pytest
import torch

from onward.training.losses.negative_sampling import Distribution, NegativeSampler

ITEMS, DRAWN = 40, 200_000
POPULARITY = np.concatenate([[0], np.random.default_rng(2).permutation(ITEMS)])


def sampler(distribution: Distribution) -> NegativeSampler:
    return NegativeSampler(POPULARITY, distribution)


def probabilities(distribution: Distribution) -> list[float]:
    """By rank, the most popular item first."""
    if distribution == "uniform":
        return [1 / ITEMS] * ITEMS
    return [math.log((rank + 2) / (rank + 1)) / math.log(ITEMS + 1) for rank in range(ITEMS)]


@pytest.mark.parametrize("distribution", ["uniform", "log_uniform"])
def test_items_are_sampled_with_the_frequencies_of_the_distribution(distribution: Distribution) -> None:
    torch.manual_seed(1)
    rows_S, _, _ = sampler(distribution)(DRAWN)
    counts_N = np.bincount(rows_S.numpy(), minlength=ITEMS + 1)
    assert counts_N[0] == 0
    expected_N = DRAWN * np.array(probabilities(distribution))
    by_rank_N = counts_N[np.argsort(-POPULARITY[1:]) + 1]
    assert (np.abs(by_rank_N - expected_N) < 5 * np.sqrt(expected_N)).all()


@pytest.mark.parametrize("distribution", ["uniform", "log_uniform"])
def test_the_expected_count_of_a_negative_is_that_of_the_distribution(distribution: Distribution) -> None:
    torch.manual_seed(1)
    rows_S, log_expected_count_S, draws = sampler(distribution)(500)
    rank_of = {int(row) + 1: rank for rank, row in enumerate(np.argsort(-POPULARITY[1:]))}
    by_rank = probabilities(distribution)
    expected_S = [math.log(500 * by_rank[rank_of[row]]) for row in rows_S.tolist()]
    assert log_expected_count_S.tolist() == pytest.approx(expected_S, abs=1e-5)
    assert log_expected_count_S.dtype == torch.float32
    assert draws == 500


@pytest.mark.parametrize("distribution", ["uniform", "log_uniform"])
def test_distinct_negatives_differ_and_are_as_frequent_as_expected(distribution: Distribution) -> None:
    """The mean over samples of each item's expected count is its mean count in them, within five standard errors."""
    torch.manual_seed(1)
    distinct, samples = NegativeSampler(POPULARITY, distribution, distinct=True), 600
    counts_N, expected_N = np.zeros(ITEMS), np.zeros(ITEMS)
    every_row = torch.arange(1, ITEMS + 1)
    for _ in range(samples):
        rows_S, _, draws = distinct(10)
        assert len(rows_S.unique()) == 10 <= draws
        counts_N += np.bincount(rows_S.numpy(), minlength=ITEMS + 1)[1:]
        expected_N += distinct.log_expected_count(every_row, draws).exp().numpy()
    assert (np.abs(counts_N - expected_N) < 5 * np.sqrt(expected_N) + 0.02 * expected_N).all()


def test_distinct_negatives_are_the_first_of_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws of rows 2, 3, 2 | 2, 3, 4 | 1, 1, 1 give the rows 2, 3 and 4 after six draws."""
    chances = iter([[0.3, 0.6, 0.3], [0.3, 0.6, 0.8], [0.0, 0.0, 0.0]])
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.tensor(next(chances), dtype=torch.float64))
    distinct = NegativeSampler(np.array([0, 9, 7, 5, 3]), "uniform", distinct=True)
    rows_S, log_expected_count_S, draws = distinct(3)
    assert rows_S.tolist() == [2, 3, 4]
    assert draws == 6
    assert log_expected_count_S.exp().tolist() == pytest.approx([1 - (3 / 4) ** 6] * 3)


def test_there_are_no_more_distinct_negatives_than_items() -> None:
    rows_S, log_expected_count_S, _ = NegativeSampler(np.array([0, 3, 9]), "log_uniform", distinct=True)(5)
    assert sorted(rows_S.tolist()) == [1, 2]
    assert log_expected_count_S.tolist() == [0, 0]


def test_the_probability_of_a_rare_item_of_a_large_catalog_is_precise() -> None:
    """The least popular of a million items: log((N + 1) / N) is nearly 1 / N."""
    items = 1_000_000
    expected = math.log(1_000 * math.log1p(1 / items) / math.log(items + 1))
    large = NegativeSampler(np.arange(items, -1, -1), "log_uniform")
    assert large.log_expected_count(torch.tensor([items]), 1_000).item() == pytest.approx(expected, abs=1e-6)


def test_the_most_popular_item_is_sampled_most_often_and_ties_are_ordered_by_row() -> None:
    assert NegativeSampler(np.array([0, 3, 9, 3, 5]), "log_uniform").rows_N.tolist() == [2, 4, 1, 3]


def test_the_extremes_of_the_random_range_give_valid_items(monkeypatch: pytest.MonkeyPatch) -> None:
    for chance in (0.0, np.nextafter(1.0, 0.0)):
        monkeypatch.setattr(
            torch, "rand", lambda count, chance=chance, **_: torch.full((count,), chance, dtype=torch.float64)
        )
        for distribution in ("uniform", "log_uniform"):
            negatives = sampler(distribution)(3)
            assert negatives.rows_S.min() >= 1
            assert negatives.log_expected_count_S.isfinite().all()


def test_a_catalog_of_one_item_has_one_negative() -> None:
    for distribution in ("uniform", "log_uniform"):
        rows_S, log_expected_count_S, _ = NegativeSampler(np.array([0, 7]), distribution)(4)
        assert rows_S.tolist() == [1] * 4
        assert log_expected_count_S.tolist() == pytest.approx([math.log(4)] * 4)


def test_samples_depend_on_the_seed_and_buffers_are_not_saved() -> None:
    torch.manual_seed(3)
    one = sampler("log_uniform")(50).rows_S
    torch.manual_seed(3)
    again, other = sampler("log_uniform")(50).rows_S, sampler("log_uniform")(50).rows_S
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not sampler("log_uniform").state_dict()  # the ranks are the corpus's, not the weights'
