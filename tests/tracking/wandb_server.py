"""A small server that speaks as much of W&B's protocol as `wandb sync` needs, and keeps what it is told.

Also one that takes connections and never says a word.
"""

import gzip
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Received:
    """What was uploaded: run id -> properties; run id -> rows of history; names of artifacts; files."""

    def __init__(self):
        self.runs, self.history, self.exit_codes, self.artifacts = {}, {}, {}, []
        self.told = threading.Event()  # set by the first run

    def graphql(self, query, variables):
        if "mutation UpsertBucket" in query:
            given = {key: value for key, value in variables.items() if value is not None}
            self.runs[given["name"]] = self.runs.get(given["name"], {}) | given
            self.told.set()
            project = {"id": "p", "name": given.get("project", "p"), "entity": {"id": "e", "name": "someone"}}
            bucket = {"id": given["name"], "name": given["name"], "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "mutation CreateArtifact " in query:
            self.artifacts.append(variables["input"]["artifactCollectionName"])
            sequence = {"latestArtifact": {"id": "a"}}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        if "mutation CreateRunFiles" in query:
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}
        return {}

    def stream(self, run_id, content):
        for name, part in content.get("files", {}).items():
            if name == "wandb-history.jsonl":
                self.history.setdefault(run_id, []).extend(json.loads(line) for line in part["content"])
        if content.get("complete"):
            self.exit_codes[run_id] = content["exitcode"]


@contextmanager
def answering():
    """Serve; gives the address and what is received."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer = {}
            if self.path == "/graphql":
                asked = json.loads(body)
                answer = {"data": received.graphql(asked["query"], asked.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                received.stream(self.path.split("/")[-2], json.loads(body))
            text = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", received
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hanging():
    """Take connections and never answer; gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def accept():
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in taken:
            connection.close()


def closed_port():
    """The address of a port that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
