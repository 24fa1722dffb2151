from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proposals.priors import (
    centred,
    cluster_places,
    cluster_shapes,
    cornered,
    decode_residuals,
    encode_residuals,
    place_priors,
)


def test_shapes_that_form_groups_are_found_largest_first() -> None:
    generator = torch.Generator().manual_seed(0)
    wide, tall, large = (torch.tensor(s) for s in ([8.0, 2.0], [2.0, 8.0], [20.0, 20.0]))
    noise = 1 + 0.05 * torch.randn(90, 2, generator=generator)
    sides = torch.cat([wide.expand(30, 2), tall.expand(30, 2), large.expand(30, 2)]) * noise
    priors = cluster_shapes(sides, 3, seed=1)
    assert priors[:, :2].eq(0).all()
    assert torch.allclose(priors[0, 2:], large, rtol=0.05)
    assert sorted(priors[1:, 2].round().tolist()) == [2, 8]
    assert torch.equal(priors, cluster_shapes(sides, 3, seed=1))


def test_places_are_clustered_by_centre_and_sides() -> None:
    places = torch.tensor([[0.2, 0.2, 0.1, 0.1]] * 5 + [[-0.3, 0.1, 0.6, 0.4]] * 3)
    places += torch.linspace(0, 0.01, 8)[:, None]
    priors = cluster_places(places, 2)
    assert torch.allclose(priors, torch.stack([places[5:].mean(0), places[:5].mean(0)]), atol=1e-6)


def test_fewer_objects_than_priors_are_the_priors() -> None:
    sides = torch.tensor([[2.0, 3.0], [2.0, 3.0], [5.0, 5.0]])
    assert torch.allclose(cluster_shapes(sides, 10)[:, 2:], torch.tensor([[5.0, 5.0], [2.0, 3.0]]))
    with pytest.raises(ValueError, match="no object"):
        cluster_shapes(torch.zeros(0, 2), 3)


def test_priors_stand_at_every_point_row_by_row() -> None:
    priors = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.5, 0.0, 1.0, 1.0]])
    placed = place_priors(priors, (2, 3), origin=(5.0, 7.0), stride=(10.0, 20.0))
    assert placed.shape == (12, 4)
    assert placed[0].tolist() == [5, 7, 20, 20]
    assert placed[1].tolist() == [10, 7, 10, 20]
    assert placed[2].tolist() == [15, 7, 20, 20]  # the next point of the row
    assert placed[6].tolist() == [5, 27, 20, 20]  # the next row


@given(st.lists(st.tuples(*[st.floats(1, 500)] * 4), min_size=0, max_size=5), st.integers(0, 99))
def test_residuals_lead_back_to_the_boxes(sides: list[tuple[float, ...]], seed: int) -> None:
    places = torch.tensor(sides, dtype=torch.float64).reshape(-1, 4)
    boxes = cornered(places)
    priors = places * torch.rand(places.shape, generator=torch.Generator().manual_seed(seed)).add(
        0.5
    )
    decoded = decode_residuals(priors, encode_residuals(priors, boxes))
    assert torch.allclose(decoded, boxes, atol=1e-6)
    assert torch.allclose(centred(boxes), places)


def test_absurd_residuals_stay_finite() -> None:
    decoded = decode_residuals(torch.tensor([[5.0, 5.0, 2.0, 2.0]]), torch.full((1, 4), 1e6))
    assert decoded.isfinite().all()
