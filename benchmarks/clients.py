"""Clients of a server over loopback, each with one request under way, in one process that costs little.

    python -m benchmarks.clients PORT CLIENTS REQUESTS < BODIES

reads a JSON list of bodies, and writes the milliseconds of each request and the seconds of all, as JSON. It does not
share the server's process, and takes a fraction of its time, so that what is measured is the server.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from typing import Any

WARM_UP = 5
"""Requests of each client that are not counted."""


class Client:
    """One connection, kept alive: sends a request when the last one is answered."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests, self.sent = requests, 0
        self.milliseconds: list[float] = []
        self.received, self.expected, self.began = b"", 0, 0.0

    def send(self) -> None:
        self.received, self.expected = b"", 0
        self.began = time.perf_counter()
        self.socket.sendall(self.requests[self.sent])
        self.sent += 1

    def receive(self) -> bool:
        """Take what has come; return whether the answer is complete."""
        self.received += self.socket.recv(1 << 18)
        if not self.expected:
            head, end, _ = self.received.partition(b"\r\n\r\n")
            if not end:
                return False
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise RuntimeError(self.received.decode())
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.expected = len(head) + len(end) + int(length.split(b":")[1])
        if len(self.received) < self.expected:
            return False
        self.milliseconds.append(1000 * (time.perf_counter() - self.began))
        return True


def measure(port: int, clients: int, bodies: list[str], path: str = "/score") -> dict[str, Any]:
    """Send every body once, the clients in turn, and return `milliseconds` and `seconds`."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [f"{head}{len(body.encode())}\r\n\r\n{body}".encode() for body in bodies]
    opened = [Client(port, requests[number::clients]) for number in range(clients)]
    with selectors.DefaultSelector() as ready:
        for client in opened:
            ready.register(client.socket, selectors.EVENT_READ, client)
            client.send()
        began, open_clients = 0.0, len(opened)
        while open_clients:
            for key, _ in ready.select():
                client = key.data
                if not client.receive():
                    continue
                if not began and min(len(one.milliseconds) for one in opened) >= WARM_UP:
                    began = time.perf_counter()
                if client.sent < len(client.requests):
                    client.send()
                else:
                    ready.unregister(client.socket)
                    open_clients -= 1
    seconds = time.perf_counter() - began
    counted = [one for client in opened for one in client.milliseconds[WARM_UP:]]
    return {"milliseconds": counted, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), json.load(sys.stdin))))
