"""What `recbole-msr explain` shows of a language model's vectors, against slow calculations from the weights."""

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data import create_dataset
from sklearn.metrics import roc_auc_score

from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.models.knowledge_controls import permuted_rows
from recbole_msr.prompts.store import Knowledge
from recbole_msr.report.run.explain_page import write_explanation
from recbole_msr.runs.explain.nearest import nearest_items
from recbole_msr.runs.explain.permuted_vectors import permuted_vectors
from tests.report.test_explain import LLM, data_path, embed, explain, generated, loaded, model_config, train  # noqa: F401

SEGMENTS = {"user_rows": [13, 16], "item_rows": [20]}


@pytest.fixture(scope="module")
def knowledge_dir(data_path, tmp_path_factory):  # noqa: F811
    """Knowledge "k", of scenarios, users and items."""
    folder = tmp_path_factory.mktemp("knowledge")
    embed(data_path, folder, "--encoder=random", "--name=k", "--size=10")
    return folder


@pytest.fixture(scope="module")
def all_levels(train, knowledge_dir):  # noqa: F811
    """LLM4MSR with all three levels, and segments."""
    given = {"knowledge": "k", "knowledge_dir": str(knowledge_dir), "knowledge_level": "all", "segments": SEGMENTS}
    return train("LLM4MSR", backbone="SharedBottom", **given, **LLM)


@pytest.fixture(scope="module")
def found(all_levels):
    return explain(all_levels, n=4)


# The item level.


def bottom(model, state, x, ids, level):
    """x' (N, D) of rows x (N, D) behind the user or the item level, row by row."""
    moved = np.empty_like(x)
    for b, number in enumerate(ids):
        h = getattr(model, f"{level}_level").vectors(torch.tensor([number]))[0].detach().double().numpy()
        w, bias = generated(state, f"{level}_level.layers", h)
        moved[b] = x[b] + 0.5 * (x[b] @ w + bias)
    return moved


def test_the_item_level_has_the_numbers_of_the_user_level(all_levels, found):
    model, state, rows, scenario, dataset = loaded(all_levels)
    start = model.backbone.embed(rows).detach().double().numpy()
    x = bottom(model, state, start, rows["user_id"].tolist(), "user")
    moved = bottom(model, state, x, rows["item_id"].tolist(), "item")
    movement = np.linalg.norm(moved - x, axis=1) / np.linalg.norm(x, axis=1)
    for m, view in enumerate(found.scenarios):
        assert view.movement["item"] == pytest.approx(movement[scenario == m].mean(), rel=1e-3)
    with torch.no_grad():
        there = model.predict_tasks(rows)
        model.item_level = None
        change = (there - model.predict_tasks(rows)).numpy()
    counts = []
    assert len({view.token for view in found.items}) == 4
    for view in found.items:
        own = rows["item_id"].numpy() == dataset.token2id("item_id", view.token)
        assert view.rows == {
            name: count
            for m, name in enumerate(("young", "mid", "old"))
            if (count := int((own & (scenario == m)).sum()))
        }
        counts.append(sum(view.rows.values()))
        assert view.known
        assert view.title.startswith(("Birch", "Amber"))
        assert view.title in view.prompt.text
        assert view.movement == pytest.approx((movement[own].mean(), movement[own].max()), rel=1e-3)
        assert list(view.change.values()) == pytest.approx(change[own].mean(0).tolist(), abs=1e-5)
        squares = ((moved - x)[own] ** 2).sum(0)
        parts = [squares[4 * f : 4 * f + 4].sum() for f in range(5)] + [squares[20]]
        np.testing.assert_allclose(list(view.fields.values()), np.array(parts) / sum(parts), rtol=1e-3, atol=1e-6)
    assert max(counts) - min(counts) > 2, "few rows and many"


def test_a_model_that_reads_no_item_vectors_shows_no_items(train, knowledge_dir):  # noqa: F811
    given = {"knowledge": "k", "knowledge_dir": str(knowledge_dir)}
    run = train("SharedBottom", knowledge_features=["user"], **given)
    features = explain(run, n=2)
    assert features.items == []
    assert [view.known for view in features.users] == [True, True]
    assert features.users[0].movement is None


# Nearest vectors.


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow_nearest(own, others):
    """The five nearest of `others` (name -> vector) to a vector, and their cosines."""
    found = sorted(((cosine(own, other), name) for name, other in others.items()), reverse=True)[:5]
    return [name for _, name in found], [value for value, _ in found]


def check_nearest(best, own, others):
    names, values = slow_nearest(own, others)
    assert [one.name for one in best] == names
    assert [one.cosine for one in best] == pytest.approx(values, abs=1e-4)


def reduced(state, level, stored):
    """h of every id of a level: the scores of PCA of the store's vectors."""
    mean, components = (state[f"{level}_level.vectors.{name}"] for name in ("mean", "components"))
    return {token: components @ (v - mean) for token, v in stored.items()}


@pytest.fixture(scope="module")
def stored(knowledge_dir):
    """The store's vectors by level and token."""
    made = {}
    for level in ("user", "item", "scenario"):
        tokens = pd.read_parquet(knowledge_dir / "k" / f"{level}.parquet")["token"]
        made[level] = dict(zip(tokens, np.load(knowledge_dir / "k" / f"{level}.npy").astype(float), strict=True))
    return made


def test_the_nearest_are_those_by_the_cosine_of_what_the_model_reads(all_levels, found, stored):
    state = loaded(all_levels)[1]
    of = {(near.of, near.to): near.nearest for near in found.knowledge.neighbours}
    assert list(of) == [("user", "user"), ("item", "item"), ("user", "item"), ("scenario", "item")]
    for level, views in (("user", found.users), ("item", found.items)):
        h = reduced(state, level, stored[level])
        assert list(of[level, level]) == [view.token for view in views]
        for token, best in of[level, level].items():
            check_nearest(best, h[token], {other: v for other, v in h.items() if other != token})
    titles = {view.token: view.title for view in found.items}
    named = [one for best in of["item", "item"].values() for one in best]
    assert all(one.title == ("Birch " + one.name[1:]) for one in named if one.name != "i7")
    assert all(titles.get(one.name, one.title) == one.title for one in named)
    h = reduced(state, "scenario", stored["scenario"])
    for i, first in enumerate(("young", "mid", "old")):
        for j, second in enumerate(("young", "mid", "old")):
            value = found.knowledge.cosines.values[i][j]
            assert value is None if i == j else value == pytest.approx(cosine(h[first], h[second]), abs=1e-4)


def test_the_nearest_items_are_those_of_the_store_without_what_all_have_in_common(found, stored):
    of = {(near.of, near.to): near.nearest for near in found.knowledge.neighbours}
    centred = {level: {t: v - np.mean(list(vectors.values()), axis=0) for t, v in vectors.items()}
               for level, vectors in stored.items()}  # fmt: skip
    assert len(of["user", "item"]) == 4
    assert list(of["scenario", "item"]) == ["young", "mid", "old"]
    for level in ("user", "scenario"):
        for name, best in of[level, "item"].items():
            check_nearest(best, centred[level][name], centred["item"])


def test_of_a_profile_it_is_what_was_liked(data_path, tmp_path):  # noqa: F811
    embed(
        data_path, tmp_path, "--encoder=random", "--name=p", "--size=7", "--template=profile", "--store_dtype=float32"
    )
    store = Knowledge.open("p", tmp_path)
    liked = dict(zip(store.tokens("user"), np.asarray(store.vectors("user"))[:, :7].astype(float), strict=True))
    items = dict(zip(store.tokens("item"), np.asarray(store.vectors("item")).astype(float), strict=True))
    mean = np.mean(list(items.values()), axis=0)
    near = nearest_items(store, "user", ["u3", "nobody", "u11"])
    assert list(near) == ["u3", "u11"]
    for user, best in near.items():
        check_nearest(best, liked[user], {item: v - mean for item, v in items.items()})


# Permuted vectors.


def with_vectors_of_others(run, levels):
    """The model, reading tables in which each id of a level has the vector of another one."""
    model, _, _, _, dataset = loaded(run)
    names = {"user": dataset.field2id_token["user_id"], "item": dataset.field2id_token["item_id"]}
    names["scenario"] = dataset.scenario_names
    for module in [module for module in model.modules() if isinstance(module, KnowledgeVectors)]:
        if module.level in levels:
            known = torch.nonzero(module.known).squeeze(1).tolist()
            dealt = permuted_rows([names[module.level][i] for i in known], 2020, module.level)
            with torch.no_grad():
                table = module(torch.arange(len(module.known))).clone()
                table[known] = table[[known[row] for row in dealt]]
            module.forward = lambda ids, rows=None, given=None, table=table: table[ids]
    return model


def check_permuted(run, found):
    """Changes and metrics equal those of a model whose vectors are exchanged in its tables."""
    levels = [one.level for one in found.knowledge.levels]
    variants = {f"{level}s permuted": [level] for level in levels}
    variants |= {"all permuted": levels} if len(levels) > 1 else {}
    real, _, rows, scenario, dataset = loaded(run)
    valid = create_dataset(model_config(run)).build()[1]
    held_out = valid[torch.arange(len(valid))]
    of_valid = valid.row_scenario(valid.inter_feat).numpy() - 1
    counts = {side: np.bincount(rows[f"{side}_id"].numpy(), minlength=50)[held_out[f"{side}_id"].numpy()]
              for side in ("user", "item")}  # fmt: skip
    lines = {name: of_valid == m for m, name in enumerate(("young", "mid", "old"))}
    lines["all rows"] = np.ones(len(valid), dtype=bool)
    for segment in found.evaluation.segments:
        side, named = segment.split("_rows:")
        low, _, high = named.rstrip("+").partition("-")
        lines[segment] = (counts[side] >= int(low)) & (counts[side] <= int(high or 1000))
    masks = {f"scenario {name}": scenario == m for m, name in enumerate(("young", "mid", "old"))}
    for side, views in (("user", found.users), ("item", found.items)):
        ids = rows[f"{side}_id"].numpy()
        masks |= {f"{side} {view.token}": ids == dataset.token2id(f"{side}_id", view.token) for view in views}
    changes, metrics = found.knowledge.changes, found.knowledge.metrics
    assert [matrix.rows for matrix in changes] == [list(masks)] * 2
    of_lines = [f"{line} ({mask.sum()} rows)" for line, mask in lines.items()]
    assert [matrix.rows for matrix in metrics] == [of_lines] * 2
    assert [matrix.columns for matrix in metrics] == [["as they are", *variants]] * 2
    with torch.no_grad():
        before = real.predict_tasks(rows).numpy()
        models = {"as they are": real, **{name: with_vectors_of_others(run, of) for name, of in variants.items()}}
        for place, (name, model) in enumerate(models.items()):
            after, predicted = model.predict_tasks(rows).numpy(), model.predict_tasks(held_out).numpy()
            for t, label in enumerate(("label_click", "label_like")):
                if name in variants:
                    shown = [line[place - 1] for line in changes[t].values]
                    slow = [np.abs(after - before)[mask, t].mean() for mask in masks.values()]
                    assert shown == pytest.approx(slow, abs=1e-5)
                    assert min(shown[:3]) > 1e-4
                labels = held_out[label].numpy()
                for row, (line, mask) in enumerate(lines.items()):
                    both = 0 < labels[mask].sum() < mask.sum()
                    slow = roc_auc_score(labels[mask], predicted[mask, t]) if both else None
                    shown = metrics[t].values[row][place]
                    assert shown is None if slow is None else shown == pytest.approx(slow, abs=1e-6), (line, name)


def test_permuted_vectors_change_what_they_change_in_the_models_tables(all_levels, found):
    check_permuted(all_levels, found)
    model, _, rows, _, dataset = loaded(all_levels)
    names = {"user": dataset.field2id_token["user_id"], "scenario": dataset.scenario_names}
    with torch.no_grad():
        before = model.predict_tasks(rows)
        with permuted_vectors(model, ["user", "scenario"], names, 2020):
            assert not torch.equal(model.predict_tasks(rows), before)
        assert torch.equal(model.predict_tasks(rows), before), "nothing stays permuted"


def test_features_and_their_match_are_permuted_too(train, knowledge_dir):  # noqa: F811
    given = {"knowledge": "k", "knowledge_dir": str(knowledge_dir), "knowledge_match": "dot"}
    run = train("SharedBottom", knowledge_features=["user", "item"], segments=SEGMENTS, **given)
    features = explain(run, n=2)
    (users, items) = features.knowledge.levels
    assert (users.widths, users.known, users.ids) == ({"features": 16, "match": 10}, 40, 40)
    assert (items.level, items.known, items.ids) == ("item", 30, 30)
    assert features.knowledge.cosines is None
    assert "and what it makes of its vectors are shown" in features.notes[-1]
    check_permuted(run, features)


@pytest.mark.parametrize("settings", [{"knowledge": "random"}, {"knowledge": "none"}], ids=["random", "none"])
def test_a_control_shows_what_it_reads_and_a_backbone_nothing(settings, train):  # noqa: F811
    view = explain(train("LLM4MSR", backbone="STAR", **LLM, **settings), n=2).knowledge
    if settings["knowledge"] == "none":
        assert view is None
    else:
        assert [(near.of, near.to) for near in view.neighbours] == [("user", "user")]
        assert view.changes[0].columns == ["users permuted", "scenarios permuted", "all permuted"]


# Segments.


def test_segments_are_those_of_the_test(all_levels, found, tmp_path, browser, capsys):
    page = write_explanation(all_levels, tmp_path / "page.html", n=4)
    assert "Item i" in capsys.readouterr().out
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []

    def texts(selector):
        return browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())", selector
        )

    assert "Movement, item level" in texts("th")
    assert "Items" in texts("nav a")
    segments = found.evaluation.segments
    names = ["user_rows:0-12", "user_rows:13-15", "user_rows:16+", "item_rows:0-19", "item_rows:20+"]
    auc = "table[aria-label='AUC on the test rows of segments'] tbody"
    assert texts(f"{auc} th") == names == list(segments)
    assert texts(f"{auc} td") == [f"{segments[name][task].auc:.4f}" for name in names for task in ("click", "like")]
    near = found.knowledge.neighbours[0].nearest
    shown = {"; ".join(f"{one.name} ({one.cosine:.3f})" for one in best) for best in near.values()}
    assert shown <= set(texts("dd"))
    permuted = found.knowledge.metrics[0]
    expected = ["\N{EN DASH}" if v is None else f"{v:.4f}" for line in permuted.values for v in line]
    assert texts(f"table[aria-label^='{permuted.title}'] tbody td") == expected
