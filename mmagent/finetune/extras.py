"""Optional packages of fine-tuning: found, or named with the command that installs them."""

from __future__ import annotations

import importlib.util

from mmagent.errors import MissingDependencyError

__all__ = ["require_tracker", "require_training"]

_NEEDED = ("trl", "datasets", "peft", "accelerate", "matplotlib")


def require_training(*modules: str) -> None:
    """Check that what training needs is installed.

    Raises:
        MissingDependencyError: Something is not; the message has the pip command.
    """
    missing = [name for name in modules or _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Fine-tuning needs {', '.join(missing)}, which is not installed: "
            "run pip install 'mmagent[train]'."
        )


def require_tracker(name: str) -> None:
    """Check that a tracker of runs is installed.

    Raises:
        MissingDependencyError: It is not; the message has the pip command.
    """
    if importlib.util.find_spec(name) is None:
        raise MissingDependencyError(
            f"Tracking with {name} needs a package: run pip install {name}."
        )
