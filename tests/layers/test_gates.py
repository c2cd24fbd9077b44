import torch

from recbole_msr.layers.cgc import CGC
from recbole_msr.layers.gates import GateBank, mix


def test_a_gate_is_a_linear_layer():
    gates, x = GateBank(2, 5, 3), torch.randn(7, 5)
    for p in range(2):
        torch.testing.assert_close(gates(x)[p], x @ gates.weights[0][p].t() + gates.biases[0][p])


def test_batch_norm_normalises_every_score_over_the_batch():
    gates, x = GateBank(2, 5, 3, batch_norm=True), torch.randn(70, 5)
    scores = gates(x)
    torch.testing.assert_close(scores.mean(dim=1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.var(dim=1, unbiased=False), torch.ones(2, 3), rtol=1e-3, atol=0)
    torch.testing.assert_close(gates(x.expand(2, 70, 5)), scores)


def test_mix_is_the_weighted_sum_of_experts():
    weights, experts = torch.rand(2, 7, 3), torch.randn(3, 7, 4)
    expected = sum(weights[:, :, e, None] * experts[e] for e in range(3))
    torch.testing.assert_close(mix(weights, experts), expected)


def test_every_gate_of_a_cgc_can_have_batch_norm():
    cgc, x = CGC(2, 5, 2, 1, [4], passes_shared=True, gate_batch_norm=True), torch.randn(70, 5)
    plain = CGC(2, 5, 2, 1, [4], passes_shared=True)
    added = sum(p.numel() for p in cgc.parameters()) - sum(p.numel() for p in plain.parameters())
    assert added == 2 * (2 * 3 + 5)
    assert cgc(x).shape == (3, 70, 4)
    torch.testing.assert_close(cgc.gate(x).sum(dim=1), torch.ones(2, 70))
