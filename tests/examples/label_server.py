# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server as a process, and its REST interface through urllib."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

START_SECONDS, CALL_SECONDS = 180, 300
ENVIRONMENT = {
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    "MONAI_LABEL_TRACKING_ENABLED": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LabelServer:
    """Starts a command that ends in a server, waits until it answers, and stops all of its process group.

    Args:
        command: the command.
        port: where it will answer.
        log: file for what it prints.
        environment: variables to set besides those of every server.
    """

    def __init__(self, command: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> None:
        self.url, self.log = f"http://127.0.0.1:{port}", log
        variables = {**os.environ, **ENVIRONMENT, **(environment or {})}
        with open(log, "w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/info/", timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError(f"no server after {START_SECONDS} s, exit code {self.process.poll()}:\n{self.tail()}")

    def tail(self) -> str:
        """End of what the server has printed."""
        return self.log.read_text(errors="replace")[-6000:]

    def must_say(self, text: str) -> None:
        """Wait until the log holds a text, which may come a little later than the answer."""
        limit = time.monotonic() + 5
        while text not in self.log.read_text(errors="replace"):
            assert time.monotonic() < limit, f"no {text!r} in:\n{self.tail()}"
            time.sleep(0.1)

    def call(
        self, method: str, path: str, body: Any = None, form: dict[str, Any] | None = None, status: int = 200
    ) -> tuple[bytes, str]:
        """Return content and its type.

        Args:
            method: of HTTP.
            path: with its query.
            body: sent as JSON.
            form: sent as a multipart form; a path is sent as a file, anything but a string as JSON.
            status: the status that the answer must have.
        """
        data, headers = None, {}
        if body is not None:
            data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        if form is not None:
            data, headers = _multipart(form)
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:
                found, content, kind = answer.status, answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            found, content, kind = error.code, error.read(), error.headers.get_content_type()
        if found != status:
            time.sleep(1)  # the reason is written after the answer
        assert found == status, f"{method} {path}: {found} {content[:500]!r}\n{self.tail()}"
        return content, kind

    def json(self, method: str, path: str, **arguments: Any) -> Any:
        """Return an answer in JSON."""
        content, _ = self.call(method, path, **arguments)
        return json.loads(content)

    def stop(self) -> None:
        """End the process group: politely, then surely."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(timeout=20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _multipart(form: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    mark, parts = uuid.uuid4().hex, []
    for name, value in form.items():
        head = f'name="{name}"'
        if isinstance(value, Path):
            head, content = f'{head}; filename="{value.name}"', value.read_bytes()
        else:
            content = (value if isinstance(value, str) else json.dumps(value)).encode()
        parts.append(f"--{mark}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + f"--{mark}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={mark}"}
