"""In training, a row's user has the profile of the user's other rows."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from recbole_msr.cli import main, run_recbole
from recbole_msr.data.packed import PackedTable
from recbole_msr.data.rows import ROW_FIELD
from recbole_msr.models import leave_one_out, row_values
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.models.knowledge_features import KnowledgeMatch
from recbole_msr.models.knowledge_source import KnowledgeSource
from recbole_msr.prompts.profiles import HALF_LIFE
from recbole_msr.prompts.store import Knowledge
from recbole_msr.training.fused.vmap_stack import stack_mismatch

WIDTH = 32
SETTINGS = {
    "scenario": {"field": "age", "bins": [30], "names": ["young", "old"]},
    "tasks": {"click": {"field": "label", "at_least": 1, "missing": "ignore"}},
    "load_col": {
        "inter": ["user_id", "item_id", "label", "timestamp"], "user": ["user_id", "age"], "item": ["item_id"],
    },
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    "use_gpu": False, "packed_cache": False, "show_progress": False,
}  # fmt: skip


def write_noise(folder):
    """150 users with 40 rows of labels that are pure noise, and some with few rows, or with one item twice."""
    draw, time = random.Random(7), iter(range(100_000))
    rows = [
        (f"u{u}", f"i{i}", draw.choice(["0", "1", "0", "1", "0", "1", "0", "1", ""]))
        for u in range(150) for i in draw.sample(range(250), 40)
    ]  # fmt: skip
    for n in range(12):
        item = f"i{n}"
        rows.append((f"one{n}", item, "1"))
        rows += [(f"two{n}", item, "1"), (f"two{n}", f"i{n + 20}", "0")]
        rows += [(f"twice{n}", item, "1"), (f"twice{n}", item, "1"), (f"twice{n}", f"i{n + 40}", "1")]
    draw.shuffle(rows)
    users = sorted({user for user, _, _ in rows})
    folder.mkdir()
    tables = {
        "inter": ["user_id:token\titem_id:token\tlabel:float\ttimestamp:float"]
        + [f"{user}\t{item}\t{label}\t{next(time)}" for user, item, label in rows],
        "user": ["user_id:token\tage:float", *(f"{user}\t{draw.randint(18, 60)}" for user in users)],
        "item": ["item_id:token\ttitle:token_seq", *(f"i{i}\t{'' if i == 3 else f'title {i}'}" for i in range(250))],
    }
    for suffix, lines in tables.items():
        (folder / f"noise.{suffix}").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """The settings of "noise" with a store of profiles of it, and the splits."""
    from recbole.data import create_dataset

    from recbole_msr.training.configure import training_config

    folder = tmp_path_factory.mktemp("noise")
    write_noise(folder / "noise")
    settings = SETTINGS | {"data_path": str(folder), "knowledge": "k", "knowledge_dir": str(folder / "kn")}
    given = [f"--{key}={value}" for key, value in settings.items() if key != "knowledge"]
    made = ["--encoder=random", "--template=profile", "--name=k", f"--size={WIDTH}", "--store_dtype=float32"]
    assert main(["embed", "--dataset=noise", *given, *made]) == 0
    config = training_config("LLM4MSR", "noise", settings)
    train, valid, test = create_dataset(config).build()
    store = Knowledge.open("k", folder / "kn")
    return SimpleNamespace(config=config, train=train, valid=valid, test=test, store=store, given=given)


@pytest.fixture
def source(noise):
    """source(**settings) -> a `KnowledgeSource` of the profiles."""

    def make(**settings):
        before = {key: noise.config[key] for key in settings}
        for key, value in settings.items():
            noise.config[key] = value
        made = KnowledgeSource(noise.config, noise.train)
        for key, value in before.items():
            noise.config[key] = value
        return made

    return make


def training_batch(noise):
    return PackedTable.for_run(noise.train, noise.config).batch(slice(None))


def slow_profiles(noise):
    """Each training row's profile without the row (N, 5 * 32), by loops; and whether its user has no other row (N,)."""
    store, inter, train = noise.store, noise.train.inter_feat, noise.train
    vectors = dict(zip(store.tokens("item"), np.asarray(store.vectors("item"), dtype=np.float64), strict=True))
    mean = np.mean(list(vectors.values()), axis=0)
    users = [str(train.field2id_token["user_id"][u]) for u in inter["user_id"]]
    items = [str(train.field2id_token["item_id"][i]) for i in inter["item_id"]]
    labels, times = inter[train.schema.label_fields[0]].tolist(), train.row_times()
    scenario = (train.row_scenario(inter) - 1).tolist()
    of_user = {}
    for row in sorted(range(len(users)), key=lambda row: -times[row]):
        if items[row] in vectors:
            of_user.setdefault(users[row], []).append(row)
    made, is_alone = np.zeros((len(users), 5 * WIDTH)), np.zeros(len(users), dtype=bool)
    for left_out in range(len(users)):
        own, sums = of_user.get(users[left_out], []), {}
        liked_before = 0
        for row in own:
            places = {1: [("liked", 1.0), ("recent", 0.5 ** (liked_before / HALF_LIFE)), (scenario[row], 1.0)],
                      0: [("not_liked", 1.0)]}.get(labels[row], [])  # fmt: skip
            liked_before += labels[row] == 1
            for part, weight in places:
                if row != left_out:
                    total, of_weights = sums.get(part, (0.0, 0.0))
                    sums[part] = total + weight * (vectors[items[row]] - mean), of_weights + weight
        parts = [sums.get(part, (np.zeros(WIDTH), 1.0)) for part in ("liked", "not_liked", "recent", 0, 1)]
        made[left_out] = np.concatenate([total / weights for total, weights in parts])
        is_alone[left_out] = not [row for row in own if row != left_out]
    return made, is_alone


@pytest.fixture(scope="module")
def slow(noise):
    return slow_profiles(noise)


@pytest.mark.parametrize(
    ("reduction", "settings", "table_bytes"),
    [
        ("none", {"knowledge_scale": "none"}, 0),
        ("none", {}, 0),
        ("linear", {}, 0),
        ("pca", {}, 0),
        ("whitening", {}, 1 << 28),
        ("pca", {"knowledge_parts": ["recent", "scenarios"]}, 1 << 28),
        ("none", {"knowledge_parts": ["not_liked"]}, 0),
    ],
)
def test_a_rows_profile_is_that_of_all_other_rows(noise, slow, source, monkeypatch, reduction, settings, table_bytes):
    monkeypatch.setattr(leave_one_out, "_TABLE_BYTES", table_bytes)
    vectors = KnowledgeVectors(source(knowledge_unknown_share=0.0, **settings), "user", reduction, 7, gain=3.0)
    batch = training_batch(noise)
    with torch.no_grad():
        h = vectors(batch["user_id"], batch[ROW_FIELD]).double().numpy()
    widths = {"liked": WIDTH, "not_liked": WIDTH, "recent": WIDTH, "scenarios": 2 * WIDTH}
    assert noise.store.parts("user") == widths
    read = settings.get("knowledge_parts", list(widths))
    columns = np.repeat([part in read for part in widths], list(widths.values()))
    expected = slow[0][:, columns]
    stored = np.asarray(noise.store.vectors("user"), dtype=np.float64)[:, columns]
    if reduction in ("pca", "whitening"):
        expected = (expected - stored.mean(axis=0)) @ vectors.components.double().numpy().T
    elif not settings.get("knowledge_scale"):
        expected = (expected - stored.mean(axis=0)) / stored.std(axis=0)
    if reduction == "linear":
        expected = expected @ vectors.linear.weight.detach().double().numpy().T
    alone = slow[1]
    assert 0 < alone.sum() < 40
    np.testing.assert_allclose(h[~alone], expected[~alone], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(h[alone], np.tile(vectors.unknown.detach().numpy(), (int(alone.sum()), 1)))


def test_the_rows_that_are_dear_are_among_them(noise):
    """Of users with a single liking, the same item twice, no label, an item without a vector."""
    inter, train = noise.train.inter_feat, noise.train
    tokens = train.field2id_token["user_id"][inter["user_id"].numpy()]
    items = train.field2id_token["item_id"][inter["item_id"].numpy()]
    pairs, counts = np.unique([f"{u} {i}" for u, i in zip(tokens, items, strict=True)], return_counts=True)
    assert any(pair.startswith("twice") for pair in pairs[counts == 2])
    assert any(token.startswith("two") for token in tokens)
    assert "i3" in items
    assert noise.store.rows("item", ["i3"])[0] == -1
    assert (inter[train.schema.label_fields[0]] < 0).any()


def test_labels_of_noise_are_not_told_by_the_match(noise, source):
    batch, labels = training_batch(noise), noise.train.inter_feat[noise.train.schema.label_fields[0]].numpy()
    labelled = labels >= 0
    told = {}
    for leave_out in (True, False):
        match = KnowledgeMatch(source(knowledge_leave_one_out=leave_out, knowledge_unknown_share=0.0), "dot", 0)
        with torch.no_grad():
            dots = match(batch["user_id"], batch["item_id"], batch[ROW_FIELD]).numpy()
        told[leave_out] = [roc_auc_score(labels[labelled], column) for column in dots[labelled].T]
    assert told[False][0] > 0.8
    assert told[False][1] < 0.2  # the match with what is not liked
    np.testing.assert_allclose(told[True], 0.5, atol=0.05)


def test_matches_that_are_kept_are_those_that_are_made_anew(noise, source, monkeypatch):
    """In the first epoch and the next, for drawn rows (-1), and where a share of users and items is unknown."""
    match = KnowledgeMatch(source(knowledge_unknown_share=0.3), "dot", 7)
    batch = training_batch(noise)
    user, item, rows = batch["user_id"], batch["item_id"], batch[ROW_FIELD].clone()
    rows[::5] = -1

    def made(chosen, has_room):
        monkeypatch.setattr(row_values, "_TABLE_BYTES", 1 << 20 if has_room else 0)
        match.zero_grad()
        torch.manual_seed(3)
        m = match(user[chosen], item[chosen], rows[chosen])
        m.square().sum().backward()
        return m.detach(), match.user.unknown.grad.clone(), match.item.unknown.grad.clone()

    for chosen in (torch.arange(500), torch.arange(300, 900), torch.arange(500)):
        for ours, theirs in zip(made(chosen, True), made(chosen, False), strict=True):
            assert theirs.abs().max() > 0
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scale", ["standard", "none"])
def test_a_model_in_double_precision_reads_the_same(noise, source, scale):
    """That of lightning: {precision: 64-true}, in the first epoch and the next, and in evaluation."""
    batch = training_batch(noise)
    user, item, rows = batch["user_id"], batch["item_id"], batch[ROW_FIELD]

    def read(dtype):
        given = source(knowledge_unknown_share=0.0, knowledge_scale=scale)
        torch.manual_seed(3)
        vectors, match = KnowledgeVectors(given, "user", "linear", 7, gain=3.0), KnowledgeMatch(given, "dot", 7)
        vectors.to(dtype), match.to(dtype)
        torch.set_default_dtype(dtype)
        try:
            found = [vectors(user, rows), match(user, item, rows), match(user, item, rows)]
            return [*found, vectors.eval()(user), match.eval()(user, item)]
        finally:
            torch.set_default_dtype(torch.float32)

    for ours, theirs in zip(read(torch.float64), read(torch.float32), strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"knowledge_parts": ["not_liked"]},
        {"knowledge_unknown_share": 0.5},
        {"knowledge_leave_one_out": False},
        {"knowledge_control": "permuted"},
    ],
)
def test_models_that_read_other_vectors_are_not_stacked(noise, source, settings):
    """A batched model runs the first one's code, with the vectors that this one has: those of other trials differ."""
    first, same, other = (
        KnowledgeVectors(source(**{"knowledge_parts": ["liked"], **given}), "user", "linear", 7)
        for given in ({}, {}, settings)
    )
    assert stack_mismatch(first, same) is None
    assert stack_mismatch(first, other) == "'.reads' differs"


def test_evaluation_reads_whole_profiles(noise, source):
    given = {"knowledge_unknown_share": 0.0}
    with_it, without = (
        KnowledgeVectors(source(knowledge_leave_one_out=leave_out, **given), "user", "pca", 7)
        for leave_out in (True, False)
    )
    without.load_state_dict(with_it.state_dict())
    batch = training_batch(noise)
    ids, rows = batch["user_id"], batch[ROW_FIELD]
    whole = without(ids)
    assert torch.equal(with_it(ids, torch.full_like(rows, -1)), whole)  # as those of drawn items
    assert not torch.allclose(with_it(ids, rows), whole, atol=1e-3)
    assert torch.equal(with_it.eval()(ids, rows), whole)
    for split in (noise.valid, noise.test):
        assert ROW_FIELD not in PackedTable.for_run(split, noise.config).batch(slice(0, 4))


@pytest.mark.parametrize("control", ["random", "permuted"])
def test_controls_have_nothing_to_leave_out(noise, source, control):
    batch, made = training_batch(noise), source(knowledge_control=control, knowledge_unknown_share=0.0)
    vectors = KnowledgeVectors(made, "user", "none", 0)
    assert torch.equal(vectors(batch["user_id"], batch[ROW_FIELD]), vectors.eval()(batch["user_id"]))


def test_profiles_of_another_version_are_told(noise, source, caplog):
    made = source()
    made._store.meta["profile"]["version"] = 0
    assert made.leave_one_out("user") is None
    assert "was made by another version of this package" in caplog.text


def test_only_one_scenario_has_the_shares_of_all_rows(noise, source):
    from recbole.data import create_dataset

    from recbole_msr.prompts.own_rows import own_rows

    before, noise.config["only_scenario"] = noise.config["only_scenario"], "old"
    try:
        train = create_dataset(noise.config).build()[0]
    finally:
        noise.config["only_scenario"] = before
    alone, whole = own_rows(train, noise.store, "user"), own_rows(noise.train, noise.store, "user")
    is_old = (noise.train.row_scenario(noise.train.inter_feat) == 2).numpy()
    assert 0 < len(train) == is_old.sum() < len(noise.train)
    for name in ("items", "parts", "shares", "is_only"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[is_old])


def test_rows_of_a_part_keep_their_numbers_and_drawn_ones_have_none(noise):
    before, noise.config["train_neg_sample_args"] = noise.config["train_neg_sample_args"], {"distribution": "uniform"}
    noise.config.external_config_dict["train_neg_sample_args"] = noise.config["train_neg_sample_args"]
    try:
        table = PackedTable.for_run(noise.train, noise.config).part(torch.arange(5, 25)).part(torch.arange(10))
    finally:
        noise.config["train_neg_sample_args"] = before
        del noise.config.external_config_dict["train_neg_sample_args"]
    assert table.batch(slice(2, 6))[ROW_FIELD].tolist() == [7, 8, 9, 10]
    drawn = table.columns(table.gather(torch.tensor([4, 0, 7]), table.negatives.draw(1, 0)))[ROW_FIELD].tolist()
    assert drawn[:3] == [9, 5, 12]
    assert len(drawn) == 3 + int(table.negatives.is_positive[[4, 0, 7]].sum())
    assert set(drawn[3:]) <= {-1}


def test_a_training_leaves_rows_out(noise, tmp_path, caplog):
    given = ["--model=SharedBottom", "--dataset=noise", *noise.given, "--knowledge=k", "--epochs=1"]
    given += ["--knowledge_features=[user, item]", "--knowledge_match=dot", "--knowledge_feature_size=4"]
    run_recbole([*given, f"--output_dir={tmp_path / 'run'}", "--train_batch_size=512", "--embedding_size=4"])
    assert "own label" not in caplog.text
    [run] = (path.parent for path in (tmp_path / "run").rglob("result.json"))
    assert "own label" not in (run / "run.log").read_text()


def test_batches_without_numbers_are_told(noise, source, caplog):
    vectors = KnowledgeVectors(source(), "user", "pca", 4)
    vectors.eval()(torch.tensor([1]))
    assert "own label" not in caplog.text
    vectors.train()(torch.tensor([1]))
    vectors(torch.tensor([1]))
    assert caplog.text.count("a row's own label stays in the profile of its user") == 1
