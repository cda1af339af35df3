"""Every example runs, as a user would copy it, with the echo model where it takes a model."""

from __future__ import annotations

import http.server
import json
import runpy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("MMAGENT_EMBEDDER", "hash")

    def run(name: str, *arguments: object) -> str:
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr("sys.argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_no_example_is_forgotten() -> None:
    tested = {
        "chat_model",
        "companion",
        "fine_tuning",
        "long_term_memory",
        "model_server",
        "own_persona",
    }
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_chat_model(run: Callable[..., str], picture: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("blue"))
    out = run("chat_model", tmp_path / "a.png", "echo")
    assert out.startswith("You said: [picture 64x48 #0000ff] What is in this picture?\n")
    assert "'input_tokens': " in out


def test_companion(run: Callable[..., str], tmp_path: Path) -> None:
    out = run("companion", "echo", tmp_path / "memory")
    assert "(recalled: Sam: Hi Mia! I am learning to play the oboe.)" in out


def test_fine_tuning(run: Callable[..., str], tiny_llava: Path, tmp_path: Path) -> None:
    out = run("fine_tuning", tiny_llava, tmp_path, 1)
    assert "perplexity: " in out
    assert "Pip: " in out


def test_long_term_memory(run: Callable[..., str], tmp_path: Path) -> None:
    out = run("long_term_memory", tmp_path / "memory")
    assert "I am allergic to nuts." in out.partition("By picture:")[0].splitlines()[1]
    assert "This is my new ball.  picture " in out
    assert "Erased 3 memories and 1 pictures." in out


@pytest.fixture
def model_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server with OpenAI's interface that repeats what was said; its address, and the calls."""
    calls: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            content = calls[-1]["messages"][-1]["content"]
            message = {"role": "assistant", "content": f"You said: {content}"}
            answer = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": calls[-1]["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", calls
    server.shutdown()
    server.server_close()
    thread.join()


def test_model_server(
    run: Callable[..., str], model_server: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    address, calls = model_server
    out = run("model_server", address, "mia", tmp_path / "memory")
    assert "(recalled: Sam: I am learning to play the oboe.)" in out
    assert out.rstrip().endswith("Which instrument am I learning?")
    assert calls[-1]["model"] == "mia"
    # What the server is given: the persona, and the memory as data.
    given = json.dumps(calls[-1]["messages"])
    assert "You are Mia" in given
    assert "learning to play the oboe" in given


def test_own_persona(run: Callable[..., str], tmp_path: Path) -> None:
    out = run("own_persona", tmp_path)
    assert out.startswith("Ahoy, Sam!\nYou are Captain Bo, an old sailor.")
    assert (tmp_path / "bo.yaml").is_file()
