"""Plain text chat for the bundled model: what the base says itself, so that it does not forget.

No external dialogue set is used. `prompts` composes a few hundred short requests from templates;
`distil` lets the untouched base answer them greedily and caches the answers as JSON lines.
Training then pulls the tuned model towards the base's own next-token distribution on these rows
(see `train_chat`), which keeps its general chat while it learns to see and to remember.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["SYSTEMS", "distil", "prompts", "read_answers"]

# System messages of rows without a persona; None leaves the chat template to its default.
SYSTEMS: tuple[str | None, ...] = (
    None,
    "You are a helpful assistant.",
    "You are a friendly assistant. Answer briefly.",
    "Answer in plain words.",
)

_THINGS = (
    "a volcano", "photosynthesis", "a solar eclipse", "yeast", "gravity", "a library card",
    "inflation",
    "a haiku", "a compass", "the water cycle", "a black hole", "a mortgage", "jazz",
    "an algorithm",
    "a peninsula", "democracy", "a vaccine", "the internet", "compost", "origami", "a metaphor",
    "the stock market", "a lighthouse", "electricity", "a verb", "a database", "chess",
    "a coral reef",
    "a glacier", "DNA", "a recipe", "an earthquake", "friendship", "a browser",
    "Python programming",
    "a marathon", "a rainbow", "sleep", "a comet", "a budget",
)  # fmt: skip
_TIPS = (
    "learning a new language", "sleeping better", "saving money", "writing a good email",
    "keeping houseplants alive", "preparing for a job interview", "staying focused while studying",
    "packing for a weekend trip", "making new friends", "cooking rice", "reading more books",
    "starting to run", "giving a short speech", "keeping a kitchen clean", "taking better photos",
    "calming down when stressed", "choosing a gift", "planning a birthday party",
    "drinking more water", "using less plastic", "learning to draw", "training a puppy",
    "working from home", "growing tomatoes", "remembering names",
)  # fmt: skip
_ABOUT = ("What is {}?", "Explain {} in one sentence.", "Tell me about {}.",
          "Explain {} to a child.", "Why does {} matter?")  # fmt: skip
_ADVICE = ("Give me a tip for {}.", "How do I get better at {}?", "Any advice on {}?",
           "Give me three short tips for {}.")  # fmt: skip
_WRITE = ("Write a two-sentence story about {}.", "Write one line of a poem about {}.",
          "Begin a story about {}.")  # fmt: skip
_STORIES = (
    "a lonely lighthouse keeper", "a cat who wants to fly", "two friends on a train", "a lost key",
    "a snowy morning", "a robot who learns to paint", "an old bakery", "a child and a kite",
    "a letter that arrives late", "a market by the sea", "a brave little mouse",
    "the first day of school",
    "a storm at night", "a talking tree", "a bicycle race", "a quiet library",
    "a baker and a thief", "the moon and a fox", "a gardener in spring", "a forgotten song",
)  # fmt: skip
_CAPITALS = (
    "France", "Japan", "Italy", "Canada", "Egypt", "Spain", "Germany", "Brazil", "India", "Greece",
    "Australia", "Norway", "Kenya", "Mexico", "Portugal", "China",
)  # fmt: skip
_REWRITES = (
    ("Make this sentence more polite", ("Send me the report now.", "You are late again.",
    "Move your car.",
     "I don't like this soup.", "Call me back.", "Stop talking.")),
    ("Correct the grammar", ("She go to school every day.", "I has two brother.",
    "He don't likes tea.",
     "We was at the park yesterday.", "The childrens is happy.", "I am agree with you.")),
    ("Say this in fewer words", ("At this point in time we are not able to come to the meeting.",
     "The reason why I am calling is because I would like to ask for a refund.",
     "She is a person who always tells the truth to everybody.",
     "In the event that it rains we will stay inside the house.")),
)  # fmt: skip
_FACTS = (
    "Why is the sky blue?", "How many days are in a leap year?", "What do bees make?",
    "Why do leaves change colour in autumn?", "How does a fridge stay cold?",
    "Who wrote Romeo and Juliet?",
    "What is the largest ocean?", "Why do we have seasons?", "How do fish breathe?",
    "What is the boiling point of water?", "How far is the Moon from the Earth?",
    "What do pandas eat?",
    "Why is exercise good for you?", "What is the opposite of cold?",
    "How many legs does a spider have?",
    "What is the fastest land animal?", "Why is the sea salty?",
    "What colour do you get from blue and yellow?",
    "What is 7 plus 5?", "What is 12 minus 4?", "What is 6 times 3?", "What is half of 90?",
    "Which month comes after June?", "What is the past tense of go?", "How do I boil an egg?",
    "How do I remove a coffee stain?", "How do I tie a tie?", "How do planes fly?",
    "What is the largest planet?",
    "How long does it take to walk five kilometres?", "What is a synonym for happy?",
    "Who painted the Mona Lisa?",
)  # fmt: skip
_LISTS = (
    "fruits", "animals that live in the sea", "musical instruments", "winter sports",
    "things to take to the beach",
    "kinds of weather", "jobs in a hospital", "vegetables that grow underground", "board games",
    "countries in Asia",
    "kinds of bread", "tools for the garden", "planets", "breakfast ideas",
    "words that rhyme with light",
    "things found in a kitchen",
)  # fmt: skip


def prompts() -> list[str]:
    """Every request, in a fixed shuffled order.

    Small talk and questions of identity are not among them: those are for the personas.
    """
    out: list[str] = list(_FACTS)
    rng = random.Random(7)
    for things, forms in ((_THINGS, _ABOUT), (_TIPS, _ADVICE), (_STORIES, _WRITE)):
        for thing in things:
            out += [form.format(thing) for form in rng.sample(forms, 2)]
    out += [f"What is the capital of {c}?" for c in _CAPITALS]
    out += [f"{ask}: {text}" for ask, texts in _REWRITES for text in texts]
    out += [
        f"Name three {what}." if "words" not in what else f"Name two {what}." for what in _LISTS
    ]
    rng.shuffle(out)
    return out


def distil(
    model: Any, tokenizer: Any, path: Path, *, max_new_tokens: int = 56, batch_size: int = 16,
    limit: int | None = None,
) -> None:  # fmt: skip
    """Let `model` answer every prompt greedily and append the answers to `path`; resumes there.

    Args:
        model: the untouched causal language model.
        tokenizer: its tokenizer, with the chat template that the base was tuned with.
        path: JSON lines of {"prompt", "answer", "finished"}.
        max_new_tokens: an answer is cut there; a cut one is not taught to end.
        batch_size: prompts that are answered together.
        limit: answer no more than so many of the prompts.
    """
    import torch

    known = {row["prompt"] for row in read_answers(path)} if path.exists() else set()
    todo = sorted((p for p in prompts()[:limit] if p not in known), key=len)
    tokenizer.padding_side = "left"
    path.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(todo), batch_size):
        batch = todo[start : start + batch_size]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": p}] for p in batch],
            add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True,
        )  # fmt: skip
        with torch.inference_mode():
            ids = model.generate(
                **inputs, do_sample=False, max_new_tokens=max_new_tokens, repetition_penalty=1.05
            )
        new = ids[:, inputs["input_ids"].shape[1] :]
        _append(path, batch, new, tokenizer)
        print(f"answered {start + len(batch)} of {len(todo)}", flush=True)


def _append(path: Path, batch: Sequence[str], ids: Iterable[Any], tokenizer: Any) -> None:
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with path.open("a", encoding="utf-8") as file:
        for prompt, row in zip(batch, ids, strict=True):
            answer = tokenizer.decode(row, skip_special_tokens=True).strip()
            finished = stop in row.tolist()
            line = {"prompt": prompt, "answer": answer, "finished": finished}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The cached answers; a torn last line of an interrupted run is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [row for row in rows if row["answer"]]
