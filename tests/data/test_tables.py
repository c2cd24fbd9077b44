"""Tables of any kind become the dataset that the same rows are as atomic files; or one clear line says why not."""

import datetime
import decimal
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.data.tables.dataset import place_tables, write_dataset
from recbole_msr.data.tables.placed import write_interactions
from recbole_msr.data.tables.source import TableSource
from recbole_msr.errors import InputError

TASKS = {"click": {"field": "rating", "at_least": 4}}


@pytest.fixture
def settings(tmp_path):
    """Settings of a run that keeps its data in the test's folder."""
    return {
        **{"tasks": TASKS, "scenario": {"field": "gender"}, "cache_dir": str(tmp_path / "cache")},
        **{"numerical_features": ["price"], "TIME_FIELD": "timestamp", "dataset": "tiny"},
    }


def splits_of(settings):
    from recbole.data import create_dataset

    from recbole_msr.config.build import build_config

    settings = dict(settings)
    dataset = create_dataset(build_config("SharedBottom", settings.pop("dataset"), settings))
    return dataset.build()


def assert_same(ours, theirs):
    """The same rows with the same ids in every split, and the same tables of users and items."""
    for own, other in zip(ours, theirs, strict=True):
        assert set(own.inter_feat.columns) == set(other.inter_feat.columns)
        for field in other.inter_feat.columns:
            np.testing.assert_array_equal(own.inter_feat[field].numpy(), other.inter_feat[field].numpy(), field)
        for name in ("user_feat", "item_feat"):
            assert (getattr(own, name) is None) == (getattr(other, name) is None)
            for field, values in getattr(getattr(other, name), "interaction", {}).items():
                np.testing.assert_array_equal(getattr(own, name)[field].numpy(), values.numpy(), field)
    for field, tokens in theirs[0].field2id_token.items():
        assert list(ours[0].field2id_token[field]) == list(tokens), field


def written(frame, kind, path):
    """Write a frame as a file of this kind, or return the table in memory."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if kind == "pandas":
        return frame
    if kind == "arrow table":
        return table
    path = path.with_suffix(f".{kind}")
    path.parent.mkdir(exist_ok=True)
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=100)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "feather":
        pyarrow.feather.write_feather(frame, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return str(path)


@pytest.mark.parametrize("kind", ["parquet", "csv", "feather", "arrow", "pandas", "arrow table"])
def test_rows_ids_and_splits_are_those_of_atomic_files(kind, tiny_frames, settings, tiny_data, tmp_path):
    theirs = splits_of({**settings, "data_path": str(tiny_data)})
    if kind == "csv":  # text has no lists: they are joined as in an atomic file
        tiny_frames["item"]["class"] = tiny_frames["item"]["class"].map(" ".join)
        settings |= {"types": {"class": "token_seq"}}
    names = {"inter": "data", "user": "users", "item": "items"}
    tables = {
        names[suffix]: written(frame, kind, tmp_path / "tables" / suffix) for suffix, frame in tiny_frames.items()
    }
    given = {**settings, **tables, "types": {"age": "token", **settings.get("types", {})}}
    assert_same(splits_of(place_tables(given)), theirs)


def test_a_folder_a_pattern_and_a_list_are_read_in_the_order_of_their_names(tiny_frames, settings, tiny_data, tmp_path):
    folder = tmp_path / "days"
    folder.mkdir()
    for number in range(4):
        part = tiny_frames["inter"][150 * number : 150 * (number + 1)]
        part.to_parquet(folder / f"day-{number}.parquet", index=False)
    users, items = written(tiny_frames["user"], "parquet", tmp_path / "users"), tiny_frames["item"]
    theirs = splits_of({**settings, "data_path": str(tiny_data)})
    for data in (folder, str(folder / "day-*.parquet"), sorted(folder.iterdir())):
        given = {**settings, "data": data, "users": users, "items": items, "types": {"age": "token"}}
        assert_same(splits_of(place_tables(given)), theirs)


def test_columns_have_names_of_their_own_and_given_splits_stay(tiny_frames, settings, tmp_path):
    inter = (
        tiny_frames["inter"]
        .merge(tiny_frames["user"], on="user_id")
        .rename(columns={"user_id": "uid", "item_id": "sku"})
    )
    parts = dict(zip(("train", "valid", "test"), (inter[:400], inter[400:500], inter[500:]), strict=True))
    del settings["TIME_FIELD"], settings["numerical_features"]
    columns = {"user": "uid", "item": "sku", "time": "timestamp"}
    placed = place_tables({**settings, "data": parts, "columns": columns})
    assert placed["benchmark_filename"] == ["train", "valid", "test"]
    for split, part in zip(splits_of(placed), parts.values(), strict=True):
        assert [split.id2token("uid", user) for user in split.inter_feat["uid"]] == part["uid"].tolist()
        assert split.inter_feat["timestamp"].tolist() == part["timestamp"].tolist()


def test_a_column_of_a_later_split_alone_is_named(tiny_frames, settings, caplog):
    inter = tiny_frames["inter"].merge(tiny_frames["user"], on="user_id")
    parts = {"train": inter[:400], "valid": inter[400:500].assign(shown=1), "test": inter[500:]}
    del settings["numerical_features"]
    place_tables({**settings, "data": parts})
    assert "left out: shown (the training table has no such)" in caplog.text


def lines_of(frame, tmp_path, **settings):
    """Return the atomic file of a table as lists of cells, its first line first."""
    frame = frame if isinstance(frame, pa.Table) else pd.DataFrame(frame)
    placed = place_tables({"data": frame, "cache_dir": str(tmp_path / "cache"), "dataset": "kinds", **settings})
    assert placed["data_path"] == str(next((tmp_path / "cache" / "tables").glob("kinds-*")))
    text = write_interactions(f"{placed['data_path']}/kinds", "kinds").read_text()
    return [line.split("\t") for line in text.splitlines()]


@pytest.mark.parametrize(
    ("values", "kind", "cells"),
    [
        ([1, 2], "token", ["1", "2"]),
        ([1.0, None], "float", ["1", ""]),
        (pd.array([7, None], "Int64"), "token", ["7", ""]),
        (pd.Categorical(["b", None]), "token", ["b", ""]),
        ([True, False], "token", ["1", "0"]),
        (["007", "NA"], "token", ["007", "NA"]),
        (np.array([0.1, 1e-7], np.float32), "float", ["0.1", "1e-07"]),
        ([decimal.Decimal("1.50"), decimal.Decimal("2.00")], "float", ["1.50", "2.00"]),
        ([[1, 2], []], "token_seq", ["1 2", ""]),
        ([["a"], None], "token_seq", ["a", ""]),
        ([[0.5, 2.0], [1.0]], "float_seq", ["0.5 2", "1"]),
        ([datetime.date(1970, 1, 2), None], "float", ["86400", ""]),
        (pd.to_datetime(["2024-01-01T00:00:00.123456789", "1969-12-31T23:59:59.5"]), "float",
         ["1704067200.1234567", "-0.5"]),
        (pd.to_datetime(["2024-01-01T02:00:00+02:00"] * 2), "float", ["1704067200", "1704067200"]),
        ([datetime.timedelta(milliseconds=1500), None], "float", ["1.5", ""]),
    ],
)  # fmt: skip
def test_the_type_and_the_text_of_a_column(values, kind, cells, tmp_path):
    header, *rows = lines_of({"user_id": ["u", "v"], "item_id": ["i", "j"], "x": values}, tmp_path)
    assert header == ["user_id:token", "item_id:token", f"x:{kind}"]
    found = [[*row, ""][2] for row in rows]
    if kind == "float":
        assert [float(cell) if cell else None for cell in found] == [float(cell) if cell else None for cell in cells]
    else:
        assert found == cells


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_every_unit_of_arrow_are_seconds(unit, tmp_path):
    times = pa.array([1704067200 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]], pa.timestamp(unit))
    _, row = lines_of(pa.table({"user_id": ["u"], "item_id": ["i"], "at": times}), tmp_path)
    assert float(row[2]) == 1704067200


def test_what_a_column_is_for_decides_before_its_values(tmp_path):
    frame = {"user_id": [1.0, 2.0], "item_id": [10, 11], "clicked": [0, 1], "hour": [7, 8], "price": [3, 4]}
    header, *rows = lines_of(
        frame, tmp_path, tasks={"click": {"field": "clicked"}}, scenario={"field": "hour"}, types={"price": "float"}
    )
    assert header == ["user_id:token", "item_id:token", "clicked:float", "hour:token", "price:float"]
    assert rows == [["1", "10", "0", "7", "3"], ["2", "11", "1", "8", "4"]], "ids are written without the .0 of a gap"


def test_a_csv_files_cells_stay_as_they_are_spelled(tmp_path):
    (tmp_path / "rows.csv").write_text('user_id,item_id,code,number,words\n01,1.0,007,1e3,"a, b"\n02,2,8,,NA\n')
    header, *rows = lines_of_file(tmp_path / "rows.csv", tmp_path)
    assert header == ["user_id:token", "item_id:token", "code:token", "number:float", "words:token"]
    assert rows == [["01", "1.0", "007", "1e3", "a, b"], ["02", "2", "8", "", "NA"]]


def lines_of_file(path, tmp_path):
    placed = place_tables({"data": str(path), "cache_dir": str(tmp_path / "cache"), "dataset": "kinds"})
    text = write_interactions(f"{placed['data_path']}/kinds", "kinds").read_text()
    return [line.split("\t") for line in text.splitlines()]


def test_columns_that_cannot_be_used_are_named(caplog, tmp_path):
    frame = {"user_id": ["u"], "item_id": ["i"], "shape": [{"a": 1}], "empty": [None]}
    (header, _) = lines_of(frame, tmp_path)
    assert header == ["user_id:token", "item_id:token"]
    assert "left out: shape (a struct<a: int64> is neither" in caplog.text
    assert "left out: empty (a null is neither" in caplog.text


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_whole_numbers_with_gaps_are_numbers_which_is_told_and_tokens_where_types_says_so(gap, caplog, tmp_path):
    frame = {"user_id": ["u", "v", "w"], "item_id": [1.0, 2.0, 3.0], "brand": pa.array([3.0, gap, 10.0]),
             "price": pa.array([0.5, None, 2.0]), "age": [3.0, 4.0, 5.0]}  # fmt: skip
    header, *_ = lines_of(pa.table(frame), tmp_path)
    assert "brand:float" in header
    assert "brand holds whole numbers and gaps: it is a number" in caplog.text
    assert "price holds" not in caplog.text
    assert "age holds" not in caplog.text
    caplog.clear()
    header, *rows = lines_of(pa.table(frame), tmp_path / "other", types={"brand": "token"})
    assert [row[header.index("brand:token")] for row in rows] == ["3", "", "10"]
    assert "holds whole numbers" not in caplog.text


def test_the_same_table_is_written_once_and_a_changed_one_anew(tiny_frames, tmp_path):
    given = {"cache_dir": str(tmp_path / "cache"), "data": tiny_frames["inter"]}
    first = place_tables(given)["data_path"]
    assert place_tables(given)["data_path"] == first
    assert place_tables({**given, "types": {"rating": "float"}})["data_path"] != first
    assert place_tables({**given, "data": tiny_frames["inter"][1:]})["data_path"] != first


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "no.parquet"}, "data: there is no file no.parquet"),
        ({"data": 7}, "data is the path of a table"),
        ({"data": "notes.txt"}, "is no table: its name must end with .parquet, .csv, .arrow, .feather"),
        ({"data": "broken.parquet"}, "cannot read .*broken.parquet"),
        ({"data": "good.csv", "columns": {"user": "who"}}, "has no column 'who' .*It has user_id, item_id, x"),
        ({"data": "good.csv", "columns": {"usr": "who"}}, "there is no 'usr'; did you mean 'user'"),
        ({"data": "good.csv", "types": {"x": "number"}}, "types: 'number' of column 'x' is none of token"),
        ({"data": "good.csv", "types": {"y": "float"}}, "types: no table has a column 'y'"),
        ({"data": "good.csv", "types": {"x": "float"}}, r"good.csv, line 3: 'x' is a column of numbers, but holds 'b'"),
        ({"data": "good.csv", "data_path": "."}, "data is a table, and data_path a folder"),
        ({"data": ["good.csv", "other.csv"]}, "other.csv has no column 'x', and .*good.csv has"),
        ({"data": ["good.csv", "broken.parquet"]}, "the files of a table are of one kind"),
        ({"data": {"train": "good.csv"}}, "splits are given as {train: ..., valid: ..., test: ...}, got train"),
        ({"data": "tab.csv"}, r"tab.csv, line 2: 'word' is 'a\\tb', which holds a tab"),
        ({"data": "good.csv", "tasks": {"t": {"field": "x"}}}, r"good.csv, line 3: 'x' is a column of numbers, but"),
        ({"data": "nothing.csv"}, "nothing.csv has no rows"),
        ({"users": "good.csv"}, "users belongs to a table of interactions: give data, too"),
        ({"data": "good.csv", "dataset": "ml-100k"}, "is the one that RecBole brings"),
    ],
)
def test_bad_input_is_one_clear_line(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "good.csv": "user_id,item_id,x\n1,2,3\n1,2,b\n", "other.csv": "user_id,item_id\n1,2\n", "notes.txt": "x",
        "broken.parquet": "PAR1 no", "tab.csv": "user_id,item_id,x,word\n1,2,1,a\tb\n",
        "nothing.csv": "user_id,item_id\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    settings = {"cache_dir": str(tmp_path / "cache"), "tasks": {"x": {"field": "x"}}, **given}
    with pytest.raises(InputError, match=message):
        splits_of(place_tables(settings))
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not [name for name in left if not name.endswith(".inter.json")], "only the note of the table, if anything"


def _parquet(path, **columns):
    """Write 30 rows in three row groups, of which some columns are otherwise."""
    rows = {"user_id": [*range(30)], "item_id": [f"i{i}" for i in range(30)], "price": [i / 7 for i in range(30)]}
    table = pa.table({**rows, "click": [i % 2 for i in range(30)], **columns})
    pyarrow.parquet.write_table(table, path, row_group_size=10, use_dictionary=False)


def _damage(path):
    column = pyarrow.parquet.read_metadata(path).row_group(1).column(2)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + 40 : column.data_page_offset + 60] = bytes(20)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"cannot read \S+: row group 2 of 3, column 'price': "),
        (
            {"price": [*map(str, range(24)), "cheap", *map(str, range(5))]},
            r"row 25 \(row group 3 of 3\): 'price' is a column of numbers, but holds 'cheap'",
        ),
        ({"click": [0, 1] * 14 + [7, 1]}, r"holds 7 in 1 rows \(the first is row 29 \(row group 3 of 3\) of /"),
        ({"price": [{"a": 1}] * 30}, "column 'price' is needed, and a struct<a: int64> is neither a token, a number"),
        ({"item_id": "not UTF-8"}, r"row 12 \(row group 2 of 3\): 'item_id' is b'\\xff', which is not UTF-8"),
    ],
)
def test_bad_parquet_is_named_by_row_group_and_column(columns, message, tmp_path):
    path = tmp_path / "rows.parquet"
    if "item_id" in columns:
        buffers = pa.array([b"i"] * 11 + [b"\xff"] + [b"j"] * 18).buffers()
        columns = {"item_id": pa.StringArray.from_buffers(30, buffers[1], buffers[2])}
    _parquet(path, **columns)
    if not columns:
        _damage(path)
    given = {"data": str(path), "tasks": {"click": {"field": "click"}}, "numerical_features": ["price"]}
    with pytest.raises(InputError, match=message):
        splits_of(place_tables({**given, "dataset": "bad", "cache_dir": str(tmp_path / "cache")}))
    with pytest.raises(InputError, match=message.split(" of /")[0]) if "click" not in columns else nullcontext():
        write_dataset({**given, "dataset": "bad"}, tmp_path / "out")
    assert "click" in columns or not [*tmp_path.glob("out/*")], "nothing half-written"


def test_a_pandas_column_of_several_types_is_named_with_its_rows(tmp_path):
    frame = pd.DataFrame({"user_id": [1, 2], "item_id": ["a", 3]})
    with pytest.raises(InputError, match="column 'item_id' holds values of several types: 'a' in row 1 and 3 in row 2"):
        place_tables({"data": frame, "cache_dir": str(tmp_path)})


def test_a_run_from_a_table_in_python_and_convert_on_the_command_line(
    tiny_frames, settings, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    inter = tiny_frames["inter"].merge(tiny_frames["user"], on="user_id")
    del settings["dataset"], settings["numerical_features"]
    own = {**settings, "data": inter, "epochs": 1, "threads": 1, "show_progress": False, "output_dir": "run"}
    result = recbole_msr.run("SharedBottom", config=own)
    assert result.summary["dataset"] == "table"
    assert set(result.test.cells) == {"F", "M"}
    inter.to_parquet("events.parquet")
    assert main(["data", "convert", "events.parquet", "out", "--types={age: token}"]) == 0
    assert (tmp_path / "out" / "events" / "events.inter").read_text().startswith("user_id:token\titem_id:token\t")
    assert "run_recbole --model=HiNet --dataset=events --data_path=out" in capsys.readouterr().out


def test_tables_that_an_editor_or_an_unfinished_job_left_in_a_folder_are_left_out(tiny_frames, tmp_path, caplog):
    folder, frame = tmp_path / "days", tiny_frames["inter"]
    for name in ("day-1.csv", ".ipynb_checkpoints/day-1-checkpoint.csv", "_temporary/0/day-2.csv", "_day-3.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(folder / name, index=False)
    sources = [TableSource("data", given) for given in (folder, str(folder / "**" / "*.csv"))]
    assert [source.files for source in sources] == [[folder / "day-1.csv"]] * 2
    assert f"{folder}: 3 tables are left out, whose names, or whose folders' names, begin with . or _" in caplog.text


def _write_partitions(frame, folder):
    """Write a table as Spark's partitionBy("country", "hour") does."""
    for number, ((country, hour), part) in enumerate(frame.groupby(["country", "hour"], dropna=False, sort=True)):
        name = "__HIVE_DEFAULT_PARTITION__" if pd.isna(country) else country.replace(" ", "%20")
        path = folder / f"country={name}" / f"hour={hour}" / f"part-{number}.parquet"
        path.parent.mkdir(parents=True)
        part.drop(columns=["country", "hour"]).to_parquet(path, index=False)


def test_names_and_values_of_folders_are_columns(tmp_path, settings):
    draw = np.random.default_rng(1)
    frame = pd.DataFrame({"user_id": draw.integers(0, 30, 400), "item_id": draw.integers(0, 20, 400)})
    frame["rating"], frame["timestamp"] = draw.integers(1, 6, 400), draw.permutation(400).astype(float)
    frame["country"], frame["hour"] = draw.choice(["FR", "New Land", None], 400), draw.integers(0, 3, 400)
    frame = frame.sort_values(["country", "hour"], kind="stable", na_position="first")  # "__HIVE..." is first here
    frame["country"] = frame["country"].fillna("none")
    folder = tmp_path / "spark"
    _write_partitions(frame.assign(country=frame["country"].replace("none", None)), folder)
    files = sorted(folder.rglob("*.parquet"))
    sources = [TableSource("data", given) for given in (folder, str(folder / "*" / "*" / "*.parquet"), files)]
    parts = [pa.Table.from_batches([batch.columns for batch in source.batches()]).to_pandas() for source in sources]
    digest = sources[0].digest(tmp_path)
    for part, source in zip(parts, sources, strict=True):
        pd.testing.assert_frame_equal(part, parts[0])
        assert source.digest(tmp_path) == digest
    keys = ["timestamp", "country", "hour"]
    expected = frame[keys].replace("none", None).astype({"hour": str}).sort_values("timestamp", ignore_index=True)
    pd.testing.assert_frame_equal(
        parts[0][keys].sort_values("timestamp", ignore_index=True), expected, check_dtype=False
    )
    # Through the note, which names the files one by one; numbers are text in folders' names.
    given = settings | {"data": folder, "scenario": {"field": "hour", "bins": [1]}, "numerical_features": []}
    flat = {**given, "data": parts[0]}
    assert_same(splits_of(place_tables(given)), splits_of(place_tables(flat)))
    (folder / "country=FR" / "hour=0").rename(folder / "country=FR" / "hour=7")
    assert TableSource("data", folder).digest(tmp_path) != digest, "rows have other values"
    (folder / "country=FR" / "hour=1").rename(folder / "country=FR" / "late")
    with pytest.raises(InputError, match=r"are not both in a folder hour=\.\.\.: files of one table"):
        place_tables({**given, "data": folder})


def test_a_column_of_the_files_own_stands_before_the_folders_name(tmp_path):
    (tmp_path / "rows" / "country=FR").mkdir(parents=True)
    pd.DataFrame({"country": ["France"]}).to_csv(tmp_path / "rows" / "country=FR" / "a.csv", index=False)
    (batch,) = TableSource("data", tmp_path / "rows").batches()
    assert batch.columns.to_pydict() == {"country": ["France"]}


@pytest.mark.parametrize("streamed", [True, False])
def test_dictionaries_of_parts_and_views_of_text_are_read(settings, tiny_frames, streamed):
    """As polars hands over categoricals and text."""
    plain = {name: pa.array(tiny_frames["inter"][name].astype(str)) for name in tiny_frames["inter"]}
    views = {name: column.cast(pa.string_view()) for name, column in plain.items()}
    parts = [views["item_id"][:300].dictionary_encode(), views["item_id"][300:].dictionary_encode()]
    views["item_id"] = pa.chunked_array(parts)
    plain["country"] = pa.array(["a", "b", "c"] * 200)
    views["country"] = pa.chunked_array(
        [plain["country"][:1].dictionary_encode(), plain["country"][1:].dictionary_encode()]
    )
    given = settings | {"scenario": {"field": "country"}, "numerical_features": []}
    if not streamed:  # sequences take the atomic file
        plain["words"] = pa.array([["a", "b"], ["c"], None] * 200)
        views["words"] = plain["words"].cast(pa.list_(pa.string_view()))
        plain["text"] = pa.array(["x y", "z", "x"] * 200)
        views["text"] = plain["text"].cast(pa.string_view())
        given["types"] = {"text": "token_seq"}
    ours, theirs = (splits_of(place_tables({**given, "data": pa.table(columns)})) for columns in (views, plain))
    assert_same(ours, theirs)
