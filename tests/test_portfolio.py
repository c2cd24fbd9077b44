"""First configurations are chosen as benchmarks/portfolio.py says: greedily, each for where the others are weak."""

import itertools
import json

import pytest
import yaml

from benchmarks import outside_data, portfolio, portfolio_trials
from benchmarks.portfolio import (
    better_everywhere,
    choose,
    differing,
    expected_best,
    file_of,
    left_out_one,
    losses,
    outside,
)
from benchmarks.portfolio_trials import Results
from recbole_msr.tuning.space.space import Space

VALUES = {
    0: {"a": 0.70, "b": 0.70, "c": 0.70},  # the defaults
    1: {"a": 0.75, "b": 0.69, "c": 0.70},
    2: {"a": 0.60, "b": 0.80, "c": 0.55},
    3: {"a": 0.74, "b": 0.71, "c": 0.71},
    4: {"a": 0.50, "b": 0.79, "c": 0.60},
}


def _mean_loss(values, chosen):
    total = 0.0
    for data in values[0]:
        best = max(by[data] for by in values.values())
        total += (best - max(values[number][data] for number in chosen)) / (best - 0.5)
    return total / len(values[0])


def test_a_loss_is_a_share_of_what_the_best_knows():
    assert losses(VALUES)[0]["a"] == pytest.approx(0.05 / 0.25)
    assert losses(VALUES)[4]["a"] == 1.0
    assert losses(VALUES)[2]["b"] == 0.0


def test_each_further_one_is_what_helps_most():
    chosen = choose(VALUES, least=0.0001)
    assert chosen[0] == 0
    for length in range(1, len(chosen)):
        others = [number for number in VALUES if number not in chosen[:length]]
        best = min(_mean_loss(VALUES, [*chosen[:length], number]) for number in others)
        assert _mean_loss(VALUES, chosen[: length + 1]) == pytest.approx(best)
    assert 4 not in chosen  # never the best of anything


def test_it_ends_where_nothing_helps_enough_or_at_the_most():
    assert choose(VALUES, least=0.5) == [0]
    assert len(choose(VALUES, most=1, least=0.0)) == 2


def test_settings_that_failed_are_the_worst():
    failed = VALUES | {5: dict.fromkeys("abc", float("-inf"))}
    assert choose(failed, least=0.0001) == choose(VALUES, least=0.0001)


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_the_best_of_random_draws_is_the_mean_over_all_draws(draws):
    values, floor = [0.3, 0.9, 0.5, 0.6], 0.55
    ways = list(itertools.combinations(values, draws))
    expected = sum(max(*way, floor) for way in ways) / len(ways)
    assert expected_best(values, draws, floor) == pytest.approx(expected)
    assert expected_best(values, 5, floor) is None
    assert expected_best(values, 0, floor) == floor


def test_a_dataset_is_judged_by_what_the_others_chose():
    found = left_out_one(VALUES, random=[2, 4])
    order = choose(VALUES, ["a", "c"], most=8, least=-1.0)
    assert found[1]["b"][0] == 0.70
    assert found[2]["b"][0] == max(VALUES[number]["b"] for number in order[:2])
    assert found[2]["b"][1] == pytest.approx((0.80 + 0.79) / 2)


def test_only_what_is_better_on_every_dataset_is_better_everywhere():
    assert better_everywhere(VALUES) == [3]


def test_the_file_has_what_differs_from_the_defaults():
    settings = {1: {"dropout": 0.2, "learning_rate": 0.0034567, "towers_per": "task"}, 3: {"dropout": 0.0}}
    assert differing("SharedBottom", settings[1]) == {"learning_rate": 0.00346, "towers_per": "task"}
    text = file_of("SharedBottom", VALUES, settings, [0, 1, 3])
    assert yaml.safe_load(text) == {
        "model": "SharedBottom",
        "configurations": [{"learning_rate": 0.00346, "towers_per": "task"}, {"dropout": 0.0}],
    }
    assert "# a +0.0500, b -0.0100, c +0.0000" in text


def test_settings_that_a_search_could_not_try_are_known():
    space = Space.of_model("SharedBottom")
    assert not outside("SharedBottom", {}, space)
    assert not outside("SharedBottom", {"learning_rate": 0.00123456}, space)
    assert outside("SharedBottom", {"learning_rate": 3.0}, space)
    assert outside("SharedBottom", {"sub_experts": 3}, space)


def test_collecting_goes_on_where_it_stopped_with_the_same_settings_on_all_data(tmp_path, monkeypatch):
    trained = []

    def train(model, settings, dataset, config, **_):
        trained.append((model, json.dumps(settings, sort_keys=True), dataset))
        return {"value": 0.6, "seconds": 1.0}

    monkeypatch.setattr(portfolio_trials, "train", train)
    monkeypatch.setattr(portfolio_trials, "prepare", lambda name, *_: (name, {}))
    monkeypatch.setattr(outside_data, "missing", lambda name, _: None if name in ("ml-100k", "yelp") else "absent")
    for _ in range(2):
        portfolio_trials.collect(tmp_path, ["FM", "LR"], 3, 100, 1, None, tmp_path)
    assert len(trained) == len(set(trained)) == 2 * 3 * 2
    for model in ("FM", "LR"):
        values = Results(tmp_path).values(model)
        assert list(values) == [0, 1, 2]
        assert set(values[0]) == {"ml-100k", "yelp"}
    assert Results(tmp_path).settings["FM"][0]["settings"] == {}


def test_trainings_of_the_fidelity_benchmark_count_too(tmp_path):
    def line(number, dataset, values, settings):
        return {
            **{"model": "FM", "number": number, "dataset": dataset, "rows": 1234, "settings": settings},
            "full": [{"value": value} for value in values],
        }

    lines = [line(0, "yelp-42", [0.6, 0.7, 0.65], {}), line(3, "yelp-42", [0.8, 0.5], {"learning_rate": 0.007})]
    (tmp_path / "fidelity.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    results = Results(tmp_path, tmp_path / "fidelity.jsonl")
    results.plan("FM", 1)
    results.add({"model": "FM", "number": 0, "data": "yelp", "value": 0.66, "seconds": 1.0})
    results = Results(tmp_path, tmp_path / "fidelity.jsonl")
    name = "yelp (1,234 rows)"
    assert results.values("FM") == {0: {"yelp": 0.66, name: 0.7}, 1003: {name: 0.8}}
    assert results.of("FM")[1003]["settings"] == {"learning_rate": 0.007}
    assert results.random("FM") == [1003]
    assert choose(results.values("FM")) == [0, 1003]


def test_a_line_cut_off_by_a_kill_is_trained_again(tmp_path):
    results = Results(tmp_path)
    results.add({"model": "FM", "number": 0, "data": "a", "value": 0.5, "seconds": 1.0})
    with open(tmp_path / "trainings.jsonl", "a") as file:
        file.write('{"model": "FM", "nu')
    again = Results(tmp_path)
    assert len(again.trainings) == 1
    again.add({"model": "FM", "number": 1, "data": "a", "value": 0.5, "seconds": 1.0})
    assert [line["number"] for line in Results(tmp_path).trainings] == [0, 1]


def test_tables_take_the_place_of_those_in_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmarks.portfolio report -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        portfolio.put("| a |\n", page)
    text = "before\n<!-- benchmarks.portfolio report -->\n\n| a |\n\n<!-- end -->\nafter\n"
    assert page.read_text() == text


def test_too_few_settings_write_no_file(tmp_path, capsys):
    portfolio.main(["choose", "--folder", str(tmp_path / "results"), "--models=FM", "--out", str(tmp_path / "out")])
    assert "too few" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
