"""`serve`: the same numbers over HTTP as `predict` and `recommend`, and one clear 4xx for all that is not right."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter

import recbole_msr
from recbole_msr.cli import main

pytest.importorskip("fastapi")
pytest.importorskip("orjson")
testclient = pytest.importorskip("fastapi.testclient")
httpx = pytest.importorskip("httpx")
from recbole_msr.runs.request_rows import RowColumns, RowReader, row_types  # noqa: E402
from recbole_msr.runs.score_queue import ScoreQueue  # noqa: E402
from recbole_msr.runs.serve import MOST_BYTES, Server  # noqa: E402

pytestmark = pytest.mark.slow
TASKS = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}}


@pytest.fixture(scope="module")
def folder(shared_tiny_data, tmp_path_factory):
    """The folder of a run on "tiny"."""
    folder = tmp_path_factory.mktemp("serve") / "run"
    given = {
        **{
            "data_path": str(shared_tiny_data),
            "tasks": TASKS,
            "scenario": {"field": "gender"},
            "epochs": 1,
            "threads": 1,
        },
        **{"numerical_features": ["price"], "epochs": 1, "train_batch_size": 64, "show_progress": False},
    }
    recbole_msr.run("SharedBottom", "tiny", config={**given, "output_dir": str(folder)})
    return folder


@pytest.fixture(scope="module")
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


def test_requests_that_wait_are_scored_together_and_each_as_if_alone(folder):
    run = recbole_msr.load(folder)
    plain = [{"user_id": "u1", "item_id": "i3"}, {"user_id": "new", "item_id": "i4"}]
    wrong = [{"user_id": "u1", "item_id": "i3", "price": 2.0}, {"user_id": "u1", "item_id": "i3", "price": 1e300}]
    others = [
        [{"user_id": "u2", "item_id": "i1", "price": None}],
        [{"user_id": f"u{n}", "item_id": f"i{n}"} for n in range(25)],
        [{"user_id": 7, "item_id": "i4", "class": ["war", "unheard"]}, {"user_id": "u2", "item_id": 3}],
        [{"user_id": "u5", "item_id": "i9", "price": 2}],
        [{"user_id": "u5", "item_id": "i9", "price": 2.5}],
    ]
    requests, sizes = [plain, wrong, *others, plain], []

    @torch.no_grad()
    def score(batch, counts):
        sizes.append(batch.columns.num_rows)
        return run.scorer.score_batch(batch, "the request", 8192, counts)

    async def answers():
        queue = ScoreQueue(score)
        asked = [queue.answer(RowColumns.of_rows(rows)) for rows in requests]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(answers())
    for rows, answer in zip(requests, found, strict=True):
        if rows is wrong:
            assert str(answer).startswith("the request, row 2: 'price'")
            continue
        expected = run.score(pd.DataFrame(rows, dtype=object))
        np.testing.assert_allclose(answer.scores, expected.scores.to_numpy(), rtol=1e-5)
        assert dict(answer.counts.unknown) == expected.unknown
        assert dict(answer.counts.missing) == expected.missing
    # Rows with ids as text alone in one pass; the wrong ones with the last, and that again.
    assert sorted(sizes) == [1, 1, 2, 2, 3, 30]


def test_requests_for_lists_that_wait_keep_no_other_from_an_answer(folder):
    """45 of them are more than the threads that FastAPI has for all requests together."""
    server = Server(folder)
    asked = {"users": [{"user_id": "u1"}], "k": 2}

    async def answers():
        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            with server._turns:  # the model computes something
                lists = [asyncio.create_task(client.post("/recommend", json=asked)) for _ in range(45)]
                while not server._turns.waiting:
                    await asyncio.sleep(0.01)
                health = await asyncio.wait_for(client.get("/health"), 30)
                assert server._turns.waiting == 1  # a request for scores waits for one of them at most
            return health, await asyncio.gather(*lists)

    health, lists = asyncio.run(answers())
    assert health.json()["status"] == "ok"
    first = lists[0].json()
    assert [len(one) for one in first["lists"]] == [2]
    assert all(one.json() == first for one in lists)


def test_a_plain_body_is_read_as_pydantic_reads_it(folder):
    """What `RowReader` takes must be right and keep its values; what it leaves to pydantic may be either."""
    dataset = recbole_msr.load(folder).dataset
    reader, row = RowReader(dataset, 3), TypeAdapter(list[row_types(dataset)[0]])
    key = '"user_id": "u1", "item_id": '
    bodies = {
        f'[{{{key}"i1"}}, {{{key}3}}]': True,
        f'[{{{key}"i1", "price": 2, "class": ["a", 1, null]}}]': True,
        f'[{{{key}"i1", "age": true, "class": "a b", "timestamp": null}}]': True,
        f'[{{{key}"i1"}}, {{{key}"i2", "age": "7"}}]': False,  # right, but other fields in each row
        f"[{{{key}123456789012345678901234567890}}]": False,  # beyond 64 bits
        f'[{{{key}"i1", "age": 123456789012345678901234567890}}]': False,
        f'[{{{key}"i1", "price": "2.5"}}]': False,
        f"[{{{key}null}}]": False,
        f'[{{{key}["i1"]}}]': False,
        f'[{{{key}"i1", "class": [["a"]]}}]': False,
        f'[{{{key}"i1", "class": 3}}]': False,
        f'[{{{key}"i1", "prise": 3}}]': False,
        '[{"user_id": "u1", "price": 1.5}]': False,
        "[[]]": False,
        "[]": False,
        f"[{', '.join([f'{{{key}1}}'] * 4)}]": False,
    }
    for rows, is_plain in bodies.items():
        found = reader.read(f'{{"rows": {rows}}}'.encode())
        assert (found is not None) == is_plain, rows
        if found is not None:
            assert found == RowColumns.of_rows(row.validate_json(rows)), rows
    assert reader.read(b'{"rows": [{"user_id": "u1", "item_id": "i1"}], "k": 3}') is None


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


def test_the_items_of_all_lists_are_bounded(client, monkeypatch):
    asked = {"users": [{"user_id": "u1"}] * 3, "k": 5}
    monkeypatch.setattr("recbole_msr.runs.serve.MOST_LISTED", 15)
    assert client.post("/recommend", json=asked).status_code == 200
    answer = client.post("/recommend", json={**asked, "k": 6})
    assert (answer.status_code, answer.json()["detail"][:41]) == (422, "k: 3 lists of 6 are more than 15 items: a")


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
