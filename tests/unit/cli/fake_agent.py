"""An agent's control socket in a thread, which answers as a test tells it: well, badly or not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).parent.parent / "tui" / "status.json"

Answer = dict[str, Any] | list[bytes] | Callable[[dict[str, Any]], Any]


def sample() -> dict[str, Any]:
    return dict(json.loads(SAMPLE.read_text()))


def ok(result: object) -> bytes:
    return json.dumps({"v": 1, "ok": True, "result": result}).encode() + b"\n"


def failure(code: str, message: str, fix: str = "") -> bytes:
    error = {"code": code, "message": message, "fix": fix}
    return json.dumps({"v": 1, "ok": False, "error": error}).encode() + b"\n"


class FakeAgent:
    """`answers`: by method, a result, or chunks of raw bytes after which it hangs up.

    None as a chunk: keep quiet until the client hangs up. "stop" ends the agent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {"status": sample(), "version": {"version": "0.1.0"}}
        self.answers |= {"reload": {}, "stop": {}}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._connections: list[socket.socket] = []
        self._threads[0].start()

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                self.requests.append(request)
                answer = self.answers.get(request["method"])
                if callable(answer):
                    answer = answer(request["params"])
                try:
                    if isinstance(answer, dict):
                        connection.sendall(ok(answer))
                        if request["method"] == "stop":
                            self.path.unlink(missing_ok=True)
                            return
                        continue
                    for chunk in answer or []:
                        if chunk is None:
                            connection.recv(1)
                            return
                        connection.sendall(chunk)
                except OSError:
                    pass
                return
