"""Uploading an exported folder, to a hub that runs here."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mmagent.errors import DownloadError
from mmagent.finetune.export import push


class Hub(BaseHTTPRequestHandler):
    """What of the hub's interface an upload of small files speaks with."""

    asked: list[tuple[str, list[dict[str, Any]]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        rows = [json.loads(line) for line in body.splitlines() if line.strip()]
        self.asked.append((self.path, rows))
        answer: dict[str, Any] = {"url": f"http://{self.headers['Host']}/org/mia-2"}
        if "/preupload/" in self.path:
            names = [file["path"] for file in rows[0]["files"]]
            answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False}
                                for n in names]}  # fmt: skip
        elif "/commit/" in self.path:
            answer = {"commitUrl": f"{answer['url']}/commit/{'0' * 40}", "commitOid": "0" * 40}
        data = json.dumps(answer).encode()
        self.send_response(403 if "org/denied" in str(rows) + self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, list[dict[str, Any]]]]]:
    from huggingface_hub import constants

    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_folder_is_uploaded_for_oneself_alone_unless_asked(tmp_path: Path, hub: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("A model.")
    address = push(tmp_path, "org/mia-2")
    assert address.startswith("http://127.0.0.1:")
    assert address.endswith("/org/mia-2")
    path, (created,) = hub[0]
    assert path == "/api/repos/create"
    assert (created["name"], created["organization"]) == ("mia-2", "org")
    assert created.get("private") is True or created.get("visibility") == "private"
    (commit,) = [rows for path, rows in hub if "/commit/" in path]
    files = [row["value"] for row in commit if row["key"] == "file"]
    found = {file["path"]: base64.b64decode(file["content"]) for file in files}
    assert found == {"config.json": b"{}", "README.md": b"A model."}
    hub.clear()
    push(tmp_path, "org/mia-2", private=False)
    assert hub[0][1][0].get("private") is not True
    assert hub[0][1][0].get("visibility") in (None, "public")


def test_a_hub_that_refuses_is_an_error_that_says_what_to_do(tmp_path: Path, hub: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DownloadError, match=r"could not be uploaded: .*hf auth login"):
        push(tmp_path, "org/denied")
