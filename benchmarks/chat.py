"""How fast the chat model is over many turns and many users, beside the peers, in one run.

    python benchmarks/chat.py [--model tiny] [--turns 20] [--tokens 32] [--users 8] [--repeats 3]
        [--out FILE.json] [--table FILE.md]

Everything runs on the same weights, greedily, and takes turns in one process, so that a busy
machine is busy for all. The peers run the model as transformers loads it: `model.generate` called
anew for every turn; its continuous batching (`generate_batch`, text alone); and LangChain's
ChatHuggingFace (text alone; if `langchain-huggingface` is installed). Times are medians; machines
differ, so look at the ratios. On a GPU the same program runs unchanged.

How much many users gain by asking at once depends on how long the answers are: reading prompts is
arithmetic, which takes as long for eight at once as for one after another. So they are measured
twice, with answers that end where the model ends them, and with answers of one length.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from PIL import Image

from mmagent import ChatMMAgent
from mmagent.engine import Chunk, EchoEngine, Form, Sampling, Usage
from mmagent.messages import Conversation, to_conversation

COLORS = ("red", "green", "blue")
ASKED = "What do you think of that? Please tell me a little more about it, in a few words."
TARGETS = {
    "first token, turn N : turn 2": ("at most", 1.2),
    "first token, without reuse : with": ("at least", 5.0),
    "one stream : plain generate": ("at least", 0.95),
    "at once : one after another": ("at least", 3.0),
    "overhead, ms a call": ("at most", 2.0),
    "overhead, ms a streamed token": ("at most", 0.1),
    "loading, s": ("at most", 2.0),
    "memory : weights + cache budget": ("at most", 1.3),
}


def picture(color: str) -> dict[str, str]:
    """A picture of one colour, as a content block."""
    buffer = io.BytesIO()
    Image.new("RGB", (320, 240), color).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image", "base64": data, "mime_type": "image/png"}


def conversation(turns: int, number: int = 0, *, pictures: bool = True) -> list[BaseMessage]:
    """A conversation of so many turns, its last one open; three pictures in its first turns."""
    messages: list[BaseMessage] = [
        SystemMessage(f"You are Mia {number}, a kind companion who looks at pictures with people.")
    ]
    for turn in range(turns):
        block = [picture(COLORS[turn])] if pictures and turn < len(COLORS) else []
        messages.append(HumanMessage([*block, {"type": "text", "text": f"{turn}. {ASKED}"}]))
        if turn < turns - 1:
            messages.append(AIMessage(f"That is a fine thing number {turn}, and I like it a lot."))
    return messages


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def first_token(model: ChatMMAgent, messages: list[BaseMessage]) -> float:
    """Seconds until the first token is there."""
    # Of the engine, not of the first text: that may be held back.
    return seconds(lambda: model.invoke(messages, max_tokens=1))


class Bench:
    """One model in all its guises, and what was measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        from mmagent.engine.loading import load_checkpoint
        from mmagent.engine.transformers_engine import TransformersEngine
        from mmagent.models import resolve_model

        self.args = args
        self.chat = ChatMMAgent(model=args.model, temperature=0, max_tokens=args.tokens)
        engine = self.chat.load()
        assert isinstance(engine, TransformersEngine), "give a real model"
        self.engine = engine
        self.forgetful = ChatMMAgent(
            model=args.model, temperature=0, max_tokens=args.tokens, cache_bytes=0
        )
        self.forgetful.load()
        # In the engine's own precision, but for what only the engine knows how to keep.
        kind = engine.state()["dtype"]
        self.model = load_checkpoint(str(resolve_model(args.model)), dtype=kind).model
        self.config = copy.deepcopy(self.model.generation_config)
        self.config.do_sample = False
        self.config.max_length = self.config.temperature = self.config.top_p = None
        self.config.pad_token_id = self.config.pad_token_id or 0

    def median(self, work: Callable[[], float]) -> float:
        """Of several runs."""
        return statistics.median(work() for _ in range(self.args.repeats))

    # ---- turns -----------------------------------------------------------------------------

    def turns(self) -> dict[str, float]:
        """Time to the first token, early and late in a conversation with three pictures."""
        late = self.args.turns
        found: dict[str, list[float]] = {"turn 2": [], f"turn {late}": []}
        for run in range(self.args.repeats):
            for turn in range(1, late + 1):
                took = first_token(self.chat, conversation(turn, run))
                if f"turn {turn}" in found:
                    found[f"turn {turn}"].append(took)
        report = {f"{name}, s": statistics.median(times) for name, times in found.items()}
        # Other names in the system turn, so that nothing is known.
        report[f"turn {late} without reuse, s"] = self.median(
            lambda: first_token(self.forgetful, conversation(late))
        )
        report[f"turn {late} by generate, s"] = self.median(
            lambda: seconds(lambda: self.plain(conversation(late), 1))
        )
        report["first token, turn N : turn 2"] = report[f"turn {late}, s"] / report["turn 2, s"]
        report["first token, without reuse : with"] = (
            report[f"turn {late} without reuse, s"] / report[f"turn {late}, s"]
        )
        return report

    def plain(self, messages: list[BaseMessage], tokens: int) -> list[int]:
        """`generate` as one would write it: everything anew."""
        prompt = self.engine._prompt(to_conversation(messages))
        inputs = self.engine._worker.inputs(prompt, 0)
        inputs.pop("position_ids", None)
        config = copy.deepcopy(self.config)
        config.max_new_tokens = tokens
        found = self.model.generate(**inputs, generation_config=config)
        made: list[int] = found[0, len(prompt.ids) :].tolist()
        return made

    # ---- one stream ------------------------------------------------------------------------

    def stream(self) -> dict[str, float]:
        """Tokens a second of one answer, the reading of a short question included."""
        question = [HumanMessage("Tell me a long story about a cat who went to sea.")]
        tokens = self.args.tokens * 2
        counted: dict[str, int] = {}

        def ours() -> None:
            self.engine.cache.clear()
            answer = self.chat.invoke(question, max_tokens=tokens)
            counted["ChatMMAgent"] = (answer.usage_metadata or {})["output_tokens"]

        ways: dict[str, Callable[[], None]] = {
            "ChatMMAgent": ours,
            "generate": lambda: counted.update(generate=len(self.plain(question, tokens))),
        }
        text = self.text_model()
        ways["generate_batch"] = lambda: counted.update(
            generate_batch=sum(self.batched(text, [question], tokens))
        )
        if (peer := self.chat_hugging_face(text, tokens)) is not None:
            encode = self.engine.token_ids

            def theirs() -> None:
                said = peer.invoke([HumanMessage(question[0].text)]).content
                counted["ChatHuggingFace"] = len(encode(said))

            ways["ChatHuggingFace"] = theirs
        times: dict[str, list[float]] = {name: [] for name in ways}
        for run in range(self.args.repeats + 1):
            for name, work in ways.items():
                took = seconds(work)
                if run:  # the first time warms up
                    times[name].append(took)
        report = {
            f"{name}, tokens/s": counted[name] / statistics.median(took)
            for name, took in times.items()
        }
        report |= {f"{name}, tokens": count for name, count in counted.items()}
        # Of each round, as the machine's mood changes; the middle one.
        ratios = [
            plain / mine * counted["ChatMMAgent"] / counted["generate"]
            for mine, plain in zip(times["ChatMMAgent"], times["generate"], strict=True)
        ]
        report["one stream : plain generate"] = statistics.median(ratios)
        return report

    def text_model(self) -> Any:
        """The language model alone, sharing the weights, for peers that take only text."""
        from transformers import AutoModelForCausalLM

        whole = self.model
        inner = getattr(whole.base_model, "language_model", None)
        if inner is None:
            return whole
        import torch

        config = copy.deepcopy(whole.config.get_text_config(decoder=True))
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            text = AutoModelForCausalLM.from_config(config, dtype=whole.dtype)
        text.model = inner
        text.lm_head = whole.get_output_embeddings()
        text.generation_config = copy.deepcopy(self.config)
        return text.eval()

    def batched(self, text: Any, questions: list[list[BaseMessage]], tokens: int) -> list[int]:
        """Continuous batching of transformers; how many tokens each answer has."""
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        prompts = [self.engine._prompt(to_conversation(question)).ids for question in questions]
        config = GenerationConfig(
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=sorted(self.engine._worker.ends),
            pad_token_id=self.config.pad_token_id,
        )
        # Left to itself it takes nearly all of the memory of a machine without a GPU.
        longest = max(map(len, prompts)) + tokens
        batching = ContinuousBatchingConfig(
            num_blocks=len(prompts) * (longest // 256 + 2), max_batch_tokens=1024
        )
        language = text.config
        before = language._attn_implementation
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = text.generate_batch(
                    prompts,
                    generation_config=config,
                    continuous_batching_config=batching,
                    progress_bar=False,
                )
        finally:
            language._attn_implementation = before
        return [len(answer.generated_tokens) for answer in found.values()]

    def chat_hugging_face(self, text: Any, tokens: int) -> Any:
        """LangChain's own, on the same weights; None where it is not installed."""
        try:
            from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
        except ImportError:
            return None
        from transformers import pipeline

        tokenizer = self.engine._prompts.tokenizer
        # To the pipeline itself: the LangChain side does not pass its own settings on.
        settings = {"max_new_tokens": tokens, "do_sample": False, "return_full_text": False}
        pipe = pipeline("text-generation", model=text, tokenizer=tokenizer, **settings)
        llm = HuggingFacePipeline(pipeline=pipe)
        return ChatHuggingFace(llm=llm, tokenizer=tokenizer)

    # ---- many users ------------------------------------------------------------------------

    @contextmanager
    def endless(self) -> Iterator[None]:
        """Answers that go on until there are enough tokens."""
        worker, ends = self.engine._worker, self.config.eos_token_id
        before = worker.ends
        worker.ends, self.config.eos_token_id = frozenset({-1}), [-1]
        try:
            yield
        finally:
            worker.ends, self.config.eos_token_id = before, ends

    def lengths(self) -> dict[str, float]:
        """The same, with answers of one length."""
        with self.endless():
            return self.users()

    def users(self) -> dict[str, float]:
        """Conversations at once, one after another, and by the peers."""
        count, tokens = self.args.users, self.args.tokens * 2
        questions = [conversation(3, number, pictures=False) for number in range(count)]
        rates: dict[str, list[float]] = {
            "one after another": [], "generate": [], "at once": [], "peer": []
        }  # fmt: skip
        waits: list[float] = []
        lengths: list[int] = []
        text = self.text_model()
        for run in range(self.args.repeats):
            begun = time.perf_counter()
            plain = sum(len(self.plain(question, tokens)) for question in questions)
            rates["generate"].append(plain / (time.perf_counter() - begun))
            self.engine.cache.clear()
            begun = time.perf_counter()
            alone = sum(self.tokens_of(question, tokens) for question in questions)
            rates["one after another"].append(alone / (time.perf_counter() - begun))
            self.engine.cache.clear()
            made, firsts, took = self.together(questions, tokens)
            rates["at once"].append(sum(made) / took)
            waits += firsts
            lengths += made
            if run == 0 or rates["peer"]:
                try:
                    begun = time.perf_counter()
                    found = sum(self.batched(text, questions, tokens))
                    rates["peer"].append(found / (time.perf_counter() - begun))
                except Exception as error:
                    print(f"generate_batch failed: {error!r}", file=sys.stderr)
        asked = self.engine.count_tokens(to_conversation(questions[0]))
        report = {
            "tokens of a prompt": asked,
            "tokens of an answer": statistics.mean(lengths),
            "generate one after another, tokens/s": statistics.median(rates["generate"]),
            "one after another, tokens/s": statistics.median(rates["one after another"]),
            f"{count} at once, tokens/s": statistics.median(rates["at once"]),
            "p50 time to first token, s": statistics.median(waits),
            "p95 time to first token, s": sorted(waits)[int(0.95 * (len(waits) - 1))],
        }
        if rates["peer"]:
            report[f"generate_batch of {count}, tokens/s"] = statistics.median(rates["peer"])
        for other in ("generate", "one after another"):
            report[f"at once : {other}"] = statistics.median(
                fast / slow for fast, slow in zip(rates["at once"], rates[other], strict=True)
            )
        return report

    def tokens_of(self, messages: list[BaseMessage], tokens: int) -> int:
        """Ask alone; how many tokens came."""
        usage = self.chat.invoke(messages, max_tokens=tokens).usage_metadata
        return int((usage or {})["output_tokens"])

    def together(
        self, questions: list[list[BaseMessage]], tokens: int
    ) -> tuple[list[int], list[float], float]:
        """Ask all at once; the tokens of each, the time to the first of each, and of all."""
        made = [0] * len(questions)
        firsts = [0.0] * len(questions)
        barrier = threading.Barrier(len(questions) + 1)

        def ask(number: int) -> None:
            barrier.wait()
            begun = time.perf_counter()
            for chunk in self.chat.stream(questions[number], max_tokens=tokens):
                firsts[number] = firsts[number] or time.perf_counter() - begun
                if chunk.usage_metadata:
                    made[number] = chunk.usage_metadata["output_tokens"]

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(questions))]
        for thread in threads:
            thread.start()
        barrier.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        return made, firsts, time.perf_counter() - begun

    # ---- around the model ------------------------------------------------------------------

    def overhead(self) -> dict[str, float]:
        """What the LangChain side costs, with an engine that answers at once."""
        words = 1000
        model = ChatMMAgent(engine=Instant(words))
        brief = ChatMMAgent(engine=Instant(1))
        engine, sampling = Instant(words), Sampling()
        asked = [HumanMessage("Hello")]
        question = to_conversation(asked)
        for _ in range(20):
            brief.invoke(asked)

        def busy(work: Callable[[], Any], times: int) -> float:
            # The time of this thread alone: what others do on the machine is no overhead.
            spent = []
            for _ in range(times):
                begun = time.thread_time()
                work()
                spent.append(time.thread_time() - begun)
            return statistics.median(spent)

        call = busy(lambda: brief.invoke(asked), 200)
        bare = busy(lambda: list(engine.generate(question, sampling)), 10)
        stream = busy(lambda: list(model.stream(asked)), 10)
        return {
            "overhead, ms a call": 1000 * call,
            "overhead, ms a streamed token": 1000 * (stream - bare) / words,
        }


class Instant(EchoEngine):
    """An engine that answers at once."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self._words = words

    def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        adapter: str | None = None,
        form: Form | None = None,
    ) -> Iterator[Chunk]:
        """Words, as fast as they can be taken."""
        for _ in range(self._words):
            yield Chunk("word ")
        yield Chunk("", "stop", Usage(1, self._words))


LOADING = """
import resource, sys, time
import torch, transformers  # noqa
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa
from mmagent import ChatMMAgent
from mmagent.models import resolve_model
resolve_model(sys.argv[1])
def resident():
    fields = open("/proc/self/statm").read().split()
    return int(fields[1]) * resource.getpagesize()
before = resident()
begun = time.perf_counter()
model = ChatMMAgent(model=sys.argv[1], max_tokens=16, temperature=0)
engine = model.load()
loaded = time.perf_counter() - begun
for number in range(4):
    model.invoke(f"Tell me story {number}")
state = engine.state()
print(loaded, resident() - before, state["weights"], state["remembered"]["max_bytes"])
"""


def loading(model: str) -> dict[str, float]:
    """Seconds to load (with the files in the system's cache), and memory, in its own process."""
    made = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOADING, model],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(done.stderr[-400:], file=sys.stderr)
            return {}
        made = [float(number) for number in done.stdout.split()[-4:]]
    took, memory, weights, budget = made
    return {
        "loading, s": took,
        "weights, MB": weights / 1e6,
        "memory of the model, MB": memory / 1e6,
        "memory : weights + cache budget": memory / (weights + budget),
        "memory : weights": memory / weights,
    }


def machine() -> str:
    """The machine, in words."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    words = [f"{torch.get_num_threads()} threads of {os.cpu_count()} {platform.machine()} cores"]
    return (
        f"{', '.join(words)}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    )


def table(report: dict[str, dict[str, float]], about: dict[str, Any]) -> str:
    """A page of Markdown."""
    lines = [
        "# How fast the chat model is",
        "",
        "Made by `make bench-chat`; see `benchmarks/chat.py` for what is measured and how.",
        "",
        f"Machine: {about['machine']}. Model: {about['model']}, {about['dtype']}, greedy. "
        f"{about['turns']} turns with three pictures; {about['users']} users; "
        f"medians of {about['repeats']}.",
        "",
    ]
    for part, found in report.items():
        lines += [f"## {part}", "", "| what | measured | target |", "|---|---:|---|"]
        for name, value in found.items():
            target = ""
            if name in TARGETS:
                word, limit = TARGETS[name]
                met = value <= limit if word == "at most" else value >= limit
                target = f"{word} {limit:g}: {'met' if met else '**missed**'}"
            lines.append(f"| {name} | {value:.3g} | {target} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure everything, print the table; write it and the numbers where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny, or a folder")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32, help="of an answer in a conversation")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default="turns,stream,users,lengths,overhead,loading")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    parts = {
        "turns": "Many turns",
        "stream": "One stream",
        "users": "Many users",
        "lengths": f"Many users, with answers of {2 * args.tokens} tokens each",
        "overhead": "Around the model",
        "loading": "Loading",
    }
    wanted = args.parts.split(",")
    if unknown := set(wanted) - set(parts):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    bench = Bench(args)
    report: dict[str, dict[str, float]] = {}
    for part in wanted:
        report[parts[part]] = loading(args.model) if part == "loading" else getattr(bench, part)()
        print(f"{part}: {json.dumps(report[parts[part]], indent=1)}", file=sys.stderr)
    about = {
        "machine": machine(),
        "model": args.model,
        "dtype": bench.engine.state()["dtype"],
        "turns": args.turns,
        "users": args.users,
        "tokens": args.tokens,
        "repeats": args.repeats,
    }
    page = table(report, about)
    print(page)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**about, "results": report}, indent=1) + "\n", "utf-8")
    if args.table is not None:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
