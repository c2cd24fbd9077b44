"""Tasks behind tasks: a purchase needs a click, so that p(buy) = p(click) p(buy | click).

Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate", SIGIR 2018,
arXiv 1804.07931.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def task_chains(tasks: Sequence[str], parents: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the tasks that lead to each task that comes after another, from the first to itself.

    >>> task_chains(["click", "cart", "buy"], {"cart": "click", "buy": "cart"})
    {'cart': ['click', 'cart'], 'buy': ['click', 'cart', 'buy']}

    Args:
        tasks: the names of the tasks.
        parents: the task before each one that has one; without circles.
    """
    chains = {}
    for task in tasks:
        chain = [task]
        while chain[0] in parents:
            chain.insert(0, parents[chain[0]])
        if len(chain) > 1:
            chains[task] = chain
    return chains


def chain_probability(logits: Sequence[Tensor]) -> Tensor:
    """Return p_S = prod_s sigmoid(z_s) (B,), equation 1 of Ma et al. for S = 2, of the S logits of a chain (B,)."""
    return torch.stack([z.sigmoid() for z in logits]).prod(dim=0)


def chain_losses(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return each row's cross-entropy of the product p_S and its label, as in equation 3 of Ma et al.; (B,).

    log p_s = log p_{s-1} + log sigmoid(z_s),   log (1 - p_s) = log ((1 - p_{s-1}) + p_{s-1} sigmoid(-z_s))

    Logarithms are kept from step to step, so that nothing is lost where a probability is near 0 or 1.

    Args:
        logits: z, of each task given the one before it, from the first to the last, each (B,).
        labels: 0 or 1, of the last task (B,).
    """
    first, *rest = logits
    log_p, log_not = F.logsigmoid(first), F.logsigmoid(-first)
    for z in rest:
        log_not = torch.logaddexp(log_not, log_p + F.logsigmoid(-z))
        log_p = log_p + F.logsigmoid(z)
    return -(labels * log_p + (1 - labels) * log_not)
