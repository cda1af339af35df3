"""Many requests of one model: each gets the answer it would get alone, and none waits for ever."""

from __future__ import annotations

import asyncio
import base64
import functools
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_models
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from mmagent import ChatMMAgent
from mmagent.engine import Form, Sampling
from mmagent.engine.decoding import rows_agree
from mmagent.engine.transformers_engine import TransformersEngine
from mmagent.errors import GenerationError, ModelBusyError
from mmagent.messages import to_conversation

GREEDY = Sampling(max_tokens=8, temperature=0)


@pytest.fixture
def shot(picture):
    def message(text: str, *colors: str) -> HumanMessage:
        images = [
            {
                "type": "image",
                "base64": base64.b64encode(picture(color)).decode(),
                "mime_type": "image/png",
            }
            for color in colors
        ]
        return HumanMessage([*images, {"type": "text", "text": text}])

    return message


def answer(engine, messages, sampling=GREEDY, **options):
    chunks = list(engine.generate(to_conversation(messages), sampling, **options))
    return "".join(chunk.text for chunk in chunks), chunks[-1]


def together(engine, asked):
    """Ask all at the same time; `asked` are the arguments of `answer`."""
    barrier = threading.Barrier(len(asked))

    def ask(arguments):
        barrier.wait()
        return answer(engine, *arguments[:2], **(arguments[2] if len(arguments) > 2 else {}))

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(ask, asked))


@pytest.fixture
def steps(monkeypatch):
    """How many rows each forward of an engine's model had: a list that grows."""

    def watch(engine, act=lambda rows, tokens: None):
        seen: list[tuple[int, int]] = []
        real = engine.model.forward

        @functools.wraps(real)  # `generate` asks for its parameters
        def forward(*args, **kwargs):
            shape = tuple(kwargs["input_ids"].shape)
            seen.append(shape)
            act(*shape)
            return real(*args, **kwargs)

        monkeypatch.setattr(engine.model, "forward", forward)
        return seen

    return watch


# ---- the same answers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["fastvlm", "idefics3", "gemma3", "qwen2_5_vl", "qwen3_vl", "paligemma"]
)
def test_answers_at_once_are_those_alone(architecture, tmp_path, shot, steps):
    folder = getattr(tiny_models, f"build_{architecture}")(tmp_path / architecture)
    engine = TransformersEngine(str(folder))
    # A long one, whose window slides; ones with pictures, of which one is known already.
    questions = [
        [HumanMessage("Hi")],
        [SystemMessage("You are kind. " * 8), shot("What is it?", "red")],
        [SystemMessage("You are kind. " * 8), shot("And these?", "red", "blue")],
        [HumanMessage("Tell me about the weather, please.")],
    ]
    expected = []
    for messages in questions:
        engine.cache.clear()
        expected.append(answer(engine, messages)[0])
    engine.cache.clear()
    seen = steps(engine)
    found = together(engine, [(messages, GREEDY) for messages in questions])
    assert [said for said, _ in found] == expected
    assert max(rows for rows, _ in seen) == len(questions)
    # And each goes on from what it knows.
    longer = [
        [*messages, AIMessage(said), HumanMessage("Why?")]
        for messages, said in zip(questions, expected, strict=True)
    ]
    found = together(engine, [(messages, GREEDY) for messages in longer])
    if architecture != "paligemma":
        assert all(last.usage.cache_read > 0 for _, last in found)
    for messages, (said, _) in zip(longer, found, strict=True):
        engine.cache.clear()
        assert answer(engine, messages)[0] == said


def test_every_request_has_settings_of_its_own(llava_engine):
    tell = [HumanMessage("Tell me about the weather")]
    whole = answer(llava_engine, tell, Sampling(max_tokens=40, temperature=0))[0]
    schema = Form(schema={"type": "object", "properties": {"a": {"type": "integer"}}})
    asked = [
        (tell, Sampling(max_tokens=40, temperature=0)),
        (tell, Sampling(max_tokens=40, temperature=0, stop=(whole[7:11],))),
        (tell, Sampling(max_tokens=3, temperature=0)),
        (tell, Sampling(max_tokens=20, temperature=1.5, seed=1)),
        (tell, Sampling(max_tokens=20, temperature=1.5, seed=2)),
        (tell, Sampling(max_tokens=20, temperature=1.5, seed=1, top_k=5, min_p=0.01)),
        (tell, Sampling(max_tokens=20, temperature=0, repetition_penalty=5.0)),
        (tell, Sampling(max_tokens=40, temperature=0), {"form": schema}),
        (tell, Sampling(max_tokens=6, temperature=0, num_beams=3)),
        (tell, Sampling(max_tokens=6, temperature=0, logprobs=2)),
    ]
    alone = [answer(llava_engine, *a[:2], **(a[2] if len(a) > 2 else {})) for a in asked]
    assert len({said for said, _ in alone}) >= 8
    found = together(llava_engine, asked)
    assert [said for said, _ in found] == [said for said, _ in alone]
    assert [last.finish_reason for _, last in found] == [last.finish_reason for _, last in alone]
    assert found[1][1].finish_reason == "stop"
    assert found[2][1].usage.output_tokens == 3


def test_one_persona_is_read_once_by_requests_at_once(llava_engine):
    llava_engine.cache.clear()
    persona = SystemMessage("You are a kind companion who looks at pictures. " * 10)
    asked = [([persona, HumanMessage(f"{n} is my number")], GREEDY) for n in range(6)]
    found = together(llava_engine, asked)
    known = sorted(last.usage.cache_read for _, last in found)
    assert known[0] == 0
    assert all(count > 100 for count in known[1:])
    for (messages, _), (said, _) in zip(asked, found, strict=True):
        llava_engine.cache.clear()
        assert answer(llava_engine, messages)[0] == said


def test_sixty_four_threads(tiny_llava, shot):
    model = ChatMMAgent(model=tiny_llava, temperature=0, max_tokens=6)
    questions = [
        [SystemMessage("Be kind"), shot(f"What is {n % 8}?", *["red", "blue"][: n % 3])]
        for n in range(64)
    ]
    expected = [model.invoke(questions[n]).text for n in range(24)]  # then they repeat
    barrier = threading.Barrier(64)

    def ask(n):
        barrier.wait()
        if n % 2:
            return "".join(chunk.text for chunk in model.stream(questions[n]))
        return model.invoke(questions[n]).text

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(64)))
    assert found == [expected[n % 24] for n in range(64)]
    assert model.load().state()["requests"]["active"] == 0


async def test_batches_use_shared_steps(tiny_llava, steps):
    model = ChatMMAgent(model=tiny_llava, temperature=0, max_tokens=12)
    engine = model.load()
    questions = [f"Question {n}" for n in range(9)]
    expected = [model.invoke(question).text for question in questions]
    seen = steps(engine)
    assert [said.text for said in model.batch(questions)] == expected
    assert max(rows for rows, _ in seen) > 6  # more than the cores would give threads
    seen.clear()
    assert [said.text for said in await model.abatch(questions)] == expected
    assert max(rows for rows, _ in seen) > 6
    few = model.batch(questions, config={"max_concurrency": 2})
    assert [said.text for said in few] == expected
    assert [m.text for m in model.bind(max_tokens=12).batch(questions)] == expected


# ---- joining and leaving -------------------------------------------------------------------


def test_requests_join_and_leave_between_tokens(llava_engine, steps):
    seen = steps(llava_engine)
    long = llava_engine.generate(
        to_conversation([HumanMessage("A long story")]), Sampling(max_tokens=200, temperature=0)
    )
    next(long)
    assert answer(llava_engine, [HumanMessage("Quick")])[1].usage.output_tokens == 8
    shapes = list(seen)
    long.close()
    assert (2, 1) in shapes
    assert shapes.count((1, 1)) + shapes.count((2, 1)) < 190  # the long one was not over
    assert llava_engine.state()["requests"]["active"] == 0


def test_a_long_prompt_does_not_hold_others_up(tiny_llava, steps):
    engine = TransformersEngine(str(tiny_llava))
    running = engine.generate(
        to_conversation([HumanMessage("Go on")]), Sampling(max_tokens=400, temperature=0)
    )
    next(running)
    seen = steps(engine)
    long = [HumanMessage("Many words about the weather today. " * 60)]
    said, last = answer(engine, long)
    assert last.usage.input_tokens > 700
    pieces = [at for at, (_, tokens) in enumerate(seen) if tokens > 1]
    assert len(pieces) >= 3
    assert all(seen[at + 1][1] == 1 for at in pieces)  # after each piece a token for all
    running.close()
    engine.cache.clear()
    assert answer(engine, long)[0] == said  # in longer pieces, when nobody waits


def test_pieces_of_a_prompt_end_outside_pictures(tiny_llava, shot, monkeypatch):
    from mmagent.engine import worker

    engine = TransformersEngine(str(tiny_llava))
    messages = [
        shot("What are these?", "red", "blue", "green"),
        AIMessage("Hm"),
        shot("x", "white"),
    ]
    whole = answer(engine, messages)[0]
    engine.cache.clear()
    monkeypatch.setattr(worker, "_LONG_PIECE", 10)
    monkeypatch.setattr(worker, "_PIECE", 10)
    assert answer(engine, messages)[0] == whole


def test_a_slow_consumer_stalls_nobody(llava_engine):
    slow = llava_engine.generate(
        to_conversation([HumanMessage("Slowly")]), Sampling(max_tokens=30, temperature=0)
    )
    next(slow)
    begun = time.monotonic()
    assert answer(llava_engine, [HumanMessage("Quick")])[0]
    assert time.monotonic() - begun < 20
    rest = list(slow)
    assert rest[-1].usage.output_tokens == 30


def test_a_full_queue_is_an_error_that_says_so(tiny_llava, steps):
    engine = TransformersEngine(str(tiny_llava), max_batch=1, max_queue=1)
    go = threading.Event()
    steps(engine, lambda rows, tokens: go.wait(20))
    conversation = to_conversation([HumanMessage("Hello")])
    with ThreadPoolExecutor(2) as pool:
        served = [pool.submit(answer, engine, [HumanMessage("Hello")]) for _ in range(2)]
        while sum(engine.state()["requests"][name] for name in ("active", "waiting")) < 2:
            time.sleep(0.01)
        with pytest.raises(ModelBusyError, match=r"1 answers .* 1 wait.*max_queue"):
            next(engine.generate(conversation, GREEDY))
        go.set()
        assert all(future.result()[0] for future in served)
    assert answer(engine, [HumanMessage("Hello")])[0]


def test_requests_are_served_in_the_order_they_came(tiny_llava, steps):
    engine = TransformersEngine(str(tiny_llava), max_batch=1)
    go = threading.Event()
    steps(engine, lambda rows, tokens: go.wait(20))
    order: list[int] = []

    def ask(number):
        answer(engine, [HumanMessage(f"{number}")])
        order.append(number)

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
        while sum(engine.state()["requests"][n] for n in ("active", "waiting")) <= number:
            time.sleep(0.005)
    go.set()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]


# ---- stopping ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cancel", "aclose", "break"])
async def test_an_answer_that_nobody_wants_frees_its_place(tiny_llava, way):
    model = ChatMMAgent(model=tiny_llava, temperature=0, max_tokens=1500, max_batch=1)
    engine = model.load()

    async def read(stream):
        async for _ in stream:
            pass

    stream = model.astream("A long story")
    await anext(stream)
    if way == "cancel":
        task = asyncio.create_task(read(stream))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif way == "aclose":
        await stream.aclose()
    else:
        async for _ in stream:
            break
        del stream
    for _ in range(500):
        if engine.state()["requests"]["active"] == 0:
            break
        await asyncio.sleep(0.01)
    assert engine.state()["requests"]["active"] == 0
    assert (await model.ainvoke("Hello", max_tokens=3)).text


async def test_a_cancelled_request_that_still_waits_is_never_worked_on(tiny_llava, steps):
    model = ChatMMAgent(model=tiny_llava, temperature=0, max_tokens=6, max_batch=1, max_queue=7)
    engine = model.load()
    go = threading.Event()
    seen = steps(engine, lambda rows, tokens: go.wait(20))
    first = asyncio.create_task(model.ainvoke("First"))
    while engine.state()["requests"]["active"] < 1:
        await asyncio.sleep(0.005)
    second = asyncio.create_task(model.ainvoke("Second"))
    while engine.state()["requests"]["waiting"] < 1:
        await asyncio.sleep(0.005)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go.set()
    await first
    assert sum(tokens > 1 for _, tokens in seen) == 1


def test_time_spent_waiting_counts(tiny_llava, steps):
    engine = TransformersEngine(str(tiny_llava), max_batch=1)
    go = threading.Event()
    steps(engine, lambda rows, tokens: go.wait(20))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(answer, engine, [HumanMessage("First")])
        hurried = pool.submit(
            answer, engine, [HumanMessage("Hurry")], Sampling(max_tokens=5, timeout=0.05)
        )
        time.sleep(0.2)
        go.set()
        assert first.result()
        with pytest.raises(GenerationError, match=r"0\.05 seconds"):
            hurried.result()


def test_beams_let_others_advance(llava_engine, steps):
    conversation = to_conversation([HumanMessage("Go on")])
    running = llava_engine.generate(conversation, Sampling(max_tokens=300, temperature=0))
    next(running)
    seen = steps(llava_engine)
    answer(llava_engine, [HumanMessage("Search")], Sampling(max_tokens=5, num_beams=3))
    shapes = list(seen)
    running.close()
    searched = [at for at, (rows, tokens) in enumerate(shapes) if (rows, tokens) == (3, 1)]
    assert searched
    assert (1, 1) in shapes[searched[0] : searched[-1]]


# ---- failing -------------------------------------------------------------------------------


def test_a_row_that_fails_takes_no_other_with_it(llava_engine, monkeypatch):
    from mmagent.engine import worker

    real = worker.step_rows

    def step(model, rows, table):
        if any(row.sampling.max_tokens == 9 for row in rows):
            raise RuntimeError("a bad row")
        return real(model, rows, table)

    asked = [([HumanMessage(f"{n} cats")], GREEDY) for n in range(3)]
    expected = [answer(llava_engine, *a)[0] for a in asked]
    monkeypatch.setattr(worker, "step_rows", step)
    barrier = threading.Barrier(4)

    def ask(arguments):
        barrier.wait()
        try:
            return answer(llava_engine, *arguments)[0]
        except GenerationError as error:
            return str(error)

    bad = ([HumanMessage("Bad")], Sampling(max_tokens=9, temperature=0))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, [*asked, bad]))
    assert found[:3] == expected
    assert "RuntimeError: a bad row" in found[3]


def test_a_step_that_breaks_off_between_layers_is_taken_again(llava_engine, monkeypatch):
    from mmagent.engine import rowcache

    asked = [([HumanMessage(f"{n} dogs")], GREEDY) for n in range(3)]
    expected = [answer(llava_engine, *a)[0] for a in asked]
    llava_engine.cache.clear()
    real = rowcache.BatchCache.update
    broken = []

    def update(self, keys, values, layer, *args, **kwargs):
        if len(self._rows) == 3 and layer == 1 and len(broken) < 2:
            broken.append(1)
            raise RuntimeError("out of luck")
        return real(self, keys, values, layer, *args, **kwargs)

    monkeypatch.setattr(rowcache.BatchCache, "update", update)
    assert [said for said, _ in together(llava_engine, asked)] == expected
    assert broken


# ---- what cannot share steps ---------------------------------------------------------------


def test_a_model_whose_rows_would_differ_takes_turns(tiny_llava, monkeypatch):
    from mmagent.engine import rowcache, worker

    engine = TransformersEngine(str(tiny_llava))
    assert rows_agree(engine.model, 256)
    real = rowcache.BatchCache.update

    def update(self, keys, values, layer, *args, **kwargs):
        return real(self, keys + 1, values * 1.1, layer, *args, **kwargs)

    monkeypatch.setattr(rowcache.BatchCache, "update", update)
    assert not rows_agree(engine.model, 256)
    monkeypatch.setattr(worker, "rows_agree", lambda model, width: False)
    monkeypatch.setattr(engine.model.config.text_config, "model_type", "unknown")
    asked = [([HumanMessage(f"{n} birds")], GREEDY) for n in range(3)]
    cold = TransformersEngine(str(tiny_llava), cache_bytes=0)
    monkeypatch.setattr(rowcache.BatchCache, "update", real)
    expected = [answer(cold, *a)[0] for a in asked]
    assert [said for said, _ in together(engine, asked)] == expected


def test_a_recurrent_model_takes_turns(tmp_path):
    folder = tiny_models.build_mamba(tmp_path / "mamba")
    engine = TransformersEngine(str(folder))
    assert engine.state()["batched"] is False
    assert engine.state()["reuse"] is False
    asked = [
        ([HumanMessage(f"{n} birds")], Sampling(max_tokens=8, temperature=2.0, seed=n))
        for n in range(3)
    ]
    expected = [answer(engine, *a)[0] for a in asked]
    assert len(set(expected)) == 3
    assert [said for said, _ in together(engine, asked)] == expected


def test_an_engine_that_nobody_holds_is_let_go(tiny_text_model):
    import gc
    import weakref

    engine = TransformersEngine(str(tiny_text_model))
    answer(engine, [HumanMessage("Hello")])
    reference = weakref.ref(engine)
    model = weakref.ref(engine.model)
    del engine
    for _ in range(100):
        gc.collect()
        if reference() is None and model() is None:
            break
        time.sleep(0.02)
    assert reference() is None
    assert model() is None


def test_a_program_ends_although_an_answer_is_half_read(tiny_text_model):
    code = (
        "import sys\n"
        "from mmagent import ChatMMAgent\n"
        "model = ChatMMAgent(model=sys.argv[1], max_tokens=2000, temperature=0)\n"
        "stream = model.stream('A long story')\n"
        "next(stream)\n"
        "print('read')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_text_model)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr


def test_a_mistake_of_the_scheduler_is_heard_of(tiny_text_model, monkeypatch):
    engine = TransformersEngine(str(tiny_text_model))
    with monkeypatch.context() as patch:
        patch.setattr(engine._scheduler, "_admit", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            answer(engine, [HumanMessage("Hello")])
    assert answer(engine, [HumanMessage("Hello")])[0]
