from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from recbole_msr.evaluation.cells import evaluate_cells
from recbole_msr.evaluation.significance import Rows, adjust, differences, holm
from recbole_msr.schema import MISSING_LABEL

SCENARIOS, TASKS = ("young", "mid", "old"), ("click", "like")


def _made(rows=600, users=60, seed=0, models=2, ties=True):
    """Three scenarios and rows of none, two tasks, missing labels, tied scores of correlated models, uneven users."""
    random = np.random.default_rng(seed)
    user = np.concatenate([np.arange(users), (random.random(rows - users) ** 1.5 * users).astype(int)])
    scenario = random.integers(0, 4, rows)
    signal = random.normal(size=(rows, 2)) + random.normal(size=(users, 2))[user]
    labels = (random.normal(size=(rows, 2)) + signal > [0.0, 0.8]).astype(np.int8)
    labels[random.random((rows, 2)) < 0.1] = MISSING_LABEL
    scores = []
    for number in range(models):
        noise = random.normal(size=(rows, 2)) + 0.5 * random.normal(size=(users, 2))[user]
        score = 1 / (1 + np.exp(-(signal + (0.6 + 0.3 * number) * noise)))
        scores.append((score.round(1).clip(0.05, 0.95) if ties else score).astype(np.float32))
    return labels, scenario, user, scores


def _one_task(label, user, *models):
    """Differences of the first model to the second on one task of one scenario; each model a list over seeds."""
    label = np.asarray(label)
    rows = Rows(label[:, None], np.ones(len(label), int), user, ["all"], ["click"])
    return differences(*([rows.measure(np.asarray(score)[:, None]) for score in seeds] for seeds in models))


def _delong_one_pair_at_a_time(label, first, second):
    """Variance of the difference of two AUC by the formulas of DeLong et al. (1988), every pair looked at.

    S10 and S01 are the 2 x 2 covariance matrices of the components of both curves; the variance is L S L' with
    L = (1, -1) and S = S10 / m + S01 / n (equations 4 to 8 there).
    """
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    wins = np.zeros((2, len(positive), len(negative)))
    for k, score in enumerate((first, second)):
        for i, x in enumerate(score[positive]):
            for j, y in enumerate(score[negative]):
                wins[k, i, j] = 1.0 if x > y else 0.5 if x == y else 0.0
    covariance = np.cov(wins.mean(axis=2)) / len(positive) + np.cov(wins.mean(axis=1)) / len(negative)
    contrast = np.array([1, -1])
    return wins[0].mean() - wins[1].mean(), contrast @ covariance @ contrast


@pytest.mark.parametrize("ties", [True, False])
def test_without_users_the_auc_error_is_delongs(ties):
    labels, _, _, (first, second) = _made(rows=160, ties=ties)
    label = labels[:, 0].clip(0)
    found = _one_task(label, None, [first[:, 0]], [second[:, 0]])["auc/click"]
    mean, variance = _delong_one_pair_at_a_time(label, first[:, 0], second[:, 0])
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.row_error == pytest.approx(variance**0.5, rel=1e-9)
    assert (found.seed_error, found.p_seeds, found.seeds) == (None, None, 1)


def test_against_a_model_that_is_always_tied_the_degrees_are_brunner_and_munzels():
    labels, _, _, (score, _) = _made(rows=80)
    label = labels[:, 0].clip(0)
    found = _one_task(label, None, [score[:, 0]], [np.full(len(label), 0.5)])["auc/click"]
    other = stats.brunnermunzel(score[label == 0, 0], score[label == 1, 0])
    assert found.p_rows == pytest.approx(other.pvalue, rel=1e-9)


def test_without_users_the_logloss_test_is_the_paired_t_test_over_rows():
    labels, _, _, (first, second) = _made(rows=160)
    label = labels[:, 0].clip(0)
    found = _one_task(label, None, [first[:, 0]], [second[:, 0]])["logloss/click"]
    losses = [-np.log(np.where(label == 1, score[:, 0], 1 - score[:, 0]).astype(float)) for score in (first, second)]
    test = stats.ttest_rel(*losses)
    interval = test.confidence_interval(0.95)
    assert (found.p, found.degrees) == (pytest.approx(test.pvalue, rel=1e-5), pytest.approx(test.df))
    assert (found.low, found.high) == (pytest.approx(interval.low, rel=1e-5), pytest.approx(interval.high, rel=1e-5))


def test_users_of_like_rows_count_as_one_row_each():
    """Every row five times, as five rows of one user: as much is known as from the rows once."""
    labels, _, _, scores = _made(rows=120, models=4)
    label, series = labels[:, 0].clip(0), [score[:, 0] for score in scores]
    once = _one_task(label, None, series[:2], series[2:])
    series = [np.repeat(score, 5) for score in series]
    five = _one_task(np.repeat(label, 5), np.repeat(np.arange(120), 5), series[:2], series[2:])
    for key in ("auc/click", "logloss/click", "auc/macro"):
        assert asdict(five[key]) == pytest.approx(asdict(once[key]), rel=1e-6)


def test_the_clustered_auc_error_is_obuchowskis():
    labels, _, user, (first, second) = _made(rows=200, users=20)
    label = labels[:, 0].clip(0)
    found = _one_task(label, user, [first[:, 0]], [second[:, 0]])["auc/click"]
    positive, negative = label == 1, label == 0
    m, n = positive.sum(), negative.sum()
    x, y = np.zeros(20), np.zeros(20)  # of the difference: each user's sums of V10 and V01, less their expectation
    for sign, score in ((1, first[:, 0]), (-1, second[:, 0])):
        wins = (np.sign(score[positive][:, None] - score[negative]) + 1) / 2
        np.add.at(x, user[positive], sign * (wins.mean(axis=1) - wins.mean()))
        np.add.at(y, user[negative], sign * (wins.mean(axis=0) - wins.mean()))
    i10, i01, i = len(set(user[positive])), len(set(user[negative])), len(set(user))
    s10, s01 = i10 / ((i10 - 1) * m) * (x @ x), i01 / ((i01 - 1) * n) * (y @ y)
    s11 = i / (i - 1) * (x @ y)
    # His factor of the covariance counts all users, here it is the geometric mean of those of both classes.
    assert found.row_error**2 == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n), rel=0.01)


def _metric(label, score, metric):
    return roc_auc_score(label, score) if metric == "auc" else log_loss(label, score.astype(np.float64))


def _value(key, labels, scenario, score):
    """A metric key by scikit-learn."""
    metric, *name = key.split("/")
    if name[-1] == "macro":
        tasks = name[:-1] or TASKS
        return np.mean([_value(f"{metric}/{s}/{task}", labels, scenario, score) for task in tasks for s in SCENARIOS])
    column = TASKS.index(name[-1])
    rows = labels[:, column] != MISSING_LABEL
    if len(name) == 2:
        rows &= scenario == 1 + SCENARIOS.index(name[0])
    return _metric(labels[rows, column], score[rows, column], metric)


@pytest.mark.parametrize("clustered", [True, False])
def test_errors_of_cells_and_means_are_those_of_a_bootstrap(clustered):
    """Of users, or of rows: all rows of a drawn user are drawn. 300 draws know a deviation to 4 % (one sigma);
    the bootstrap itself is off by some per cent with 80 users. Without users the errors are other ones."""
    labels, scenario, user, (first, second) = _made(rows=800, users=80, seed=3)
    rows = Rows(labels, scenario, user if clustered else None, SCENARIOS, TASKS)
    found = differences([rows.measure(first)], [rows.measure(second)])
    keys = ["auc/click", "auc/mid/like", "auc/like/macro", "auc/macro", "logloss/macro", "logloss/mid/like"]
    random = np.random.default_rng(5)
    groups = [np.flatnonzero(user == one) for one in range(80)] if clustered else list(np.arange(800)[:, None])
    draws = []
    for _ in range(300):
        drawn = np.concatenate([groups[one] for one in random.integers(0, len(groups), len(groups))])
        values = [evaluate_cells(s[drawn], labels[drawn], scenario[drawn], None, SCENARIOS, TASKS, "click").flat()
                  for s in (first, second)]  # fmt: skip
        draws.append([values[0][key] - values[1][key] for key in keys])
    for key, deviation in zip(keys, np.std(draws, axis=0, ddof=1), strict=True):
        assert found[key].row_error == pytest.approx(deviation, rel=0.16), key
        assert found[key].mean == pytest.approx(
            _value(key, labels, scenario, first) - _value(key, labels, scenario, second), abs=1e-6
        )


def test_values_are_those_of_the_evaluation():
    labels, scenario, user, scores = _made(rows=3000)
    labels[scenario == 2, 1] = 0  # one class: undefined, in no mean
    labels[np.flatnonzero(scenario == 3)[40:], 1] = MISSING_LABEL  # fewer than min_rows
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS, min_rows=50)
    keys = set()
    for score in scores:
        measured = rows.measure(score)
        expected = evaluate_cells(score, labels, scenario, user, SCENARIOS, TASKS, "click", min_rows=50).flat()
        tested = {k for k in expected if "/" in k and k.split("/")[0] in ("auc", "logloss") and "worst" not in k}
        expected = {k: v for k, v in expected.items() if k in tested}
        assert {key: measured.value(key) for key in expected} == pytest.approx(expected, rel=1e-12)
        assert all(measured.value(key) == expected[key] for key in expected if key.startswith("auc"))
        assert measured.value("auc/mid/like") is None
        keys = set(expected)
    assert set(differences([rows.measure(scores[0])], [rows.measure(scores[1])])) == keys


def test_seeds_are_paired_and_their_error_is_added():
    labels, scenario, user, scores = _made(models=6)
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS)
    model, reference = [rows.measure(s) for s in scores[:3]], [rows.measure(s) for s in scores[3:]]
    for key, found in differences(model, reference).items():
        sides = [[_value(key, labels, scenario, s) for s in part] for part in (scores[:3], scores[3:])]
        test = stats.ttest_rel(*sides)
        assert found.mean == pytest.approx(np.subtract(*sides).mean(), abs=1e-6)
        assert found.seed_error == pytest.approx(np.subtract(*sides).std(ddof=1) / 3**0.5, rel=1e-4)
        assert found.p_seeds == pytest.approx(test.pvalue, rel=1e-3)
        error = np.hypot(found.row_error, found.seed_error)
        assert found.p == pytest.approx(2 * stats.t.sf(abs(found.mean) / error, found.degrees), rel=1e-9)
        reach = stats.t.ppf(0.975, found.degrees) * error
        assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach))


def test_degrees_of_rows_and_seeds_are_satterthwaites():
    labels, _, _, scores = _made(rows=160, models=6)
    label, series = labels[:, 0].clip(0), [score[:, 0] for score in scores]
    found = _one_task(label, None, series[:3], series[3:])["logloss/click"]  # its rows alone have 159
    row, seed = found.row_error**2, found.seed_error**2
    assert found.degrees == pytest.approx((row + seed) ** 2 / (row**2 / 159 + seed**2 / 2))


def test_no_mean_of_cells_knows_more_than_its_users():
    labels, scenario, user, (first, second) = _made(rows=400, users=20)
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS)
    found = differences([rows.measure(first)], [rows.measure(second)])
    assert (found["auc/macro"].degrees, found["logloss/macro"].degrees) == (19, 19)


def test_the_row_error_of_several_seeds_is_that_of_their_mean():
    """LogLoss is a mean over rows: its mean over seeds is the mean of the rows' losses averaged over seeds."""
    labels, _, user, scores = _made(rows=200, users=20, models=4)
    label, series = labels[:, 0].clip(0), [score[:, 0].astype(float) for score in scores]
    found = _one_task(label, user, series[:2], series[2:])["logloss/click"]
    losses = [-np.log(np.where(label == 1, score, 1 - score)) for score in series]
    each = (losses[0] + losses[1] - losses[2] - losses[3]) / 2
    by_user = np.array([(each[user == one] - each.mean()).sum() for one in range(20)]) / 200
    assert found.row_error == pytest.approx((by_user @ by_user * 20 / 19) ** 0.5, rel=1e-9)


def _study(random, users=40, each=6, seeds=3, seed_noise=0.5, gain=0.0, between=0.5):
    """A data set, and two models alike but for what they see beside the point: the first less of it by `gain`.

    Every seed trains other weights, which all rows feel; `between` is the users' part of each feature's variance.
    """
    user = np.repeat(np.arange(users), each)

    def feature():
        of_user, of_row = random.normal(size=users)[user], random.normal(size=len(user))
        return between**0.5 * of_user + (1 - between) ** 0.5 * of_row

    signal, first, second, common = (feature() for _ in range(4))
    label = (random.random(len(user)) < 1 / (1 + np.exp(-1.5 * signal))).astype(int)
    if between == 1:
        label = label[user * each]

    def model(own, weight):
        noise = random.normal(size=(seeds, 2)) * seed_noise
        return [1 / (1 + np.exp(-(signal + (weight + a) * own + b * common))) for a, b in noise]

    return label, user, model(first, 1.0 - gain), model(second, 1.0)


def _rejected(studies=400, key="auc/click", clustered=True, p="p", **options):
    """The share of p values below 5 %."""
    random = np.random.default_rng(11)
    found = []
    for _ in range(studies):
        label, user, model, reference = _study(random, **options)
        found.append(getattr(_one_task(label, user if clustered else None, model, reference)[key], p) < 0.05)
    return np.mean(found)


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("key", ["auc/click", "logloss/click"])
def test_of_equal_models_about_one_in_twenty_is_called_different(key, seeds):
    # Three sigma of 400 are 3.3 points.
    assert 0.015 <= _rejected(key=key, seeds=seeds, seed_noise=0.0 if seeds == 1 else 0.5) <= 0.085


def test_rows_alone_or_seeds_alone_call_equal_models_different_too_often():
    assert _rejected(p="p_rows") > 0.12  # other seeds would say something else
    assert _rejected(p="p_seeds", seed_noise=0.1) > 0.2  # so would other rows


def test_without_users_like_rows_call_equal_models_different_too_often():
    rows = {"seeds": 1, "seed_noise": 0.0, "between": 1, "users": 60, "each": 8}
    assert _rejected(**rows) < 0.085
    assert _rejected(**rows, clustered=False) > 0.3


def test_a_better_model_is_found():
    assert _rejected(studies=60, gain=0.8, users=150, seeds=5, seed_noise=0.2) > 0.9


def test_equal_predictions_do_not_differ():
    labels, scenario, user, (score, _) = _made()
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS)
    for one in differences([rows.measure(score)] * 2, [rows.measure(score.copy())] * 2).values():
        assert asdict(one) == {
            "mean": 0, "low": 0, "high": 0, "row_error": 0, "seed_error": 0, "degrees": None,
            "p_rows": 1, "p_seeds": 1, "p": 1, "seeds": 2,
        }  # fmt: skip


def test_models_without_seeds_are_tested_by_rows_alone():
    labels, scenario, user, (first, second) = _made()
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS)
    a, b = rows.measure(first), rows.measure(second)
    once, thrice = differences([a], [b]), differences([a] * 3, [b] * 3)
    for key, one in once.items():
        assert (thrice[key].seed_error, thrice[key].p_seeds, thrice[key].seeds) == (0, None, 3)
        assert (thrice[key].p, thrice[key].low) == pytest.approx((one.p, one.low), rel=1e-9)


def test_all_right_against_all_wrong_is_no_certainty_on_four_rows():
    """Its variance by the formula is 0."""
    label = np.array([1, 1, 0, 0])
    four = _one_task(label, None, [label.astype(float)], [1.0 - label])["auc/click"]
    assert (four.mean, four.p > 0.2) == (1, True)
    many = _one_task(np.tile(label, 25), None, [np.tile(label, 25) * 1.0], [1.0 - np.tile(label, 25)])["auc/click"]
    assert many.p < 1e-4


def test_a_lone_user_or_a_lone_positive_is_never_significant():
    random = np.random.default_rng(0)
    label = (np.arange(400) % 2).astype(int)
    right, wrong = label + random.normal(size=400) * 0.1, random.random(400)
    alone = _one_task(label, np.zeros(400, int), [right], [wrong])
    assert alone["auc/click"].mean > 0.4
    assert min(one.p for one in alone.values()) > 0.2
    label = (np.arange(400) == 7).astype(int)
    one_positive = _one_task(label, None, [label + 0.1 * wrong], [1 - label - 0.1 * wrong])["auc/click"]
    assert (one_positive.mean, one_positive.p > 0.2) == (1, True)


def test_a_scenario_without_rows_has_no_keys():
    labels, scenario, user, (first, second) = _made()
    rows = Rows(labels, np.where(scenario == 2, 0, scenario), user, SCENARIOS, TASKS)
    found = differences([rows.measure(first)], [rows.measure(second)])
    assert {"auc/macro", "auc/young/click", "auc/click"} <= set(found)
    assert not [key for key in found if "mid" in key]


def test_what_one_side_does_not_predict_is_absent():
    labels, scenario, user, (first, second) = _made()
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS)
    whole = differences([rows.measure(first)], [rows.measure(second)])
    for_young_and_old = np.where(np.isin(scenario, (1, 3))[:, None], second, np.nan)
    found = differences([rows.measure(first)], [rows.measure(for_young_and_old)])
    assert set(found) == {f"{m}/{s}/{t}" for m in ("auc", "logloss") for s in ("young", "old") for t in TASKS}
    assert all(found[key] == whole[key] for key in found)
    one_task = second.copy()
    one_task[:, 1] = np.nan
    found = differences([rows.measure(first)], [rows.measure(one_task)])
    assert "auc/click/macro" in found
    assert "auc/macro" not in found
    assert not [key for key in found if "like" in key]


def test_models_trained_on_each_scenario_alone_make_up_the_mean_over_cells():
    """They say nothing of rows of an unknown scenario, so only the values over all rows are missing."""
    labels, scenario, user, (first, second) = _made()
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS)
    alone = np.where((scenario == 0)[:, None], np.nan, second)
    found = differences([rows.measure(first)], [rows.measure(alone)])
    assert found["auc/macro"] == differences([rows.measure(first)], [rows.measure(second)])["auc/macro"]
    assert not {"auc/click", "auc/like", "logloss/click", "logloss/like"} & set(found)


def test_rows_without_the_label_do_not_matter():
    labels, scenario, user, (first, second) = _made()
    rows = Rows(labels, scenario, user, SCENARIOS, TASKS)
    other = np.where(labels == MISSING_LABEL, np.nan, first)
    assert differences([rows.measure(other)], [rows.measure(second)]) == differences(
        [rows.measure(first)], [rows.measure(second)]
    )


def test_holm_is_its_definition():
    """The adjusted p is the smallest level at which going down the ordered p values rejects this one."""
    random = np.random.default_rng(0)
    for _ in range(20):
        p = (random.random(random.integers(1, 9)) ** 3).round(2)
        levels = np.linspace(0, 1, 4001)[1:]
        smallest = np.ones(len(p))
        for place in range(len(p)):
            for level in levels:
                rejected = set()
                for left, one in zip(range(len(p), 0, -1), np.argsort(p, kind="stable"), strict=True):
                    if p[one] > level / left + 1e-12:
                        break
                    rejected.add(one)
                if place in rejected:
                    smallest[place] = level
                    break
        np.testing.assert_allclose(holm(p.tolist()), smallest, atol=1 / 4000 + 1e-9)


def test_holm_leaves_out_what_was_not_tested():
    assert holm([None, 0.04, None, 0.01]) == [None, 0.04, None, 0.02]
    assert (holm([]), holm([None])) == ([], [None])


def test_adjusted_over_the_entries_of_each_key_and_told_by_direction():
    label, user, good, middle = _study(np.random.default_rng(0), users=300, gain=0.9, seed_noise=0.1)
    bad = [np.random.default_rng(seed).random(len(label)) for seed in range(3)]
    found = {
        "good": _one_task(label, user, good, middle),
        "bad": _one_task(label, user, bad, middle),
        "same": _one_task(label, user, middle, middle),
    }
    del found["same"]["logloss/click"]
    result = adjust(found)
    told = {
        name: [(one["better"], one["worse"], one["significant"]) for one in of.values()] for name, of in result.items()
    }
    assert set(told["good"]) == {(True, False, True)}  # higher AUC and lower LogLoss alike
    assert set(told["bad"]) == {(False, True, True)}
    assert set(told["same"]) == {(False, False, False)}
    assert result["good"]["logloss/click"]["mean"] < 0 < result["good"]["auc/click"]["mean"]
    for key in ("auc/click", "logloss/click"):  # three entries in the first family, two in the second
        family = [name for name in found if key in found[name]]
        assert [result[name][key]["p_adjusted"] for name in family] == holm([found[name][key].p for name in family])
        assert result["good"][key].items() >= found["good"][key].to_dict().items()
    assert not any(one["significant"] for of in adjust(found, alpha=0.0).values() for one in of.values())


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda rows, a: differences([rows.measure(a)], []), "same seeds on both sides, got 1 and 0"),
        (lambda rows, a: rows.measure(a[:5]), r"predictions must be \(600, 2\)"),
        (lambda rows, a: rows.measure(np.where(np.arange(1200).reshape(600, 2) < 9, np.nan, a)), "or none"),
        (lambda rows, a: Rows(a, np.ones(600, int), None, SCENARIOS, TASKS), "labels must be 0, 1 or -1"),
        (lambda rows, a: Rows(a > 0, np.full(600, 9), None, SCENARIOS, TASKS), "from 0 .* to 3, got 9"),
        (lambda rows, a: Rows(a > 0, np.ones(600, int), np.ones(3), SCENARIOS, TASKS), r"users must be \(600,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(broken, says):
    labels, scenario, user, (first, _) = _made()
    with pytest.raises(ValueError, match=says):
        broken(Rows(labels, scenario, user, SCENARIOS, TASKS), first)


def test_models_on_other_rows_are_refused():
    labels, scenario, user, (first, second) = _made()
    one, other = (Rows(labels, scenario, user, SCENARIOS, TASKS) for _ in range(2))
    with pytest.raises(ValueError, match="same rows on both sides"):
        differences([one.measure(first)], [other.measure(second)])
