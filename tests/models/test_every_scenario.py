"""Rows of an unknown scenario: every scenario's logits in one pass, equal to a pass for each scenario."""

from itertools import product

import pytest
import torch

from recbole_msr.layers.groups import PER
from recbole_msr.models import base
from recbole_msr.models.hinet import HiNet
from recbole_msr.registry import BUILT_IN_MODELS
from tests.models.equations import TASKS

SMALL = {"embedding_size": 4, "tower_hidden_sizes": [5]}
MOE = SMALL | {"experts": 3, "expert_hidden_sizes": [6]}
HINET = SMALL | {"expert_hidden_sizes": [6], "task_expert_hidden_sizes": [6], "sub_experts": 2}
STAR = {"embedding_size": 4, "fcn_hidden_sizes": [6], "auxiliary_hidden_sizes": [5]}
PLE = SMALL | {"expert_hidden_sizes": [6], "levels": 2}
VARIANTS = [
    *(("SharedBottom", SMALL | {"bottom_hidden_sizes": [6], "towers_per": per}) for per in PER),
    *(("OMoE", MOE | {"experts": n}) for n in (1, 3)),
    *(("MMoE", MOE | {"gates_per": gates, "towers_per": towers}) for gates, towers in product(PER, PER)),
    ("MMoE", MOE | {"experts": 1, "towers_per": "task"}),
    *(("PLE", PLE | {"experts_per": experts, "towers_per": towers}) for experts, towers in product(PER, PER)),
    *(("HMoE", MOE | {"relations": per, "stop_gradient": False}) for per in PER),
    *(("STAR", STAR | {"specific_per": per, "partitioned_norm": True}) for per in PER),
    *(("STAR", STAR | {"auxiliary_input": which, "batch_norm": True}) for which in ("scenario", "features")),
    *(("AITM", SMALL | {"towers_per": per}) for per in ("task", "scenario_task")),
    *(("HiNet", HINET | {"tower_per_scenario": own, "scenario_layers": n}) for own in (True, False) for n in (1, 2)),
    *(("HiNet", HINET | {"san_top_k": 1, "batch_norm": True, "expert_sharing": how}) for how in ("none", "low_rank")),
    *(
        ("LLM4MSR", HINET | {"backbone": "HiNet", "knowledge": "random", "knowledge_size": 8, "fusion": fusion} | more)
        for fusion, more in (
            ("learned", {"meta_weights": "full"}),
            ("gate", {"meta_weights": "core", "meta_layers": 2}),
            ("fixed", {"meta_weights": "low_rank", "meta_layers": 2}),
        )
    ),
]
VARIANTS += [(name, {"embedding_size": 4}) for name in BUILT_IN_MODELS if name not in dict(VARIANTS)]


def id_of(value):
    return str(value) if not isinstance(value, dict) else "-".join(str(v) for k, v in value.items() if "sizes" not in k)


FIRST = dict(reversed(VARIANTS))
CASES = [(*variant, 3, 2) for variant in VARIANTS]
CASES += [(*variant, scenarios, 1) for variant in FIRST.items() for scenarios in (1, 2)]


@pytest.mark.parametrize(("name", "settings", "scenarios", "tasks"), CASES, ids=id_of)
def test_logits_of_all_scenarios_are_those_of_each(make_model, name, settings, scenarios, tasks):
    model, rows = make_model(scenarios, name, tasks=TASKS[tasks], **settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.calculate_loss(rows)  # moves what batch norms keep
    model.eval()
    with torch.no_grad():
        x = model.embed(rows)[:7]
        each = [model.logits(x, torch.full((7,), m)) for m in range(scenarios)]
        torch.testing.assert_close(model.every_scenario_logits(x), torch.stack(each), rtol=1e-4, atol=1e-4)


def test_experts_are_passed_once(make_model):
    model, rows = make_model(3, "HiNet", **HINET)
    calls = []
    model.scenario_layers[0].experts.register_forward_hook(lambda *_: calls.append(1))
    rows["scenario"][:] = 0
    model.eval()
    model.predict_tasks(rows)
    assert len(calls) == 1


def test_parts_of_the_rows_give_the_same(make_model, monkeypatch):
    model, rows = make_model(3, "PLE", **PLE)
    model.eval()
    rows["scenario"][::2] = 0
    whole = model.predict_tasks(rows)
    monkeypatch.setattr(base, "_ROWS_BY_SCENARIO", 20)
    torch.testing.assert_close(model.predict_tasks(rows), whole)


def test_a_subclass_with_logits_of_its_own_is_asked_for_them(make_model):
    class Doubled(HiNet):
        def logits(self, x, scenario):
            return 2 * super().logits(x, scenario)

    model, rows = make_model(3, "HiNet", **HINET)
    model.eval()
    x = model.embed(rows)
    expected = 2 * model.every_scenario_logits(x)
    model.__class__ = Doubled
    torch.testing.assert_close(model.every_scenario_logits(x), expected)
