"""New rows are scored as the model scores them from RecBole's own data path, and nothing unseen is an error."""

import csv
import decimal
import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.data.vocabulary import Vocabularies, encode
from recbole_msr.errors import InputError
from recbole_msr.files import row_files, text_rows
from recbole_msr.runs.predict import Predictor, predict_file
from recbole_msr.runs.row_columns import to_numbers
from recbole_msr.runs.row_ids import HashedVocabulary, Vocabulary, to_id_sequences
from recbole_msr.schema import MISSING_LABEL

SETTINGS = {
    "sub_experts": 2,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [4],
    "embedding_size": 4,
    "load_col": None,
    "scenario": {"field": "age", "bins": [25, 35]},
    "tasks": {"click": {"field": "stars", "at_least": 4, "missing": "ignore"}, "buy": {"field": "bought"}},
    "numerical_features": ["age", "price", "hour"],
    "normalize_field": ["age", "price", "hour"],
    "numerical_as": "raw",
    "learning_rate": 0.05,
    "train_batch_size": 64,
    "epochs": 2,
    "seed": 1,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def tables():
    draw = np.random.default_rng(3)
    user = pd.DataFrame({"user_id:token": [f"u{i}" for i in range(30)], "age:float": draw.integers(16, 60, 30)})
    user["city:token"] = draw.choice(["007", "12", "x"], 30)
    item = pd.DataFrame({"item_id:token": range(100, 120), "price:float": draw.integers(1, 9, 20) / 2})
    item["class:token_seq"] = ["a b", "c", "", "b c a"] * 5
    pairs = draw.permutation(600)[:400]
    inter = pd.DataFrame({"user_id:token": [f"u{p // 20}" for p in pairs], "item_id:token": 100 + pairs % 20})
    inter["stars:float"] = draw.choice([1, 3, 4, 5, np.nan], 400)
    inter["bought:float"] = draw.integers(0, 2, 400)
    inter["hour:float"] = draw.integers(0, 24, 400)
    inter["place:token"] = draw.choice(["home", "work"], 400)
    inter["words:token_seq"] = draw.choice(["red", "red blue", "", "green blue red"], 400)
    inter["timestamp:float"] = np.arange(400)
    user.loc[2, "age:float"] = 30
    return {"user": user, "item": item, "inter": inter}


@pytest.fixture(scope="module")
def data_path(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    for suffix, table in tables.items():
        table.to_csv(folder / f"shop.{suffix}", sep="\t", index=False)
    return folder.parent


def _train(data_path, folder, model="HiNet", **settings):
    given = SETTINGS | settings | {"data_path": str(data_path), "output_dir": str(folder)}
    if model != "HiNet":
        given = {k: v for k, v in given.items() if "expert" not in k and "tower" not in k and k != "numerical_as"}
    return recbole_msr.run(model, "shop", config=given)


@pytest.fixture(scope="module")
def run(data_path, tmp_path_factory):
    return _train(data_path, tmp_path_factory.mktemp("run") / "run")


def _test_split(run):
    """The model's own scores of the test rows, by RecBole's data path; and the rows as in the raw files."""
    from recbole.quick_start import load_data_and_model

    _, model, dataset, _, _, test = load_data_and_model(str(run.folder / "best.ckpt"))
    split = test._dataset
    batch = split[torch.arange(len(split))]
    model.eval()
    with torch.no_grad():
        scores = model.predict_tasks(batch) if hasattr(model, "predict_tasks") else model.predict(batch)[:, None]
    keys = pd.DataFrame({f: dataset.id2token(f, batch[f].numpy()) for f in ("user_id", "item_id")})
    return scores.numpy(), keys


def _raw(keys, tables, joined=True):
    """The raw rows of these pairs, in their order."""
    plain = {k: t.rename(columns=lambda c: c.split(":")[0]) for k, t in tables.items()}
    rows = keys.astype({"item_id": int}).merge(plain["inter"], on=["user_id", "item_id"], how="left")
    if joined:
        rows = rows.merge(plain["user"], on="user_id", how="left").merge(plain["item"], on="item_id", how="left")
    return rows


@pytest.mark.parametrize("joined", [False, True], ids=["fields from the tables", "fields in the rows"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_scores_are_the_models_own(kind, joined, run, tables, tmp_path):
    expected, keys = _test_split(run)
    rows = _raw(keys, tables, joined)
    assert len(rows) == run.summary["rows"]["test"] == 40
    path = tmp_path / f"rows.{kind}"
    rows.to_csv(path, index=False) if kind == "csv" else rows.to_parquet(path)
    told = predict_file(run.folder, path, tmp_path / f"out.{kind}", batch_size=7)
    assert len(told) == 1, "nothing was unknown"
    found = pd.read_csv(tmp_path / "out.csv") if kind == "csv" else pd.read_parquet(tmp_path / "out.parquet")
    assert list(found) == [*rows, "click", "buy"]
    np.testing.assert_allclose(found[["click", "buy"]].to_numpy(), expected, atol=1e-6)
    for column in ("user_id", "item_id", "hour", "place"):
        assert found[column].tolist() == rows[column].tolist()


def test_a_single_task_model_scores_too(data_path, tables, tmp_path):
    run = _train(data_path, tmp_path / "run", "DeepFM", main_task="buy", numerical_features=["age", "price"],
                 mlp_hidden_size=[8], normalize_field=["price"])  # fmt: skip
    expected, keys = _test_split(run)
    scores = recbole_msr.load(run.folder).predict(_raw(keys, tables))
    assert list(scores) == ["buy"]
    np.testing.assert_allclose(scores.to_numpy(), expected, atol=1e-6)


def test_the_scenarios_field_may_be_called_scenario_and_be_numbers(data_path, tables, tmp_path):
    folder = tmp_path / "data" / "shop"
    folder.mkdir(parents=True)
    for suffix, table in tables.items():
        if suffix == "inter":
            table = table.assign(**{"scenario:token": table["place:token"].map({"home": "1.0", "work": "2.0"})})
        table.to_csv(folder / f"shop.{suffix}", sep="\t", index=False)
    run = _train(folder.parent, tmp_path / "run", epochs=1, scenario={"field": "scenario"})
    expected, keys = _test_split(run)
    rows = _raw(keys, tables)
    for one, two in ((1, 2), ("1.0", "2.0"), (1.0, 2.0)):
        scored = recbole_msr.load(run.folder).score(rows.assign(scenario=rows["place"].map({"home": one, "work": two})))
        np.testing.assert_allclose(scored.scores.to_numpy(), expected, atol=1e-6)
        assert scored.unknown == {}


def test_a_constant_feature_is_normalised_as_in_training(data_path, tables, tmp_path):
    same = tmp_path / "data" / "shop"
    same.mkdir(parents=True)
    for suffix, table in tables.items():
        table = table.assign(**{"hour:float": 12}) if suffix == "inter" else table
        table.to_csv(same / f"shop.{suffix}", sep="\t", index=False)
    run = _train(same.parent, tmp_path / "run", epochs=1)
    expected, keys = _test_split(run)
    scores = recbole_msr.load(run.folder).predict(_raw(keys, tables).assign(hour=12))
    np.testing.assert_allclose(scores.to_numpy(), expected, atol=1e-6)


# What was never seen

ROW = {"user_id": "u2", "item_id": "101", "hour": 5, "place": "home", "words": "red"}


def _score(run, *rows):
    scores, unknown, _ = recbole_msr.load(run.folder).score(pd.DataFrame(list(rows)))
    assert np.isfinite(scores.to_numpy()).all()
    assert ((scores > 0) & (scores < 1)).all(axis=None)
    return scores.to_numpy(), unknown


def test_unseen_ids_get_the_unknown_embedding(run, tables):
    scores, unknown = _score(run, ROW, ROW | {"user_id": "nobody", "age": 30.0, "city": "12"}, ROW | {"item_id": 999})
    assert unknown == {"user_id": 1, "item_id": 1}
    assert len({tuple(row) for row in scores.round(9)}) == 3

    # Zero is the vector of an unknown value: a known user scores alike once theirs is zero.
    saved = recbole_msr.load(run.folder)
    with torch.no_grad():
        features = saved.model.features
        place = features.token_fields.index("user_id")
        user = saved.dataset.token2id("user_id", "u2")
        table = features.table.weight
        table[features.offsets[place] + user] = table[features.offsets[place]]
    raw = tables["user"].set_index("user_id:token").loc["u2"]
    known = ROW | {"age": raw["age:float"], "city": raw["city:token"]}
    one, other = saved.predict(pd.DataFrame([known, known | {"user_id": "nobody"}])).to_numpy()
    np.testing.assert_allclose(one, other, atol=1e-7)


def test_a_known_users_empty_cells_are_filled_from_the_tables(run):
    expected, _ = _score(run, ROW)
    scores, unknown = _score(run, ROW | {"age": None, "city": None, "price": None, "class": None}, ROW | {"age": 50})
    np.testing.assert_allclose(scores[:1], expected, atol=1e-7)
    assert not np.allclose(scores[1], expected, atol=1e-4), "what a row says counts"
    assert unknown == {}


def test_an_unknown_scenario_is_the_mean_over_scenarios(run):
    ages = (20.0, 30.0, 50.0)
    saved = recbole_msr.load(run.folder)
    saved.dataset.number_scale["age"]["width"] = math.inf  # so that the feature age says nothing
    saved.dataset.user_feat["age"][0] = torch.tensor([0.0, 1.0])  # nor that of a user whom training has not seen
    nobody = ROW | {"user_id": "nobody"}
    rows = pd.DataFrame([nobody | {"age": age} for age in (*ages, None)])
    scores, unknown, _ = saved.score(rows)
    *each, mean = scores.to_numpy()
    shares = np.array(saved.dataset.scenario_shares)
    np.testing.assert_allclose(mean, (np.array(each) * shares[:, None]).sum(axis=0), atol=1e-6)
    assert unknown == {"user_id": 4, "scenario": 1}


def test_unseen_users_and_items_need_no_further_column(run):
    _, unknown = _score(run, ROW | {"user_id": "nobody", "item_id": "none"})
    assert unknown == {"user_id": 1, "item_id": 1, "scenario": 1}


def test_empty_and_unseen_values_of_every_kind(run):
    rows = [
        ROW | {"words": float("nan")},
        ROW | {"words": ""},
        ROW | {"words": "mauve"},
        ROW | {"words": "red blue green red blue"},
        ROW | {"place": None},
        ROW | {"place": "moon"},
        ROW | {"hour": None},
        ROW | {"hour": ""},
        ROW | {"user_id": None},
    ]
    scores, unknown = _score(run, *rows)
    assert unknown == {"place": 1, "words": 1, "user_id": 1, "scenario": 1}
    assert np.allclose(scores[0], scores[1])
    assert np.allclose(scores[0], scores[2]), "an unknown word is left out"
    assert np.allclose(scores[4], scores[5])
    assert np.allclose(scores[6], scores[7])


def test_a_word_of_a_sequence_without_a_training_row_is_left_out_and_counted(run):
    saved = recbole_msr.load(run.folder)
    features, green = saved.model.features, saved.dataset.token2id("words", "green")
    features.seen[features._starts["words"] + green] = False  # of the test rows alone, say
    scored = saved.score(pd.DataFrame([ROW | {"words": words} for words in ("red green", "red", "green", "")]))
    assert scored.unknown == {"words": 2}
    scores = scored.scores
    np.testing.assert_allclose(scores.to_numpy()[::2], scores.to_numpy()[1::2], atol=1e-7)


def test_lists_are_sequences(run, tmp_path):
    texts = ["red blue", "", "green"]
    expected, _ = _score(run, *(ROW | {"words": text} for text in texts))
    pd.DataFrame([ROW | {"words": text.split()} for text in texts]).to_parquet(tmp_path / "rows.parquet")
    predict_file(run.folder, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")[["click", "buy"]].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_numbers_name_the_same_ids_however_a_table_keeps_them(run, tmp_path):
    expected, _ = _score(run, ROW)
    for item in (101, 101.0, np.int32(101), "101", "101.0"):
        scores, unknown = _score(run, ROW | {"item_id": item})
        np.testing.assert_allclose(scores, expected, atol=1e-7)
        assert unknown == {}
    rows = pd.DataFrame([ROW | {"item_id": 101}, ROW | {"item_id": None}])  # pandas writes "101.0"
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert "101.0" in (tmp_path / "rows.csv").read_text()
    predict_file(run.folder, tmp_path / "rows.csv", tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")[["click", "buy"]].to_numpy()
    np.testing.assert_allclose(found[:1], expected, atol=1e-6)


def _hours(run, values):
    """What the model is given for these hours."""
    saved, seen = recbole_msr.load(run.folder), []
    saved.model.predict_tasks = lambda batch: seen.append(batch["hour"][:, 0]) or torch.zeros(len(values), 2)
    saved.predict(pd.DataFrame([ROW | {"hour": value} for value in values]))
    return seen[0]


def test_a_number_outside_the_training_range_goes_beyond_0_and_1(run, tables):
    hours = tables["inter"]["hour:float"]
    values = _hours(run, [hours.min(), hours.max(), 2 * hours.max(), None])
    mean = (hours.mean() - hours.min()) / (hours.max() - hours.min())
    expected = [0, 1, (2 * hours.max() - hours.min()) / (hours.max() - hours.min()), mean]
    assert values.tolist() == pytest.approx(expected)


def test_no_rows_give_no_scores(run, tmp_path):
    pd.DataFrame(columns=list(ROW)).to_csv(tmp_path / "rows.csv", index=False)
    predict_file(run.folder, tmp_path / "rows.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().strip() == ",".join([*ROW, "click", "buy"])


# Bad input


def test_columns_that_cannot_be_done_without_are_named(run):
    saved = recbole_msr.load(run.folder)
    for missing in ("user_id", "item_id", "hour", "place", "words"):
        with pytest.raises(InputError, match=rf"no column '{missing}'"):
            saved.predict(pd.DataFrame([{k: v for k, v in ROW.items() if k != missing}]))


def test_files_that_cannot_be_used_are_named(run, tmp_path, capsys):
    good = tmp_path / "rows.csv"
    pd.DataFrame([ROW]).to_csv(good, index=False)
    pd.DataFrame([ROW]).to_parquet(tmp_path / "cut.parquet")
    data = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00user")
    before = set(tmp_path.iterdir())
    for data, out, told in (
        ("none.csv", "out.csv", "cannot read"),
        ("cut.parquet", "out.csv", "cannot read"),
        ("empty.csv", "out.csv", "cannot read"),
        ("binary.csv", "out.csv", "cannot read"),
        ("rows.txt", "out.csv", "must be a .csv or .parquet"),
        ("rows.csv", "out.txt", "must be a .csv or .parquet"),
        ("rows.csv", "no/folder/out.csv", "cannot write"),
        ("rows.csv", "rows.csv/out.csv", "cannot write"),
    ):
        arguments = ["predict", "--run", str(run.folder), "--data", str(tmp_path / data), "--out", str(tmp_path / out)]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before
    assert main([*arguments[:-1], str(tmp_path / "out.csv"), "--batch-size", "0"]) == 2


def test_scores_are_not_written_over_the_rows_or_a_file_of_a_run(run, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    pd.DataFrame([ROW]).to_csv(rows, index=False)
    (tmp_path / "link.csv").symlink_to(rows)
    (tmp_path / "mine.csv").write_text("user_id,mine\n")
    arguments = ["predict", "--run", str(run.folder), "--data", str(rows), "--out"]
    kept = {path: path.read_bytes() for path in (rows, tmp_path / "mine.csv", run.folder / "metrics.csv")}
    for out, told in (
        (rows, "is the file of the rows"),
        (tmp_path / "link.csv", "is the file of the rows"),
        (run.folder / "metrics.csv", "is a file of a run"),
        (tmp_path / "mine.csv", "exists and holds no scores"),
    ):
        assert main([*arguments, str(out)]) == 2
        assert told in capsys.readouterr().err
        assert {path: path.read_bytes() for path in kept} == kept
    for _ in range(2):  # older scores are replaced
        assert main([*arguments, str(tmp_path / "scored.csv")]) == 0


def test_labels_in_the_rows_do_not_matter(run):
    """Rows may hold the label's sources, and whatever else; the model reads none of it."""
    expected, unknown = _score(run, ROW)
    scores, _ = _score(
        run, ROW | {"stars": 5, "bought": "?", "label_click": MISSING_LABEL, "timestamp": 3, "more": "x"}
    )
    np.testing.assert_allclose(scores, expected)
    assert unknown == {}


# Files


def _file(run, tmp_path, text, out="out.csv", **options):
    """Score the rows of a CSV file with this text or these bytes: what is told, and the output."""
    (tmp_path / "rows.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    told = predict_file(run.folder, tmp_path / "rows.csv", tmp_path / out, **options)
    return told, tmp_path / out


HEAD = "user_id,item_id,hour,place,words"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{HEAD}\nu2,101,5,home,red\nu3,102,5,home,red,u9\n", "line 3 has 6 fields, and the first line names 5"),
        (f"{HEAD}\nu2,101,5,home,red\nu3,102,5\n", "line 3 has 3 fields"),
        (f'{HEAD}\n"u\n2",101,5,home,red\nu3,102,5\n', "line 4 has 3 fields"),
        (f"{HEAD}\nu2,101,5,home,red\n\nu3,102,5,home,red\n", "line 3 is empty"),
        (f'{HEAD}\nu2,101,5,home,"red\nu3,102,5,home,red\n', "line 2: a quote is not closed"),
        (f'{HEAD}\nu2,101,5,home,"red"er\n', "line 2: a quote is not closed, or text follows it"),
        (f"{HEAD},hour\n", "two columns called 'hour'"),
        ("", "it is empty"),
        ("\nu2,101\n", "line 1 is empty"),
        (",,\nu2,101,4\n", "it is empty"),
        (f"{HEAD}\nu2,101,5,home,red\nu2,101,5,caf\xe9,red\n".encode("latin-1"), "line 3 is not UTF-8"),
        (
            f"{HEAD}\nu2,101,5,home,red\nu2,101,noon,home,red\n",
            "rows.csv, line 3: 'hour' is 'noon', which is not a finite",
        ),
        (f'{HEAD}\nu2,101,5,home,red\nu2,101,"12,5",home,red\n', "rows.csv, line 3: 'hour' is '12,5'"),
        (f"{HEAD}\nu2,101,inf,home,red\n", "line 2: 'hour' is 'inf'"),
        (f"{HEAD}\nu2,101,nan,home,red\n", "line 2: 'hour' is 'nan'"),
        (f"{HEAD}\nu2,101,1e60,home,red\n", "line 2: 'hour' is 1e.60, beyond"),
        (f"{HEAD},click\nu2,101,5,home,red,1\n", "has a column 'click' already.*--prefix"),
        ("user_id,hour,place,words\nu2,5,home,red\n", "no column 'item_id' in .*rows.csv"),
    ],
)
def test_a_csv_file_that_is_not_right_is_refused(text, told, run, tmp_path):
    with pytest.raises(InputError, match=told):
        _file(run, tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_every_cell_of_a_csv_file_comes_out_as_it_was(run, tmp_path):
    cells = [
        ["u2", "101.0", "5.50", "home", "red", "NA", "007"],
        ["NA", "null", "+5", "N/A", "None", 'say "hi", you', "1e3"],
        ["nan", "102", "", "", "", "two\nlines", "=1+1"],
        ["u3", "102", "1", "work", "", "a\rb", '5" wide'],
    ]
    text = io.StringIO()
    csv.writer(text).writerows([[*HEAD.split(","), "note", ""], *cells])  # a column without a name, as pandas' index
    told, out = _file(run, tmp_path, "\ufeff" + text.getvalue() + "\r\n")
    with open(out, encoding="utf-8", newline="") as file:
        head, *found = csv.reader(file, strict=True)
    assert head == [*HEAD.split(","), "note", "", "click", "buy"]
    assert [row[:-2] for row in found] == cells
    assert sorted(told[1:]) == [
        "age: 2 rows have no value (the mean of the training data is used)",
        "hour: 1 row has no value (the mean of the training data is used)",
        "item_id: 1 row has a value never seen in training (the unknown embedding is used)",
        "place: 1 row has a value never seen in training (the unknown embedding is used)",
        "price: 1 row has no value (the mean of the training data is used)",
        "scenario: 2 rows have a value never seen in training (averaged over all scenarios)",
        "user_id: 2 rows have a value never seen in training (the unknown embedding is used)",
        "words: 1 row has a value never seen in training (left out of the sequence)",
    ]
    _, out = _file(run, tmp_path, text.getvalue(), "out.parquet")
    assert pq.read_table(out).column("note").to_pylist() == [row[5] for row in cells]
    assert pq.read_table(out).column("place").null_count == 1


def _read(path, monkeypatch, block, size=3):
    """The cells of a CSV file and the line of each row, read in blocks of so many bytes."""
    monkeypatch.setattr(text_rows, "BLOCK", block)
    with row_files.open_rows(path, size) as (schema, batches):
        found = [(batch.place(i), row) for batch in batches for i, row in enumerate(batch.columns.to_pylist())]
    return [(place, [row[name] for name in schema.names]) for place, row in found]


PLAIN = ["u2", "", "5.50", "NA", "007", "caf\u00e9"]
QUOTED = ["two\nlines", 'say "hi", you', "a\rb", '"', ",", "\r\n"]


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    ("cells", "last"),
    [(PLAIN, ""), (PLAIN, "x,y"), (PLAIN, "\n\r\n\n"), (PLAIN + QUOTED, ""), (PLAIN + QUOTED, '5" wide,y\n"z",\n')],
    ids=["plain", "no end of line", "empty lines at the end", "quoted", "quotes within plain text"],
)
@pytest.mark.parametrize("block", [7, 64, 1 << 22])
def test_a_csv_file_is_read_as_pythons_reader_does_in_blocks_of_any_size(
    cells, last, end, block, tmp_path, monkeypatch
):
    doubled = [cell.replace('"', '""') for cell in cells]
    quoted = [f'"{cell}"' if set(cell) & set(',"\r\n') else cell for cell in doubled]
    rows = [["a", "b"], *np.random.default_rng(5).choice(quoted, (40, 2)).tolist()]
    path = tmp_path / "rows.csv"
    path.write_bytes(("".join(",".join(row) + end for row in rows) + last).encode())
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader((line + "\n" for line in file.read().split("\n")), strict=True)
        expected, line = [], 1
        for row in reader:
            if row:
                expected.append((f"line {line}", [cell or None for cell in row]))
            line = reader.line_num + 1
    assert _read(path, monkeypatch, block) == expected[1:]


@pytest.mark.parametrize("text", ['1,"', '1,"2"3', "1", "1,2,3", "\n1,2", "1,\xff", "1,2\r3,4", '1,"2\n3'])
@pytest.mark.parametrize("before", ["1,2\n", '"1\n",2\n'], ids=["plain", "quoted"])
def test_what_is_wrong_in_a_later_block_is_told_with_its_line(text, before, tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_bytes(f"a,b\n{before * 50}{text}\n1,2\n".encode("latin-1"))
    wrong = 2 + 50 * before.count("\n")
    with pytest.raises(InputError, match=f"line {wrong}\\b"):
        _read(path, monkeypatch, block=64)


def test_numbers_of_text_are_what_python_reads():
    texts = ["1", "-2.50", "1e-3", "0.1", "123456789.123456789", "1e60"]
    for more in ([], ["+5", " 7 "]):  # Arrow reads none of these
        found = to_numbers("n", pa.array([*texts, None, *more]), str)
        assert found[: len(texts)].tolist() == [float(text) for text in texts]
        assert np.isnan(found[len(texts)])
        assert found[len(texts) + 1 :].tolist() == [float(text) for text in more]
    assert np.isnan(to_numbers("n", pa.array(["1_000", "x"]), None)).all()


def test_text_that_is_not_utf8_is_not_written_into_a_csv_file(run, tmp_path):
    wrong = pa.array([b"\xff"]).view(pa.string())
    pq.write_table(
        pa.table({**{name: [value] for name, value in ROW.items()}, "note": wrong}), tmp_path / "rows.parquet"
    )
    with pytest.raises(InputError, match="column 'note' is a string that cannot be written as text"):
        predict_file(run.folder, tmp_path / "rows.parquet", tmp_path / "out.csv")


def test_true_labels_stay_beside_the_scores(run, tmp_path):
    _, out = _file(run, tmp_path, f"{HEAD},click\nu2,101,5,home,red,1\n", prefix="score_")
    expected, _ = _score(run, ROW)
    found = pd.read_csv(out)
    assert list(found) == [*HEAD.split(","), "click", "score_click", "score_buy"]
    assert found["click"].tolist() == [1]
    np.testing.assert_allclose(found[["score_click", "score_buy"]].to_numpy(), expected, atol=1e-6)


def test_a_parquet_file_keeps_its_types_metadata_and_order(run, tmp_path):
    many = 300_000  # several batches and row groups
    frame = pd.DataFrame([ROW] * many).assign(item_id=np.resize([100, 101, 102], many), n=np.arange(many))
    frame["place"] = frame["place"].astype("category")
    frame["tags"] = [["a"], None, []] * (many // 3)
    frame.index = pd.Index(np.arange(many) * 2, name="key")
    frame.to_parquet(tmp_path / "rows.parquet")
    predict_file(run.folder, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    before, after = (pq.read_table(tmp_path / name) for name in ("rows.parquet", "out.parquet"))
    assert after.schema.metadata[b"pandas"] == before.schema.metadata[b"pandas"]
    assert after.select(before.column_names).cast(before.schema).equals(before)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.index.name == "key"
    expected, _ = _score(run, *(ROW | {"item_id": item} for item in (100, 101, 102)))
    np.testing.assert_allclose(found[["click", "buy"]].to_numpy(), np.tile(expected, (many // 3, 1)), atol=1e-6)
    with pytest.raises(InputError, match=r"'tags' is a list.*which a CSV file cannot hold"):
        predict_file(run.folder, tmp_path / "rows.parquet", tmp_path / "out.csv")

    frame.head(0).to_parquet(tmp_path / "rows.parquet")
    predict_file(run.folder, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    empty = pq.read_table(tmp_path / "out.parquet")
    assert (empty.num_rows, empty.column_names) == (0, after.column_names)


def test_parquet_files_that_are_not_right_are_refused(run, tmp_path):
    def told(columns):
        pq.write_table(pa.table({name: [value] for name, value in (ROW | columns).items()}), tmp_path / "rows.parquet")
        with pytest.raises(InputError) as error:
            predict_file(run.folder, tmp_path / "rows.parquet", tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()
        return str(error.value)

    assert "column 'user_id' is a list" in told({"user_id": ["u2"]})
    assert "column 'hour' is a struct" in told({"hour": {"a": 1}})
    assert "rows.parquet, row 1: 'hour' is 'inf'" in told({"hour": math.inf})
    assert "column 'place' is a binary that cannot be read as text" in told({"place": b"\xff"})
    (tmp_path / "rows.parquet").write_text("user_id,item_id")
    with pytest.raises(InputError, match="cannot read"):
        predict_file(run.folder, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*folder.csv: Is a directory"):
        predict_file(run.folder, tmp_path / "folder.csv", tmp_path / "out.parquet")


# One id, however it is written


@pytest.mark.parametrize(
    ("known", "value", "found"),
    [
        ("3.0", 3, 1),
        ("3.0", 3.0, 1),
        ("3.0", "3", 1),
        ("3.0", "3.0", 1),
        ("3", 3.0, 1),
        ("3", "3.00", 1),
        ("007", 7, 0),
        ("7", "007", 0),
        ("1.1", "1.10", 0),
        ("0.5", 0.5, 1),
        ("90071992547409930", 90071992547409930, 1),
        ("True", True, 1),
        ("1", True, 1),
        ("false", False, 1),
        ("3 3.0", 3, 1),
        ("3.0 3", "3.0", 1),
        ("3 3.0", 3.0, 0),
        ("3.0 3.00", "3", 0),
        ("x", "[PAD]", 0),
        ("inf", math.inf, 1),
    ],
)
def test_a_value_is_found_in_any_spelling_of_which_there_is_one(known, value, found):
    vocabulary = Vocabulary({"[PAD]": 0} | {token: place for place, token in enumerate(known.split(), start=1)})
    assert vocabulary.find(value) == found


VALUES = [0, 3, 7, 10, 11, -4, 12, 3, 2**40, 5, None]
COLUMNS = {
    "int64": pa.array([*VALUES, 1234567890123456789, 2**63 - 1]),
    "uint64": pa.array([0, 3, 2**63 + 1], pa.uint64()),
    "int8": pa.array([0, 3, -4, None, 11], pa.int8()),
    "whole float64": pa.array([0.0, 3.0, -0.0, 7.0, None, np.nan, 11.0, -4.0], pa.float64()),
    "float64": pa.array([0.5, 3.0, 2.0**60, -2.5]),
    "float32": pa.array([0.1, 3.0, 11.0, 1e20], pa.float32()),
    "text": pa.array(["3", "3.0", "x", "", None, "7.0", "[PAD]", "03", "-4", "10.0", "0.1", "no"]),
    "one text": pa.array(["3.0"]),
    "dictionary": pa.array(["3", "x", None, "3"]).dictionary_encode(),
    "bool": pa.array([True, False, None]),
    "decimal": pa.array([decimal.Decimal("3.00"), decimal.Decimal("0.1")]),
}


@pytest.mark.parametrize(
    "known",
    [
        "0 3 7 x 0.1 true",
        "3.0 7.0 10.00 -4 -0",
        "3 3.0 11.0 11.00 7",
        "1234567890123456789 3",
        "9999999999999999999 -4 3",
        "a b c d",
        "\ud800 3 x",
        "1099511627776 5",
    ],
)
@pytest.mark.parametrize("buckets", [0, 1000])
def test_a_column_gives_the_ids_that_its_values_give_one_by_one(known, buckets):
    tokens = np.array(["[PAD]", *known.split()], dtype=object)
    ids = {token: place for place, token in enumerate(tokens.tolist())}
    stored = Vocabularies({"field": encode(tokens)})
    for name, column in COLUMNS.items():
        for at_hand in (None, stored.column("field"), Vocabularies({"field": encode(tokens)}).column("field")):
            vocabulary = HashedVocabulary(ids, at_hand, buckets) if buckets else Vocabulary(lambda: ids, at_hand)
            found, empty = vocabulary.ids_of(name, column)
            values = [float(str(np.float32(v))) if name == "float32" else v for v in column.to_pylist()]
            nothing = [value is None or value == "" or value != value for value in values]
            assert empty.tolist() == nothing
            expected = [0 if gone else vocabulary.find(value) for value, gone in zip(values, nothing, strict=True)]
            assert found.tolist() == expected, name
            if name == "text":
                given = [value for value, gone in zip(values, nothing, strict=True) if not gone]
                texts = vocabulary.ids_of_texts(given)
                assert texts is not None
                assert texts.tolist() == [place for place, gone in zip(expected, nothing, strict=True) if not gone]
                assert vocabulary.ids_of_texts([*given, ""]) is None  # no value, which a column says


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([101, None], dtype="Int64"),
        pd.Series([101, None], dtype="float32"),
        pd.Series(["101", None], dtype="category"),
        pd.Series([101, None]).astype("Int64").astype("category"),
        pd.Series(["101", ""], dtype="string"),
        pd.Series(["101.0", None], dtype=pd.ArrowDtype(pa.large_string())),
        pd.Series([101, "nothing"], dtype=object),
        pd.Series([b"101", None], dtype=object),
    ],
    ids=str,
)
def test_columns_of_any_type_name_the_same_ids(values, run):
    expected, _ = _score(run, ROW, ROW | {"item_id": None})
    scores, unknown, _ = recbole_msr.load(run.folder).score(pd.DataFrame([ROW, ROW]).assign(item_id=values))
    np.testing.assert_allclose(scores.to_numpy(), expected, atol=1e-7)
    assert unknown == {"item_id": 1}


def test_a_user_called_padding_is_unknown(run):
    scores, unknown = _score(run, ROW | {"user_id": "[PAD]"}, ROW | {"user_id": "nobody"}, ROW | {"item_id": "[PAD]"})
    assert unknown == {"user_id": 2, "item_id": 1, "scenario": 2}
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-7)


def test_sequences_are_cut_padded_and_their_unknown_rows_counted():
    vocabulary = Vocabulary({"[PAD]": 0, "a": 1, "b": 2, "3.0": 3})
    texts = pa.array(["a b", None, "x a", "b a b a", "", "a  b x"])
    lists = pa.array([["a", "b"], None, ["x", "a"], ["b", "a", "b", "a"], [], ["a", None, "", "b", "x"]])
    for column in (texts, lists, pa.concat_arrays([lists, lists])[6:]):
        table, unknown = to_id_sequences("words", column, vocabulary, 3, " ")
        assert table.tolist() == [[1, 2, 0], [0, 0, 0], [0, 1, 0], [2, 1, 2], [0, 0, 0], [1, 2, 0]]
        assert unknown.tolist() == [False, False, True, False, False, True]
    assert to_id_sequences("n", pa.array([[3, 3], [4]]), vocabulary, 2, " ")[0].tolist() == [[3, 3], [0, 0]]


def test_missing_numbers_are_counted(run):
    rows = pd.DataFrame([ROW | {"hour": None}, ROW | {"hour": ""}, ROW | {"place": "moon"}])
    scored = recbole_msr.load(run.folder).score(rows)
    assert scored.missing == {"hour": 2}
    assert scored.unknown == {"place": 1}
    predictor = Predictor(run.folder)
    assert predictor.predict(rows).equals(scored.scores)
    assert (predictor.unknown, predictor.missing) == (scored.unknown, scored.missing)
    predictor.predict(pd.DataFrame([ROW]))
    assert (predictor.unknown, predictor.missing) == ({}, {}), "of the last call"


def test_threads_that_share_a_run_count_each_their_own(run):
    saved = recbole_msr.load(run.folder)
    frames = [pd.DataFrame([ROW | {"place": "moon"}] * n + [ROW] * 50) for n in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        counts = [found.unknown["place"] for found in pool.map(saved.score, frames * 3)]
    assert counts == [*range(1, 9)] * 3


def test_of_a_parquet_file_of_one_row_group_a_part_is_held(tmp_path):
    path, rows = tmp_path / "large.parquet", 400_000
    numbers = np.random.default_rng(0).random((4, rows))
    table = pa.table({f"number_{place}": column for place, column in enumerate(numbers)})
    pq.write_table(table, path, row_group_size=rows, use_dictionary=False)
    size = table.nbytes
    del table
    before, most, read = pa.total_allocated_bytes(), 0, 0
    with row_files.open_rows(path, 10_000) as (_, batches):
        for batch in batches:
            read += batch.columns.num_rows
            most = max(most, pa.total_allocated_bytes() - before)
    assert read == rows
    assert most < size / 2
