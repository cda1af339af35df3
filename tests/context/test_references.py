import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmagent.context.ledger import ImageLedger, ShownPicture
from mmagent.context.references import Reference, resolve

LEDGER = ImageLedger().merged(
    [
        ShownPicture(0, "a" * 64, "Look at my cat", "A black cat.", message="m1"),
        ShownPicture(0, "b" * 64, "This is my red car", message="m2", colours={"red": 0.4}),
        ShownPicture(0, "c" * 64, "", "An apple.", message="m3", colours={"red": 0.5}),
        ShownPicture(0, "d" * 64, "我的狗", message="m4", colours={"green": 0.7, "white": 0.3}),
    ]
)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("What was in the second picture?", (2,)),
        ("the 3rd photo", (3,)),
        ("Describe picture 3 please", (3,)),
        ("image #1", (1,)),
        ("What is in the last picture?", (4,)),
        ("the most recent photo", (4,)),
        ("What about the previous picture?", (4,)),
        ("the picture before", (4,)),
        ("the second-to-last image", (3,)),
        ("the picture before the last one", (3,)),
        ("the last but two", (2,)),
        ("the first two pictures", (1, 2)),
        ("the last three photos", (2, 3, 4)),
        ("Compare both pictures", (1, 2, 3, 4)),
        ("all of my photos", (1, 2, 3, 4)),
        ("What is in this picture?", (4,)),
        ("the picture of my cat", (1,)),
        ("the photo with the apple", (3,)),
        ("my cat picture", (1,)),
        ("the red picture", (2,)),
        ("the picture that shows a car", (2,)),
        ("the green picture", (4,)),
        ("Of the pictures, is the green one nicer?", (4,)),
        ("Which picture was it, the first one?", (1,)),
        ("第二张图里有什么？", (2,)),
        ("第3张照片", (3,)),
        ("图2是什么", (2,)),
        ("上一张是什么？", (4,)),
        ("上上张呢", (3,)),
        ("最后一张", (4,)),
        ("倒数第二张图片", (3,)),
        ("红色的那张", (2,)),
        ("绿色那张是什么", (4,)),
        ("狗的照片", (4,)),
        ("那张狗的图", (4,)),
        ("这张图里有什么", (4,)),
        ("所有的图片", (1, 2, 3, 4)),
    ],
)
def test_what_words_mean(words: str, numbers: tuple[int, ...]) -> None:
    found = resolve(words, LEDGER)
    assert [(r.numbers, r.kind) for r in found] == [(numbers, "resolved")]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("Compare the first and the third picture.", [(1,), (3,)]),
        ("Is the 2nd or the 4th photo nicer?", [(2,), (4,)]),
        ("第一张和第三张有什么不同？", [(1,), (3,)]),
        ("第一张图比第二张亮吗？", [(1,), (2,)]),
        ("第一张图片、第二张哪个好看？", [(1,), (2,)]),
        ("前两张图有什么区别？", [(1, 2)]),
        ("最后三张照片里都有什么？", [(2, 3, 4)]),
        ("第二幅画里有什么？", [(2,)]),
        ("刚才那张图里有几个人？", [(4,)]),
        ("之前的那张照片是什么颜色？", [(4,)]),
    ],
)
def test_several_pictures_and_the_one_just_now(words: str, numbers: list[tuple[int, ...]]) -> None:
    found = resolve(words, LEDGER)
    assert [(r.numbers, r.kind) for r in found] == [(n, "resolved") for n in numbers]


@pytest.mark.parametrize(
    "words",
    [
        "Do you like pictures?",
        "I take the second one.",  # of whatever we talk about
        "the red one",
        "the second of May",
        "第二张票在哪儿？",
        "第一张票和第二张票在哪儿？",
        "the picture of the moon",  # shown elsewhere, perhaps: memory's to find
        "One moment, first things first.",
        "",
    ],
)
def test_what_means_no_picture(words: str) -> None:
    assert resolve(words, LEDGER) == ()


def test_one_means_a_picture_where_the_talk_is_of_pictures() -> None:
    assert resolve("And the second one?", LEDGER, before="What is in the first picture?") == (
        Reference("the second one", (2,)),
    )
    assert resolve("Is the red one nicer?", LEDGER, shown_now=[4])[0].numbers == (2,)


def test_the_picture_in_hand_is_neither_the_last_nor_the_previous() -> None:
    assert resolve("Is it like the last picture?", LEDGER, shown_now=[4])[0].numbers == (3,)
    assert resolve("和上一张一样吗？", LEDGER, shown_now=[4])[0].numbers == (3,)
    assert resolve("What is in this picture?", LEDGER, shown_now=[4]) == ()


def test_words_that_fit_several_pictures_are_ambiguous() -> None:
    more = LEDGER.merged([ShownPicture(0, "e" * 64, "A cat on a roof", message="m5")])
    assert resolve("Show me the cat picture", more) == (
        Reference("the cat picture", (1, 5), "ambiguous"),
    )
    assert resolve("the picture of the cat on the roof", more)[0].numbers == (5,)
    # The same picture shown twice is one picture.
    again = LEDGER.merged([ShownPicture(0, "a" * 64, "my cat again", message="m5")])
    assert resolve("the cat picture", again) == (Reference("the cat picture", (5,)),)


def test_there_are_not_so_many() -> None:
    assert resolve("the seventh picture", LEDGER) == (Reference("seventh picture", (), "missing"),)
    assert resolve("第十二张图", LEDGER)[0].kind == "missing"
    assert resolve("the first nine pictures", LEDGER)[0].kind == "missing"


def test_who_tells_of_a_picture_is_not_asked() -> None:
    assert resolve("I sold picture 12 last year.", LEDGER) == ()
    assert resolve("My picture 12 is nice. The dog picture was fun.", LEDGER) == ()
    assert resolve("This is the ninth picture of the day. Nice?", LEDGER, shown_now=[4]) == ()


def test_several_references_in_order() -> None:
    found = resolve("Is the first picture like picture 3, or like the green picture?", LEDGER)
    assert [r.numbers for r in found] == [(1,), (3,), (4,)]


@given(st.text(max_size=80), st.text(max_size=40))
def test_any_words_come_to_an_end(words: str, before: str) -> None:
    for reference in resolve(words, LEDGER, before=before):
        assert all(1 <= number <= 4 for number in reference.numbers)
    assert resolve(words, ImageLedger()) == ()
