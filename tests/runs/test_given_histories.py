"""Histories that come with the rows to score: a new user has the profile of them, and no language model is asked."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.cli import main, run_recbole
from recbole_msr.errors import InputError
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.prompts.profiles import HALF_LIFE
from recbole_msr.prompts.store import Knowledge
from tests.conftest import write_tiny_data
from tests.prompts.small_data import write_items

SCENARIO = {"field": "age", "bins": [25, 35], "names": ["young", "mid", "old"]}
SETTINGS = {
    "scenario": SCENARIO, "use_gpu": False, "show_progress": False, "packed_cache": False,
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"], "user": ["user_id", "age"], "item": ["item_id"],
    },
}  # fmt: skip
MODELS = {
    "levels": ["--model=LLM4MSR", "--backbone=SharedBottom", "--knowledge_level=all", "--knowledge_reduced_size=5"],
    "match": ["--model=SharedBottom", "--knowledge_features=[user, item]", "--knowledge_match=product"],
    "dot": [
        "--model=LLM4MSR", "--backbone=SharedBottom", "--knowledge_level=user", "--knowledge_features=[user, item]",
        "--knowledge_match=dot", "--knowledge_parts=[not_liked, recent]", "--knowledge_reduction=linear",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data with titles but for item i5, a store of profiles, and what trains on them."""
    from recbole.data import create_dataset

    from recbole_msr.training.configure import training_config

    folder = tmp_path_factory.mktemp("histories")
    write_items(write_tiny_data(folder) / "tiny")
    path = folder / "tiny" / "tiny.item"
    lines = ["i5\t\t\t1970" if line.startswith("i5\t") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    settings = SETTINGS | {"data_path": str(folder), "knowledge_dir": str(folder / "kn")}
    given = [f"--{key}={value}" for key, value in settings.items()]
    for template in ("profile", "brief"):
        made_by = ["--encoder=random", f"--template={template}", f"--name={template}", "--size=6"]
        made_by.append(f"--store_dtype={'float32' if template == 'profile' else 'float16'}")
        assert main(["embed", "--dataset=tiny", *given, *made_by]) == 0
    train = create_dataset(training_config("LLM4MSR", "tiny", settings | {"knowledge": "profile"})).build()[0]

    def run(name, *options):
        out = folder / name
        if not out.exists():
            of = ["--dataset=tiny", "--epochs=1", "--train_batch_size=256", "--embedding_size=4", f"--output_dir={out}"]
            run_recbole([*of, *given, *options])
        [found] = (result.parent for result in out.rglob("result.json"))
        return found

    return SimpleNamespace(folder=folder, train=train, run=run, store=Knowledge.open("profile", folder / "kn"))


@pytest.fixture
def opened(made):
    """opened(name) -> a run whose weights are drawn anew, so that knowledge moves every score."""

    def open_run(name):
        run = recbole_msr.load(made.run(name, *MODELS[name], "--knowledge=profile"))
        torch.manual_seed(5)
        for parameter in run.model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return run

    return open_run


def training_rows(made, user):
    """The training rows of a user, as the .inter and .user file have them."""
    train, rows = made.train, made.train.inter_feat
    own = (rows["user_id"] == train.field2token_id["user_id"][user]).numpy()
    ids = rows["item_id"][own].numpy()
    inter = pd.read_csv(made.folder / "tiny" / "tiny.inter", sep="\t", names=["user", "item", "rating", "t"], header=0)
    rating = inter.set_index(["user", "item"])["rating"]
    items = [str(train.field2id_token["item_id"][i]) for i in ids]
    age = pd.read_csv(made.folder / "tiny" / "tiny.user", sep="\t", names=["user", "age", "g"], header=0)
    return pd.DataFrame(
        {
            "user_id": user, "item_id": items, "rating": [int(rating[user, item]) for item in items],
            "timestamp": train.row_times()[own], "age": int(age.set_index("user")["age"][user]),
        }
    )  # fmt: skip


def slow_profile(made, history, parts):
    """A user's profile by loops over a history."""
    store = made.store
    vectors = dict(zip(store.tokens("item"), np.asarray(store.vectors("item"), dtype=np.float64), strict=True))
    mean = sum(vectors.values()) / len(vectors)
    rows = [row for row in history.sort_values("timestamp", ascending=False).itertuples() if row.item_id in vectors]
    sums = {}
    for row in rows:
        places = [("not_liked", 1.0)]
        if row.rating >= 4:
            before = sum(1 for other in rows if other.timestamp > row.timestamp and other.rating >= 4)
            m = int(np.searchsorted(SCENARIO["bins"], row.age, side="right"))
            places = [("liked", 1.0), ("recent", 0.5 ** (before / HALF_LIFE)), (m, 1.0)]
        for part, weight in places:
            total, of_weights = sums.get(part, (0.0, 0.0))
            sums[part] = total + weight * (vectors[row.item_id] - mean), of_weights + weight
    keys = [key for part in parts for key in (range(3) if part == "scenarios" else [part])]
    return np.concatenate([sums[key][0] / sums[key][1] if key in sums else np.zeros(6) for key in keys])


class Fixed(torch.nn.Module):
    """One vector for all ids."""

    def __init__(self, of, vector):
        super().__init__()
        self.size, self.known, self.h = of.size, of.known, torch.from_numpy(vector).float()

    def forward(self, ids, rows=None, given=None):
        return self.h.expand(len(ids), -1)


def reduced(vectors, profile):
    """h of a profile, by the scale and the reduction that the weights bring."""
    state = {name: value.detach().double().numpy() for name, value in vectors.state_dict().items()}
    if "components" in state:
        return state["components"] @ (profile - state["mean"])
    scaled = (profile - state["mean"]) * state["inverse_deviation"]
    return state["linear.weight"] @ scaled if "linear.weight" in state else scaled


@pytest.mark.parametrize("name", list(MODELS))
def test_a_new_user_with_a_history_is_scored_with_its_profile_and_the_unknown_embedding(made, opened, name):
    run = opened(name)
    history = training_rows(made, "u3")
    rows = pd.DataFrame({"user_id": "new", "item_id": [f"i{i}" for i in range(12)], "age": 30})
    scored = run.score(rows, histories=history.assign(user_id="new"))
    assert (scored.with_history, scored.unknown["user_id"]) == (12, 12)
    assert scored.histories.users == 1
    assert (run.predict(rows) - scored.scores).abs().to_numpy().max() > 1e-3, "the weights let the profile matter"

    parts = ["not_liked", "recent"] if name == "dot" else ["liked", "not_liked", "recent", "scenarios"]
    profile = slow_profile(made, history, parts)
    for module in list(run.model.modules()):
        for child, vectors in list(module.named_children()):
            if isinstance(vectors, KnowledgeVectors) and vectors.level == "user":
                setattr(module, child, Fixed(vectors, reduced(vectors, profile)))
    if name != "match":
        run.model.user_level.forget()
    np.testing.assert_allclose(run.predict(rows), scored.scores, atol=1e-5)


def test_the_training_rows_of_a_known_user_make_the_profile_of_the_store(made, opened):
    users = sorted(str(user) for user in made.train.field2id_token["user_id"][1:6])  # as profiles are
    histories = pd.concat([training_rows(made, user) for user in users])
    renamed = histories.assign(user_id="new " + histories["user_id"])
    run = opened("levels")
    found = run.scorer.with_histories(renamed).histories
    stored = made.store.vectors("user")[made.store.rows("user", users)]
    np.testing.assert_array_equal(found.vectors, stored)
    rows = pd.DataFrame({"user_id": users, "item_id": "i1", "age": 40})
    np.testing.assert_allclose(run.predict(rows, histories=histories), run.predict(rows), atol=1e-6)


def test_a_history_takes_the_place_of_the_stored_profile_and_of_no_other_users(made, opened):
    run = opened("levels")
    rows = pd.DataFrame({"user_id": ["u1", "u2", "new"] * 2, "item_id": ["i1"] * 3 + ["i2"] * 3, "age": 40})
    given = training_rows(made, "u7").assign(user_id="u1")
    before, after = run.predict(rows), run.predict(rows, histories=given)
    changed = (before - after).abs().max(axis=1).to_numpy() > 1e-5
    assert changed.tolist() == [True, False, False] * 2
    np.testing.assert_allclose(before[~changed], after[~changed], atol=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".inter"])
def test_the_command_reads_histories_of_a_file_and_tells_what_became_of_them(made, tmp_path, capsys, suffix):
    run = made.run("levels", *MODELS["levels"], "--knowledge=profile")
    history = training_rows(made, "u3").assign(user_id="new")[["user_id", "item_id", "rating", "timestamp", "age"]]
    more = pd.DataFrame(
        {"user_id": ["new", "bare"], "item_id": ["unheard", "i5"], "rating": 5, "timestamp": 9, "age": 50}
    )
    history, rows = (
        pd.concat([history, pd.DataFrame(more)]),
        pd.DataFrame({"user_id": ["new", "u1"], "item_id": "i1", "age": 30}),
    )
    file, data, out = tmp_path / f"h{suffix}", tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.to_csv(data, index=False)
    if suffix == ".parquet":
        history.to_parquet(file)
    elif suffix == ".csv":
        history.to_csv(file, index=False)
    else:
        kinds = {"user_id": "token", "item_id": "token"}
        history.rename(columns=lambda c: f"{c}:{kinds.get(c, 'float')}").to_csv(file, index=False, sep="\t")
    capsys.readouterr()
    assert main(["predict", f"--run={run}", f"--data={data}", f"--out={out}", f"--histories={file}"]) == 0
    told = capsys.readouterr().out
    with_vector = int(history["item_id"].isin(made.store.tokens("item")).sum())
    assert f"histories: 1 user with a profile of {with_vector} rows, in 1 row that is scored" in told
    assert f"histories: {len(history) - with_vector} rows of items without a vector" in told
    assert "histories: 1 user without any row of an item with a vector" in told
    expected = recbole_msr.load(run).predict(rows, histories=history)
    np.testing.assert_allclose(pd.read_csv(out)[["click", "like"]], expected, atol=1e-6)


HISTORY = {"user_id": ["new", "new"], "item_id": ["i1", "i2"], "rating": [5, 1], "timestamp": [1, 2], "age": [30, 30]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rating": None}, "no column 'rating' in the histories, .* need user_id, item_id, rating, timestamp, age"),
        ({"timestamp": None}, "no column 'timestamp' in the histories"),
        ({"age": None}, "no column 'age', which tells the rows' scenario, in the histories"),
        ({"rating": [5, "good"]}, "the histories, row 2: 'rating' is 'good', which is not a finite number"),
        ({"rating": [5, None]}, "field 'rating' has no number in 1 of 2 rows .the first is the histories, row 2"),
        ({"user_id": ["new", None]}, "the histories, row 2 has no 'user_id'"),
        ({"item_id": [None, "i2"]}, "the histories, row 1 has no 'item_id'"),
        ({"timestamp": [1, np.nan]}, "the histories, row 2 has no 'timestamp'"),
    ],
)
def test_a_history_that_cannot_be_read_is_refused_by_the_row(made, opened, changes, told):
    frame = pd.DataFrame(
        HISTORY | {name: values for name, values in changes.items() if values is not None}, dtype=object
    )
    frame = frame.drop(columns=[name for name, values in changes.items() if values is None])
    rows = pd.DataFrame({"user_id": ["new"], "item_id": ["i1"], "age": [30]})
    with pytest.raises(InputError, match=told):
        opened("levels").predict(rows, histories=frame)


def test_labels_other_than_0_and_1_are_refused_where_the_data_have_no_threshold(made, opened):
    from recbole_msr.schema import Task

    scorer = opened("levels").scorer
    reader = scorer.history_reader
    reader._task = Task(name="click", field="rating")
    with pytest.raises(InputError, match=r"field 'rating' must hold 0 and 1, but holds 5 in 1 rows .* row 1"):
        scorer.with_histories(pd.DataFrame(HISTORY))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"knowledge": "none"},
            "reads no knowledge of users .none.: a history .*--template=profile",
        ),
        ({"knowledge": "random"}, "random .knowledge: random., and of no history"),
        ({"knowledge": "brief"}, "knowledge 'brief' are made of prompts by an encoder, which is not at hand"),
        ({"knowledge_level": "scenario"}, "reads no knowledge of users .vectors of scenarios alone."),
        ({"knowledge_control": "permuted"}, "the run is a control .knowledge_control: permuted."),
        ({"knowledge_bake": True}, "keeps the reduced vectors .*train with knowledge_bake: False"),
    ],
)
def test_a_run_without_profiles_of_users_says_what_it_reads(made, settings, told):
    from recbole.utils import get_model

    from recbole_msr.runs.scoring import Scorer
    from recbole_msr.training.configure import training_config

    given = SETTINGS | {"data_path": str(made.folder), "knowledge_dir": str(made.folder / "kn")}
    config = training_config("LLM4MSR", "tiny", given | {"knowledge": "profile"} | settings)
    scorer = Scorer(config, made.train, get_model("LLM4MSR")(config, made.train))
    with pytest.raises(InputError, match=told):
        scorer.with_histories(pd.DataFrame(HISTORY))


def test_an_ensemble_gives_histories_to_the_members_that_read_profiles(made, tmp_path):
    from recbole_msr.runs.ensemble import Member, write_ensemble

    runs = [made.run("match", *MODELS["match"], "--knowledge=profile"), made.run("plain", "--model=SharedBottom")]
    write_ensemble(tmp_path / "both", [Member(folder) for folder in runs])
    rows, histories = pd.DataFrame({"user_id": ["new"], "item_id": ["i1"], "age": [30]}), pd.DataFrame(HISTORY)
    both = recbole_msr.load(tmp_path / "both").score(rows, histories=histories)
    one, other = (recbole_msr.load(folder) for folder in runs)
    expected = (one.predict(rows, histories=histories) + other.predict(rows)) / 2
    np.testing.assert_allclose(both.scores, expected, atol=1e-6)
    assert (both.with_history, both.histories.rows) == (1, 2)
    with pytest.raises(InputError, match="reads no knowledge of users"):
        other.predict(rows, histories=histories)


def test_lists_are_made_by_the_history_and_leave_its_items_out(made, opened):
    run = opened("dot")
    users, histories = pd.DataFrame({"user_id": ["new", "u1"], "age": [30, 30]}), pd.DataFrame(HISTORY)
    lists = run.recommend(users, k=30, histories=histories)
    own = lists[lists["user_id"] == "new"].set_index("item_id")
    rows = pd.DataFrame({"user_id": "new", "item_id": own.index, "age": 30})
    expected = run.predict(rows, histories=histories)
    np.testing.assert_allclose(own[["click", "like"]], expected, atol=1e-6)
    unseen = run.recommend(users, k=30, histories=histories, exclude_seen=True)
    assert {*own.index} - {*unseen[unseen["user_id"] == "new"]["item_id"]} == {"i1", "i2"}


def test_a_request_may_bring_histories_which_hold_for_it_alone(made):
    pytest.importorskip("fastapi")
    pytest.importorskip("orjson")
    testclient = pytest.importorskip("fastapi.testclient")
    from recbole_msr.runs.serve import Server

    folder = made.run("match", *MODELS["match"], "--knowledge=profile")
    run, client = recbole_msr.load(folder), testclient.TestClient(Server(folder).app, raise_server_exceptions=False)
    rows = [{"user_id": "new", "item_id": f"i{i}", "age": 30} for i in range(3)]
    histories = pd.DataFrame(HISTORY | {"item_id": ["i1", "unheard"]})
    body = {"rows": rows, "histories": histories.to_dict("records")}
    answer = client.post("/score", json=body).json()
    expected = run.predict(pd.DataFrame(rows), histories=histories)
    np.testing.assert_allclose(pd.DataFrame(answer["scores"]), expected, atol=1e-6)
    assert answer["unknown"] == {"user_id": 3}
    counts = {"rows": 2, "users": 1, "without_vector": 1, "without_scenario": 0, "without_profile": 0}
    assert answer["histories"] == {**counts, "with_history": 3}
    alone = client.post("/score", json={"rows": rows}).json()
    np.testing.assert_allclose(pd.DataFrame(alone["scores"]), run.predict(pd.DataFrame(rows)), atol=1e-6)
    assert "histories" not in alone
    asked = {"users": [{"user_id": "new", "age": 30}], "k": 3}
    lists = client.post("/recommend", json=asked | {"histories": body["histories"]}).json()
    expected = run.recommend(pd.DataFrame(asked["users"]), k=3, histories=histories)
    assert [one["item_id"] for one in lists["lists"][0]] == expected["item_id"].tolist()
    assert lists["histories"] == {**counts, "with_history": 1}
    assert "histories" not in client.post("/recommend", json=asked).json()

    wrong = client.post("/score", json={"rows": rows, "histories": [body["histories"][0] | {"price": 2}]})
    assert wrong.status_code == 422
    assert "there is no field 'price'; a row has user_id, item_id, rating, timestamp, age" in wrong.json()["detail"]
    plain = testclient.TestClient(Server(made.run("plain", "--model=SharedBottom")).app, raise_server_exceptions=False)
    assert "reads no knowledge of users" in plain.post("/score", json=body).json()["detail"]
