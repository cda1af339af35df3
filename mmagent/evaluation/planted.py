"""What is planted in a conversation, and what is asked about it later.

Three facts about the persona stand in its description, three about the user are told in the first
turns, and a few things nobody ever tells. Everything else is small talk. English and Chinese.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmagent.personas.persona import Persona

__all__ = ["Probe", "facts_told", "plant", "probes", "small_talk", "unanswerable"]

Kind = Literal["name", "persona", "user"]


@dataclass(frozen=True)
class Probe:
    """A question whose answer is known.

    Attributes:
        kind: Whose fact it is; "name" is the persona's.
        key: Which fact.
        questions: Several wordings.
        accepted: Answers that are right.
        statement: The fact as a sentence of the persona's or the user's own, for an NLI model.
        contradiction: A pattern with one group: what is claimed of the fact.
    """

    kind: Kind
    key: str
    questions: tuple[str, ...]
    accepted: tuple[str, ...]
    statement: str = ""
    contradiction: str = ""


_PERSONA = {
    "en": (
        ("home", "{{char}} lives in Lisbon.", "I live in Lisbon.", ("Lisbon",),
         ("Where do you live?", "Which city do you live in?"), r"\bi live in (?:the )?(\w+)"),
        ("pet", "{{char}} has a parrot named Bruno.", "I have a parrot named Bruno.", ("Bruno",),
         ("What is your pet called?", "What is the name of your pet?"),
         r"\b(?:parrot|pet)(?: is)? (?:named|called) (\w+)"),
        ("colour", "{{char}}'s favourite colour is violet.", "My favourite colour is violet.",
         ("violet",), ("What is your favourite colour?", "Which colour do you like best?"),
         r"\bmy favou?rite colou?r is (\w+)"),
    ),
    "zh": (
        ("home", "{{char}}住在里斯本。", "我住在里斯本。", ("里斯本",),
         ("你住在哪里？", "你住在哪个城市？"), r"我住在(\w{2,4})"),
        ("pet", "{{char}}有一只叫布鲁诺的鹦鹉。", "我有一只叫布鲁诺的鹦鹉。", ("布鲁诺",),
         ("你的宠物叫什么？", "你的鹦鹉叫什么名字？"), r"叫(\w{2,4})的鹦鹉"),
        ("colour", "{{char}}最喜欢的颜色是紫色。", "我最喜欢的颜色是紫色。", ("紫",),
         ("你最喜欢什么颜色？", "你喜欢哪种颜色？"), r"我最喜欢的颜色是(\w)"),
    ),
}  # fmt: skip
_USER = {
    "en": (
        ("locker", "My locker number is 482.", ("482",),
         ("What is my locker number?", "Which locker is mine?"), r"locker number is (\w+)"),
        ("sister", "My sister is called Freya.", ("Freya",),
         ("What is my sister called?", "What's my sister's name?"),
         r"\byour sister is (?:called|named) (\w+)"),
        ("allergy", "I am allergic to walnuts.", ("walnut",),
         ("What am I allergic to?", "What do you remember about my allergies?"),
         r"\byou are allergic to (\w+)"),
    ),
    "zh": (
        ("locker", "我的柜子号码是482。", ("482",), ("我的柜子号码是多少？",), r"柜子号码是(\d+)"),
        ("sister", "我妹妹叫小芳。", ("小芳",), ("我妹妹叫什么？",), r"你妹妹叫(\w{2})"),
        ("allergy", "我对核桃过敏。", ("核桃",), ("我对什么过敏？",), r"你对(\w{2})过敏"),
    ),
}  # fmt: skip
_NAME = {
    "en": ("What is your name?", "What was your name again?"),
    "zh": ("你叫什么名字？", "你是谁？"),
}
_UNANSWERABLE = {
    "en": ("What is my blood type?", "What is my cousin called?", "What is my phone number?",
           "How tall am I?"),
    "zh": ("我是什么血型？", "我表弟叫什么？", "我的电话号码是多少？", "我有多高？"),
}  # fmt: skip
_TALK = {
    "en": (
        "The weather was lovely today, so we walked along the river until it got dark and cold.",
        "I had soup for lunch, and afterwards I fell asleep in the big chair by the window.",
        "The train was late again this morning, and I read half of a long book on the platform.",
        "We cleaned the whole kitchen yesterday, and now even the oven looks like new again.",
        "A neighbour brought us some bread this evening, still warm, straight from the oven.",
        "I watched the news for an hour, but there was nothing in it that I had not heard before.",
        "Tomorrow I want to get up early and plant a few flowers in front of the house.",
        "There was music in the street all night, and in the end we went down and danced.",
        "I tried to repair the old radio, but there was one screw left when I was done.",
        "The shop on the corner was closed, so I walked all the way to the market instead.",
        "My phone was empty the whole afternoon, and it was quieter than it has been for weeks.",
        "We played cards until midnight, and I lost nearly every game that we played.",
        "I found an old coat in the cellar, and there was a tram ticket in one of the pockets.",
        "It snowed a little in the morning, but by noon everything had melted away again.",
        "I am learning to bake, and my second cake was already much better than the first.",
        "The bus was full this morning, so I took the bicycle and was even faster that way.",
        "Good morning! How are you today?",
        "Tell me something nice, please.",
        "What do you think one should do on a rainy day?",
        "Thank you, that was kind of you.",
    ),
    "zh": (
        "今天天气很好，我们沿着河边走了很久，直到天黑才回家。",
        "午饭我喝了汤，然后在窗边的大椅子上睡着了。",
        "今天早上火车又晚点了，我在站台上看了半本书。",
        "昨天我们把厨房全部打扫了一遍，现在像新的一样。",
        "邻居傍晚送来了刚出炉的面包，还是热的。",
        "明天我想早点起床，在屋前种几棵花。",
        "街上整晚都有音乐，最后我们也下楼跳舞了。",
        "街角的商店关门了，所以我一直走到了市场。",
        "早上好！你今天怎么样？",
        "谢谢你，你真好。",
    ),
}  # fmt: skip


def _language(language: str) -> str:
    return "zh" if language.lower().startswith("zh") else "en"


def plant(persona: Persona) -> Persona:
    """Return the persona with three facts more in its description."""
    facts = _PERSONA[_language(persona.language)]
    text = " ".join([persona.description.rstrip(), *(fact[1] for fact in facts)]).strip()
    return persona.model_copy(update={"description": text})


def probes(persona: Persona) -> list[Probe]:
    """Return the questions about the persona's name and the planted facts."""
    language = _language(persona.language)
    name = persona.spoken_name
    claims = r"\bmy name is (\w+)" if language == "en" else r"我(?:叫|是)(\w{2,3})[。，！]"
    statement = f"My name is {name}." if language == "en" else f"我叫{name}。"
    accepted = (name, name.split()[-1])
    found = [Probe("name", "name", _NAME[language], accepted, statement, claims)]
    found += [
        Probe("persona", key, asked, accepted, statement, claim)
        for key, _, statement, accepted, asked, claim in _PERSONA[language]
    ]
    found += [
        Probe("user", key, asked, accepted, told, claim)
        for key, told, accepted, asked, claim in _USER[language]
    ]
    return found


def facts_told(language: str) -> list[str]:
    """Return what the user tells of themselves in the first turns."""
    return [fact[1] for fact in _USER[_language(language)]]


def unanswerable(language: str) -> tuple[str, ...]:
    """Return questions whose answer nobody told."""
    return _UNANSWERABLE[_language(language)]


def small_talk(language: str, number: int) -> str:
    """Return the n-th line of small talk; after the last one they begin again."""
    lines = _TALK[_language(language)]
    return lines[number % len(lines)]
