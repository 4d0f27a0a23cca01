"""R-Drop against its equation, written out token by token."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from everytoken.training import r_drop
from everytoken.training.module import TokenModule
from everytoken.training.r_drop import RDropModule, symmetric_divergence
from support.fitting import fit, make_own
from support.helpers import VOCABULARY, make_batch, make_model

ALPHA = 3.0
SETTINGS = {"label_smoothing": 0.1, "z_loss": 0.01}


class Two(nn.Module):
    """Hidden states that are other ones in the second pass, as those under dropout are."""

    computes_on_padding = False

    def __init__(self, count: int, classes: int = VOCABULARY) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(3)
        self.states = nn.Parameter(torch.randn(2, count, 8, generator=draws))
        self.head = nn.Linear(8, classes)
        self.passes = 0

    def forward(self, batch):
        self.passes += 1
        return self.states[(self.passes - 1) % 2]


def gradients(module: TokenModule) -> list[torch.Tensor]:
    return [p.grad for p in module.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_loss_and_gradient_are_those_of_the_equation(rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(r_drop, "CHUNK_LOGITS", rows * VOCABULARY)
    batch = make_batch([7, 3, 5])
    model = Two(batch.target_count)
    module = make_own(RDropModule, divergence=ALPHA, model=model, **SETTINGS)
    sums = module.training_sums(batch)
    sums.loss.backward()
    found = gradients(module)
    module.zero_grad()

    wanted = torch.zeros((), dtype=torch.float64)
    logits = [module.head(states).double() for states in model.states]
    for token, target in enumerate(batch.targets.tolist()):
        first, second = (one[token].log_softmax(-1) for one in logits)
        p, q = first.exp(), second.exp()
        for one in (logits[0][token], logits[1][token]):
            surprise = -one.log_softmax(-1)
            loss = 0.9 * surprise[target] + 0.1 * surprise.mean() + 0.01 * one.logsumexp(-1) ** 2
            wanted = wanted + loss / 2
        both = (p * (first - second)).sum() + (q * (second - first)).sum()
        wanted = wanted + ALPHA / 4 * both
    wanted.backward()
    assert float(sums.loss) == pytest.approx(float(wanted), rel=1e-6)
    assert int(sums.correct) == int((logits[0].argmax(-1) == batch.targets).sum())
    for one, other in zip(found, gradients(module), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_of_several_classes_each_is_a_yes_or_no():
    draws = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 4, 3, generator=draws, dtype=torch.float64)
    both = [torch.stack((one.sigmoid(), (-one).sigmoid()), -1).log() for one in (first, second)]
    kl = [
        F.kl_div(b, a, log_target=True, reduction="none").sum(-1).mean(-1)
        for a, b in (both, both[::-1])
    ]
    torch.testing.assert_close(symmetric_divergence(first, second, several=True), sum(kl))


def test_without_dropout_it_is_the_cross_entropy():
    batch = make_batch([7, 3, 5])
    module, plain = make_own(RDropModule, divergence=ALPHA), make_own(TokenModule)
    for one in (module, plain):
        one.training_sums(batch).loss.backward()
    for one, other in zip(gradients(module), gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_both_passes_have_dropout_of_their_own():
    batch = make_batch([7, 3, 5])
    model = make_model("decoder", dropout=0.5)
    module = make_own(RDropModule, divergence=1.0, model=model)
    losses = []
    for divergence in (0.0, 1.0):
        module.divergence = divergence
        torch.manual_seed(0)
        losses.append(float(module.training_sums(batch).loss))
    assert losses[1] > 1.001 * losses[0]


def test_it_trains_with_micro_batches_and_fillers_of_no_target(tmp_path: Path):
    model = make_model("decoder", dropout=0.1)
    before = deepcopy(model.state_dict())
    fit(tmp_path, module=make_own(RDropModule, divergence=1.0, model=model))
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.bad_input
def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="divergence must be at least 0, got -1"):
        make_own(RDropModule, divergence=-1)
