import json

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recbole_msr.evaluation.cells import Evaluation, evaluate_cells, recbole_metrics
from recbole_msr.evaluation.formulas import ScoredRows, grouped_auc, ranks
from recbole_msr.evaluation.metrics import find_metric, metric_keys, smaller_is_better
from recbole_msr.schema import MISSING_LABEL


def _made(rows=3000, seed=0):
    """Three scenarios and rows of none, two tasks, tied scores, missing labels, users of few or more rows."""
    random = np.random.default_rng(seed)
    predictions = random.uniform(0.01, 0.99, (rows, 2)).round(2).astype(np.float32)
    labels = (random.random((rows, 2)) < predictions * [0.8, 0.3]).astype(np.float32)
    labels[random.random((rows, 2)) < 0.1] = MISSING_LABEL
    users = 7 + (random.random(rows) ** 2 * 400).astype(np.int64)
    return predictions, labels, random.integers(0, 4, rows), users


def _evaluate(predictions, labels, scenario, users, names=("young", "mid", "old"), **options):
    return evaluate_cells(predictions, labels, scenario, users, names, ["click", "like"], "click", **options)


def _gauc_one_user_at_a_time(users, scores, labels):
    total = weight = 0.0
    for user in set(users.tolist()):
        of = users == user
        if set(labels[of].tolist()) == {0.0, 1.0}:
            total += of.sum() * roc_auc_score(labels[of], scores[of])
            weight += of.sum()
    return total / weight if weight else None


@pytest.fixture(scope="module")
def data():
    return _made()


@pytest.fixture(scope="module")
def result(data):
    return _evaluate(*data)


def test_ties_count_half_by_hand():
    # group 5, positives .5 .8, negatives .5 .1: of four pairs three won, one tied; group 9: its pair is lost
    auc = grouped_auc(
        np.array([5, 9, 5, 5, 9, 5]), np.array([0.5, 0.2, 0.5, 0.8, 0.3, 0.1]), np.array([1, 1, 0, 1, 0, 0])
    )
    assert auc.group.tolist() == [5, 9]
    assert auc.auc.tolist() == [3.5 / 4, 0.0]
    assert (auc.rows.tolist(), auc.positives.tolist()) == ([4, 2], [2, 1])


@pytest.mark.parametrize("groups", [np.array([3, 1, 3]), np.array([-10, 10**15, -10]), np.array(["b", "a", "b"])])
@pytest.mark.parametrize("scores", [np.array([0.1, 0.5, 0.9]), np.array([-(10**15), 0, 10**15]), np.array([0, -1, 1])])
def test_groups_and_scores_may_be_anything_that_sorts(groups, scores):
    auc = grouped_auc(groups, scores, np.array([0, 1, 1]))
    order = np.argsort(groups[:2])
    assert auc.group.tolist() == groups[:2][order].tolist()
    np.testing.assert_array_equal(auc.auc, np.array([1.0, np.nan])[order])


def test_ranks_keep_order_and_ties():
    assert ranks(np.array([0.3, -np.inf, 0.3, 9.0, -0.0, 0.0])).tolist() == [2, 0, 2, 3, 1, 1]


def test_no_rows_give_no_groups():
    assert all(len(part) == 0 for part in grouped_auc(np.array([]), np.array([]), np.array([])))


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_cells_equal_sklearn_and_a_loop_over_users(data, result, number, task):
    predictions, labels, scenario, users = data
    rows = (scenario == number) & (labels[:, task] != MISSING_LABEL)
    label, score = labels[rows, task], predictions[rows, task].astype(np.float64)
    cell = result.cells[["young", "mid", "old"][number - 1]][["click", "like"][task]]
    assert (cell.rows, cell.positives, cell.undefined) == (rows.sum(), (label == 1).sum(), None)
    assert cell.auc == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert cell.logloss == pytest.approx(log_loss(label, score), abs=1e-12)
    assert cell.gauc == pytest.approx(_gauc_one_user_at_a_time(users[rows], score, label), abs=1e-12)


@pytest.mark.parametrize("task", [0, 1])
def test_pooled_values_also_count_rows_of_an_unknown_scenario(data, result, task):
    predictions, labels, scenario, users = data
    rows = labels[:, task] != MISSING_LABEL
    assert (scenario[rows] == 0).any()
    label, score = labels[rows, task], predictions[rows, task].astype(np.float64)
    pooled = result.pooled[["click", "like"][task]]
    assert pooled.rows == rows.sum()
    assert pooled.auc == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert pooled.logloss == pytest.approx(log_loss(label, score), abs=1e-12)
    assert pooled.gauc == pytest.approx(_gauc_one_user_at_a_time(users[rows], score, label), abs=1e-12)


def test_main_task_equals_recbole(data):
    metrics = _recbole_metrics()
    predictions, labels, scenario, users = data
    predictions = predictions.copy()
    predictions[:3, 0] = [0.0, 1.0, 1.0]  # where RecBole's clipping decides
    labels = np.where(labels == MISSING_LABEL, 0, labels).astype(np.float32)
    flat = _evaluate(predictions, labels, scenario, users).flat()
    config = {"metric_decimal_place": 4}
    assert flat["auc"] == pytest.approx(metrics.AUC(config).metric_info(predictions[:, 0], labels[:, 0]), abs=1e-12)
    assert flat["logloss"] == metrics.LogLoss(config).metric_info(predictions[:, 0], labels[:, 0])


def test_smaller_is_better_as_recbole_declares():
    metrics = _recbole_metrics()
    from recbole.evaluator.register import metrics_dict

    assert metrics is not None
    for name, metric in metrics_dict.items():
        assert smaller_is_better(name) == metric.smaller, name
    assert all(map(smaller_is_better, ("LogLoss", "logloss/old/like", "RMSE")))
    assert not any(map(smaller_is_better, ("auc", "auc/logloss/like", "NDCG@10")))


def _recbole_metrics():
    pytest.importorskip("recbole")
    from recbole_msr import compat

    compat.apply()
    from recbole.evaluator import metrics

    return metrics


def test_order_of_rows_changes_nothing(data, result):
    order = np.random.default_rng(1).permutation(len(data[0]))
    again = _evaluate(*(part[order] for part in data)).flat()
    for key, value in result.flat().items():
        assert again[key] == (value if key.startswith("auc") else pytest.approx(value, abs=1e-12)), key


def test_macro_and_worst_by_hand(result):
    cells = {(s, t): cell for s, row in result.cells.items() for t, cell in row.items()}
    for metric, worst in (("auc", min), ("gauc", min), ("logloss", max)):
        values = {name: cell.value(metric) for name, cell in cells.items()}
        assert result.macro(metric) == pytest.approx(sum(values.values()) / 6)
        like = [value for (_, task), value in values.items() if task == "like"]
        assert result.macro(metric, "like") == pytest.approx(sum(like) / 3)
        name = worst(values, key=values.get)
        assert result.worst(metric) == (*name, values[name])


def _with_undefined():
    """click: 'a' is fine, 'b' all 0, 'c' all 1, 'd' one row, 'e' none; like: no label in 'a' and 'd'.""" ""
    scenario = np.array([1, 1, 1, 2, 2, 3, 3, 4])
    click = np.array([0, 1, 1, 0, 0, 1, 1, 1])
    like = np.array([-1, -1, -1, 0, 1, 1, 0, -1])
    predictions = np.array([0.5, 0.5, 0.9, 0.1, 0.2, 0.8, 0.3, 0.6])
    users = np.array([1, 1, 2, 1, 2, 1, 2, 3])
    return evaluate_cells(
        np.stack([predictions, predictions], 1), np.stack([click, like], 1), scenario, users, "abcde",
        ["click", "like"], "click",
    )  # fmt: skip


def test_undefined_cells_say_why_and_have_no_auc():
    result = _with_undefined()
    assert result.undefined == [
        ("a", "like", "no rows"),
        ("b", "click", "one class: all 0"),
        ("c", "click", "one class: all 1"),
        ("d", "click", "1 row, fewer than 2"),
        ("d", "like", "no rows"),
        ("e", "click", "no rows"),
        ("e", "like", "no rows"),
    ]
    for scenario, task, _ in result.undefined:
        cell = result.cells[scenario][task]
        assert (cell.auc, cell.gauc) == (None, None)
        assert (cell.logloss is None) == (cell.rows == 0)
    assert result.cells["b"]["click"].logloss == pytest.approx(-np.log([0.9, 0.8]).mean())


def test_undefined_cells_are_left_out_of_means_and_of_the_worst():
    result = _with_undefined()
    assert result.cells["a"]["click"].auc == 0.75
    assert result.macro("auc", "click") == 0.75
    assert result.macro("logloss", "click") == result.cells["a"]["click"].logloss
    assert result.macro("auc") == pytest.approx((0.75 + 1 + 1) / 3)
    assert result.worst() == ("a", "click", 0.75)


def test_gauc_needs_a_user_with_both_classes():
    result = _with_undefined()
    assert result.cells["a"]["click"].gauc == 0.5  # user 1: a tie; user 2 has one class
    assert (result.cells["b"]["like"].auc, result.cells["b"]["like"].gauc) == (1.0, None)
    assert result.macro("gauc") == 0.5


def test_without_users_there_is_no_gauc(data):
    result = _evaluate(*data[:3], None)
    assert not any(key.startswith("gauc") for key in result.flat())
    assert (result.macro("gauc"), result.worst("gauc"), result.undefined) == (None, None, [])


def test_users_may_be_strings(data, result):
    *rest, users = data
    named = _evaluate(*rest, np.char.add("u", users.astype(str)))
    assert named.flat() == pytest.approx(result.flat(), abs=1e-12)


def test_min_rows_silences_small_cells_but_not_the_pooled_values(data, result):
    small = _evaluate(*data, min_rows=10**6)
    assert small.pooled == result.pooled
    cell = small.cells["young"]["click"]
    assert cell.undefined == f"{cell.rows} rows, fewer than 1000000"
    assert (cell.auc, small.macro("auc"), small.worst()) == (None, None, None)


def test_flat_names_each_defined_value_once(result):
    flat = result.flat()
    names = {"auc", "auc/macro", "auc/worst"}
    names |= {f"auc/{task}{end}" for task in ("click", "like") for end in ("", "/macro")}
    names |= {f"auc/{scenario}/{task}" for scenario in ("young", "mid", "old") for task in ("click", "like")}
    assert {key for key in flat if key.startswith("auc")} == names
    assert len(flat) == 5 * len(names)
    assert flat["auc"] == flat["auc/click"] == result.pooled["click"].auc
    assert flat["logloss/worst"] == max(flat[f"logloss/{s}/{t}"] for s in result.cells for t in result.tasks)
    assert all(type(value) is float for value in flat.values())


def test_undefined_values_are_absent_from_flat():
    flat = _with_undefined().flat()
    assert "logloss/b/click" in flat
    assert not {"auc/b/click", "gauc/b/click", "logloss/e/click"} & flat.keys()


@pytest.mark.parametrize("make", [_with_undefined, lambda: _evaluate(*_made())])
def test_survives_json(make):
    result = make()
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert Evaluation.from_dict(json.loads(text)) == result
    written = json.loads(text)
    assert written["macro"]["auc"] == result.macro("auc")
    assert written["worst"]["auc"] == result.worst()._asdict()
    assert [tuple(cell.values()) for cell in written["undefined"]] == result.undefined


def test_no_rows_at_all():
    result = _evaluate(np.empty((0, 2)), np.empty((0, 2)), np.empty(0, int), np.empty(0, int))
    assert result.flat() == {}
    assert len(result.undefined) == 6
    assert result.pooled["click"].undefined == "no rows"


def test_nan_predictions_stop_with_the_first_row(data):
    predictions = data[0].copy()
    predictions[[4, 9], 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"NaN in 2 of 3000 rows \(the first is row 4, task 'like'\)"):
        _evaluate(predictions, *data[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full((4, 2), 0.5)}, "labels must be 0, 1 or -1"),
        ({"labels": np.full((4, 2), np.nan)}, "got nan"),
        ({"labels": np.zeros((4, 1))}, r"got \(4, 2\) and \(4, 1\)"),
        ({"scenario": np.array([0, 1, 2, 3])}, "from 0 .* to 2, got 3"),
        ({"scenario": np.array([-1, 1, 2, 2])}, "got -1"),
        ({"scenario": np.ones(4)}, "got float64"),
        ({"scenario": np.ones(3, int)}, r"scenario must be \(4,\)"),
        ({"users": np.ones(5)}, r"users must be \(4,\)"),
        ({"main_task": "buy"}, "main_task 'buy'"),
        ({"scenario_names": ["a", "a"]}, "scenario names must differ"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    arguments = {
        "predictions": np.full((4, 2), 0.5),
        "labels": np.zeros((4, 2)),
        "scenario": np.ones(4, int),
        "users": None,
        "scenario_names": ["a", "b"],
        "task_names": ["click", "like"],
        "main_task": "click",
    }
    evaluate_cells(**arguments)
    with pytest.raises(ValueError, match=message):
        evaluate_cells(**arguments | change)


_TINY_FLOAT = np.nextafter(np.float32(0), np.float32(1))  # the smallest denormal number
_ODD = [0.0, -0.0, _TINY_FLOAT, -_TINY_FLOAT, 1e-40, 1.0, 1 - 2**-24, -1.0, np.inf, -np.inf, 3.4e38, -3.4e38, 0.5]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int8, np.int64, np.uint64])
@pytest.mark.parametrize("kind", ["odd", "ties", "spread"])
def test_auc_of_any_numbers_equals_counting_all_pairs(dtype, kind):
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        ties, spread = random.integers(-3, 4, 120) / 4, random.normal(size=120)
        values = {"odd": random.choice(_ODD, 120), "ties": ties, "spread": spread}[kind]
    else:
        whole = np.iinfo(dtype)
        odd, spread = [whole.min, whole.min + 1, 0, whole.max - 1, whole.max], whole.max // 120 * np.arange(120)
        values = {"odd": random.choice(np.array(odd, dtype), 120), "ties": np.arange(120) % 4, "spread": spread}[kind]
    with np.errstate(over="ignore"):
        scores = random.permutation(np.asarray(values).astype(dtype))
    labels, groups = random.integers(0, 2, 120), random.integers(0, 3, 120)
    found = grouped_auc(groups, scores, labels)
    for group, auc in zip(found.group, found.auc, strict=True):
        rows = groups == group
        positive, negative = scores[rows & (labels == 1)], scores[rows & (labels == 0)]
        pairs = [(1.0 if p > n else 0.5 if p == n else 0.0) for p in positive for n in negative]
        assert auc == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize("groups", [1, 7, 300, 70_000, 2**33])
def test_many_groups_are_sorted_like_few(groups):
    random = np.random.default_rng(groups % 1000)
    of = random.integers(0, groups, 4000)
    scores, labels = random.random(4000).astype(np.float32).round(2), random.integers(0, 2, 4000)
    found = ScoredRows(scores, labels).auc(of)
    expected = grouped_auc(of.astype(str), scores, labels)  # by way of np.unique
    by_name = dict(zip(expected.group.tolist(), expected.auc.tolist(), strict=True))
    assert found.group.tolist() == sorted(set(of.tolist()))
    np.testing.assert_array_equal(found.auc, [by_name[str(group)] for group in found.group])
    assert found.rows.sum() == 4000
    assert found.positives.sum() == labels.sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_every_cell_equals_sklearn_with_exact_zeros_and_ones(dtype, seed):
    """Users of one scenario (seed 0) and of several, tiny cells, cells of one class, scores from 0 to 1 with both."""
    random = np.random.default_rng(seed)
    rows, names = 2000, [f"s{number}" for number in range(1, 9)]
    users = random.integers(0, 150, rows)
    scenario = (
        users % 9 if seed == 0 else random.choice(9, rows, p=[0.3, 0.3, 0.3, 0.094, 0.002, 0.001, 0.001, 0.001, 0.001])
    )
    predictions = random.choice([0.0, -0.0, 1.0, _TINY_FLOAT, 1e-3, 0.25, 0.5, 0.75, 1 - 1e-7], (rows, 2)).astype(dtype)
    labels = random.choice([0.0, 1.0, MISSING_LABEL], (rows, 2), p=[0.5, 0.3, 0.2])
    labels[scenario == 3, 0] = 1
    result = evaluate_cells(predictions, labels, scenario, users, names, ["click", "like"], "click")
    assert result.cells["s3"]["click"].undefined == "one class: all 1"
    clipped = np.clip(predictions.astype(np.float64), 1e-15, 1 - 1e-15)
    for number, name in enumerate(names, 1):
        for task, cell in zip((0, 1), result.cells[name].values(), strict=True):
            of = (scenario == number) & (labels[:, task] != MISSING_LABEL)
            label, score = labels[of, task], predictions[of, task].astype(np.float64)
            assert (cell.rows, cell.positives) == (of.sum(), (label == 1).sum())
            if cell.undefined is None:
                assert cell.auc == pytest.approx(roc_auc_score(label, score), abs=1e-12)
                gauc = _gauc_one_user_at_a_time(users[of], score, label)
                assert cell.gauc == (None if gauc is None else pytest.approx(gauc, abs=1e-12))
            if of.any():
                losses = -np.log(np.where(label == 1, clipped[of, task], 1 - clipped[of, task]))
                assert cell.logloss == pytest.approx(losses.mean(), rel=1e-12)
            else:
                assert (cell.logloss, cell.undefined) == (None, "no rows")


def test_a_lone_scenario_has_the_pooled_values_to_the_last_digit(data):
    predictions, labels, _, users = data
    alone = evaluate_cells(predictions, labels, np.ones(3000, int), users, ["all"], ["click", "like"], "click")
    assert alone.cells["all"] == alone.pooled
    small = evaluate_cells(
        predictions, labels, np.ones(3000, int), users, ["all"], ["click", "like"], "click", min_rows=10**6
    )
    assert small.pooled == alone.pooled
    assert small.cells["all"]["click"].auc is None


def test_recboles_metrics_are_known_without_recbole_computing_them(data):
    metrics = _recbole_metrics()
    predictions, labels, scenario, users = data
    labels = np.where(labels == MISSING_LABEL, 0, labels).astype(np.float32)
    cell = _evaluate(predictions, labels, scenario, users).pooled["click"]
    for decimals in (1, 4, 9):
        config = {"metric_decimal_place": decimals}
        theirs = {
            name: float(round(metric(config).metric_info(predictions[:, 0], labels[:, 0]), decimals))
            for name, metric in (("auc", metrics.AUC), ("logloss", metrics.LogLoss))
        }
        assert recbole_metrics(cell, ["logloss", "mae", "auc"], decimals) == theirs
    assert list(recbole_metrics(cell, ["logloss", "mae", "auc"], 4)) == ["logloss", "auc"]


def test_what_recbole_cannot_define_is_no_number():
    everything_clicked = evaluate_cells(
        np.full((3, 1), 0.5), np.ones((3, 1)), np.ones(3, int), None, ["all"], ["click"], "click"
    )
    found = recbole_metrics(everything_clicked.pooled["click"], ["auc", "logloss"], 4)
    assert np.isnan(found["auc"])
    assert found["logloss"] == 0.6931


def test_names_of_values_are_those_of_the_values():
    predictions, labels, scenario, users = _made()
    found = evaluate_cells(predictions, labels, scenario, users, ["a", "b", "c"], ["click", "buy"], "click")
    assert sorted(found.keys()) == sorted(found.flat())
    without = evaluate_cells(predictions, labels, scenario, users, ["a", "b", "c", "none"], ["click", "buy"], "click")
    assert {"auc/none/click", "logloss/none/buy"} <= set(without.keys()) - set(without.flat())


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        ("auc/A/click", "auc/A/click"),
        ("AUC/a/click", "auc/a/click"),
        ("AUC/B/Click", "auc/B/Click"),
        ("auc/b/click", "auc/b/click"),
        ("GAUC/Macro", "gauc/macro"),
        ("logloss/click/WORST", None),
        ("auc/c/click", None),
        ("auc/C d/CLICK", None),
        ("Auc/e/buy", "auc/E/buy"),
    ],
)
def test_a_metric_is_found_as_it_is_written_else_by_the_only_name_that_differs_in_case(wanted, key):
    tasks = dict.fromkeys(["click", "Click", "buy"], "binary")
    assert find_metric(wanted, metric_keys(["A", "a", "B", "b", "C d", "E"], tasks, "click")) == key
