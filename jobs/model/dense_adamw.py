"""AdamW of the parameters of which every step changes all elements (Loshchilov & Hutter 2019), with torch's kernels.

The values are those of `torch.optim.AdamW(fused=True)`, whose constructor imports torch's compiler, which takes longer
than the training of a small data set.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from jobs.model.lazy_adam import BETAS, EPS


class DenseAdamW:
    """Optimizer of parameters in groups.

    state: `step`, `exp_avg` and `exp_avg_sq` of each parameter, after its first step.

    Args:
        param_groups: each with `params` and `weight_decay`; `lr` may be set anew at any time.
        learning_rate: of all groups.
    """

    def __init__(self, param_groups: Sequence[dict[str, Any]], learning_rate: float) -> None:
        self.param_groups = [group | {"params": list(group["params"]), "lr": learning_rate} for group in param_groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def create_state(self) -> None:
        """Create the state of the parameters that have none."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter not in self.state:
                    moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                    self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}

    @torch.no_grad()
    def step(self) -> None:
        """Take a step on all parameters; each has a gradient."""
        self.create_state()
        for group in self.param_groups:
            parameters = group["params"]
            states = [self.state[parameter] for parameter in parameters]
            adam(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states], [],
                [state["step"] for state in states],
                fused=True, decoupled_weight_decay=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1],
                lr=group["lr"], weight_decay=group["weight_decay"], eps=EPS, maximize=False,
            )  # fmt: skip
