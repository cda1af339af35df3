"""Every template of thought beside `direct`, on the same questions: right, tokens, seconds."""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage

from mmagent.errors import UsageError
from mmagent.evaluation.answers import holds
from mmagent.evaluation.questions import Question
from mmagent.evaluation.reporting import load_pyplot, markdown
from mmagent.evaluation.statistics import Share
from mmagent.middleware.reasoning import ReasoningMiddleware
from mmagent.reasoning.templates import Reasoning

__all__ = ["compare_templates", "draw_reasoning", "reasoning_table"]


def compare_templates(
    model: BaseChatModel,
    questions: Sequence[Question],
    templates: Sequence[str] | None = None,
    *,
    language: str = "en",
    max_thought_tokens: int = 96,
    together: int = 8,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Answer every question by every template and return the report.

    Args:
        model: Any chat model.
        questions: With known answers.
        templates: Names that `Reasoning.load` takes; by default the whole catalogue and
            `self_consistency(3)`. "direct" is always among them, and first.
        language: Of the templates' instructions.
        max_thought_tokens: Most tokens of a thought, where the model is ours.
        together: How many questions are asked at the same time.
        progress: Is told what goes on.

    Raises:
        UsageError: There are no questions, or no such template.
    """
    if not questions:
        raise UsageError("There are no questions to compare templates on.")
    names = list(templates or [*Reasoning.catalogue(), "self_consistency(3)"])
    names = ["direct", *(name for name in dict.fromkeys(names) if name != "direct")]
    loaded = {name: Reasoning.load(name) for name in names}
    sees = bool((model.profile or {}).get("image_inputs"))
    asked = [question for question in questions if sees or question.picture is None]
    if not asked:
        raise UsageError("All questions have pictures, and this model takes none.")
    if model._llm_type.startswith("mmagent"):
        model.invoke("Hello.")  # loads it, which no template's seconds should hold
    results = {}
    for name, template in loaded.items():
        middleware = ReasoningMiddleware(
            template, language=language, max_thought_tokens=max_thought_tokens
        )
        agent = create_agent(model, middleware=[middleware])
        rows: list[dict[str, Any]] = []
        for place in range(0, len(asked), together):
            rows += _answered(agent, asked[place : place + together])
            progress(f"{name}: {len(rows)} of {len(asked)}")
        results[name] = rows
    direct = results["direct"]
    return {
        "kind": "reasoning",
        "questions": len(asked),
        "left_out": len(questions) - len(asked),
        "language": language,
        "together": together,
        "templates": {name: _summed(rows, direct) for name, rows in results.items()},
    }


def _answered(agent: Any, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Ask some questions at the same time, which share the time that it takes."""
    given = [{"messages": [_asked(question)]} for question in questions]
    began = time.perf_counter()
    states = agent.batch(given, {"max_concurrency": len(given)})
    seconds = (time.perf_counter() - began) / len(given)
    pairs = zip(questions, states, strict=True)
    return [_row(question, state["messages"][-1], seconds) for question, state in pairs]


def _asked(question: Question) -> HumanMessage:
    if question.picture is None:
        return HumanMessage(question.text)
    packed = base64.b64encode(question.picture).decode("ascii")
    picture = {"type": "image", "base64": packed, "mime_type": "image/png"}
    return HumanMessage([picture, {"type": "text", "text": question.text}])


def _row(question: Question, message: AIMessage, seconds: float) -> dict[str, Any]:
    usage = message.usage_metadata
    notes = message.response_metadata.get("reasoning", {})
    answer = str(message.text)
    return {
        "kind": question.kind,
        "question": question.text,
        "accepted": list(question.accepted),
        "answer": answer,
        "right": holds(answer, question.accepted),
        "tokens_in": usage["input_tokens"] if usage else None,
        "tokens_out": usage["output_tokens"] if usage else None,
        "seconds": round(seconds, 3),
        "unclosed": bool(notes.get("unclosed")),
        "agreement": notes.get("agreement"),
    }


def _summed(rows: list[dict[str, Any]], direct: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = dict.fromkeys(row["kind"] for row in rows)
    pairs = list(zip(rows, direct, strict=True))
    return {
        "right": _share(rows).as_dict(),
        "by_kind": {k: _share([row for row in rows if row["kind"] == k]).as_dict() for k in kinds},
        "won": sum(row["right"] and not other["right"] for row, other in pairs),
        "lost": sum(other["right"] and not row["right"] for row, other in pairs),
        "tokens_in": _mean(rows, "tokens_in"),
        "tokens_out": _mean(rows, "tokens_out"),
        "seconds": _mean(rows, "seconds"),
        "unclosed": sum(row["unclosed"] for row in rows),
        "answers": rows,
    }


def _share(rows: list[dict[str, Any]]) -> Share:
    return Share(sum(row["right"] for row in rows), len(rows))


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return round(statistics.mean(known), 2) if known else None


def reasoning_table(report: dict[str, Any]) -> str:
    """The report as Markdown; gains and losses are counted question by question."""
    rows = []
    base = report["templates"]["direct"]["right"]["value"]
    kinds = list(report["templates"]["direct"]["by_kind"])
    for name, found in report["templates"].items():
        right = found["right"]
        change = "" if name == "direct" else f"{right['value'] - base:+.1%}"
        by_kind = [f"{found['by_kind'][kind]['value']:.0%}" for kind in kinds]
        rows.append(
            [
                f"`{name}`", str(Share(right["hits"], right["total"])), change,
                f"{found['won']} / {found['lost']}", *by_kind,
                *("-" if found[key] is None else f"{found[key]:.0f}"
                  for key in ("tokens_in", "tokens_out")),
                f"{found['seconds']:.1f}",
            ]
        )  # fmt: skip
    header = [
        "template", "right (95%)", "against direct", "won / lost", *kinds,
        "tokens in", "tokens out", "seconds",
    ]  # fmt: skip
    table = markdown(header, rows)
    if report["together"] > 1:
        number = report["together"]
        table += f"\nSeconds an answer, with {number} questions asked at the same time.\n"
    return table


def draw_reasoning(report: dict[str, Any], path: Path) -> None:
    """Draw accuracy with its interval beside the tokens that it cost."""
    pyplot = load_pyplot()
    names = list(report["templates"])[::-1]
    found = [report["templates"][name] for name in names]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for place, result in enumerate(found):
        left.plot(result["right"]["interval"], [place, place], color="#9bb5d8", lw=4)
        left.plot(result["right"]["value"], place, "o", color="#2f6fde")
    left.axvline(report["templates"]["direct"]["right"]["value"], color="grey", ls=":")
    left.set_yticks(range(len(names)), names)
    left.set_xlim(0, 1)
    left.set_xlabel("right, with its 95% interval")
    right.barh(range(len(names)), [result["seconds"] for result in found], color="#9bb5d8")
    right.set_xlabel("seconds an answer")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
