"""The server encoder against a real HTTP server."""

import time

import numpy as np
import pytest

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import make_encoder
from tests.prompts.fake_server import FakeServer, vector_of


def _encoder(server, **options):
    return make_encoder(f"server:{server.url}", {"server_model": "m", "timeout": 0.5, "retries": 2} | options)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The waits between the tries, recorded instead of spent."""
    waits = []
    monkeypatch.setattr("recbole_msr.prompts.encoders.server.time.sleep", waits.append)
    # time.sleep of the server is the same function: give it back there
    return waits


def test_embeddings_in_the_order_of_the_texts(monkeypatch):
    monkeypatch.setenv("RECBOLE_MSR_API_KEY", "secret")
    with FakeServer() as server:
        vectors = _encoder(server).encode(["a", "b"])
    np.testing.assert_array_equal(vectors, np.array([vector_of("a"), vector_of("b")], dtype=np.float32))
    assert server.log == [("embeddings", {"model": "m", "input": ["a", "b"]}, "Bearer secret")]
    assert "secret" not in _encoder(server).identity


def test_generate_embeds_the_answers_of_the_chat_endpoint():
    with FakeServer() as server:
        vectors, answers = _encoder(server, mode="generate", chat_model="c").encode_with_answers(["one", "two"])
    assert answers == ["about one", "about two"]
    np.testing.assert_array_equal(vectors[1], np.array(vector_of("about two"), dtype=np.float32))
    chats = [body for endpoint, body, _ in server.log if endpoint == "chat/completions"]
    assert {body["model"] for body in chats} == {"c"}
    assert {body["temperature"] for body in chats} == {0}


@pytest.mark.parametrize("bad", [500, 503, 429, "size", "count", "text"])
def test_what_fails_twice_and_then_answers_is_asked_again(bad, no_waiting):
    with FakeServer(lambda number, _: bad if number <= 2 else None) as server:
        encoder = _encoder(server, size=16)
        np.testing.assert_array_equal(encoder.encode(["a"])[0], np.array(vector_of("a"), dtype=np.float32))
    assert len(server.log) == 3
    assert no_waiting == [0.5, 1.0]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (500, "failed 3 times, the last time with status 500.*overloaded"),
        ("size", "a vector of size 5 where 16 is expected"),
        ("count", "1 vectors for 2 texts"),
        ("text", "something else than embeddings"),
        ("hang", "no answer within 0.2 seconds"),
    ],
)
def test_what_keeps_failing_is_a_clear_error(bad, told):
    with FakeServer(lambda *_: bad) as server:
        started = time.perf_counter()
        with pytest.raises(InputError, match=told):
            _encoder(server, timeout=0.2).encode(["a", "b"])
    assert time.perf_counter() - started < 10
    assert len(server.log) == 3


def test_a_refusal_is_not_repeated():
    with FakeServer(lambda *_: 404) as server, pytest.raises(InputError, match="refuses the request with status 404"):
        _encoder(server).encode(["a"])
    assert len(server.log) == 1


def test_nobody_there():
    with FakeServer() as server:
        pass
    with pytest.raises(InputError, match="failed 3 times, the last time with no connection"):
        _encoder(server).encode(["a"])


def test_a_size_that_changes_between_requests():
    with FakeServer() as server:
        encoder = _encoder(server, size=8, retries=0)
        with pytest.raises(InputError, match="size 16 where 8 is expected"):
            encoder.encode(["a"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"server_model": ""}, "Name it: --server_model=NAME"),
        ({"mode": "chat"}, "mode must be one of prompt, generate"),
        ({"timeout": 0}, "timeout must be a number from 0.001"),
        ({"pooling": "last"}, "encoder 'server' has no option 'pooling'"),
    ],
)
def test_impossible_options_are_told(options, told):
    with pytest.raises(InputError, match=told):
        make_encoder("server:http://127.0.0.1:9/v1", {"server_model": "m"} | options)
    with pytest.raises(InputError, match="begins with http"):
        make_encoder("server:localhost:8000", {"server_model": "m"})
