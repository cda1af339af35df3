from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmagent.context.colours import colours_of
from mmagent.context.ledger import ImageLedger, ShownPicture


def shown(message: str, place: int = 0, **about: object) -> ShownPicture:
    return ShownPicture(
        0, f"{message}-{place}".ljust(64, "0"), message=message, place=place, **about
    )


def test_numbers_are_given_once_and_outlive_the_messages() -> None:
    ledger = ImageLedger().merged([shown("m1"), shown("m1", 1), shown("m2", said="A cat.")])
    assert [p.number for p in ledger.pictures] == [1, 2, 3]
    # The first messages are gone, and an answer with them; a new picture has come.
    later = ledger.merged([shown("m2"), shown("m5")])
    assert [(p.number, p.message) for p in later.pictures] == [
        (1, "m1"), (2, "m1"), (3, "m2"), (4, "m5"),
    ]  # fmt: skip
    assert later.get(3).said == "A cat."
    assert later.lines(["m5"]) == [f"picture 4 ({later.get(4).id[:8]})"]


@given(st.lists(st.lists(st.integers(0, 8), max_size=6), max_size=6))
def test_whatever_messages_are_still_there_no_number_changes(windows: list[list[int]]) -> None:
    ledger = ImageLedger()
    numbers: dict[str, int] = {}
    for window in windows:
        ledger = ledger.merged([shown(f"m{n}") for n in dict.fromkeys(window)])
        for picture in ledger.pictures:
            assert numbers.setdefault(picture.message, picture.number) == picture.number
        assert [p.number for p in ledger.pictures] == list(range(1, len(ledger) + 1))


def test_it_survives_a_checkpoint() -> None:
    ledger = ImageLedger().merged([shown("m1", caption="my [cat]\n!", colours={"red": 0.5})])
    assert ImageLedger.from_data(ledger.as_data()) == ledger
    assert ImageLedger.from_data(None) == ImageLedger()
    # A caption stays on its line and closes no block.
    assert ledger.get(1).line().endswith(": my (cat) !")


def test_colours_by_name() -> None:
    for name in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white"):
        assert list(colours_of(Image.new("RGB", (50, 40), name))) == [name]
    assert list(colours_of(Image.new("RGB", (9, 9), "saddlebrown"))) == ["brown"]
    assert list(colours_of(Image.new("L", (9, 9), 128))) == ["grey"]
    half = Image.new("RGB", (40, 40), "white")
    half.paste((255, 0, 0), (0, 0, 16, 40))
    assert list(colours_of(half)) == ["white", "red"]
