"""GroupLens' raw files become atomic files with the same content, or nothing."""

import csv
import gzip
import shutil
from pathlib import Path

import pandas as pd
import pytest

from recbole_msr.cli import main
from recbole_msr.data.public import convert
from recbole_msr.errors import InputError

RATINGS = "1::10::5::978300760\n1::20::3::978302109\n2::10::4::978298413\n3::30::1::978220179\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::98107-2117\n"
MOVIES = (
    "10::Star Wars: Episode IV - A New Hope (1977)::Action|Sci-Fi\n"
    "20::Misérables, Les (1995)::Drama\n"
    '30::A "Film" Without a Year::Children\'s|Comedy|Film-Noir\n'
    '40::"Great Performances" Cats (1998)::Musical\n'
)


def _raw(folder, gz=False, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in ({"ratings": RATINGS, "users": USERS, "movies": MOVIES} | texts).items():
        data = text.encode("latin-1")
        (folder / f"{name}.dat{'.gz' if gz else ''}").write_bytes(gzip.compress(data) if gz else data)
    return folder


def _read(folder, suffix):
    return pd.read_csv(folder / f"ml-1m.{suffix}", sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)


@pytest.mark.parametrize("gz", [False, True])
def test_every_value_arrives(gz, tmp_path):
    folder = convert("ml-1m", _raw(tmp_path / "raw", gz), tmp_path / "out")
    assert folder == tmp_path / "out" / "ml-1m"
    assert sorted(path.name for path in folder.iterdir()) == ["ml-1m.inter", "ml-1m.item", "ml-1m.user", "ml-1m.yaml"]
    inter = _read(folder, "inter")
    assert list(inter) == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert inter.to_numpy().tolist() == [line.split("::") for line in RATINGS.splitlines()]
    user = _read(folder, "user")
    assert list(user) == ["user_id:token", "age:float", "gender:token", "occupation:token", "zip_code:token"]
    order = [0, 2, 1, 3, 4]
    assert user.to_numpy().tolist() == [[line.split("::")[i] for i in order] for line in USERS.splitlines()]
    item = _read(folder, "item")
    assert list(item) == [
        *("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq", "first_genre:token")
    ]
    assert item.to_numpy().tolist() == [
        ["10", "Star Wars: Episode IV - A New Hope", "1977", "Action Sci-Fi", "Action"],
        ["20", "Misérables, Les", "1995", "Drama", "Drama"],
        ["30", 'A "Film" Without a Year', "", "Children's Comedy Film-Noir", "Children's"],
        ["40", '"Great Performances" Cats', "1998", "Musical", "Musical"],
    ]


def test_recbole_reads_what_was_written(tmp_path):
    from recbole.config import Config
    from recbole.data import create_dataset

    convert("ml-1m", _raw(tmp_path / "raw"), tmp_path / "out")
    given = {"data_path": str(tmp_path / "out"), "load_col": None, "state": "ERROR", "use_gpu": False}
    dataset = create_dataset(Config(model="BPR", dataset="ml-1m", config_dict=given))
    assert (dataset.inter_num, dataset.user_num, dataset.item_num) == (4, 4, 5)
    item = dataset.token2id("item_id", "30")
    titles = dataset.item_feat["movie_title"][item]
    assert " ".join(dataset.id2token("movie_title", titles)) == 'A "Film" Without a Year'


def test_a_folder_named_as_the_dataset_is_written_into(tmp_path):
    assert convert("ml-1m", _raw(tmp_path / "raw"), tmp_path / "ml-1m") == tmp_path / "ml-1m"
    assert (tmp_path / "ml-1m" / "ml-1m.inter").is_file()


def test_a_sample_holds_its_users_and_films_only(tmp_path):
    raw = _raw(tmp_path / "raw")
    first = convert("ml-1m", raw, tmp_path / "a", sample=2)
    inter, user, item = (_read(first, suffix) for suffix in ("inter", "user", "item"))
    assert len(inter) == 2
    rows = [line.split("::") for line in RATINGS.splitlines()]
    assert [row for row in rows if row in inter.to_numpy().tolist()] == inter.to_numpy().tolist(), "in their order"
    assert set(user["user_id:token"]) == set(inter["user_id:token"])
    assert set(item["item_id:token"]) == set(inter["item_id:token"])
    again = convert("ml-1m", raw, tmp_path / "b", sample=2)
    assert (again / "ml-1m.inter").read_bytes() == (first / "ml-1m.inter").read_bytes()
    seeds = {(convert("ml-1m", raw, tmp_path / str(s), 2, s) / "ml-1m.inter").read_bytes() for s in range(8)}
    assert len(seeds) > 1


def _cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 12])


BROKEN = {
    "no ratings": (lambda raw: (raw / "ratings.dat.gz").unlink(), r"neither ratings.dat nor ratings.dat.gz"),
    "no films": (lambda raw: (raw / "movies.dat.gz").unlink(), r"neither movies.dat nor"),
    "ratings cut": (lambda raw: _cut(raw / "ratings.dat.gz"), r"cannot read .*ratings.dat.gz"),
    "users cut": (lambda raw: _cut(raw / "users.dat.gz"), r"cannot read .*users.dat.gz"),
    "films cut": (lambda raw: _cut(raw / "movies.dat.gz"), r"cannot read .*movies.dat.gz"),
    "not gzip": (lambda raw: (raw / "users.dat.gz").write_text(USERS), r"cannot read .*users.dat.gz"),
    "empty": (lambda raw: (raw / "ratings.dat").write_text(""), r"ratings.dat has no rows"),
    "plain cut": (
        lambda raw: (raw / "ratings.dat").write_text(RATINGS + "3::10::"),
        r"line 5 has 3 fields, and a line has 4",
    ),
    "cut early": (
        lambda raw: (raw / "ratings.dat").write_text(RATINGS + "3::10"),
        r"line 5 has 2 fields, and a line has 4",
    ),
    "a word for a number": (
        lambda raw: (raw / "ratings.dat").write_text("1::10::five::9\n"),
        r"ratings.dat, line 1 is damaged: 'rating' is 'five'",
    ),
    "no genres": (lambda raw: (raw / "movies.dat").write_text("10::Heat (1995)\n"), r"movies.dat: line 1 has 2 fields"),
    "a user not there": (lambda raw: (raw / "users.dat").write_text("1::F::1::10::48067\n"), r"lacks user_id 2"),
    "a film not there": (lambda raw: (raw / "movies.dat").write_text("10::Heat::Drama\n"), r"lacks item_id 20"),
}


@pytest.mark.parametrize(("breaks", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_raw_files_are_named_and_nothing_is_written(breaks, told, tmp_path):
    breaks(_raw(tmp_path / "raw", gz=True))
    with pytest.raises(InputError, match=told):
        convert("ml-1m", tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_impossible_requests_are_named(tmp_path):
    raw = _raw(tmp_path / "raw")
    for arguments, told in (
        (("ml-1n", raw, tmp_path / "out"), r"no converter for 'ml-1n'; did you mean 'ml-1m'"),
        (("ml-1m", tmp_path / "none", tmp_path / "out"), r"no folder .*none"),
        (("ml-1m", raw, tmp_path / "out", 0), r"--sample must be at least 1"),
        (("ml-1m", raw, tmp_path / "out", 5), r"--sample 5 is more than the 4 interactions"),
        (("ml-1m", raw, raw / "users.dat" / "out"), r"cannot write to"),
    ):
        with pytest.raises(InputError, match=told):
            convert(*arguments)
    assert not (tmp_path / "out").exists()


def test_what_stood_there_stays_if_writing_fails(tmp_path, monkeypatch):
    raw = _raw(tmp_path / "raw")
    folder = convert("ml-1m", raw, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fails)
    with pytest.raises(InputError, match="No space left"):
        convert("ml-1m", raw, tmp_path / "out", sample=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_of_another_conversion_are_not_written_over(tmp_path):
    raw = _raw(tmp_path / "raw")
    folder = convert("ml-1m", raw, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert convert("ml-1m", raw, tmp_path / "out") == folder  # the same again
    with pytest.raises(InputError, match=r"ml-1m\.inter exists and differs"):
        convert("ml-1m", raw, tmp_path / "out", sample=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "run" / "ml-1m").mkdir(parents=True)
    (tmp_path / "run" / "ml-1m" / "result.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run"):
        convert("ml-1m", raw, tmp_path / "run")


def test_the_command_tells_how_to_go_on(tmp_path, capsys):
    raw = _raw(tmp_path / "raw")
    assert main(["data", "ml-1m", str(raw), str(tmp_path / "out"), "--sample", "3"]) == 0
    assert f"--dataset=ml-1m --data_path={tmp_path / 'out'}" in capsys.readouterr().out
    assert main(["data", "ml-1m", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_real_files(tmp_path):
    raw = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ml-1m"
    if not raw.is_dir():
        pytest.skip(f"MovieLens-1M's raw files are not in {raw.parent.name}/{raw.name} beside the checkout")
    folder = convert("ml-1m", raw, tmp_path)
    inter, user, item = (_read(folder, suffix) for suffix in ("inter", "user", "item"))
    assert (len(inter), len(user), len(item)) == (1_000_209, 6040, 3883)
    assert set(user["age:float"]) == {"1", "18", "25", "35", "45", "50", "56"}
    assert set(inter["rating:float"]) == {"1", "2", "3", "4", "5"}
    assert item["release_year:token"].str.fullmatch(r"\d{4}").all()
    assert item["first_genre:token"].nunique() == 18
    with gzip.open(raw / "ratings.dat.gz", "rt", encoding="latin-1") as file:
        assert inter.iloc[0].tolist() == file.readline().strip().split("::")
    assert item["movie_title:token_seq"].str.contains("é").any()
