"""What `recbole-msr explain` shows of a language model's vectors, against slow calculations from the weights."""

import numpy as np
import pytest
import torch

from recbole_msr.report.run.explain_page import write_explanation
from tests.report.test_explain import LLM, data_path, embed, explain, generated, loaded, train  # noqa: F401

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


# Segments.


def test_segments_are_those_of_the_test(all_levels, found, tmp_path, browser, capsys):
    page = write_explanation(all_levels, tmp_path / "page.html", n=4)
    assert "Item i" in capsys.readouterr().out
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert "Movement, item level" in [e.text for e in browser.find_elements("css selector", "th")]
    auc = browser.find_element("css selector", "table[aria-label='AUC on the test rows of segments']")
    lines = [[cell.text for cell in line.find_elements("css selector", "th, td")] for line in
             auc.find_elements("css selector", "tbody tr")]  # fmt: skip
    names = ["user_rows:0-12", "user_rows:13-15", "user_rows:16+", "item_rows:0-19", "item_rows:20+"]
    segments = found.evaluation.segments
    assert [line[0] for line in lines] == names == list(segments)
    for name, *shown in lines:
        assert shown == [f"{segments[name][task].auc:.4f}" for task in ("click", "like")]
    assert "Items" in [link.text for link in browser.find_elements("css selector", "nav a")]
