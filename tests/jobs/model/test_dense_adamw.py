"""AdamW without torch's optimizer classes."""

import torch

from jobs.model.dense_adamw import DenseAdamW


def test_steps_are_those_of_torch() -> None:
    """Bit by bit, with a weight decay and a learning rate of each group, and after the state was restored."""
    torch.manual_seed(0)
    shapes = [(40, 7), (40,), (3, 40), (3,)]
    initial = [torch.randn(shape) for shape in shapes]
    parameters, expected = ([torch.nn.Parameter(value.clone()) for value in initial] for _ in range(2))
    groups, expected_groups = (
        [{"params": values[:2], "weight_decay": 0.1}, {"params": values[2:], "weight_decay": 0.0}]
        for values in (parameters, expected)
    )
    optimizer, torch_optimizer = DenseAdamW(groups, 0.01), torch.optim.AdamW(expected_groups, 0.01, fused=True)
    for step in range(6):
        for ours, theirs in zip(optimizer.param_groups, torch_optimizer.param_groups, strict=True):
            ours["lr"] = theirs["lr"] = 0.01 / (step + 1)
        for parameter, other in zip(parameters, expected, strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        optimizer.step()
        torch_optimizer.step()
        if step == 3:  # as restored from a checkpoint
            restored = DenseAdamW(groups, 0.01)
            restored.state = {key: {name: value.clone() for name, value in state.items()}
                              for key, state in optimizer.state.items()}  # fmt: skip
            optimizer = restored
    for parameter, other in zip(parameters, expected, strict=True):
        assert torch.equal(parameter, other)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[parameter][name], torch_optimizer.state[other][name])
