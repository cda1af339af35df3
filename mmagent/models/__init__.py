"""Models by name: the bundled `tiny` (fetched and assembled once), folders, and hub names."""

from __future__ import annotations

from mmagent.models.resolve import resolve_model

__all__ = ["resolve_model"]
