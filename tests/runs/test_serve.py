"""`serve`: the same numbers over HTTP as `predict` and `recommend`, and one clear 4xx for all that is not right."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pandas as pd
import pytest

import recbole_msr
from recbole_msr.cli import main

pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")
from recbole_msr.runs.serve import MOST_BYTES, Server  # noqa: E402

pytestmark = pytest.mark.slow
TASKS = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}


@pytest.fixture
def folder(tiny_data, tmp_path):
    """The folder of a run on "tiny"."""
    given = {
        **{"data_path": str(tiny_data), "tasks": TASKS, "scenario": {"field": "gender"}, "epochs": 1, "threads": 1},
        **{"numerical_features": ["price"], "train_batch_size": 64, "show_progress": False},
    }
    recbole_msr.run("SharedBottom", "tiny", config={**given, "output_dir": str(tmp_path / "run")})
    return tmp_path / "run"


@pytest.fixture
def client(folder):
    """A client of a server that takes 50 rows a request."""
    return testclient.TestClient(Server(folder, most_rows=50).app, raise_server_exceptions=False)


def test_scores_and_lists_are_those_of_python(client, folder):
    run = recbole_msr.load(folder)
    rows = [
        {"user_id": "u1", "item_id": "i3"},
        {"user_id": "new", "item_id": "i4", "gender": "F", "price": 1.5, "class": ["war", "drama"]},
    ]
    found = client.post("/score", json={"rows": rows}).json()
    expected = run.score(pd.DataFrame(rows, dtype=object))
    pd.testing.assert_frame_equal(pd.DataFrame(found["scores"]), expected.scores, check_dtype=False)
    assert found["unknown"] == expected.unknown
    asked = {"users": [{"user_id": "u1"}, {"user_id": "u2"}], "k": 3, "score": "click * like"}
    for _ in range(2):  # the second time by the recommender that is kept
        lists = client.post("/recommend", json=asked).json()["lists"]
        expected = run.recommend(["u1", "u2"], k=3, score="click * like")
        assert [one["item_id"] for of in lists for one in of] == expected["item_id"].tolist()
        assert [one["score"] for of in lists for one in of] == pytest.approx(expected["score"].tolist())
    few = client.post("/recommend", json={**asked, "candidates": ["i1", "unheard"]}).json()
    assert [[one["item_id"] for one in of] for of in few["lists"]] == [["i1"], ["i1"]]
    assert few["unknown_candidates"] == ["unheard"]


def test_rows_may_differ_in_fields_and_in_types(client, folder):
    rows = [
        {"user_id": "u1", "item_id": 3, "price": 2, "gender": None},
        {"user_id": 7, "item_id": "i4", "class": "war drama", "price": None},
        {"user_id": "u2", "item_id": "i1", "class": ["war", "unheard"], "gender": "F"},
    ]
    found = client.post("/score", json={"rows": rows}).json()
    expected = recbole_msr.load(folder).score(pd.DataFrame(rows, dtype=object))
    pd.testing.assert_frame_equal(pd.DataFrame(found["scores"]), expected.scores, check_dtype=False)
    assert found["unknown"] == expected.unknown
    assert {"user_id", "item_id", "class"} <= found["unknown"].keys()
    wrong = client.post("/score", json={"rows": [rows[0], {**rows[1], "price": 1e300}]})
    assert wrong.status_code == 422
    assert wrong.json()["detail"].startswith("the request, row 2: 'price'")


def test_the_schema_names_the_fields_of_a_row(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert set(schemas["Row"]["properties"]) == {
        *("user_id", "item_id", "timestamp", "age", "gender", "class", "price"),
    }
    assert set(schemas["Context"]["properties"]) == {"user_id", "timestamp", "age", "gender"}
    assert client.get("/health").json()["tasks"] == ["click", "like"]


@pytest.mark.parametrize(
    ("path", "body", "code", "told"),
    [
        ("/score", {"rows": [{"user_id": "u1"}]}, 422, "item_id"),
        ("/score", {"rows": [{"user_id": "u1", "item_id": "i1", "prise": 1}]}, 422, "prise"),
        ("/score", {"rows": [{"user_id": "u1", "item_id": "i1", "price": "dear"}]}, 422, "price"),
        ("/score", {"rows": []}, 422, "at least 1 item"),
        ("/score", {"rows": [{"user_id": "u1", "item_id": "i1"}] * 51}, 422, "at most 50 items"),
        ("/score", [], 422, "body"),
        ("/recommend", {"users": [{"user_id": "u1"}], "k": 0}, 422, "k"),
        ("/recommend", {"users": [{"user_id": "u1"}], "score": "clik"}, 422, "did you mean 'click'"),
        ("/recommend", {"users": [{"user_id": "u1"}], "score": "__import__('os')"}, 422, "a formula has names"),
        ("/recommend", {"users": [{"user_id": "u1"}], "scenario": "X"}, 422, "there is no 'X'"),
        ("/recommend", {"users": [{"user_id": "u1", "item_id": "i1"}]}, 422, "item_id"),
    ],
)
def test_what_is_not_right_is_named(client, path, body, code, told):
    answer = client.post(path, json=body)
    assert answer.status_code == code
    assert told in json.dumps(answer.json(), ensure_ascii=False)


def test_a_body_is_bounded(client):
    answer = client.post("/score", content=b" " * (MOST_BYTES + 1), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert client.post("/score", content=iter([b"{}"])).status_code == 411
    assert client.post("/score", content=b"{", headers={"content-type": "application/json"}).status_code == 422


def test_the_command_serves_and_stops_gracefully(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "recbole_msr", "serve", "--run", str(folder), f"--port={port}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert f"http://127.0.0.1:{port}" in server.stdout.readline()
            for _ in range(600):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                        assert json.load(answer)["status"] == "ok"
                    break
                except OSError:
                    time.sleep(0.1)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) in (0, -signal.SIGTERM)
        finally:
            server.kill()


def test_a_run_that_cannot_be_served_is_refused(tmp_path, capsys):
    assert main(["serve", "--run", str(tmp_path)]) == 2
    assert "is no run's folder" in capsys.readouterr().err
