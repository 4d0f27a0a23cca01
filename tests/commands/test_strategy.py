"""How ranks work together."""

import torch
from torch import nn

from everytoken.commands.strategy import by_name


def test_the_state_of_an_optimizer_is_of_the_weights_that_it_was_of():
    """Its groups have another order than the model, and the file may count in either."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) is m] for m in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "lr": 0.5}, {"params": others}])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    swapped = {0: 0, 1: 2, 2: 1, 3: 3}  # places in the model
    in_model = {
        "state": {swapped[n]: state for n, state in saved["state"].items()},
        "param_groups": [
            g | {"params": [swapped[n] for n in g["params"]]} for g in saved["param_groups"]
        ],
    }
    for state in (saved, in_model):
        named = by_name(state, optimizer, model)
        assert [group["params"] for group in named["param_groups"]] == [
            ["0.weight", "1.weight"],
            ["0.bias", "1.bias"],
        ]
        assert named["param_groups"][0]["lr"] == 0.5
        for name, weight in model.named_parameters():
            assert named["state"][name]["exp_avg"] is optimizer.state[weight]["exp_avg"]
