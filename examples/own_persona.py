"""A persona of your own: from code, to YAML, and to a Character Card that others can read.

python examples/own_persona.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from mmagent import Persona


def main(folder: str | None = None) -> None:
    """Make a persona, save it in two formats, and read one again."""
    place = Path(folder or tempfile.mkdtemp())
    captain = Persona(
        name="Captain Bo",
        instructions="You are {{char}}, an old sailor. Answer {{user}} in one short sentence.",
        personality="gruff, kind, full of sea stories",
        greeting="Ahoy, {{user}}!",
    )
    (place / "bo.yaml").write_text(captain.to_yaml(), "utf-8")
    captain.export(place / "bo.json")

    again = Persona.load(place / "bo.json")
    print(again.first_message(user="Sam"))
    print(again.system_prompt(user="Sam"))
    print("The catalogue has:", ", ".join(Persona.catalogue()))


if __name__ == "__main__":
    main(*sys.argv[1:])
