"""Whether two statements contradict each other: by an NLI model, or by rules without one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from mmagent.errors import ModelNotFoundError, UsageError
from mmagent.evaluation.answers import holds, is_refusal
from mmagent.evaluation.planted import Probe

__all__ = ["Contradicts", "claims_another", "disagree", "load_nli"]

Contradicts = Callable[[str, str], bool]
"""Whether a premise and a hypothesis contradict each other."""


def claims_another(answer: str, probe: Probe) -> bool:
    """Whether an answer claims another value of a planted fact ("I live in Paris")."""
    if not probe.contradiction:
        return False
    claims = re.findall(probe.contradiction, answer.replace("’", "'"), re.IGNORECASE)
    return any(not holds(claim, probe.accepted) for claim in claims) and not holds(
        answer, probe.accepted
    )


def disagree(one: str, other: str, probe: Probe) -> bool:
    """Whether of two answers to one question one is right and the other says something else."""
    if is_refusal(one) or is_refusal(other):
        return False
    first, second = holds(one, probe.accepted), holds(other, probe.accepted)
    return first != second and claims_another(other if first else one, probe)


def load_nli(name: str) -> Contradicts:
    """Return an NLI model of transformers as a function.

    Args:
        name: A folder, or a name on the hub, of a sequence classifier one of whose labels is
            "contradiction".

    Raises:
        ModelNotFoundError: There is no such model.
        UsageError: It is no NLI model.
    """
    from transformers import pipeline

    try:
        classify: Any = pipeline("text-classification", model=name, device=-1)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"The NLI model {name!r} cannot be loaded: name a folder or a checkpoint on the hub "
            "of a sequence classifier."
        ) from error
    labels: Sequence[str] = list(classify.model.config.id2label.values())
    wanted = [label for label in labels if "contradict" in label.lower()]
    if not wanted:
        raise UsageError(
            f"The model {name!r} has the labels {', '.join(labels)}; an NLI model has one that is "
            "called contradiction."
        )

    def contradicts(premise: str, hypothesis: str) -> bool:
        found = classify({"text": premise, "text_pair": hypothesis}, truncation=True)
        best = found[0] if isinstance(found, list) else found
        return str(best["label"]) in wanted

    return contradicts
