"""`recommend`: the best items for users are those of scoring every pair and sorting, whatever model made the scores."""

import shutil
import threading
import time

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.errors import InputError
from recbole_msr.runs.ensemble import Member, write_ensemble
from recbole_msr.runs.recommend import Recommender, Score, _best, recommend_with
from recbole_msr.runs.recommend_file import recommend_file
from recbole_msr.runs.scoring import Scorer
from recbole_msr.runs.turns import Turns
from recbole_msr.schema import Scenario

TASKS = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}


@pytest.fixture
def trained(tiny_data, tmp_path):
    """trained(**settings) -> the folder of a run on "tiny" whose rows have the hour as their scenario."""
    file = tiny_data / "tiny" / "tiny.inter"
    header, *rows = file.read_text().splitlines()
    hours = ["day" if number % 3 else "night" for number in range(len(rows))]
    file.write_text("\n".join([f"{header}\thour:token", *map("\t".join, zip(rows, hours, strict=True))]) + "\n")
    made = []

    def train(model="SharedBottom", **settings):
        made.append(tmp_path / f"run-{len(made)}")
        given = {
            **{"data_path": str(tiny_data), "tasks": TASKS, "scenario": {"field": "hour"}, "epochs": 1, "threads": 1},
            **{"numerical_features": ["price"], "train_batch_size": 64, "show_progress": False},
        }
        recbole_msr.run(model, "tiny", config={**given, "output_dir": str(made[-1]), **settings})
        return made[-1]

    return train


def slow_list(run, user, k, formula, candidates=None, hour="day", seen=()):
    """Score every item for a user, one row an item, and sort."""
    tokens = [str(token) for token in run.dataset.field2id_token["item_id"][1:]]
    scored = []
    for token in tokens:
        if (candidates is None or token in candidates) and token not in seen:
            row = run.predict(pd.DataFrame({"user_id": [user], "item_id": [token], "hour": [hour]})).iloc[0]
            scored.append((token, formula(row), row))
    ranked = sorted(scored, key=lambda entry: -entry[1])  # stable: of equal ones the first in the vocabulary
    return ranked[:k]


def assert_lists(found, expected):
    assert found["rank"].tolist() == [*range(1, len(expected) + 1)]
    np.testing.assert_allclose(found["score"], [score for _, score, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found["click"], [row["click"] for _, _, row in expected], rtol=1e-5)
    assert found["item_id"].tolist() == [token for token, _, _ in expected]


@pytest.mark.slow
def test_lists_are_those_of_scoring_every_pair(trained):
    run = recbole_msr.load(trained())
    users = pd.DataFrame({"user_id": ["u1", "u2", "nobody"], "hour": ["day", "night", "day"], "note": ["a", "b", "c"]})
    found = run.recommend(users, k=4, score="click * like")
    assert found.columns.tolist() == ["user_id", "hour", "note", "rank", "item_id", "score", "click", "like"]
    for user, hour in zip(users["user_id"], users["hour"], strict=True):
        own = found[found["user_id"] == user]
        assert_lists(own, slow_list(run, user, 4, lambda row: row["click"] * row["like"], hour=hour))
    few = run.recommend(["u1"], k=5, candidates=["i3", "i9", "i9", "unheard"], scenario="night")
    assert_lists(few, slow_list(run, "u1", 5, lambda row: row["click"], {"i3", "i9"}, "night"))


@pytest.mark.slow
def test_seen_items_are_left_out_of_a_list(trained, tiny_data):
    run = recbole_msr.load(trained())
    inter = pd.read_csv(tiny_data / "tiny" / "tiny.inter", sep="\t")
    seen = set(inter.loc[inter["user_id:token"] == "u3", "item_id:token"])
    found = run.recommend(["u3"], k=30, scenario="day", exclude_seen=True)
    assert_lists(found, slow_list(run, "u3", 30, lambda row: row["click"], seen=seen))
    assert len(found) == 30 - len(seen)
    file = tiny_data / "tiny" / "tiny.inter"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(rows)]) + "\n")  # other ids of users and items
    with pytest.raises(InputError, match="have changed since the run"):
        recbole_msr.load(run.folder).recommend(["u3"], scenario="day", exclude_seen=True)


@pytest.mark.slow
def test_seen_are_the_items_of_rows_that_were_not_trained_on_too(trained, tiny_data, tmp_path):
    """Rows without the label, of other scenarios, before `rows_after`, and of each member of an ensemble."""
    file = tiny_data / "tiny" / "tiny.inter"
    header, *rows = (line.split("\t") for line in file.read_text().splitlines())
    for row in rows[::2]:
        row[2] = ""
    file.write_text("\n".join(map("\t".join, [header, *rows])) + "\n")
    tasks = {"click": {**TASKS["click"], "missing": "ignore"}}
    given = {"tasks": tasks, "only_scenario": "day"}
    folder = trained("DeepFM", **given, rows_after=1150)
    seen = {item for user, item, *_ in rows if user == "u3"}
    found = recbole_msr.load(folder).recommend(["u3"], k=30, exclude_seen=True, scenario="day")
    assert set(found["item_id"]) == {f"i{n}" for n in range(30)} - seen

    others = tmp_path / "other" / "tiny"
    shutil.copytree(tiny_data / "tiny", others)
    more = sorted(set(found["item_id"]))[:3]
    rows.reverse()  # other ids
    rows[:0] = [["u3", item, "5", str(2000 + number), "day"] for number, item in enumerate(more)]
    (others / "tiny.inter").write_text("\n".join(map("\t".join, [header, *rows])) + "\n")
    members = [Member(folder), Member(trained("DeepFM", **given, data_path=str(others.parent)))]
    both = recbole_msr.load(write_ensemble(tmp_path / "both", members))
    found = both.recommend(["u3"], k=30, exclude_seen=True, scenario="day")
    assert set(found["item_id"]) == {f"i{n}" for n in range(30)} - seen - set(more)


@pytest.mark.slow
def test_an_ensemble_recommends_by_its_mean(trained, tmp_path):
    members = [Member(trained()), Member(trained(seed=7), 2)]
    ensemble = recbole_msr.load(write_ensemble(tmp_path / "both", members))
    found = ensemble.recommend(["u5"], k=3, score="like", scenario="day")
    alone = [recbole_msr.load(one.folder).recommend(["u5"], k=30, scenario="day") for one in members]
    scores = [one.set_index("item_id")["like"] for one in alone]
    mean = ((scores[0] + 2 * scores[1]) / 3).sort_values(ascending=False)[:3]
    assert found["item_id"].tolist() == mean.index.tolist()
    np.testing.assert_allclose(found["score"], mean, rtol=1e-5)


@pytest.mark.slow
def test_files_are_read_and_written_and_what_is_unknown_is_told(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = trained()
    pd.DataFrame({"user_id": ["u1", "stranger"], "hour": ["day", "night"]}).to_csv("users.csv", index=False)
    pd.DataFrame({"item_id": ["i1", "i2", "no such"]}).to_parquet("items.parquet")
    words = ["recommend", "--run", str(folder), "--users=users.csv", "--k=2", "--out=lists.parquet"]
    assert main([*words, "--candidates=items.parquet"]) == 0
    told = capsys.readouterr().out
    assert "4 items for 2 lists by click: lists.parquet" in told
    assert "1 candidates are not known to the run: no such" in told
    assert "1 users are not known to the run" in told
    found = pd.read_parquet("lists.parquet")
    assert found["user_id"].tolist() == ["u1", "u1", "stranger", "stranger"]
    assert set(found["item_id"]) == {"i1", "i2"}


@pytest.mark.slow
def test_no_users_have_no_lists_and_lists_go_over_older_ones_alone(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = trained()
    run = recbole_msr.load(folder)
    columns = ["user_id", "rank", "item_id", "score", "click", "like"]
    for exclude_seen in (False, True):
        found = run.recommend([], scenario="day", exclude_seen=exclude_seen)
        assert (found.columns.tolist(), len(found)) == (columns, 0)
    words = ["recommend", "--run", str(folder), "--scenario=day", "--k=1"]
    (tmp_path / "none.csv").write_text("user_id\n")
    for out in ("lists.csv", "lists.parquet"):
        assert main([*words, "--users=none.csv", f"--out={out}"]) == 0
        assert "0 items for 0 lists by click" in capsys.readouterr().out
    assert (tmp_path / "lists.csv").read_text().replace('"', "").splitlines() == [",".join(columns)]
    pd.DataFrame({"user_id": ["u1"]}).to_csv("users.csv", index=False)
    (tmp_path / "link.csv").symlink_to("users.csv")
    pd.DataFrame({"item_id": ["i1"]}).to_parquet("items.parquet")
    words += ["--users=users.csv", "--candidates=items.parquet"]
    before = {path: path.read_bytes() for path in (*tmp_path.glob("*.*"), *folder.glob("*.*"))}
    for out, told in (
        ("link.csv", "is the file of the users (--users): lists go into another file"),
        ("items.parquet", "is the file of the candidates"),
        (folder / "metrics.csv", "is a file of a run"),
        ("none.csv", "exists and holds no lists"),
    ):
        assert main([*words, f"--out={out}"]) == 2
        assert told in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert main([*words, "--out=lists.csv"]) == 0  # over older lists
    assert pd.read_csv("lists.csv")["item_id"].tolist() == ["i1"]


@pytest.mark.slow
def test_lists_are_made_of_bounded_parts_each_in_a_turn(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = recbole_msr.load(trained())
    users = pd.DataFrame({"user_id": [f"u{n}" for n in range(5)]})
    expected = run.recommend(users, k=3, scenario="night")
    turns, held, cross = Turns(), [], Scorer.cross

    def counted(scorer, contexts, *others):
        held.append((len(contexts["user_id"]), turns._is_taken))
        return cross(scorer, contexts, *others)

    monkeypatch.setattr(Scorer, "cross", counted)
    monkeypatch.setattr("recbole_msr.runs.recommend.PAIRS_HELD", 2 * 30 + 1)  # of 30 items
    found = recommend_with(Recommender(run, k=3, scenario="night"), users, turns)
    pd.testing.assert_frame_equal(found, expected)
    assert held == [(2, True), (2, True), (1, True)]
    users.to_parquet("users.parquet")
    recommend_file(run.folder, "users.parquet", "lists.parquet", k=3, scenario="night")
    pd.testing.assert_frame_equal(pd.read_parquet("lists.parquet"), expected, check_dtype=False)
    assert held[3:] == [(2, False), (2, False), (1, False)]


def test_turns_go_to_who_has_waited_longest():
    turns, order = Turns(), []

    def take(name):
        with turns:
            order.append(name)

    others = [threading.Thread(target=take, args=(name,)) for name in ("first", "second")]
    with turns:
        for number, other in enumerate(others, start=1):
            other.start()
            while turns.waiting < number:
                time.sleep(0.001)
    take("again")  # asked for last
    for other in others:
        other.join()
    assert order == ["first", "second", "again"]


@pytest.mark.slow
def test_bad_input_is_one_clear_line(trained):
    run = recbole_msr.load(trained())
    for given, message in (
        ({"k": 0}, "--k must be at least 1, got 0"),
        ({"score": "clik"}, "nothing called 'clik' is predicted; did you mean 'click'"),
        ({"scenario": "evening"}, "there is no 'evening'"),
        ({"candidates": ["unheard"]}, "there is no candidate that the run knows"),
    ):
        with pytest.raises(InputError, match=message):
            run.recommend(["u1"], **({"scenario": "day"} | given))
    with pytest.raises(InputError, match="no column 'hour'"):
        run.recommend(["u1"])
    with pytest.raises(InputError, match="has a column 'rank'"):
        run.recommend(pd.DataFrame({"user_id": ["u1"], "hour": ["day"], "rank": [1]}))


@pytest.mark.slow
def test_a_scenario_of_several_values_is_the_one_that_is_named(trained):
    # The name of the group is a value of the rest.
    declared = {"field": "hour", "groups": {"night": "day"}, "other": "late"}
    run = recbole_msr.load(trained(scenario={**declared, "keep_field": False}))
    for name, hour in (("night", "day"), ("late", "night")):
        found = run.recommend(["u1"], k=5, scenario=name)
        assert_lists(found, slow_list(run, "u1", 5, lambda row: row["click"], hour=hour))
    read = recbole_msr.load(trained(scenario=declared))
    with pytest.raises(InputError, match="'late' is no single value of 'hour', and the model reads 'hour' itself"):
        read.recommend(["u1"], scenario="late")
    found = read.recommend(["u1"], k=5, scenario="night")
    assert_lists(found, slow_list(read, "u1", 5, lambda row: row["click"], hour="day"))


@pytest.mark.parametrize(
    "declared",
    [
        {"bins": [1, 2.5], "names": ["1", "2", "3"]},
        {"groups": {"home": ["DE", "AT"], "DE": "FR"}, "other": "DE_"},
        {"groups": {"home": ["rest_"], "rest_": "home"}, "other": "rest"},
        {},
    ],
)
def test_a_declaration_has_a_value_of_every_scenario(declared):
    scenario = Scenario(field="of", **declared)
    names = scenario.fixed_names() or ["FR", "DE"]
    ids = [set(scenario.assign(scenario.examples(name), names)) for name in names]
    assert all(number in of for number, of in enumerate(ids, start=1))


@pytest.mark.slow
def test_a_scenario_of_items_has_its_own_history_in_each_list(trained):
    """`predict` reads the history of the item's scenario, and so do lists."""
    run = recbole_msr.load(
        trained(
            scenario={"field": "price", "bins": [2.25]},
            history={"fields": ["item_id"], "scenario": "own"},
            epochs=3,
            learning_rate=0.1,
        )
    )
    for user in ("u1", "u2"):
        found = run.recommend(pd.DataFrame({"user_id": [user], "hour": ["day"]}), k=30)
        assert_lists(found, slow_list(run, user, 30, lambda row: row["click"]))
    with pytest.raises(InputError, match="the scenario is the items' own"):
        run.recommend(["u1"], scenario=run.dataset.scenario_names[0])


@pytest.mark.parametrize(
    "text", ["__import__('os')", "click.real", "[click]", "click if like else 1", "click(", "'click'", "True", "a" * 9]
)
def test_a_formula_is_arithmetic_over_predictions_and_nothing_else(text):
    with pytest.raises(InputError, match="--score"):
        Score(text, ["click", "like"])


def test_a_formulas_value():
    predictions = np.array([[0.5, 0.25], [0.1, 0.2]], np.float32)
    np.testing.assert_allclose(Score("-click ** 2 + 3 * (like / 2)", ["click", "like"])(predictions), [0.125, 0.29])
    assert Score(None, ["click", "like"])(predictions).tolist() == predictions[:, 0].tolist()
    assert Score("1", ["click"])(predictions[:, :1]).tolist() == [1, 1]
    with pytest.raises(InputError, match="no finite number"):
        Score("1 / (click - click)", ["click"])(predictions[:, :1])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_ties_go_to_the_first_item(k):
    draw = np.random.default_rng(3)
    scores = draw.integers(0, 4, (20, 8)).astype(float)
    scores[draw.random(scores.shape) < 0.2] = -np.inf
    rows, places, ranks = _best(scores, k)
    expected = [
        (row, place, rank)
        for row, own in enumerate(scores)
        for rank, place in enumerate([p for p in sorted(range(8), key=lambda p: -own[p]) if own[p] > -np.inf][:k], 1)
    ]
    assert list(zip(rows.tolist(), places.tolist(), ranks.tolist(), strict=True)) == expected
