"""The prompt catalogue: personas (and other prompt kinds) as YAML files, and their safe loader.

A leaf package: it knows YAML and files, and imports nothing of `mmagent`.
"""

from __future__ import annotations

from mmagent_prompts.catalogue import entry_names, read_entry
from mmagent_prompts.safe_yaml import CatalogueError, load_yaml

__all__ = ["CatalogueError", "entry_names", "load_yaml", "read_entry"]
