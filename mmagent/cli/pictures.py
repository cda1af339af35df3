"""Pictures that the person at the command line names: any file of theirs, within bounds."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmagent.media import LoadedImage

__all__ = ["image_block", "load_pictures"]


def load_pictures(files: Sequence[str | Path]) -> list[LoadedImage]:
    """Read and check pictures.

    Raises:
        MediaError: One cannot be read; the message names it.
    """
    from mmagent.errors import MediaError
    from mmagent.media import MediaPolicy, load_image

    pictures = []
    for file in files:
        path = Path(file).expanduser()
        try:
            # Whoever sits here may read what they may read: every root is theirs to name.
            pictures.append(load_image(path, MediaPolicy(allowed_roots=("/",))))
        except MediaError as error:
            raise MediaError(f"{file}: {error}") from error
    return pictures


def image_block(picture: LoadedImage) -> dict[str, Any]:
    """The picture as a LangChain content block."""
    data = base64.b64encode(picture.data).decode("ascii")
    return {"type": "image", "base64": data, "mime_type": picture.mime_type}
