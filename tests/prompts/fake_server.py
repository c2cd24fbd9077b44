"""A real HTTP server with the two endpoints of an OpenAI-compatible one, and ways to misbehave."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

SIZE = 16


def vector_of(text):
    """What the server's "model" makes of a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32).tolist()


class FakeServer:
    """`with FakeServer() as server`: `server.url`; `server.log` holds (endpoint, body, key) of every request.

    `misbehave(number, endpoint)` may return a status, "hang", "size", "count", "text", "nan", or None, for request
    number 1, 2, ...; it may also wait.
    """

    def __init__(self, misbehave=lambda number, endpoint: None):
        self.log, self.done = [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint = self.path.removeprefix("/v1/")
                outer.log.append((endpoint, body, self.headers.get("Authorization")))
                bad = misbehave(len(outer.log), endpoint)
                if bad == "hang":
                    outer.done.wait(20)
                    return None
                if isinstance(bad, int):
                    return self.reply(bad, {"error": "overloaded"})
                if endpoint == "chat/completions":
                    text = f" about {body['messages'][0]['content'][:20]} "
                    return self.reply(200, {"choices": [{"message": {"content": text}}]})
                found = [{"index": i, "embedding": vector_of(text)} for i, text in enumerate(body["input"])]
                if bad == "size":
                    found[-1]["embedding"] = found[-1]["embedding"][:5]
                if bad == "nan":
                    found[0]["embedding"][3] = float("nan")
                if bad == "count":
                    found.pop()
                return self.reply(200, {"nothing": 1} if bad == "text" else {"data": found[::-1]})

            def reply(self, status, content):
                raw = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def texts(self):
        """All texts that were embedded, one after the other."""
        return [text for endpoint, body, _ in self.log if endpoint == "embeddings" for text in body["input"]]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.done.set()
        self._server.shutdown()
        self._server.server_close()
