"""Pictures from a hostile world: what is refused, what is decoded, and what errors give away."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmagent import media_sources
from mmagent.errors import MediaError, UsageError
from mmagent.media import MediaPolicy, load_image


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def huge_png(side: int) -> bytes:
    """A valid PNG of `side` x `side` black pixels, small on disk."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    row = b"\0" * (side // 8 + 2)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


# ---- sources -------------------------------------------------------------------------------


def test_bytes_and_data_urls_need_no_permission(picture):
    data = picture("blue")
    for source in (
        data,
        bytearray(data),
        memoryview(data),
        "data:image/png;base64," + base64.b64encode(data).decode(),
        "DATA:;base64," + base64.urlsafe_b64encode(data).decode().rstrip("="),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in data),
    ):
        image = load_image(source)
        assert (image.width, image.height, image.mime_type) == (64, 48, "image/png")
        assert image.data == data
        assert image.pil().getpixel((0, 0)) == (0, 0, 255)
        assert image.pil().size == (64, 48)  # the second call decodes anew


def test_the_same_bytes_have_the_same_identity(picture):
    assert load_image(picture("red")).sha256 == load_image(picture("red")).sha256
    assert load_image(picture("red")).sha256 != load_image(picture("blue")).sha256


def test_paths_only_below_the_allowed_roots(tmp_path, picture):
    inside, outside = tmp_path / "我的 pictures", tmp_path / "secret"
    inside.mkdir()
    outside.mkdir()
    (inside / "a.png").write_bytes(picture())
    (outside / "b.png").write_bytes(picture())
    (inside / "link.png").symlink_to(outside / "b.png")
    policy = MediaPolicy(allowed_roots=(inside,))
    good = inside / "a.png"
    for source in (good, str(good), good.as_uri(), inside / ".." / inside.name / "a.png"):
        assert load_image(source, policy).width == 64
    for source in (
        outside / "b.png",
        inside / "link.png",
        str(inside / ".." / "secret" / "b.png"),
        (outside / "b.png").as_uri(),
        "file:///etc/passwd",
        "/etc/passwd",
        "file://elsewhere/etc/passwd",
        str(tmp_path / "我的 picturesque.png"),
        "nul\0byte.png",
    ):
        with pytest.raises(MediaError) as refused:
            load_image(source, policy)
        assert "secret" not in str(refused.value)
    with pytest.raises(MediaError, match="allowed_roots"):
        load_image(good)


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path):
    policy = MediaPolicy(allowed_roots=(tmp_path,))
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("pipe.png", "regular file"),
        ("", "folder|regular"),
        ("no.png", "no.png"),
    ):
        with pytest.raises(MediaError, match=message):
            load_image(tmp_path / name, policy)


def test_file_size_is_checked_before_reading(tmp_path, picture):
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    with path.open("r+b") as file:
        file.truncate(10_000_000_000)  # sparse: reading it all would be noticed
    with pytest.raises(MediaError, match="67,108,864 bytes"):
        load_image(path, MediaPolicy(allowed_roots=(tmp_path,)))


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"just text, whatever its name says",
        b"\x89PNG\r\n\x1a\n",
        "data:image/png;base64",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,QUJD",
        "ftp://example.org/a.png",
        "gopher://x",
        "javascript:alert(1)",
        "https://",
        "http://[::1",
        "",
        12,
    ],
)
def test_what_is_no_picture_is_one_clear_sentence(source):
    with pytest.raises(MediaError) as refused:
        load_image(source)
    message = str(refused.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "example.org" not in message
    assert "QUJD" not in message
    assert isinstance(refused.value, UsageError)


# ---- downloads -----------------------------------------------------------------------------


class _Pictures(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers["host"]))
        body, headers, status = server.routes.get(self.path, (b"", {}, 404))
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100_000):
                    self.wfile.write(b"\0" * 65536)
                    server.sent += 65536
            except OSError:
                pass
            return
        if self.path == "/slow":
            time.sleep(2)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(picture):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pictures) as server:
        server.asked, server.sent, server.daemon_threads = [], 0, True
        server.base = f"http://127.0.0.1:{server.server_port}"
        server.routes = {
            "/a.png": (picture(), {"content-type": "text/html"}, 200),
            "/hop": (b"", {"location": "/a.png"}, 302),
            "/out": (b"", {"location": "http://169.254.169.254/latest"}, 302),
            "/file": (b"", {"location": "file:///etc/passwd"}, 302),
            "/loop": (b"", {"location": "/loop"}, 302),
            "/zip": (picture(), {"content-encoding": "gzip"}, 200),
            "/slow": (picture(), {}, 200),
        }
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_downloads_from_an_allowed_host(server):
    policy = MediaPolicy(allowed_hosts=("127.0.0.1",))
    assert load_image(f"{server.base}/a.png", policy).mime_type == "image/png"
    assert load_image(f"{server.base}/hop", policy).width == 64
    with_port = MediaPolicy(allowed_hosts=(server.base.removeprefix("http://"),))
    assert load_image(f"{server.base}/a.png", with_port).width == 64


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/out", "not allowed"),
        ("/file", "not http or https"),
        ("/loop", "more than 3 times"),
        ("/zip", "compresses"),
        ("/missing", "404"),
    ],
)
def test_downloads_that_are_refused(server, path, message):
    with pytest.raises(MediaError, match=message) as refused:
        load_image(server.base + path, MediaPolicy(allowed_hosts=("127.0.0.1",)))
    assert "127.0.0.1" not in str(refused.value)
    assert "169.254" not in str(refused.value)


def test_a_host_must_be_allowed_in_the_notation_that_was_checked(server):
    port = server.server_port
    for host in ("127.0.0.1", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "localhost"):
        with pytest.raises(MediaError, match="not allowed"):
            load_image(f"http://{host}:{port}/a.png", MediaPolicy(allowed_hosts=("example.org",)))
    with pytest.raises(MediaError):
        load_image(
            f"http://example.org@127.0.0.1:{port}/a.png",
            MediaPolicy(allowed_hosts=("example.org",)),
        )
    assert server.asked == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.8", "169.254.169.254", "::1", "fd00::1", "100.64.0.1"]
)
def test_an_allowed_name_on_a_private_network_is_refused(monkeypatch, address):
    monkeypatch.setattr(
        media_sources.socket, "getaddrinfo", lambda *a, **k: [(0, 0, 0, "", (address, 80))]
    )
    with pytest.raises(MediaError, match="private network"):
        load_image(
            "http://pictures.example/a.png", MediaPolicy(allowed_hosts=("pictures.example",))
        )


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch):
    found = [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(media_sources.socket, "getaddrinfo", lambda *a, **k: found)
    with pytest.raises(MediaError, match="private network"):
        load_image(
            "http://pictures.example/a.png", MediaPolicy(allowed_hosts=("pictures.example",))
        )


def test_a_second_dns_answer_changes_nothing(server, monkeypatch):
    """DNS rebinding: the connection goes to the address that was checked, asked for once."""
    real, calls = media_sources.socket.getaddrinfo, []

    def rebinding(host, *args, **kwargs):
        if host == "intranet.example":
            calls.append(host)
            return [(0, 0, 0, "", ("127.0.0.1" if len(calls) == 1 else "127.0.0.2", 80))]
        return real(host, *args, **kwargs)

    monkeypatch.setattr(media_sources.socket, "getaddrinfo", rebinding)
    policy = MediaPolicy(allowed_private_hosts=("intranet.example",))
    load_image(f"http://intranet.example:{server.server_port}/a.png", policy)
    assert calls == ["intranet.example"]
    assert server.asked == [("/a.png", f"intranet.example:{server.server_port}")]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
    ],
)
def test_public_addresses_in_every_notation(address, public):
    assert media_sources._is_public(address) is public


def test_the_byte_cap_holds_while_streaming(server):
    policy = MediaPolicy(allowed_hosts=("127.0.0.1",), max_bytes=1_000_000)
    with pytest.raises(MediaError, match="1,000,000 bytes"):
        load_image(f"{server.base}/endless", policy)
    assert server.sent < 50_000_000  # socket buffers included


def test_a_slow_server_is_given_up(server):
    with pytest.raises(MediaError, match=r"0\.3 seconds"):
        load_image(f"{server.base}/slow", MediaPolicy(allowed_hosts=("127.0.0.1",), timeout=0.3))


# ---- decoding ------------------------------------------------------------------------------


def test_twenty_megapixels_are_read_and_a_bomb_is_refused_undecoded():
    photo = encode(Image.linear_gradient("L").resize((5472, 3648)).convert("RGB"), "JPEG")
    assert load_image(photo).pil().size == (5472, 3648)
    bomb = huge_png(20_000)
    started = time.monotonic()
    with pytest.raises(MediaError, match="50,000,000 pixels"):
        load_image(bomb)
    assert time.monotonic() - started < 0.1


def test_the_pixel_cap_is_ours_and_not_pillows():
    """Between our cap and Pillow's: Pillow says nothing of these 64 megapixels."""
    with pytest.raises(MediaError, match="50,000,000 pixels"):
        load_image(huge_png(8_000))
    assert load_image(huge_png(8_000), MediaPolicy(max_pixels=64_000_000)).width == 8_000


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_of_every_format(format):
    whole = encode(
        Image.effect_noise((80, 60), 90).convert("P" if format == "GIF" else "RGB"), format
    )
    assert load_image(whole).width == 80
    with pytest.raises(MediaError, match=r"damaged|not a picture"):
        load_image(whole[: len(whole) // 2])


def test_garbled_files_never_raise_anything_else():
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encode(Image.linear_gradient("L").resize((40, 40)), format)
        for _ in range(60):
            garbled = bytearray(whole)
            for position in rng.integers(0, len(garbled), 8):
                garbled[position] = rng.integers(0, 256)
            with contextlib.suppress(MediaError):
                load_image(bytes(garbled)).pil()


def test_a_format_that_is_not_allowed(picture):
    ico = encode(Image.new("RGB", (32, 32)), "ICO")
    ppm = encode(Image.new("RGB", (32, 32)), "PPM")
    for data in (ico, ppm):
        with pytest.raises(MediaError, match="PNG"):
            load_image(data)
    with pytest.raises(MediaError, match=r"allowed here \(PNG\)"):
        load_image(picture(format="JPEG"), MediaPolicy(formats=("PNG",)))
    # A polyglot is what its decoder takes it for; the type comes from the content.
    assert load_image(picture(format="JPEG") + b"<script>").mime_type == "image/jpeg"


def test_exif_rotation():
    image = Image.new("RGB", (40, 20), "white")
    image.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    loaded = load_image(encode(image, "JPEG", exif=exif, quality=95))
    assert (loaded.width, loaded.height) == (20, 40)
    top, bottom = loaded.pil().getpixel((10, 5)), loaded.pil().getpixel((10, 35))
    assert top[1] < 60
    assert bottom[1] > 200


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(1, 256).repeat(8, 0)
    loaded = load_image(encode(Image.fromarray(ramp)))
    row = np.asarray(loaded.pil())[0, :, 0]
    assert abs(int(row[128]) - 128) <= 1
    assert row[-1] == 255


def test_cmyk_palette_transparency_and_animation():
    cmyk = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red = load_image(cmyk).pil().getpixel((4, 4))
    assert red[0] > 200
    assert max(red[1:]) < 60

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (4, 0, 8, 8))
    shown = load_image(encode(palette, transparency=0)).pil()
    assert shown.getpixel((0, 0)) == (255, 255, 255)
    assert shown.getpixel((7, 0)) == (0, 0, 255)

    for mode, colour in (("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))):
        assert load_image(encode(Image.new(mode, (4, 4), colour))).pil().getpixel((0, 0)) == (
            255,
            255,
            255,
        )

    frames = [Image.new("RGB", (8, 8), colour) for colour in ("green", "red", "blue")]
    for format in ("GIF", "WEBP"):
        film = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
        first = load_image(film).pil().getpixel((4, 4))
        assert first[1] > 100
        assert first[0] < 30


def test_a_path_object_and_a_string_are_the_same(tmp_path: Path, picture):
    (tmp_path / "x.png").write_bytes(picture("green"))
    policy = MediaPolicy(allowed_roots=(str(tmp_path),))
    path = tmp_path / "x.png"
    assert load_image(path, policy) == load_image(str(path), policy)
