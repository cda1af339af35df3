"""The parts of a vision-language model, and what of them is trained and how."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass

from torch import nn

from mmagent.errors import UsageError
from mmagent.finetune.config import ChatSettings

__all__ = ["TOWERS", "Plan", "hold_still", "plan_of", "tower_of", "towers_of"]

TOWERS = ("vision", "projector", "language")
_NAMES = {
    "vision": ("vision_tower", "vision_model", "visual", "vision_embed_tokens", "image_encoder"),
    "projector": ("multi_modal_projector", "connector", "mm_projector", "merger", "aligner",
                  "modality_projection", "embed_vision"),
    "language": ("language_model", "text_model"),
}  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def towers_of(model: nn.Module) -> dict[str, str]:
    """The module's name of each part that the model has; a text model is all language."""
    found: dict[str, str] = {}
    for name, _ in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        for tower, names in _NAMES.items():
            if last in names and tower not in found:
                # A part inside another one is that one's, but for projectors in the eye.
                inside = [other for other in found.values() if name.startswith(f"{other}.")]
                if not inside or (tower == "projector" and inside == [found.get("vision")]):
                    found[tower] = name
    return found if "vision" in found else {"language": ""}


def tower_of(name: str, towers: dict[str, str]) -> str:
    """The part that a parameter or module belongs to."""
    fits = [tower for tower in ("projector", "vision")
            if tower in towers and f"{name}.".startswith(f"{towers[tower]}.")]  # fmt: skip
    return fits[0] if fits else "language"


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        adapted: The parts that get adapters, with the regular expression of their layers.
        whole: The parts whose own weights are trained.
        modules: The names of those parts' modules.
    """

    adapted: dict[str, str]
    whole: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def target(self) -> str | None:
        """One regular expression for all layers with adapters."""
        return "|".join(f"(?:{each})" for each in self.adapted.values()) or None


def plan_of(model: nn.Module, settings: ChatSettings) -> Plan:
    """Decide what is trained, and say what cannot be.

    "All linear layers" would reach into the eye: layers are named by the part that they are in.

    Raises:
        UsageError: The model lacks a part that is to be trained, or the layers for it.
    """
    towers = towers_of(model)
    targets = [] if settings.full else list(settings.lora.targets)
    absent = [tower for tower in targets if tower not in towers]
    if absent:
        raise UsageError(
            f"The model has no {absent[0]} part of its own (it has {', '.join(towers)}); "
            "take it out of lora.targets."
        )
    adapted: dict[str, str] = {tower: _layers(model, tower, towers) for tower in targets}
    whole = tuple(
        tower
        for tower in towers
        if not getattr(settings.freeze, tower) and tower not in targets
    )  # fmt: skip
    if not adapted and not whole:
        raise UsageError(
            f"Nothing of this model would be trained: it has {', '.join(towers)}, all frozen."
        )
    return Plan(adapted, whole, tuple(towers[tower].rsplit(".", 1)[-1] for tower in whole))


def _layers(model: nn.Module, tower: str, towers: dict[str, str]) -> str:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    kinds = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            last = name.rsplit(".", 1)[-1]
            if tower_of(name, towers) == tower and last != "lm_head":
                kinds.add(last)
    if not kinds:
        raise UsageError(
            f"The {tower} part has no linear layers to put adapters on; take it out of "
            f"lora.targets and set freeze.{tower} to say whether its own weights are trained."
        )
    place = re.escape(towers[tower])
    prefix = rf"(?:.*\.)?{place}\." if place else ""
    return rf"{prefix}(?:.*\.)?(?:{'|'.join(sorted(map(re.escape, kinds)))})"


def hold_still(model: nn.Module, settings: ChatSettings) -> None:
    """Keep frozen parts, and every batch norm's statistics, as they are while others train.

    The trainer puts the whole model into training mode at each step. In that mode dropout acts
    in frozen parts, and batch norms take on the statistics of small batches, trained or not.
    """
    towers = towers_of(model)
    frozen = [name for tower, name in towers.items() if getattr(settings.freeze, tower) and name]
    modules = dict(model.named_modules())
    for name in frozen:
        _stay_in_evaluation(modules[name])
    for module in modules.values():
        if isinstance(module, _NORMS):
            _stay_in_evaluation(module)


def _stay_in_evaluation(module: nn.Module) -> None:
    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        return nn.Module.train(self, False)

    module.train = types.MethodType(train, module)  # type: ignore[method-assign]
    module.eval()
