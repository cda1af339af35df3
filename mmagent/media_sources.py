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
from pathlib import Path
from typing import TYPE_CHECKING

from mmagent.errors import MediaError

if TYPE_CHECKING:
    import httpx

    from mmagent.media import MediaPolicy

__all__ = ["read"]

_CHUNK = 64 * 1024


def read(source: bytes | bytearray | memoryview | Path | str, policy: MediaPolicy) -> bytes:
    """The bytes of `source`, at most `policy.max_bytes`.

    Raises:
        MediaError: Not allowed, too large, or not to be had.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        _check_size(len(source), policy)
        return bytes(source)
    if isinstance(source, Path):
        return _read_file(source, policy)
    if not isinstance(source, str):
        raise MediaError(
            f"A picture must be bytes, a path or an address, not {type(source).__name__}."
        )
    scheme = source[:8].lower()
    if scheme.startswith("data:"):
        return _read_data_url(source, policy)
    if scheme.startswith(("http:", "https:")):
        return _download(source, policy)
    if scheme.startswith("file:"):
        try:
            parts = urllib.parse.urlsplit(source)
        except ValueError:
            raise MediaError("The file: address of the picture is malformed.") from None
        if parts.netloc not in ("", "localhost"):
            raise MediaError("A file: address must not name another machine.")
        return _read_file(Path(urllib.request.url2pathname(parts.path)), policy)
    if "://" in source[:64]:
        raise MediaError("Addresses of pictures may begin with data:, file:, http: or https: only.")
    return _read_file(Path(source), policy)


def _check_size(size: int, policy: MediaPolicy) -> None:
    if size > policy.max_bytes:
        raise MediaError(
            f"The picture has more than {policy.max_bytes:,} bytes; make it smaller, "
            "or raise MediaPolicy(max_bytes=...)."
        )


def _read_data_url(url: str, policy: MediaPolicy) -> bytes:
    header, comma, body = url[5:].partition(",")
    if not comma:
        raise MediaError("The data: address of the picture has no comma before its data.")
    is_base64 = header.rstrip().lower().endswith(";base64")
    # Percent-encoding takes at most three characters a byte, base64 four for three bytes.
    _check_size(len(body) // 3 if not is_base64 else len(body) * 3 // 4 - 2, policy)
    if not is_base64:
        return urllib.parse.unquote_to_bytes(body)
    return decode_base64(body, policy)


def decode_base64(text: str, policy: MediaPolicy) -> bytes:
    """Decode base64 that may hold line breaks, percent-encoding and the URL-safe alphabet."""
    _check_size(len(text) * 3 // 4 - 2, policy)
    if "%" in text:
        text = urllib.parse.unquote(text)
    compact = "".join(text.split()).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError("The base64 data of the picture is malformed or cut off.") from None


def _read_file(path: Path, policy: MediaPolicy) -> bytes:
    try:
        resolved = path.expanduser().resolve()
        roots = [Path(root).expanduser().resolve() for root in policy.allowed_roots]
    except (OSError, RuntimeError, ValueError):
        raise MediaError("The path of the picture is not a valid path.") from None
    # Asked before whether the file exists, so that nobody learns that from the answer.
    if not any(resolved.is_relative_to(root) for root in roots):
        raise MediaError(
            "The picture's file is outside the folders that may be read; "
            "add its folder to MediaPolicy(allowed_roots=...)."
        )
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        # Not blocking, or opening a named pipe would wait for its writer for ever.
        descriptor = os.open(resolved, flags | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise MediaError(f"{path.name} is not a regular file; name a picture file.")
            _check_size(status.st_size, policy)
            data = file.read(policy.max_bytes + 1)
    except FileNotFoundError:
        raise MediaError(f"There is no picture file {path.name}; check the path.") from None
    except IsADirectoryError:
        raise MediaError(f"{path.name} is a folder; name a picture file.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MediaError(f"The picture file {path.name} cannot be read: {reason}.") from None
    _check_size(len(data), policy)
    return data


def _download(url: str, policy: MediaPolicy) -> bytes:
    import httpx

    deadline = time.monotonic() + policy.timeout
    try:
        with httpx.Client(trust_env=False, follow_redirects=False) as client:
            for _ in range(policy.max_redirects + 1):
                request = _checked_request(client, url, policy, deadline)
                response = client.send(request, stream=True)
                try:
                    if not response.is_redirect:
                        return _body(response, policy, deadline)
                    url = str(httpx.URL(url).join(response.headers["location"]))
                finally:
                    response.close()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        if isinstance(error, httpx.TimeoutException):
            raise _too_slow(policy) from None
        raise MediaError(
            "The picture could not be downloaded: the connection failed or the address is "
            "malformed."
        ) from None
    raise MediaError(f"The picture's address redirects more than {policy.max_redirects} times.")


def _checked_request(
    client: httpx.Client, url: str, policy: MediaPolicy, deadline: float
) -> httpx.Request:
    """A request to the very IP address that passed the checks, for the host that was named."""
    import httpx

    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https"):
        raise MediaError("A picture's address redirects to something that is not http or https.")
    host = parsed.host.lower().rstrip(".")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    names = {host, f"{host}:{port}", f"[{host}]:{port}"}
    private_allowed = any(entry.lower() in names for entry in policy.allowed_private_hosts)
    if any(entry.lower() in names for entry in policy.allowed_hosts):
        private_allowed = private_allowed or host == "localhost" or _is_ip(host)
    elif not private_allowed:
        raise MediaError(
            "The host of the picture's address is not allowed; "
            "add it to MediaPolicy(allowed_hosts=...), or send the picture itself."
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise MediaError("The host of the picture's address cannot be found.") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not private_allowed and not all(_is_public(address) for address in addresses):
        raise MediaError(
            "The host of the picture's address is on a private network, which is not allowed; "
            "if you trust it, add it to MediaPolicy(allowed_private_hosts=...)."
        )
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise _too_slow(policy)
    return client.build_request(
        "GET",
        parsed.copy_with(host=addresses[0], userinfo=b""),
        headers={
            "host": parsed.netloc.decode("ascii"),
            "accept": "image/*",
            # A compressed answer could be small here and huge when unpacked.
            "accept-encoding": "identity",
        },
        timeout=httpx.Timeout(remaining),
        extensions={"sni_hostname": host} if not _is_ip(host) else {},
    )


def _body(response: httpx.Response, policy: MediaPolicy, deadline: float) -> bytes:
    if response.status_code != 200:
        raise MediaError(f"The server of the picture answered {response.status_code}.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise MediaError("The server of the picture compresses its answer, which is not allowed.")
    declared = response.headers.get("content-length", "")
    if declared.isdigit():
        _check_size(int(declared), policy)
    data = bytearray()
    for chunk in response.iter_raw(_CHUNK):
        data += chunk
        _check_size(len(data), policy)
        if time.monotonic() > deadline:
            raise _too_slow(policy)
    return bytes(data)


def _too_slow(policy: MediaPolicy) -> MediaError:
    return MediaError(
        f"The picture did not arrive within {policy.timeout:g} seconds; "
        "raise MediaPolicy(timeout=...) or send the picture itself."
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
