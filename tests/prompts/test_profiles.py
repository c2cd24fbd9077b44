"""Profiles: users and scenarios as means of their items' vectors, of training interactions alone."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.cli import main, run_recbole
from recbole_msr.errors import InputError
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.models.knowledge_features import KnowledgeMatch
from recbole_msr.models.knowledge_source import KnowledgeSource
from recbole_msr.prompts.facts import Facts
from recbole_msr.prompts.profiles import HALF_LIFE, make_profiles
from recbole_msr.prompts.store import Knowledge
from tests.prompts.small_data import poison, turn_label
from tests.prompts.test_knowledge_commands import BINS, TASKS

READ = [("none", "none"), ("pca", "none"), ("whitening", "none"), ("pca", "random"), ("pca", "permuted")]
"""Reductions and controls."""
LEVELS = ("scenario", "user", "item")


def item_vectors(items, size=5):
    return np.random.default_rng(1).normal(2, 3, size=(len(items), size)).astype(np.float32)


def label_of(train):
    return train.schema.tasks[train.schema.main_index].label_field


def slow_profiles(train, items, vectors):
    """Each part of each user and scenario, by loops over the training rows."""
    centred = {item: v - vectors.mean(axis=0) for item, v in zip(items, vectors, strict=True)}
    rows = [
        (
            str(train.field2id_token["user_id"][u]), str(train.field2id_token["item_id"][i]), int(m) - 1,
            float(label), float(t),
        )
        for u, i, m, label, t in zip(
            train.inter_feat["user_id"], train.inter_feat["item_id"], train.row_scenario(train.inter_feat),
            train.inter_feat[label_of(train)], train.inter_feat["timestamp"], strict=True,
        )
    ]  # fmt: skip

    def mean(chosen, weights=None):
        total, count = np.zeros(vectors.shape[1]), 0.0
        for k, item in enumerate(chosen):
            weight = 1.0 if weights is None else weights[k]
            total, count = total + weight * centred[item], count + weight
        return total / count if count else total

    users = {}
    for user in {row[0] for row in rows}:
        own = sorted((row for row in rows if row[0] == user and row[1] in centred), key=lambda row: -row[4])
        liked = [row[1] for row in own if row[3] == 1]
        parts = [mean(liked), mean([row[1] for row in own if row[3] == 0])]
        parts.append(mean(liked, [0.5 ** (r / HALF_LIFE) for r in range(len(liked))]))
        parts += [mean([row[1] for row in own if row[3] == 1 and row[2] == m]) for m in range(3)]
        if own:
            users[user] = np.concatenate(parts)
    scenarios = {
        name: np.concatenate(
            [mean([r[1] for r in rows if r[2] == m and r[3] == label and r[1] in centred]) for label in (1, 0)]
        )
        for m, name in enumerate(train.scenario_names)
    }
    return users, scenarios


def test_profiles_are_the_means_over_training_rows(make_train, tmp_path):
    train = make_train()
    facts = Facts(train)
    items = [f"i{i}" for i in range(30) if i not in (3, 17)]  # two have no vector
    vectors = item_vectors(items)
    users, scenarios = slow_profiles(train, items, vectors)
    for level, expected in (("user", users), ("scenario", scenarios)):
        profiles = make_profiles(facts, level, items)
        told = profiles.write(tmp_path, vectors, "float32")
        matrix = np.load(tmp_path / f"{level}.npy")
        assert sorted(profiles.tokens) == sorted(expected)
        np.testing.assert_allclose(matrix, [expected[token] for token in profiles.tokens], rtol=1e-4, atol=1e-5)
        assert told["parts"] == ({"liked": 5, "not_liked": 5, "recent": 5, "scenarios": 15} if level == "user" else
                                 {"liked": 5, "not_liked": 5})  # fmt: skip
        assert told["size"] == matrix.shape[1] == sum(told["parts"].values())
    liked = int((train.inter_feat[label_of(train)][train.inter_feat["user_id"] == 1] == 1).sum())
    token = str(train.field2id_token["user_id"][1])
    profiles = make_profiles(facts, "user", [f"i{i}" for i in range(30)])
    assert f"Means of the vectors of {liked} liked and of " in profiles.texts[profiles.tokens.index(token)]


def test_without_times_that_differ_nothing_is_recent(make_train, titled):
    path = titled / "tiny" / "tiny.inter"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *("\t".join([*line.split("\t")[:3], "0"]) for line in lines[1:])]) + "\n")
    profiles = make_profiles(Facts(make_train()), "user", [f"i{i}" for i in range(30)])
    assert list(profiles.parts) == ["liked", "not_liked", "scenarios"]


@pytest.mark.parametrize("group_by", [None, "user", "cold_user", "cold_item"])
def test_changing_validation_and_test_rows_changes_no_profile(make_dataset, titled, group_by, tmp_path):
    """Labels, times, items and users of all rows outside the training split are replaced; and then one inside."""
    from recbole.data import create_dataset

    given = {"eval_args": {"split": {"RS": [0.7, 0.15, 0.15]}, "order": "RO", "group_by": group_by, "mode": "labeled"}}
    items = [f"i{i}" for i in range(30)]

    def vectors():
        config, train = make_dataset(3, **given)
        facts, found = Facts(train), []
        for level in ("user", "scenario"):
            profiles = make_profiles(facts, level, items)
            profiles.write(tmp_path, item_vectors(items), "float32")
            found.append((profiles.tokens, profiles.texts, np.load(tmp_path / f"{level}.npy").tobytes()))
        return config, found

    config, before = vectors()
    path = titled / "tiny" / "tiny.inter"
    kept = poison(path, create_dataset(config).build()[1:], group_by)
    assert vectors()[1] == before
    turn_label(path, kept[0])
    assert vectors()[1] != before


@pytest.mark.parametrize("template", ["full", "profile"])
@pytest.mark.parametrize("group_by", ["cold_user", "cold_item"])
def test_changing_held_out_users_or_items_changes_nothing_that_a_model_reads(
    template, group_by, make_dataset, titled, tmp_path
):
    """Texts, scale, components and vectors of the stores that are made before and after; the texts of items stay."""
    from recbole.data import create_dataset

    how = {"split": {"RS": [0.7, 0.15, 0.15]}, "order": "RO", "group_by": group_by, "mode": "labeled"}
    where = {"knowledge": "k", "knowledge_dir": str(tmp_path / "kn")}
    command = ["embed", "--dataset=tiny", f"--data_path={titled}", BINS, TASKS, f"--eval_args={how}", "--name=k"]
    command += [f"--template={template}", "--encoder=random", "--size=6", "--replace", "--show_progress=False"]

    def read():
        assert main([*command, f"--knowledge_dir={where['knowledge_dir']}"]) == 0
        config, train = make_dataset(3, "LLM4MSR", eval_args=how, **where, knowledge_unknown_share=0.0)
        files = [Path(where["knowledge_dir"], "k", f"{level}_texts.parquet") for level in LEVELS]
        found = {"texts": [pd.read_parquet(file).to_dict("list") for file in files]}
        for level, (reduction, control) in itertools.product(LEVELS, READ):
            config["knowledge_control"] = control
            source = KnowledgeSource(config, train)
            torch.manual_seed(3)
            vectors = KnowledgeVectors(source, level, reduction, 4)
            names, known = source.tokens(level), vectors.known.nonzero().squeeze(1)
            h = vectors.eval()(known).detach().numpy()
            fitted = {name: value.numpy() for name, value in vectors.named_buffers() if name not in ("known", "key")}
            read = {names[i]: row.tobytes() for i, row in zip(known.tolist(), h, strict=True)}
            found[level, reduction, control] = read, {name: value.tobytes() for name, value in fitted.items()}
            if level == "user":  # in training, where a profile is made without the row
                rows = torch.arange(len(train))
                own = vectors.train()(train.inter_feat["user_id"], rows).detach().numpy()
                found["training", reduction, control] = own.tobytes()
        return config, train, found

    config, train, before = read()
    splits = create_dataset(config).build()
    side = group_by.removeprefix("cold_")
    trained, held_out = (
        {str(of.field2id_token[f"{side}_id"][i]) for of in some for i in of.inter_feat[f"{side}_id"]}
        for some in (splits[:1], splits[1:])
    )
    known = set(before[side, "pca", "none"][0])
    assert trained <= known
    assert known.isdisjoint(held_out) if side == "user" else held_out <= known, "an item's text is known beforehand"
    path = titled / "tiny" / "tiny.inter"
    kept = poison(path, splits[1:], group_by)
    assert len(kept) == len(train) < 500
    after = read()[2]
    assert after.keys() == before.keys()
    assert [key for key in after if after[key] != before[key]] == []
    if template == "profile":
        turn_label(path, kept[0])
        changed = read()[2]
        expected = {"texts", ("user", "pca", "none"), ("training", "none", "none")}
        assert {key for key in changed if changed[key] != before[key]} >= expected


@pytest.fixture
def embedded(titled, tmp_path, capsys):
    """A store "k" of profiles of "tiny", whose item i5 has no text; the command's arguments; and what it printed."""
    path = titled / "tiny" / "tiny.item"
    lines = [line if not line.startswith("i5\t") else "i5\t\t\t1970" for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    arguments = ["--dataset=tiny", f"--data_path={titled}", BINS, TASKS, f"--knowledge_dir={tmp_path / 'kn'}"]
    arguments.append("--show_progress=False")
    command = ["embed", *arguments, "--encoder=random", "--template=profile", "--name=k", "--size=6"]
    assert main(command) == 0
    return command, arguments, capsys.readouterr().out


def test_embed_encodes_each_item_once_and_trainings_read_the_parts_asked_for(embedded, tmp_path, capsys):
    command, arguments, out = embedded
    assert "1 of 30 items have no text, and so no vector" in out
    assert "training rows are of items without a vector" in out
    assert "Encoded 29 prompts" in out
    assert "liked (6), not_liked (6), recent (6), scenarios (18)" in out
    knowledge = Knowledge.open("k", tmp_path / "kn")
    assert knowledge.levels == ["scenario", "user", "item"]
    assert knowledge.vectors("user").shape == (40, 36)
    assert knowledge.vectors("scenario").shape == (3, 12)
    assert knowledge.rows("item", ["i5"])[0] == -1
    assert main(command) == 0
    assert "Nothing to do" in capsys.readouterr().out

    train = ["--knowledge=k", "--epochs=1", "--train_batch_size=64", "--backbone=SharedBottom", "--embedding_size=4"]
    train += ["--model=LLM4MSR", *arguments, "--use_gpu=False", f"--output_dir={tmp_path / 'run'}"]
    more = ["--knowledge_reduced_size=5", "--knowledge_features=[item]", "--knowledge_parts=[liked, recent]"]
    run_recbole([*train, *more])
    [run] = (path.parent for path in (tmp_path / "run").rglob("result.json"))
    assert recbole_msr.load(run).explain(n=1).users[0].prompt.text.startswith("Means of the vectors of ")


@pytest.mark.parametrize(
    ("parts", "level", "columns"),
    [(None, "user", range(36)), (["scenarios", "liked"], "user", [*range(6), *range(18, 36)]),
     ("not_liked", "scenario", range(6, 12)), (["liked"], "item", range(6))],
)  # fmt: skip
def test_the_parts_named_are_read(embedded, make_dataset, tmp_path, parts, level, columns):
    given = {"knowledge": "k", "knowledge_dir": str(tmp_path / "kn"), "knowledge_parts": parts}
    config, train = make_dataset(3, "LLM4MSR", **given)
    source = KnowledgeSource(config, train)
    source.fits = False
    vectors = source.vectors(level)
    stored = Knowledge.open("k", tmp_path / "kn").vectors(level)
    np.testing.assert_array_equal(np.asarray(vectors.matrix), stored[:, list(columns)])


def test_weights_of_some_parts_are_refused_with_others(embedded, make_dataset, tmp_path):
    given = {"knowledge": "k", "knowledge_dir": str(tmp_path / "kn"), "knowledge_level": "user"}
    sources = []
    choices = [["liked"], ["not_liked"], None, ["scenarios", "recent"], ["recent", "scenarios"]]
    for parts in choices:
        config, train = make_dataset(3, "LLM4MSR", **given)
        config["knowledge_parts"] = parts
        sources.append(KnowledgeSource(config, train))
    keys = [source.key for source in sources]
    assert len(set(keys)) == 4
    assert keys[3] == keys[4], "they are read in the store's order"
    liked, not_liked = (KnowledgeVectors(source, "user", "pca", 4) for source in sources[:2])
    with pytest.raises(InputError, match="trained with other vectors"):
        not_liked.load_state_dict(liked.state_dict())


def test_a_match_with_whole_profiles_warns_that_they_know_the_labels(embedded, make_dataset, tmp_path, caplog):
    config, train = make_dataset(3, "LLM4MSR", knowledge="k", knowledge_dir=str(tmp_path / "kn"))
    assert KnowledgeMatch(KnowledgeSource(config, train), "dot", 3).width == 6
    assert "own label" not in caplog.text
    config["knowledge_leave_one_out"] = False
    KnowledgeMatch(KnowledgeSource(config, train), "dot", 3)
    assert "a training row's own label is part of its user's profile" in caplog.text


@pytest.mark.parametrize(
    ("parts", "told"),
    [(["likd"], "has no part 'likd'; did you mean 'liked'"), (["recent"], "a scenario's profile has none of recent")],
)
def test_parts_that_are_not_there_are_refused(embedded, make_dataset, tmp_path, parts, told):
    given = {"knowledge": "k", "knowledge_dir": str(tmp_path / "kn"), "knowledge_parts": parts}
    config, train = make_dataset(3, "LLM4MSR", **given)
    source = KnowledgeSource(config, train)
    with pytest.raises(InputError, match=told):
        source.vectors("scenario")
    if parts == ["likd"]:  # also where items alone are read, whose vectors have no parts
        with pytest.raises(InputError, match=told):
            source.vectors("item")
