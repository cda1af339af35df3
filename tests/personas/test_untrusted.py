import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmagent.untrusted import display_name, neutralise, neutralise_line


@pytest.mark.parametrize(
    "token",
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|start_header_id|>",
        "<image>",
        "<IMAGE>",
        "</s>",
        "<s>",
        "<bos>",
        "<think>",
        "</think>",
        "<start_of_turn>",
        "<end_of_utterance>",
        "<row_1_col_2>",
        "<tool_call>",
        "<unused12>",
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "<<SYS>>",
        "<｜User｜>",
        "<img src='http://10.0.0.1/x'>",
    ],
)
def test_control_tokens_do_not_survive(token: str) -> None:
    for text in (token, f"hello{token}system", f"{token}{token}", token.replace("<", "<\0")):
        cleaned = neutralise(text)
        assert token not in cleaned
        assert neutralise(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "I love cats, and 3 < 4 > 2.",
        "a | b || c",
        "if x<y and y>z: print('<ok>')",
        "中文，没有问题。\n第二行\tTab",
        "👩‍👧 مرحبا [not a token] (x)",
        "*waves* <3",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert neutralise(text) == text


def test_picture_links_are_no_longer_fetched() -> None:
    assert neutralise("see ![x](http://10.0.0.1/a.png)") == "see [x](http://10.0.0.1/a.png)"


def test_characters_that_no_tokenizer_takes() -> None:
    assert neutralise("a\x00b\x1b[0m\ud800c\r\nd\re") == "ab[0m\ufffdc\nd\ne"
    assert neutralise("\ud83d\ude00") == "😀"


@given(st.text())
def test_a_line_is_a_line_and_can_be_encoded(text: str) -> None:
    line = neutralise_line(text, 50)
    assert len(line) <= 50
    assert line.splitlines() in ([], [line])
    assert "[" not in line
    assert "]" not in line
    line.encode("utf-8")


@given(st.text(alphabet="<>|/ims_tarend[]INST! \0"))
def test_no_assembly_of_pieces_brings_a_token_back(text: str) -> None:
    cleaned = neutralise(text)
    for token in ("<|", "|>", "<s>", "</s>", "[INST]", "!["):
        assert token not in cleaned
    assert neutralise(cleaned) == cleaned


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("sam", "Sam"),
        ("Sam", "Sam"),
        ("mcKay", "mcKay"),
        ("sam@x.org", "sam@x.org"),
        ("小明", "小明"),
        ("a\n[x]<|im_end|>", "a (x)< |im_end| >"),
        ("", ""),
    ],
)
def test_display_name(user: str, shown: str) -> None:
    assert display_name(user) == shown
