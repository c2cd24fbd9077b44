"""PEPNet's gates, and towers whose hidden units they scale.

Source: Chang et al., "PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior
Information", KDD 2023, arXiv 2302.01115.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from torch import Tensor, nn

from recbole_msr.layers.groups import Groups
from recbole_msr.layers.mlp import MLPBank
from recbole_msr.layers.scenario_axes import Axes
from recbole_msr.layers.towers import Towers


class GateNU(nn.Module):
    """P gate neural units: delta_p = gamma * sigmoid(W'_p relu(W_p z + b_p) + b'_p), each entry in (0, gamma).

    >>> GateNU(2, 10, 4)(torch.zeros(3, 10)).shape
    torch.Size([2, 3, 4])

    Args:
        n_gates: P.
        input_size: width of z.
        output_size: width of delta, that of what it scales.
        hidden_size: width of the first layer; None for that of the output.
        scale: gamma; with the paper's 2 a gate begins near 1.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self, n_gates: int, input_size: int, output_size: int, hidden_size: int | None = None, scale: float = 2.0
    ) -> None:
        super().__init__()
        hidden = output_size if hidden_size is None else hidden_size
        self.bank = MLPBank(n_gates, input_size, [hidden], "relu", output_size=output_size)
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        """Return delta (P, B, output_size) of z (B, input_size)."""
        return self.scale * self.bank(z).sigmoid()


class PersonalizedTowers(nn.Module):
    """Towers of PPNet: y_p = w_p O_p^L + b_p, where every hidden layer is scaled by a gate.

    H_p^l = f(W_p^l O_p^{l-1} + b_p^l),   O_p^l = delta_p^l * H_p^l,   delta_p^l = GateNU_p^l(z),   O^0 = the input

    Args:
        groups: what towers and gates are kept apart for.
        input_size: width of the input.
        hidden_sizes: hidden layers, at least one.
        gate_input_size: width of z.
        gate_hidden_size, gate_scale: see `GateNU`.
        activation, dropout, batch_norm: of the hidden layers, see `MLP`.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        groups: Groups,
        input_size: int,
        hidden_sizes: Sequence[int],
        gate_input_size: int,
        gate_hidden_size: int | None = None,
        gate_scale: float = 2.0,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        n, sizes = groups.count, [input_size, *hidden_sizes]
        self.layers = nn.ModuleList(MLPBank(n, d, [h], activation, dropout, batch_norm) for d, h in pairwise(sizes))
        self.gates = nn.ModuleList(GateNU(n, gate_input_size, h, gate_hidden_size, gate_scale) for h in hidden_sizes)
        self.outputs = Towers(groups, sizes[-1], [], inputs=groups)

    def forward(self, x: Tensor, z: Tensor, scenario: Tensor) -> Tensor:
        """Return logits (B, T).

        Args:
            x: the towers' input (B, input_size).
            z: what the gates read (B, gate_input_size).
            scenario: each row's scenario (B,), 0..M-1.
        """
        for layer, delta in zip(self.layers, self.deltas(z), strict=True):
            x = delta * layer(x)
        return self.outputs(x, scenario)

    def scenario_axes(self) -> Axes:
        """Return where scenarios stand in its tensors."""
        return {"layers": self.outputs.groups.axes, "gates": self.outputs.groups.axes}

    def deltas(self, z: Tensor) -> Iterator[Tensor]:
        """Yield delta^l (P, B, H_l) of every hidden layer."""
        return (gate(z) for gate in self.gates)
