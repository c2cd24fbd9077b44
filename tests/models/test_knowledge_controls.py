"""Controls in place of a store's vectors: as many numbers, as large, of the same spectrum, and of nobody."""

import numpy as np
import pytest
import torch

from recbole_msr.errors import InputError
from recbole_msr.models.frozen_vectors import FrozenVectors
from recbole_msr.models.knowledge_controls import permuted_rows, random_like
from recbole_msr.models.knowledge_source import KnowledgeSource


def covariance(matrix):
    centred = matrix - matrix.mean(axis=0)
    return centred.T @ centred / len(matrix)


@pytest.mark.parametrize(("n", "size"), [(2, 5), (3, 5), (10, 50), (50, 10), (400, 12)])
def test_random_vectors_have_the_spectrum_of_the_real_ones_and_nothing_of_who_they_are_of(n, size):
    draw = np.random.default_rng(n)
    real = draw.normal(3, np.geomspace(9, 0.1, size), size=(n, size)) @ draw.normal(size=(size, size))
    names = [f"u{i}" for i in range(n)]
    made = random_like(FrozenVectors(real), names, 5, "user")
    assert (made.shape, made.dtype) == (real.shape, real.dtype)
    np.testing.assert_allclose(made.mean(axis=0), real.mean(axis=0), rtol=1e-6, atol=1e-8)
    if n > 2 * size:
        np.testing.assert_allclose(covariance(made), covariance(real), rtol=1e-6, atol=1e-6 * real.var())
    spectra = [np.linalg.svd(m - m.mean(axis=0), compute_uv=False)[: n - 1] for m in (made, real)]
    np.testing.assert_allclose(*spectra, rtol=1e-5)
    np.testing.assert_array_equal(made, random_like(FrozenVectors(real), names, 5, "user"))
    other = random_like(FrozenVectors(real), names, 6, "user")
    if n > 3:
        assert not np.allclose(made, other)
    if n == 400:  # in directions of equal variance: no vector is nearer to its own than to others'
        unit = [(m - m.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(covariance(m))).T for m in (made, real)]
        cosines = np.sum(unit[0] * unit[1], axis=1) / np.prod([np.linalg.norm(u, axis=1) for u in unit], axis=0)
        assert abs(cosines.mean()) < 4 / np.sqrt(n * size)


def test_the_spectrum_of_many_numbers_is_that_of_fewer_rows(monkeypatch):
    monkeypatch.setattr("recbole_msr.models.frozen_vectors._ALL_AXES", 20)
    real = np.random.default_rng(1).normal(2, np.geomspace(5, 0.2, 30), size=(200, 30))
    few = real[np.linspace(0, 199, 20).astype(int)]
    made = random_like(FrozenVectors(real), [f"u{i}" for i in range(200)], 5, "user")
    assert made.shape == real.shape
    np.testing.assert_allclose(made.mean(axis=0), few.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(covariance(made), covariance(few), atol=1e-6 * few.var())


def test_one_vector_stays_as_long_as_it_is():
    made = random_like(FrozenVectors(np.array([[3.0, -4.0]])), ["all"], 1, "scenario")
    np.testing.assert_allclose(np.abs(made), [[3, 4]])


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_every_vector_is_dealt_to_another_token(n):
    names = [f"s{i}" for i in range(n)]
    rows = permuted_rows(names, 2020, "scenario")
    assert sorted(rows) == list(range(n))
    assert n == 1 or (rows != np.arange(n)).all()
    order = np.random.default_rng(0).permutation(n)
    again = permuted_rows([names[i] for i in order], 2020, "scenario")
    assert {names[i]: names[rows[i]] for i in range(n)} == {
        names[order[i]]: names[order[again[i]]] for i in range(n)
    }, "the order of the store makes no difference"


@pytest.mark.parametrize("level", ["user", "scenario", "item"])
def test_a_run_reads_the_control_in_place_of_the_store(make_dataset, write_knowledge, knowledge_dir, level):
    given = {"knowledge": "mine", "knowledge_dir": knowledge_dir, "knowledge_seed": 7}
    config, train = make_dataset(3, "LLM4MSR", **given)
    stored = write_knowledge(train, without=("u3", "i4"))[level]
    sources = {}
    for control in ("none", "random", "permuted"):
        config["knowledge_control"] = control
        sources[control] = KnowledgeSource(config, train)
    vectors = {control: source.vectors(level) for control, source in sources.items()}
    tokens = sources["none"].tokens(level)
    known = [i for i, token in enumerate(tokens) if token in stored]
    for control in vectors:
        np.testing.assert_array_equal(np.flatnonzero(vectors[control].has()), known)
    table = {control: v.gather(torch.tensor(known)).double().numpy() for control, v in vectors.items()}
    real = np.stack([stored[tokens[i]] for i in known])
    np.testing.assert_allclose(table["none"], real, rtol=1e-6)
    assert not np.isclose(table["permuted"], real).all(axis=1).any()
    all_of_them = np.stack(list(stored.values()))
    for vector in table["permuted"]:
        assert np.isclose(vector, all_of_them, rtol=1e-6).all(axis=1).any()
    np.testing.assert_allclose(
        np.linalg.svd(table["random"] - table["random"].mean(0), compute_uv=False)[: len(known) - 1],
        np.linalg.svd(real - real.mean(0), compute_uv=False)[: len(known) - 1], rtol=1e-3,
    )  # fmt: skip
    assert not np.isclose(table["random"], real, rtol=1e-3).all(axis=1).any()
    assert len({source.key for source in sources.values()}) == 3, "weights of the one are refused with the other"


def test_a_control_that_does_not_exist_is_refused(make_model):
    with pytest.raises(InputError, match="'knowledge_control' must be one of none, random, permuted"):
        make_model(2, "LLM4MSR", knowledge="random", knowledge_control="shuffled")
