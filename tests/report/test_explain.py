"""`recbole-msr explain`: its numbers are those of the equations, computed here again from the weights on disk."""

import itertools
import json
import random
import shutil

import numpy as np
import pytest
import torch

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.report.run.explain_page import write_explanation
from recbole_msr.runs.explain.weights import weights_at
from recbole_msr.runs.initial_weights import Weights, agreements, conclusion
from tests.prompts.conftest import tiny_llama  # noqa: F401

TITLE = "Amber <script>document.title='taken'</script> Saga"
BINS = {"field": "age", "bins": [25, 35], "names": ["young", "mid", "old"]}
SETTINGS = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "class", "price"],
    },
    "scenario": BINS,
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "numerical_features": ["price"],
    "embedding_size": 4,
    "learning_rate": 0.05,
    "train_batch_size": 64,
    "epochs": 1,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
}
HINET = {
    "sub_experts": 3,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [4],
    "scenario_embedding_size": 5,
    "scenario_layers": 2,
}
LLM = {"knowledge_size": 10, "knowledge_reduced_size": 5, "meta_rank": 3, "meta_hidden_sizes": [6], "meta_scale": 0.5}


def explain(run, users=None, n=None, knowledge_dir=None):
    return recbole_msr.load(run, knowledge_dir).explain(users, n)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """A dataset "tiny" of 40 users and 30 items with titles; everybody likes the item whose title is a script."""
    draw, folder = random.Random(3), tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    lines = {
        "user": ["user_id:token\tage:token\tgender:token"]
        + [f"u{u}\t{draw.randint(16, 60)}\t{draw.choice('FM')}" for u in range(40)],
        "item": ["item_id:token\tmovie_title:token_seq\tclass:token_seq\tprice:float"]
        + [
            f"i{i}\t{TITLE if i == 7 else f'Birch {i}'}\t{draw.choice(['Drama', 'War Noir'])}\t{i / 10}"
            for i in range(30)
        ],
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
        + [
            f"u{u}\ti{i}\t{5 if i == 7 else draw.choice([2, 3, 4, 5])}\t{1000 + n}"
            for n, (u, i) in enumerate(draw.sample([(u, i) for u in range(40) for i in range(30)], 700))
        ],
    }  # fmt: skip
    for suffix, rows in lines.items():
        (folder / f"tiny.{suffix}").write_text("\n".join(rows) + "\n")
    return folder.parent


@pytest.fixture(scope="module")
def knowledge_dir(data_path, tmp_path_factory):
    """Knowledge "k", of scenarios and users."""
    folder = tmp_path_factory.mktemp("knowledge")
    embed(data_path, folder, "--encoder=random", "--name=k", "--size=10", "--levels=[scenario, user]")
    return folder


def embed(data_path, folder, *more):
    given = [f"--{key}={json.dumps(SETTINGS[key])}" for key in ("scenario", "tasks", "load_col")]
    command = ["embed", "--dataset=tiny", f"--data_path={data_path}", f"--knowledge_dir={folder}", *given]
    assert main([*command, "--template=brief", "--show_progress=False", *more]) == 0


@pytest.fixture(scope="module")
def train(data_path, tmp_path_factory):
    """train(model, **settings) -> the folder of a finished run."""

    def go(model, **settings):
        folder = tmp_path_factory.mktemp("runs") / model
        recbole_msr.run(
            model, "tiny", config=SETTINGS | {"data_path": str(data_path), "output_dir": str(folder)} | settings
        )
        return folder

    return go  # fmt: skip


@pytest.fixture(scope="module")
def hinet(train):
    return train("HiNet", **HINET)


@pytest.fixture(scope="module")
def llm4msr(train, knowledge_dir):
    """LLM4MSR over HiNet, with the store."""
    return train("LLM4MSR", backbone="HiNet", knowledge="k", knowledge_dir=str(knowledge_dir), **HINET, **LLM)


@pytest.fixture
def copied(tmp_path):
    """copied(run) -> a copy of its folder, to be changed."""
    return lambda run: shutil.copytree(run, tmp_path / "copy")


def loaded(run):
    """The model, its weights as NumPy arrays, and all training rows, by the way RecBole loads a checkpoint."""
    from recbole.quick_start import load_data_and_model

    _, model, dataset, train, _, _ = load_data_and_model(str(run / "best.ckpt"))
    split = train._dataset
    state = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    rows = split[torch.arange(len(split))]
    scenario = (split.row_scenario(split.inter_feat) - 1).numpy()
    return model.eval(), {k: v.double().numpy() for k, v in state.items()}, rows, scenario, dataset


def change_weights(run, change):
    content = torch.load(run / "best.ckpt", weights_only=True)
    change(content["state_dict"])
    torch.save(content, run / "best.ckpt")


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# HiNet.


def test_attention_weights_are_a_softmax_over_the_other_scenarios(hinet):
    found = explain(hinet, n=1).between
    state = torch.load(hinet / "best.ckpt", weights_only=True)["state_dict"]
    e = state["scenario_embedding"].double().numpy()
    assert [m.title for m in found] == [f"HiNet: attention between scenarios, layer {n}" for n in (1, 2)]
    for number, matrix in enumerate(found):
        w, b = (state[f"scenario_layers.{number}.san.h.0.{k}"].double().numpy() for k in ("weight", "bias"))
        assert matrix.rows == matrix.columns == ["young", "mid", "old"]
        for i, line in enumerate(matrix.values):
            others = [m for m in range(3) if m != i]
            scores = [np.exp(w[m] @ e[i] + b[m]) for m in others]
            assert line[i] is None
            assert [line[m] for m in others] == pytest.approx([s / sum(scores) for s in scores], rel=1e-5)
            assert sum(line[m] for m in others) == pytest.approx(1)


def test_gate_use_is_the_mean_over_a_scenarios_training_rows(hinet):
    found = explain(hinet, n=1)
    model, state, rows, scenario, _ = loaded(hinet)
    assert [use.title for use in found.gates] == ["Scenario layer 1", "Scenario layer 2", "Task layer 1"]
    c = model.embed(rows)
    for number, layer in enumerate(model.scenario_layers):
        w, b = (state[f"scenario_layers.{number}.experts.gates.{k}"] for k in ("weight", "bias"))
        g = softmax((c.detach().double().numpy() @ w.T + b).reshape(-1, 4, 3))
        own = [g[scenario == m, m].mean(0) for m in range(3)]
        shared = [g[scenario == m, 3].mean(0) for m in range(3)]
        use = found.gates[number]
        assert use.gates == [
            *(f"expert of {name}" for name in ("young", "mid", "old")),
            *(f"shared expert, {name}" for name in ("young", "mid", "old")),
        ]
        np.testing.assert_allclose(use.weights, [*own, *shared], rtol=1e-4)
        c = layer(c, model.scenario_of(rows), model.scenario_embedding)
    c = c.detach().double().numpy()
    use, line = found.gates[2], 0
    assert use.experts == ["own expert 1", "own expert 2", "shared expert 1", "shared expert 2"]
    for t, task in enumerate(("click", "like")):
        w, b = state["task_layers.0.gates.weights.0"][t], state["task_layers.0.gates.biases.0"][t]
        g = softmax(c @ w.T + b)
        for m, name in enumerate(("young", "mid", "old")):
            assert use.gates[line] == f"{task}, {name}"
            np.testing.assert_allclose(use.weights[line], g[scenario == m].mean(0), rtol=1e-4)
            line += 1


def test_dead_experts_are_named(hinet, copied):
    run = copied(hinet)

    def kill(state):
        state["scenario_layers.0.experts.gates.bias"][3 * 1 + 2] = -60  # no weight: sub-expert 3 of "mid"
        state["scenario_layers.0.experts.sub_experts.biases.0"][3 * 3] = -1e4  # no output: sub-expert 1, shared
        state["task_layers.0.gates.biases.0"][1, 0] = -60  # own expert 1 of "like"
        state["task_layers.0.gates.biases.0"][0, 3] = -60  # shared expert 2 is still used by "like"
        state["task_layers.0.experts.biases.0"][4] = -1e4  # shared expert 1

    alive = [use.dead for use in explain(run, n=1).gates]
    change_weights(run, kill)
    dead = [sorted(set(use.dead) - set(before)) for use, before in zip(explain(run, n=1).gates, alive, strict=True)]
    names = [[entry.split(":")[0] for entry in part] for part in dead]
    assert names[0] == ["expert of mid, sub-expert 3", "shared expert, sub-expert 1"]
    assert names[2] == ["own expert 1 of like", "shared expert 1"]
    assert "no row gives it more weight than" in dead[0][0]
    assert "its output is 0 on every row" in dead[0][1]


@pytest.mark.parametrize(
    ("bins", "told"),
    [([40], "with two scenarios every attention weight is 1"), (None, "with one scenario HiNet has no")],
)
def test_one_or_two_scenarios_have_nothing_to_attend_to(bins, told, train):
    settings = HINET | {"scenario": None if bins is None else {"field": "age", "bins": bins}}
    found = explain(train("HiNet", **settings), n=2)
    assert any(told in line for line in found.notes)
    assert [matrix.values for matrix in found.between] == ([] if bins is None else [[[None, 1.0], [1.0, None]]] * 2)
    assert all(sum(line) == pytest.approx(1) for use in found.gates for line in use.weights)


# LLM4MSR.


def generated(state, name, h):
    """W (D, D) and b (D,) of one meta layer, of core weights of rank 3, for a vector h."""
    z = np.maximum(state[f"{name}.network.0.weight"] @ h + state[f"{name}.network.0.bias"], 0)
    theta = state[f"{name}.generator.weight"] @ z + state[f"{name}.generator.bias"]
    return state[f"{name}.before.0"] @ theta[:9].reshape(3, 3) @ state[f"{name}.after.0"], theta[9:]


def test_strengths_and_movement_equal_the_equations(llm4msr):
    found = explain(llm4msr, users=["u3", "u11"])
    model, state, rows, scenario, dataset = loaded(llm4msr)
    assert model.user_level.layers.activation.__class__.__name__ == "ReLU"
    x = model.backbone.embed(rows).detach().double().numpy()
    users, moved = rows["user_id"].numpy(), np.empty_like(x)
    for b, user in enumerate(users):
        h = model.user_level.vectors(torch.tensor([user]))[0].detach().double().numpy()
        w, bias = generated(state, "user_level.layers", h)
        moved[b] = x[b] + 0.5 * (x[b] @ w + bias)
    movement = np.linalg.norm(moved - x, axis=1) / np.linalg.norm(x, axis=1)
    assert [view.movement["user"] for view in found.scenarios] == pytest.approx(
        [movement[scenario == m].mean() for m in range(3)], rel=1e-3
    )
    for view in found.users:
        own = users == dataset.token2id("user_id", view.token)
        assert view.known
        assert view.movement == pytest.approx((movement[own].mean(), movement[own].max()), rel=1e-3)
        squares = ((moved - x)[own] ** 2).sum(0)
        parts = [squares[4 * f : 4 * f + 4].sum() for f in range(5)] + [squares[20]]
        assert list(view.fields) == ["age", "gender", "item_id", "user_id", "class", "price"]
        np.testing.assert_allclose(list(view.fields.values()), np.array(parts) / sum(parts), rtol=1e-3, atol=1e-6)

    (attention, *_), (click, like) = found.between[:2], found.between[2:]
    assert "attention" in attention.title
    assert click.title.endswith("'click'")
    for t, matrix in enumerate((click, like)):
        for j in range(3):
            h = model.scenario_level.vectors(torch.tensor([j]))[0].detach().double().numpy()
            w, bias = generated(state, "scenario_level.layers", h)
            r = (moved @ w + bias) @ state["scenario_level.head.weight"][t] + state["scenario_level.head.bias"][t]
            r = state["scenario_level.alpha"] * r
            for i in range(3):
                assert matrix.values[i][j] == pytest.approx(r[scenario == i].mean(), rel=1e-3, abs=1e-5)
            strength = found.scenarios[j].strength[("click", "like")[t]]
            assert strength == pytest.approx(np.abs(r[scenario == j]).mean(), rel=1e-3)


def test_the_fusion_gate_and_how_far_it_has_moved_equal_the_equation(train, knowledge_dir):
    settings = {"backbone": "STAR", "knowledge": "k", "knowledge_dir": str(knowledge_dir), "fusion": "gate", **LLM}
    run = train("LLM4MSR", learning_rate=0.05, **settings)
    moves = [move for move in explain(run, n=1).moves if move.now.part == "Fusion gate of the scenario level"]
    scenarios, tasks = ("young", "mid", "old"), ("click", "like")
    assert [move.now.line for move in moves] == [f"{task}, {name}" for name in scenarios for task in tasks]
    model, state, rows, scenario, _ = loaded(run)
    x = model.embed(rows).detach().double().numpy()
    for move, (m, t) in zip(moves, itertools.product(range(3), range(2)), strict=True):
        h = model.scenario_level.vectors(torch.tensor([m]))[0].detach().double().numpy()
        z = x[scenario == m] @ state["scenario_level.gate_of_x.weight"][t] + state["scenario_level.gate_of_x.bias"][t]
        gate = (1 / (1 + np.exp(-(z + state["scenario_level.gate_of_h.weight"][t] @ h)))).mean()
        assert move.now.values == pytest.approx([gate, 1 - gate], rel=1e-3)
        assert move.start.values == [0.5, 0.5]
        assert move.moved == pytest.approx(abs(gate - 0.5), rel=1e-2, abs=1e-4)
    assert max(move.moved for move in moves) > 0.001


def test_a_users_change_is_that_of_the_model_with_and_without_the_user_level(llm4msr):
    (view,) = explain(llm4msr, users=["u5"]).users
    model, _, rows, scenario, dataset = loaded(llm4msr)
    own = rows[rows["user_id"] == dataset.token2id("user_id", "u5")]
    with torch.no_grad():
        there = model.predict_tasks(own)
        model.user_level = None
        without = model.predict_tasks(own)
    assert list(view.change.values()) == pytest.approx((there - without).mean(0).tolist(), abs=1e-5)
    assert max(map(abs, view.change.values())) > 1e-4
    in_scenario = scenario[rows["user_id"].numpy() == dataset.token2id("user_id", "u5")]
    assert list(view.rows.values()) == [len(in_scenario)]


def test_prompts_are_those_of_the_store(llm4msr, knowledge_dir):
    import pandas as pd

    found = explain(llm4msr, n=4)
    for level, views in (
        ("scenario", {v.name: v for v in found.scenarios}),
        ("user", {v.token: v for v in found.users}),
    ):
        texts = pd.read_parquet(knowledge_dir / "k" / f"{level}_texts.parquet").set_index("token")["prompt"]
        assert {token: view.prompt.text for token, view in views.items()} == texts[list(views)].to_dict()
        assert all(view.prompt.answer is None for view in views.values())
    assert len(found.users) == 4
    assert {name for view in found.users for name in view.rows} == {"young", "mid", "old"}, "spread over the scenarios"
    assert found.notes == []


def test_a_store_that_is_gone_leaves_the_backbone(llm4msr, knowledge_dir, tmp_path, copied):
    run, moved = copied(llm4msr), tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copytree(knowledge_dir / "k", moved / "k")
    there = explain(run, users=["u3"])
    gone = explain(run, users=["u3"], knowledge_dir=tmp_path / "nowhere")
    assert "recbole-msr embed --dataset=tiny" in gone.notes[0]
    assert "--knowledge_dir=DIR" in gone.notes[0]
    assert gone.between == there.between[:2], "the attention needs no store"
    assert [len(use.weights) for use in gone.gates] == [len(use.weights) for use in there.gates]
    assert gone.users[0].prompt is None
    assert gone.users[0].movement is None
    assert gone.users[0].rows == there.users[0].rows
    assert explain(run, users=["u3"], knowledge_dir=moved) == there


def test_baked_vectors_need_no_store_for_the_numbers(train, knowledge_dir, tmp_path):
    run = train("LLM4MSR", backbone="STAR", knowledge="k", knowledge_dir=str(knowledge_dir), knowledge_bake=True, **LLM)
    there, gone = explain(run, users=["u3"]), explain(run, users=["u3"], knowledge_dir=tmp_path)
    assert gone.between == there.between
    assert gone.users[0].movement == there.users[0].movement
    assert (there.users[0].prompt is None, gone.users[0].prompt is None) == (False, True)


def test_vectors_as_features_are_a_field_and_are_missed_without_their_store(train, knowledge_dir, tmp_path):
    settings = {"knowledge": "k", "knowledge_dir": str(knowledge_dir), "knowledge_features": ["user"]}
    run = train("HiNet", **HINET, **settings)
    found = explain(run, users=["u3"])
    assert found.users[0].prompt is not None
    assert found.notes == ["the store has scenario prompts, but this run reads no vectors of scenarios"]
    gone = explain(run, users=["u3"], knowledge_dir=tmp_path)
    assert "reads the store's vectors as features" in gone.notes[1]
    assert (gone.between, gone.gates) == ([], [])
    both = explain(train("LLM4MSR", backbone="STAR", **LLM, **settings), users=["u3"])
    assert list(both.users[0].fields)[-1] == "knowledge of the user"
    assert sum(both.users[0].fields.values()) == pytest.approx(1)


def test_a_store_that_was_built_anew_is_not_the_runs(llm4msr, knowledge_dir, data_path, tmp_path):
    embed(
        data_path,
        tmp_path,
        "--encoder=random",
        "--name=k",
        "--size=10",
        "--encoder_seed=9",
        "--levels=[scenario, user]",
    )
    found = explain(llm4msr, n=1, knowledge_dir=tmp_path)
    assert "built anew since the run" in found.notes[0]
    assert found.scenarios[0].prompt is None


@pytest.mark.parametrize(
    ("settings", "told", "shown"),
    [
        ({"knowledge": "none"}, "it is its backbone alone", (False, False)),
        ({"knowledge": "random"}, "drawn at random", (True, True)),
        ({"knowledge": "random", "knowledge_level": "user"}, "no scenario level", (True, False)),
        ({"knowledge": "random", "knowledge_level": "scenario", "fusion": "gate"}, "no user level", (False, True)),
    ],
    ids=["none", "random", "user", "scenario"],
)
def test_what_a_run_does_not_have_is_said(settings, told, shown, train):
    found = explain(train("LLM4MSR", backbone="STAR", **LLM, **settings), n=2)
    assert any(told in line for line in found.notes), found.notes
    assert (found.users[0].movement is not None, len(found.between) == 2) == shown
    assert all(view.prompt is None for view in (*found.users, *found.scenarios))


def test_what_a_language_model_wrote_is_shown(train, data_path, tiny_llama, tmp_path, browser, capsys):  # noqa: F811
    embed(
        data_path, tmp_path, f"--encoder=hf:{tiny_llama}", "--name=wrote", "--mode=generate", "--max_new_tokens=6",
        "--levels=scenario",
    )  # fmt: skip
    import pandas as pd

    answers = pd.read_parquet(tmp_path / "wrote" / "scenario_texts.parquet").set_index("token")["answer"]
    assert answers.str.len().min() > 0
    run = train(
        "LLM4MSR", backbone="STAR", knowledge="wrote", knowledge_dir=str(tmp_path), knowledge_level="scenario", **LLM
    )
    found = explain(run, n=1)
    assert {view.name: view.prompt.answer for view in found.scenarios} == answers.to_dict()
    page = write_explanation(run, tmp_path / "page.html", n=1)
    assert "Scenario young, wrote: " in capsys.readouterr().out
    browser.get(page.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    shown = [e.get_property("textContent") for e in browser.find_elements("css selector", "pre")]
    assert set(answers) <= set(shown)
    assert browser.get_log("browser") == []


# The page and the command.


def test_the_command_writes_a_page_that_a_browser_shows(llm4msr, browser, capsys, tmp_path):
    out = tmp_path / "page.html"
    assert main(["explain", f"--run={llm4msr}", "--users=u3, u11", f"--out={out}"]) == 0
    told = capsys.readouterr().out
    assert f"Page: {out}" in told
    assert "HiNet: attention between scenarios, layer 1" in told
    browser.get(out.as_uri())
    assert browser.title == "LLM4MSR on tiny: what it has learnt", "a title of the data is no script"
    assert browser.get_log("browser") == []
    links = [link.text for link in browser.find_elements("css selector", "nav a")]
    sections = ["The run", "Results by scenario", "Importance of fields", "Scenarios", "Between scenarios", "Experts"]
    assert links == [*sections, "Moved from the start", "Knowledge", "Users"]
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    prompts = [e.get_property("textContent") for e in browser.find_elements("css selector", "pre")]
    assert len(prompts) == 5
    assert any(TITLE in prompt for prompt in prompts)
    found = explain(llm4msr, users=["u3", "u11"])
    cells = [[cell.text for cell in line.find_elements("css selector", "td")] for line in
             browser.find_elements("css selector", "table[aria-label*='attention between'] tbody tr")]  # fmt: skip
    expected = [["–" if v is None else f"{v:.3f}" for v in line] for m in found.between[:2] for line in m.values]  # noqa: RUF001
    assert cells == expected
    auc = browser.find_element("css selector", "table[aria-label^=AUC] td").text
    result = json.loads((llm4msr / "result.json").read_text())
    assert auc == f"{result['test']['cells']['young']['click']['auc']:.4f}"


def test_the_page_is_in_the_runs_folder_unless_asked_otherwise(hinet, copied, capsys):
    run = copied(hinet)
    assert main(["explain", "--run", str(run), "--n=1"]) == 0
    assert (run / "explain.html").is_file()
    assert main(["explain", "--run", str(run), "--n=1"]) == 0, "and is written again"


def test_nothing_is_drawn_from_the_global_generator_that_numbers_depend_on(hinet):
    torch.manual_seed(1)
    first = explain(hinet, n=3)
    torch.manual_seed(2)
    assert explain(hinet, n=3) == first


@pytest.mark.parametrize("model", ["PLE", "STAR", "DeepFM"])
def test_other_models_show_what_they_have(model, train):
    settings = {
        "PLE": {"expert_hidden_sizes": [8], "tower_hidden_sizes": [4]},
        "STAR": {},
        "DeepFM": {"mlp_hidden_size": [8]},
    }
    found = explain(train(model, **settings[model]), n=1)
    assert [view.rows for view in found.scenarios] == [len(r) for r in scenario_rows(found)]
    assert set(found.evaluation.cells) == {"young", "mid", "old"}
    assert (len(found.gates) > 0) == (model == "PLE")
    told = {"PLE": "", "STAR": "neither gates over experts nor attention", "DeepFM": "one of RecBole's models"}
    assert not found.notes if model == "PLE" else told[model] in found.notes[0]


def scenario_rows(found):
    from recbole.data import create_dataset

    from recbole_msr.config.build import build_config

    settings = torch.load(found.run / "best.ckpt", weights_only=True)["config"]
    model, name = settings.pop("model"), settings.pop("dataset")
    split = create_dataset(build_config(model, name, settings)).build()[0]
    scenario = split.row_scenario(split.inter_feat)
    return [scenario[scenario == m] for m in (1, 2, 3)]


def test_data_that_are_gone_or_changed_leave_the_weights(hinet, data_path, copied, tmp_path):
    whole = explain(hinet, n=1)
    run, there = copied(hinet), tmp_path / "data"
    content = torch.load(run / "best.ckpt", weights_only=True)
    content["config"]["data_path"] = str(there)
    torch.save(content, run / "best.ckpt")
    found = explain(run, n=2)
    assert "no dataset folder" in found.notes[0]
    assert (found.between, found.gates) == (whole.between, [])
    assert found.users[0].rows is None
    shutil.copytree(data_path, there)
    assert explain(run, n=1).gates == whole.gates
    inter, item = there / "tiny" / "tiny.inter", there / "tiny" / "tiny.item"
    rows, items = inter.read_text(), item.read_text()
    inter.write_text("\n".join(rows.splitlines()[:-1]) + "\n")
    found = explain(run, n=1)
    assert "have changed since the run (another number of rows)" in found.notes[0]
    assert found.gates == []
    inter.write_text(rows.replace("u2\t", "u2b\t"))
    (there / "tiny" / "tiny.user").write_text((there / "tiny" / "tiny.user").read_text().replace("u2\t", "u2b\t"))
    assert "(other values of user_id)" in explain(run, n=1).notes[0]
    shutil.copytree(data_path, there, dirs_exist_ok=True)
    item.write_text(items.replace("\t0.3\n", "\t0.4\n"))
    assert "(other values of price)" in explain(run, n=1).notes[0]
    item.write_text(items)
    assert explain(run, n=1).gates == whole.gates


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--run={tmp}/none"], "there is no run folder"),
        (["--run={parent}"], "is no run's folder; there are runs in {run}"),
        (["--run={tmp}"], "it has no config.yaml"),
        (["--run={run}", "--users=u33x"], "there is no user 'u33x' in this run; did you mean 'u33'"),
        (["--run={run}", "--users=,"], "--users lists ids of users"),
        (["--run={run}", "--n=0"], "--n must be at least 1"),
        (["--run={run}", "--n=2", "--users=u1"], "not both"),
        (["--run={run}", "--out={tmp}"], "is a folder"),
        (["--run={run}", "--n=1", "--out={tmp}/none/page.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, told, hinet, tmp_path, capsys):
    names = {"tmp": tmp_path, "run": hinet, "parent": hinet.parent}
    assert main(["explain", *(a.format(**names) for a in arguments)]) == 2
    assert told.format(**names) in capsys.readouterr().err.splitlines()[-1]


def test_a_run_without_an_end_or_without_tasks_is_refused(hinet, copied, train, capsys):
    run = copied(hinet)
    (run / "result.json").unlink()
    assert main(["explain", f"--run={run}"]) == 2
    assert f"has not come to its end (run_recbole --resume --output_dir={run}" in capsys.readouterr().err
    run = train("BPR", tasks=None, scenario=None, numerical_features=[])
    assert main(["explain", f"--run={run}"]) == 2
    assert "(BPR) was made without scenarios and tasks" in capsys.readouterr().err


# What a model measures of its rows.


def test_measures_are_means_over_a_scenarios_training_rows(train, tmp_path):
    run = train("PEPNet", tower_hidden_sizes=[8], scenario_embedding_size=3)
    model, _, rows, scenario, _ = loaded(run)
    epnet, ppnet = explain(run, n=1).between
    assert epnet.title == "EPNet: gates of the fields"
    assert ppnet.columns == ["click, layer 1", "like, layer 1"]
    with torch.no_grad():
        delta = model._delta_domain(model.embed(rows), scenario)
    user = epnet.columns.index("user_id")
    start = sum(part.width for part in model.features.columns[:user])
    for name, values in zip(epnet.rows, epnet.values, strict=True):
        own = delta[scenario == model.scenario_names.index(name), start : start + 4]
        assert values[user] == pytest.approx(own.mean().item(), rel=1e-4)
    page = write_explanation(run, tmp_path / "page.html", n=1).read_text(encoding="utf-8")
    assert "EPNet: gates of the fields" in page


# From where a run began, and over several runs.


@pytest.fixture(scope="module")
def hinets(hinet, train):
    """The same run with three seeds."""
    return [hinet, train("HiNet", **HINET, seed=1), train("HiNet", **HINET, seed=2)]


def test_what_has_moved_is_measured_from_the_weights_before_the_first_step(hinet, train):
    found = explain(hinet, n=1)
    lines = [(use.title, name) for use in found.gates for name in use.gates]
    attention = [(m.title, row) for m in found.between for row in m.rows]
    assert [(move.now.part, move.now.line) for move in found.moves] == attention + lines
    # The start again, by a model built from the seed as the run built it.
    model, _, rows, scenario, _ = loaded(hinet)
    from recbole.utils import init_seed

    config = model_config(hinet)
    init_seed(config["seed"], config["reproducibility"])
    fresh = type(model)(config, split_of(hinet)).eval()
    with torch.no_grad():
        a = fresh.scenario_layers[0].san.weights(fresh.scenario_embedding)
        g = fresh.scenario_layers[0].experts.gate(fresh.embed(rows))[1].t()[scenario == 1].mean(dim=0)
    moves = {(move.now.part, move.now.line): move for move in found.moves}
    move = moves["HiNet: attention between scenarios, layer 1", "mid"]
    assert move.start.choices == ["young", "old"]
    assert move.start.values == pytest.approx([a[1, 0].item(), a[1, 2].item()], abs=1e-6)
    now = found.between[0].values[1]
    assert move.moved == pytest.approx((abs(now[0] - a[1, 0].item()) + abs(now[2] - a[1, 2].item())) / 2, abs=1e-6)
    assert move.moved > 0
    assert moves["Scenario layer 1", "expert of mid"].start.values == pytest.approx(g.tolist(), rel=1e-4)


def model_config(run):
    from recbole_msr.config.build import build_config
    from recbole_msr.training.checkpoint import load_checkpoint

    settings = dict(load_checkpoint(run / "best.ckpt")["config"])
    return build_config(settings.pop("model"), settings.pop("dataset"), settings | {"strict": False})


def split_of(run):
    from recbole.data import create_dataset

    return create_dataset(model_config(run)).build()[0]


def test_looking_at_the_start_keeps_no_columns_of_the_training_rows(hinet):
    """Every run looks, and millions of rows in int64 would stay for as long as it trains."""
    model, train = loaded(hinet)[0], split_of(hinet)
    assert weights_at(model, train)
    assert train.inter_feat.interaction._made == {}


def test_a_run_that_did_not_keep_its_start_says_so(hinet, copied, capsys):
    run = copied(hinet)
    (run / "start.json").unlink()
    found = explain(run, n=1)
    assert found.moves == []
    assert any("have moved is not known" in line for line in found.notes)
    assert found.weights == explain(hinet, n=1).weights
    (run / "start.json").write_text('[{"part": 1}]')
    assert main(["explain", f"--run={run}"]) == 2
    assert f"{run / 'start.json'} is damaged" in capsys.readouterr().err


def test_several_runs_are_told_where_they_agree(hinets, capsys, tmp_path):
    assert main(["explain", f"--runs={','.join(map(str, hinets))}", f"--out={tmp_path / 'all.html'}"]) == 0
    out = capsys.readouterr().out
    each = [explain(run, n=1) for run in hinets]
    found = agreements([one.weights for one in each], [one.moves for one in each])
    lines = {(line.part, line.line): line for line in found}
    assert len(lines) == len(each[0].weights)
    attention = lines["HiNet: attention between scenarios, layer 1", "old"]
    values = np.array([one.between[0].values[2][:2] for one in each])
    assert attention.choices == ["young", "mid"]
    assert attention.mean == pytest.approx(values.mean(0).tolist())
    assert attention.spread == pytest.approx(np.ptp(values, axis=0).tolist())
    assert attention.apart == pytest.approx(np.ptp(values[:, 0]), abs=1e-6)  # of two weights that sum to 1
    shared = lines["Task layer 1", "click, mid"]
    sums = np.array([[sum(one.gates[2].weights[1][:2]), sum(one.gates[2].weights[1][2:])] for one in each])
    assert shared.choices == ["own experts", "shared experts"]
    assert shared.mean == pytest.approx(sums.mean(0).tolist())
    largest = lines["Scenario layer 1", "expert of young"]
    ordered = np.sort([one.gates[0].weights[0] for one in each], axis=1)[:, ::-1]
    assert largest.mean == pytest.approx(ordered.mean(0).tolist())
    said = conclusion(found, 3)
    assert said in " ".join(out.split())
    assert f"on {sum(line.agrees for line in found)} of {len(found)} lines" in said
    page = (tmp_path / "all.html").read_text()
    assert "Do the runs agree?" in page
    assert "attention between scenarios, layer 1" in page


def test_runs_that_put_their_weight_elsewhere_do_not_agree():
    def line(*values):
        return [Weights("attention", "a", ["b", "c"], list(values))]

    (same,) = agreements([line(0.5, 0.5), line(0.55, 0.45)], [[], []])
    assert same.agrees
    assert same.moved is None
    (other,) = agreements([line(0.9, 0.1), line(0.5, 0.5), line(0.2, 0.8)], [[], [], []])
    assert other.apart == pytest.approx(0.7)
    assert "they agree (no two of them are further apart than 0.1). Most apart: attention, a (0.70)" in conclusion(
        [other], 3
    )


def test_runs_that_cannot_be_compared_are_refused(hinet, train, copied, capsys):
    for given, told in (
        (f"--runs={hinet}", "--runs takes two or more different folders"),
        (f"--runs={hinet},{hinet}", "--runs takes two or more different folders"),
        (f"--runs={hinet},{train('PLE')}", "are to be of one model and dataset"),
        (f"--runs={hinet},{train('HiNet', **(HINET | {'sub_experts': 2}))}", "compare runs that differ in seed alone"),
    ):
        assert main(["explain", given]) == 2
        assert told in capsys.readouterr().err.splitlines()[-1]
    assert main(["explain", f"--runs={hinet},{copied(hinet)}", "--n=2"]) == 2
    assert "are for one run" in capsys.readouterr().err
