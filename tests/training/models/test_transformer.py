"""The transformer against torch's own, and its guarantees about padding, order and the last position."""

import itertools
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from onward.training.models.transformer import TransformerBlock, TransformerEncoder

D, LENGTH = 8, 5
VALID_BL = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()


def encoder(*, causal: bool, pre_norm: bool, dropout: float = 0) -> TransformerEncoder:
    torch.manual_seed(2)
    return TransformerEncoder(
        D,
        layers=2,
        heads=2,
        feed_forward=12,
        dropout=dropout,
        causal=causal,
        pre_norm=pre_norm,
        activation="gelu",
        mixes_heads=True,
    )


@pytest.fixture(params=itertools.product((False, True), (False, True)), ids=str)
def model(request: pytest.FixtureRequest) -> TransformerEncoder:
    causal, pre_norm = request.param
    return encoder(causal=causal, pre_norm=pre_norm).eval()


@pytest.fixture
def states_BLD() -> Tensor:
    return torch.randn(3, LENGTH, D, generator=torch.Generator().manual_seed(7))


def torchs_own(model: TransformerEncoder) -> nn.TransformerEncoder:
    """torch's encoder with the same weights."""
    blocks = cast(list[TransformerBlock], list(model.blocks))
    pre_norm = blocks[0].pre_norm
    layer = nn.TransformerEncoderLayer(D, 2, 12, 0.0, "gelu", batch_first=True, norm_first=pre_norm)
    own = nn.TransformerEncoder(layer, 2, nn.LayerNorm(D) if pre_norm else None, enable_nested_tensor=False)
    for block, layer_of_own in zip(blocks, cast(list[nn.TransformerEncoderLayer], list(own.layers)), strict=True):
        attention = layer_of_own.self_attn
        assert isinstance(block.attention.mix, nn.Linear)
        attention.in_proj_weight.data = torch.cat([block.attention.query.weight, block.attention.key_value.weight])
        attention.in_proj_bias.data = torch.cat([block.attention.query.bias, block.attention.key_value.bias])
        attention.out_proj.load_state_dict(block.attention.mix.state_dict())
        layer_of_own.linear1.load_state_dict(block.feed_forward[0].state_dict())
        layer_of_own.linear2.load_state_dict(block.feed_forward[2].state_dict())
    return own.eval()


def test_states_equal_those_of_torchs_encoder(model: TransformerEncoder, states_BLD: Tensor) -> None:
    seen_LL = nn.Transformer.generate_square_subsequent_mask(LENGTH) if model.causal else None
    expected = torchs_own(model)(states_BLD, mask=seen_LL)
    torch.testing.assert_close(model(states_BLD, torch.ones(3, LENGTH).bool()), expected, atol=1e-5, rtol=1e-4)


def test_padding_is_masked_and_finite(model: TransformerEncoder, states_BLD: Tensor) -> None:
    padded_BLD = model(states_BLD, VALID_BL)
    assert padded_BLD.isfinite().all()
    for row, length in ((1, 3), (2, 1)):
        alone_1LD = model(states_BLD[row : row + 1, -length:], torch.ones(1, length).bool())
        torch.testing.assert_close(padded_BLD[row, -length:], alone_1LD[0], atol=1e-6, rtol=1e-5)


def test_the_last_position_alone_equals_the_last_of_all(model: TransformerEncoder, states_BLD: Tensor) -> None:
    whole_BLD = model(states_BLD, VALID_BL)
    torch.testing.assert_close(model(states_BLD, VALID_BL, last_only=True), whole_BLD[:, -1:], atol=1e-6, rtol=1e-5)


def test_only_a_causal_encoder_ignores_later_positions(model: TransformerEncoder, states_BLD: Tensor) -> None:
    changed_BLD = states_BLD.clone()
    changed_BLD[:, -1, 0] += 1
    differences_BLD = (model(changed_BLD, VALID_BL) - model(states_BLD, VALID_BL)).abs()
    assert bool(differences_BLD[0, :-1].max() < 1e-6) == model.causal
    assert differences_BLD[:, -1].max() > 1e-4


def test_an_empty_session_gives_finite_states_and_gradients(model: TransformerEncoder, states_BLD: Tensor) -> None:
    states_BLD.requires_grad_()
    model(states_BLD, torch.zeros(3, LENGTH).bool()).sum().backward()
    assert states_BLD.grad is not None
    assert states_BLD.grad.isfinite().all()


def test_dropout_is_active_in_training_only(states_BLD: Tensor) -> None:
    model = encoder(causal=False, pre_norm=False, dropout=0.5)
    assert not torch.equal(model.train()(states_BLD, VALID_BL), model(states_BLD, VALID_BL))
    assert torch.equal(model.eval()(states_BLD, VALID_BL), model(states_BLD, VALID_BL))
