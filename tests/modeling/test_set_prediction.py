"""One-to-one assignments against all permutations, and zero losses."""

import itertools

import pytest
import torch

from facenet_d2.modeling.set_prediction import Pairs, assign, no_loss, query_labels


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (5, 0), (1, 1)])
def test_assignment_has_the_lowest_cost_of_all(shape):
    for seed in range(5):
        costs = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        queries, objects = assign(costs)
        number = min(shape)
        assert len(queries) == len(objects) == number
        assert queries.tolist() == sorted(set(queries.tolist()))
        assert len(set(objects.tolist())) == number
        table = costs if shape[0] <= shape[1] else costs.T
        every = itertools.permutations(range(max(shape)), number)
        best = min(sum(float(table[i, j]) for i, j in enumerate(p)) for p in every)
        assert costs[queries, objects].sum().item() == pytest.approx(best, abs=1e-5)


def test_costs_that_are_not_finite():
    """A diverging query is matched only if there is no other."""
    costs = torch.tensor([[torch.nan, 1.0], [0.0, 2.0], [torch.inf, -torch.inf]])
    queries, objects = assign(costs)
    assert (queries.tolist(), objects.tolist()) == ([1, 2], [0, 1])
    queries, objects = assign(torch.full((2, 3), torch.nan))
    assert queries.tolist() == [0, 1]
    assert len(set(objects.tolist())) == 2


def test_labels_of_queries():
    pairs = Pairs(torch.tensor([1, 3]), torch.tensor([2, 0]))
    labels = query_labels(pairs, torch.tensor([5, 6, 7]), 4, 9)
    assert labels.tolist() == [9, 7, 9, 5]


def test_no_loss():
    a = torch.tensor([1.0, torch.inf], requires_grad=True)
    b = torch.full((2, 0), 3.0, requires_grad=True)
    zero = no_loss([2 * a, b])
    assert zero.item() == 0
    zero.backward()
    assert a.grad.tolist() == [0, 0]
    assert b.grad.shape == b.shape
