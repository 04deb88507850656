"""Clips one after the other."""

import pytest
import torch

from stabletrain.errors import RequestError
from stabletrain.gradient import AdaptiveClip, Chain, LayerClip, NormClip, PercentileClip, ValueClip, ZScoreClip


def make_parameters():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 10
    return model, list(model.parameters())


@pytest.mark.parametrize("clips", [[ValueClip(0.5), NormClip(0.1)], [NormClip(0.1), ValueClip(0.05)], [LayerClip()]])
def test_is_the_same_as_each_by_hand(clips):
    (_, chained), (_, by_hand) = make_parameters(), make_parameters()
    norm = Chain({str(k): clip for k, clip in enumerate(clips)})(chained)
    norms = [clip(by_hand) for clip in clips]
    assert torch.equal(norm, norms[0])
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(chained, by_hand, strict=True))


def test_takes_parameters_that_can_be_read_once():
    _, parameters = make_parameters()
    Chain({"value": ValueClip(5.0), "norm": NormClip(0.1)})(iter(parameters))
    assert float(torch.cat([p.grad.flatten() for p in parameters]).norm()) == pytest.approx(0.1, rel=1e-4)


def test_passes_the_model_on():
    model, parameters = make_parameters()
    before = [p.grad.clone() for p in parameters]
    chain = Chain({"adaptive": AdaptiveClip()})
    chain.attach(model)
    chain(parameters)
    assert [torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=True)] == [False, False, True, True]


def test_a_later_clip_remembers_what_the_one_before_it_left():
    chain = Chain({"norm": NormClip(1.0), "percentile": PercentileClip()})
    chain(make_parameters()[1])
    assert chain.state_dict()["percentile"]["norms"].tolist() == pytest.approx([1.0], rel=1e-4)


def test_state_is_kept_by_name_and_another_chain_refuses_it():
    chain = Chain({"zscore": ZScoreClip(), "norm": NormClip()})
    chain(make_parameters()[1])
    state = chain.state_dict()
    assert set(state) == {"zscore", "norm"}
    assert len(state["zscore"]["warmup"]) == 1
    for other in (Chain({"zscore": ZScoreClip()}), Chain({"z_score": ZScoreClip(), "norm": NormClip()})):
        with pytest.raises(RequestError):
            other.load_state_dict(state)
    with pytest.raises(RequestError):
        Chain({"zscore": PercentileClip(), "norm": NormClip()}).load_state_dict(state)


@pytest.mark.parametrize(("clips", "key"), [({}, "clips"), ({"norm": "norm"}, "clips.norm")])
def test_refuses_what_is_no_clip(clips, key):
    with pytest.raises(RequestError) as caught:
        Chain(clips)
    assert caught.value.key == key
