import pytest
import torch

from recbole_msr.layers.groups import Groups


@pytest.mark.parametrize("scenarios", [1, 2, 3])
@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("per", ["scenario", "task", "scenario_task"])
def test_each_row_gets_its_own_groups(per, scenarios, tasks):
    groups = Groups(per, scenarios, tasks)
    values, scenario = torch.randn(groups.count, 12, 4), torch.arange(12) % scenarios
    picked = groups.pick(values, scenario)
    assert picked.shape == (1 if per == "scenario" else tasks, 12, 4)
    for b in range(12):
        for t in range(len(picked)):
            p = {"scenario": scenario[b], "task": t, "scenario_task": t * scenarios + scenario[b]}[per]
            assert torch.equal(picked[t, b], values[p, b])


def test_values_may_be_numbers():
    values = torch.arange(6.0).view(3, 2)
    assert Groups("scenario", 3, 1).pick(values, torch.tensor([2, 0])).tolist() == [[4.0, 1.0]]
