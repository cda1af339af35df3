"""PDFs, films and speech in messages."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np
import pytest
from langchain_core.messages import HumanMessage, ToolMessage

from mmagent.attachments import SAMPLE_RATE, read_attachment
from mmagent.errors import MediaError, MissingDependencyError, UsageError
from mmagent.media import MediaPolicy
from mmagent.messages import ImageShelf, to_conversation

POLICY = MediaPolicy()
PDF = "application/pdf"


def pdf(colours=("red", "blue"), size=(200, 100)) -> bytes:
    """A PDF with one coloured page each, written by Pillow."""
    from PIL import Image

    pages = [Image.new("RGB", size, colour) for colour in colours]
    target = io.BytesIO()
    pages[0].save(target, "PDF", save_all=True, append_images=pages[1:])
    return target.getvalue()


def film(colours=("red", "lime", "blue"), frames_each=12, rate=12, sound=False) -> bytes:
    """An MP4 that shows each colour for a second."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound else None
        from PIL import Image

        for colour in colours:
            for _ in range(frames_each):
                frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), colour))
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            tone = np.zeros((1, SAMPLE_RATE), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return target.getvalue()


def speech(seconds=1.0, rate=8_000, channels=2) -> bytes:
    """A WAV with a 440 Hz tone."""
    time = np.arange(int(seconds * rate)) / rate
    tone = (np.sin(2 * np.pi * 440 * time) * 16_000).astype("<i2")
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(tone, channels).tobytes())
    return target.getvalue()


def middle(picture) -> tuple[int, ...]:
    image = picture.pil()
    return image.getpixel((image.width // 2, image.height // 2))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes) -> str:
    return f"data:{PDF};base64,{b64(data)}"


def complaint_of(data: bytes, kind: str) -> str:
    """What is wrong with a file; nothing where the reader recovers what is whole."""
    try:
        assert read_attachment(data, kind, POLICY, None)
    except MediaError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "block",
    [
        lambda d: {"type": "file", "base64": b64(d), "mime_type": PDF},
        lambda d: {"type": "file", "source_type": "base64", "data": b64(d), "mime_type": PDF},
        lambda d: {"type": "file", "file": {"filename": "a.pdf", "file_data": url(d)}},
        lambda d: {
            "type": "document",
            "source": {"type": "base64", "media_type": PDF, "data": b64(d)},
        },
        lambda d: {"type": "media", "mime_type": PDF, "data": d},
        lambda d: {"type": "file", "url": url(d)},
    ],
    ids=["v1", "v0", "openai", "anthropic", "google", "data-url"],
)
def test_a_pdf_is_shown_by_its_pages_in_every_dialect(block):
    asked = HumanMessage(["Which colours?", block(pdf()), "Tell me."])
    found = to_conversation([asked])
    parts = found.turns[0]["content"]
    assert [part["type"] for part in parts] == ["text", "text", "image", "text", "image", "text"]
    assert [part.get("text") for part in parts if part["type"] == "text"] == [
        "Which colours?",
        "[page 1 of 2]",
        "[page 2 of 2]",
        "Tell me.",
    ]
    assert [max(np.argsort(middle(image))[-1:]) for image in found.images] == [0, 2]
    assert max(found.images[0].width, found.images[0].height) == 1024


def test_a_tool_may_answer_with_a_pdf():
    block = {"type": "file", "base64": b64(pdf(["red"])), "mime_type": "application/pdf"}
    found = to_conversation([HumanMessage("Go."), ToolMessage([block], tool_call_id="1")])
    assert len(found.images) == 1


def test_pages_count_as_pictures_of_the_request():
    block = {"type": "file", "base64": b64(pdf(["red"] * 4)), "mime_type": "application/pdf"}
    with pytest.raises(MediaError, match="more than 3 pictures"):
        to_conversation([HumanMessage([block])], MediaPolicy(max_images=3))
    with pytest.raises(MediaError, match="4 pages, more than 2"):
        to_conversation([HumanMessage([block])], MediaPolicy(max_pages=2))


@pytest.mark.parametrize("keep", [200, -300])
def test_a_damaged_pdf_is_an_error_or_what_is_whole(keep):
    assert "PDF" in (complaint_of(pdf()[:keep], "pdf") or "PDF")


def test_what_is_no_pdf_is_an_error():
    assert "no PDF, or damaged" in complaint_of(b"not a PDF at all", "pdf")


def test_a_page_as_large_as_a_field_is_drawn_small():
    parts = read_attachment(pdf(["red"], size=(9_000, 10)), "pdf", POLICY, None)
    assert len(parts[1].picture) < 100_000


def test_a_film_is_shown_by_frames_in_order():
    block = {"type": "video", "base64": b64(film()), "mime_type": "video/mp4"}
    found = to_conversation([HumanMessage(["What happens?", block])], MediaPolicy(max_frames=6))
    texts = [part["text"] for part in found.turns[0]["content"] if part["type"] == "text"]
    assert texts[1:] == ["[film at 0:00]"] * 2 + ["[film at 0:01]"] * 2 + ["[film at 0:02]"] * 2
    strongest = [int(np.argmax(middle(image))) for image in found.images]
    assert strongest == [0, 0, 1, 1, 2, 2]


def test_an_animated_picture_can_be_a_film():
    from PIL import Image

    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    target = io.BytesIO()
    frames[0].save(target, "GIF", save_all=True, append_images=frames[1:])
    parts = read_attachment(target.getvalue(), "video", MediaPolicy(max_frames=3), None)
    assert [part.text for part in parts if part.text] == [
        f"[film, frame {number} of 3]" for number in (1, 2, 3)
    ]


def test_a_film_is_bounded_in_seconds_and_pixels():
    with pytest.raises(MediaError, match="3 seconds long, more than 2"):
        read_attachment(film(), "video", MediaPolicy(max_seconds=2), None)
    with pytest.raises(MediaError, match="more than 100 pixels"):
        read_attachment(film(), "video", MediaPolicy(max_pixels=100), None)


@pytest.mark.parametrize("keep", [40, 400, -200])
def test_a_film_that_was_cut_off_is_an_error_or_what_is_whole(keep):
    assert "film" in (complaint_of(film()[:keep], "video") or "film")


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"<?xml version='1.0'?><MPD></MPD>",
    ],
)
def test_playlists_that_name_other_files_are_not_opened(playlist):
    with pytest.raises(MediaError, match="format that is not read"):
        read_attachment(playlist, "video", POLICY, None)


@pytest.mark.parametrize(
    "block",
    [
        lambda d: {"type": "audio", "base64": b64(d), "mime_type": "audio/wav"},
        lambda d: {"type": "input_audio", "input_audio": {"data": b64(d), "format": "wav"}},
        lambda d: {"type": "file", "base64": b64(d), "mime_type": "audio/wav"},
    ],
    ids=["v1", "openai", "file"],
)
def test_speech_is_turned_into_text_with_its_origin(block):
    heard = []

    def transcribe(sound):
        heard.append(sound)
        return " good morning "

    said = HumanMessage(["Answer this:", block(speech())])
    found = to_conversation([said], transcribe=transcribe)
    assert found.turns[0]["content"][1]["text"] == "[speech, transcribed: good morning]"
    (sound,) = heard
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    assert abs(len(sound) - SAMPLE_RATE) < 400  # 8 kHz stereo became 16 kHz mono
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / len(sound) - 440) < 5


def test_speech_without_a_transcriber_says_what_to_do():
    block = {"type": "audio", "base64": b64(speech()), "mime_type": "audio/wav"}
    with pytest.raises(MediaError, match="transcriber"):
        to_conversation([HumanMessage([block])])


def test_a_recording_is_bounded():
    with pytest.raises(MediaError, match="more than 1"):
        read_attachment(speech(3), "audio", MediaPolicy(max_seconds=1), lambda sound: "")


def test_damaged_sound_is_an_error():
    for data in (b"RIFF....WAVE", b"fLaC" + b"\0" * 50, b"OggS" + b"x" * 200, b""):
        with pytest.raises(MediaError):
            read_attachment(data, "audio", POLICY, lambda sound: "")


def test_what_a_film_says_is_heard_too():
    parts = read_attachment(film(sound=True), "video", POLICY, lambda sound: "hello")
    assert parts[-1].text == "[speech, transcribed: hello]"
    assert all(part.text != "[speech, transcribed: hello]" for part in parts[:-1])


def test_an_attachment_is_read_once_in_a_conversation():
    times = []
    shelf = ImageShelf()
    block = {"type": "audio", "base64": b64(speech()), "mime_type": "audio/wav"}

    def transcribe(sound):
        times.append(1)
        return "yes"

    for _ in range(3):
        to_conversation([HumanMessage([block])], shelf=shelf, transcribe=transcribe)
    assert len(times) == 1


def test_paths_of_attachments_keep_to_the_policy(tmp_path):
    file = tmp_path / "a.pdf"
    file.write_bytes(pdf(["red"]))
    block = {"type": "file", "url": file.as_uri(), "mime_type": "application/pdf"}
    with pytest.raises(MediaError, match="PDF's file is outside"):
        to_conversation([HumanMessage([block])])
    allowed = MediaPolicy(allowed_roots=(tmp_path,))
    assert len(to_conversation([HumanMessage([block])], allowed).images) == 1


def test_other_files_are_refused():
    block = {"type": "file", "base64": b64(b"PK"), "mime_type": "application/zip"}
    with pytest.raises(UsageError, match="'file' cannot be shown"):
        to_conversation([HumanMessage([block])])


@pytest.mark.parametrize(("library", "kind"), [("pypdfium2", "pdf"), ("av", "video")])
def test_a_missing_library_is_named_with_its_command(monkeypatch, library, kind):
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mmagent\[media\]'"):
        read_attachment(b"%PDF-1.4" if kind == "pdf" else film_bytes(), kind, POLICY, None)


def film_bytes() -> bytes:
    return b"\0\0\0\x20ftypisom" + b"\0" * 64


def test_what_is_missing_is_called_what_it_is():
    with pytest.raises(MediaError, match="A PDF block names no PDF"):
        to_conversation([HumanMessage([{"type": "file", "mime_type": PDF}])])
    named = {"type": "video", "url": "no-picture-here.mp4"}
    with pytest.raises(MediaError, match="The film's file is outside"):
        to_conversation([HumanMessage([named])])
