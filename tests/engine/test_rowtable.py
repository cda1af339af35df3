"""The table of rows that decode together: nothing of anybody's is lost, or seen by another."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from langchain_core.messages import HumanMessage

from mmagent.engine import Sampling
from mmagent.engine.rowcache import BatchCache, RowCache, attend_rows
from mmagent.engine.rowtable import RowTable
from mmagent.engine.transformers_engine import TransformersEngine
from mmagent.messages import to_conversation

LAYERS, HEADS, SHARED, SIZE = 2, 6, 3, 8


def numbers(heads: int, tokens: int) -> torch.Tensor:
    return torch.randn(1, heads, tokens, SIZE)


def row(tokens: int) -> RowCache:
    cache = RowCache()
    for layer in range(LAYERS):
        cache.update(numbers(SHARED, tokens), numbers(SHARED, tokens), layer)
    return cache


def step(table, caches, *, window=None, fail_after=LAYERS):
    """One token for each, in every layer; what attention made, in the order of `caches`."""
    order = table.seat(caches)
    sitting = caches if order is None else [caches[number] for number in order]
    batch = BatchCache(sitting, None if order is None else table)
    module = SimpleNamespace(sliding_window=window)
    made = []
    for layer in range(fail_after):
        new = [torch.cat([numbers(SHARED, 1) for _ in caches]) for _ in "kv"]
        keys, values = batch.update(*new, layer)
        query = torch.cat([numbers(HEADS, 1) for _ in caches])
        found, _ = attend_rows(module, query, keys, values, None, scaling=SIZE**-0.5)
        wanted = [
            attend_alone(query[n : n + 1], *cache.grown[layer].known(), window)
            for n, cache in enumerate(sitting)
        ]
        torch.testing.assert_close(found, torch.cat(wanted))
        made.append((new, order or range(len(caches))))
    return made


def attend_alone(query, keys, values, window):
    if window:
        keys, values = keys[:, :, -window:], values[:, :, -window:]
    keys, values = (x.repeat_interleave(HEADS // SHARED, dim=1) for x in (keys, values))
    scores = (query @ keys.transpose(2, 3) * SIZE**-0.5).softmax(-1)
    return (scores @ values).transpose(1, 2).reshape(1, 1, HEADS, SIZE)


@pytest.mark.parametrize("window", [None, 4, 100])
@pytest.mark.parametrize("lengths", [(5, 5, 5), (3, 9, 5), (9, 3)])
def test_attention_at_the_table_is_that_of_each_row(lengths, window):
    torch.manual_seed(0)
    table = RowTable()
    caches = [row(length) for length in lengths]
    assert table.seat(caches) is not None
    for _ in range(3):
        step(table, caches, window=window)
    assert [cache.get_seq_length() for cache in caches] == [length + 3 for length in lengths]


@pytest.mark.parametrize("seed", range(8))
def test_rows_come_and_go_and_keep_their_numbers(seed):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    table = RowTable()
    caches = [row(draw.randint(1, 60)) for _ in range(7)]
    wanted = [[layer.known() for layer in cache.grown] for cache in caches]
    wanted = [[[x.clone() for x in pair] for pair in layers] for layers in wanted]

    def check():
        for cache, layers in zip(caches, wanted, strict=True):
            for layer, pair in zip(cache.grown, layers, strict=True):
                assert all(map(torch.equal, layer.known(), pair))

    for _ in range(60):
        present = draw.sample(range(7), draw.randint(1, 7))
        event = draw.choice(["step", "step", "step", "fail", "cut", "alone", "leave", "clear"])
        some = present[0]
        if event in ("step", "fail"):
            broken = event == "fail"
            made = step(table, [caches[n] for n in present], fail_after=1 if broken else LAYERS)
            for layer, (new, order) in enumerate(made):
                for place, number in enumerate(order):
                    pair = wanted[present[number]][layer]
                    for part in (0, 1):
                        pair[part] = torch.cat([pair[part], new[part][place : place + 1]], 2)
            if broken:  # in the middle of the layers: back to what all of them have
                for n in present:
                    length = caches[n].get_seq_length(LAYERS - 1)
                    caches[n].cut(length)
                    wanted[n] = [[x[:, :, :length] for x in pair] for pair in wanted[n]]
        elif event == "cut":
            length = draw.randint(1, caches[some].get_seq_length())
            caches[some].cut(length)
            wanted[some] = [[x[:, :, :length] for x in pair] for pair in wanted[some]]
        elif event == "alone":  # reads on by itself, perhaps beyond its seat
            for layer in range(LAYERS):
                new = [numbers(SHARED, draw.randint(1, 90))] * 2
                caches[some].update(*new, layer)
                pair = wanted[some][layer]
                wanted[some][layer] = [torch.cat([x, n], 2) for x, n in zip(pair, new, strict=True)]
            length = min(x[0].shape[2] for x in wanted[some])
            caches[some].cut(length)
            wanted[some] = [[x[:, :, :length] for x in pair] for pair in wanted[some]]
        elif event == "leave":
            table.release(caches[some])
        else:
            table.clear()
        check()


def test_who_leaves_takes_no_more_than_its_own():
    table = RowTable()
    caches = [row(40) for _ in range(3)]
    step(table, caches)
    seated = [cache.grown[0].known()[0].untyped_storage() for cache in caches]
    assert len({storage.data_ptr() for storage in seated}) == 1
    table.release(caches[0])
    own = caches[0].grown[0].known()[0].untyped_storage()
    assert own.data_ptr() != seated[0].data_ptr()
    assert own.nbytes() < seated[0].nbytes() / 2
    copied = caches[1].copy(10)
    assert copied.grown[0].known()[0].untyped_storage().data_ptr() != seated[0].data_ptr()


def test_a_seat_has_nothing_left_of_who_sat_there():
    table = RowTable()
    caches = [row(9), row(9), row(9)]
    step(table, caches)
    for layer in caches[0].grown:
        layer.known()[0].fill_(float("nan"))
    table.release(caches[0])
    short = row(7)
    step(table, [*caches[1:], short])  # compares with attention that sees no padding


def test_nobody_sits_alone_or_beside_one_much_longer():
    table = RowTable()
    short, long = row(3), row(400)
    assert table.seat([short]) is None
    assert table.seat([short, row(4)]) == [0, 1]
    assert table.seat([short, long, row(4), row(5)]) is None
    step(table, [short, long, row(4), row(5)])


def test_answers_at_once_sit_at_the_table_and_are_those_alone(tiny_text_model, monkeypatch):
    engine = TransformersEngine(str(tiny_text_model))
    asked = ["Hi", "How are you today?", "Tell me about the weather"]

    def ask(text):
        sampling = Sampling(max_tokens=16, temperature=0)
        said = engine.generate(to_conversation([HumanMessage(text)]), sampling)
        return "".join(chunk.text for chunk in said)

    alone = [ask(text) for text in asked]
    seen: list[int] = []
    real = RowTable.append
    monkeypatch.setattr(
        RowTable,
        "append",
        lambda self, layer, *states: seen.append(len(states[0])) or real(self, layer, *states),
    )
    engine.cache.clear()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, asked)) == alone
    assert max(seen, default=0) >= 2
