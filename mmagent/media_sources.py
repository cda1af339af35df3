"""From a source to bytes, by the rules of a `MediaPolicy`; nothing here looks into the bytes.

Downloads defend against requests forged through addresses (SSRF): the host must be on the
allow-list, every address that it resolves to must be public, the connection goes to the very
address that was checked (so a second, different DNS answer changes nothing), and redirects pass
the same checks. Proxies from the environment are not used, since behind one none of this holds.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import socket
import stat
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmagent.errors import MediaError

if TYPE_CHECKING:
    import httpx

    from mmagent.media import MediaPolicy

__all__ = ["read"]

_CHUNK = 64 * 1024
_PICTURE = "picture"


@dataclass(frozen=True)
class _Asked:
    """What is read: by which rules, and what messages call it."""

    policy: MediaPolicy
    what: str


def read(
    source: bytes | bytearray | memoryview | Path | str,
    policy: MediaPolicy,
    what: str = _PICTURE,
) -> bytes:
    """The bytes of `source`, at most `policy.max_bytes`; messages call it `what`.

    Raises:
        MediaError: Not allowed, too large, or not to be had.
    """
    asked = _Asked(policy, what)
    if isinstance(source, bytes | bytearray | memoryview):
        _check_size(len(source), asked)
        return bytes(source)
    if isinstance(source, Path):
        return _read_file(source, asked)
    if not isinstance(source, str):
        raise MediaError(
            f"A {what} must be bytes, a path or an address, not {type(source).__name__}."
        )
    scheme = source[:8].lower()
    if scheme.startswith("data:"):
        return _read_data_url(source, asked)
    if scheme.startswith(("http:", "https:")):
        return _download(source, asked)
    if scheme.startswith("file:"):
        try:
            parts = urllib.parse.urlsplit(source)
        except ValueError:
            raise MediaError(f"The file: address of the {what} is malformed.") from None
        if parts.netloc not in ("", "localhost"):
            raise MediaError("A file: address must not name another machine.")
        return _read_file(Path(urllib.request.url2pathname(parts.path)), asked)
    if "://" in source[:64]:
        raise MediaError(
            f"The address of a {what} may begin with data:, file:, http: or https: only."
        )
    return _read_file(Path(source), asked)


def _check_size(size: int, asked: _Asked) -> None:
    if size > asked.policy.max_bytes:
        raise MediaError(
            f"The {asked.what} has more than {asked.policy.max_bytes:,} bytes; make it smaller, "
            "or raise MediaPolicy(max_bytes=...)."
        )


def _read_data_url(url: str, asked: _Asked) -> bytes:
    header, comma, body = url[5:].partition(",")
    if not comma:
        raise MediaError(f"The data: address of the {asked.what} has no comma before its data.")
    is_base64 = header.rstrip().lower().endswith(";base64")
    # Percent-encoding takes at most three characters a byte, base64 four for three bytes.
    _check_size(len(body) // 3 if not is_base64 else len(body) * 3 // 4 - 2, asked)
    if not is_base64:
        return urllib.parse.unquote_to_bytes(body)
    return decode_base64(body, asked)


def decode_base64(text: str, asked: _Asked) -> bytes:
    """Decode base64 that may hold line breaks, percent-encoding and the URL-safe alphabet."""
    _check_size(len(text) * 3 // 4 - 2, asked)
    if "%" in text:
        text = urllib.parse.unquote(text)
    compact = "".join(text.split()).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(f"The base64 data of the {asked.what} is malformed or cut off.") from None


def _read_file(path: Path, asked: _Asked) -> bytes:
    try:
        resolved = path.expanduser().resolve()
        roots = [Path(root).expanduser().resolve() for root in asked.policy.allowed_roots]
    except (OSError, RuntimeError, ValueError):
        raise MediaError(f"The path of the {asked.what} is not a valid path.") from None
    # Asked before whether the file exists, so that nobody learns that from the answer.
    if not any(resolved.is_relative_to(root) for root in roots):
        raise MediaError(
            f"The {asked.what}'s file is outside the folders that may be read; "
            "add its folder to MediaPolicy(allowed_roots=...)."
        )
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        # Not blocking, or opening a named pipe would wait for its writer for ever.
        descriptor = os.open(resolved, flags | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise MediaError(f"{path.name} is not a regular file; name a {asked.what} file.")
            _check_size(status.st_size, asked)
            data = file.read(asked.policy.max_bytes + 1)
    except FileNotFoundError:
        raise MediaError(f"There is no {asked.what} file {path.name}; check the path.") from None
    except IsADirectoryError:
        raise MediaError(f"{path.name} is a folder; name a {asked.what} file.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MediaError(f"The {asked.what} file {path.name} cannot be read: {reason}.") from None
    _check_size(len(data), asked)
    return data


def _download(url: str, asked: _Asked) -> bytes:
    import httpx

    deadline = time.monotonic() + asked.policy.timeout
    try:
        with httpx.Client(trust_env=False, follow_redirects=False) as client:
            for _ in range(asked.policy.max_redirects + 1):
                request = _checked_request(client, url, asked, deadline)
                response = client.send(request, stream=True)
                try:
                    if not response.is_redirect:
                        return _body(response, asked, deadline)
                    url = str(httpx.URL(url).join(response.headers["location"]))
                finally:
                    response.close()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        if isinstance(error, httpx.TimeoutException):
            raise _too_slow(asked) from None
        raise MediaError(
            f"The {asked.what} could not be downloaded: the connection failed or the address is "
            "malformed."
        ) from None
    raise MediaError(
        f"The {asked.what}'s address redirects more than {asked.policy.max_redirects} times."
    )


def _checked_request(
    client: httpx.Client, url: str, asked: _Asked, deadline: float
) -> httpx.Request:
    """A request to the very IP address that passed the checks, for the host that was named."""
    import httpx

    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https"):
        raise MediaError(
            f"A {asked.what}'s address redirects to something that is not http or https."
        )
    host = parsed.host.lower().rstrip(".")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    names = {host, f"{host}:{port}", f"[{host}]:{port}"}
    private_allowed = any(entry.lower() in names for entry in asked.policy.allowed_private_hosts)
    if any(entry.lower() in names for entry in asked.policy.allowed_hosts):
        private_allowed = private_allowed or host == "localhost" or _is_ip(host)
    elif not private_allowed:
        raise MediaError(
            f"The host of the {asked.what}'s address is not allowed; "
            f"add it to MediaPolicy(allowed_hosts=...), or send the {asked.what} itself."
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise MediaError(f"The host of the {asked.what}'s address cannot be found.") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not private_allowed and not all(_is_public(address) for address in addresses):
        raise MediaError(
            f"The host of the {asked.what}'s address is on a private network, which is not "
            "allowed; if you trust it, add it to MediaPolicy(allowed_private_hosts=...)."
        )
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise _too_slow(asked)
    return client.build_request(
        "GET",
        parsed.copy_with(host=addresses[0], userinfo=b""),
        headers={
            "host": parsed.netloc.decode("ascii"),
            "accept": "image/*" if asked.what == _PICTURE else "*/*",
            # A compressed answer could be small here and huge when unpacked.
            "accept-encoding": "identity",
        },
        timeout=httpx.Timeout(remaining),
        extensions={"sni_hostname": host} if not _is_ip(host) else {},
    )


def _body(response: httpx.Response, asked: _Asked, deadline: float) -> bytes:
    if response.status_code != 200:
        raise MediaError(f"The server of the {asked.what} answered {response.status_code}.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise MediaError(
            f"The server of the {asked.what} compresses its answer, which is not allowed."
        )
    declared = response.headers.get("content-length", "")
    if declared.isdigit():
        _check_size(int(declared), asked)
    data = bytearray()
    for chunk in response.iter_raw(_CHUNK):
        data += chunk
        _check_size(len(data), asked)
        if time.monotonic() > deadline:
            raise _too_slow(asked)
    return bytes(data)


def _too_slow(asked: _Asked) -> MediaError:
    return MediaError(
        f"The {asked.what} did not arrive within {asked.policy.timeout:g} seconds; "
        f"raise MediaPolicy(timeout=...) or send the {asked.what} itself."
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(address: str) -> bool:
    """Whether an address is public in every reading of it, embedded IPv4 addresses included."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner: list[ipaddress.IPv4Address | None] = [ip.ipv4_mapped, ip.sixtofour]
        inner += list(ip.teredo or ())
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 (RFC 6052)
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(v4 is not None and not _is_public(str(v4)) for v4 in inner):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
