r"""Put the projector's words back on the language model's word vectors.

Stage A makes words easy to tell apart, and for that it bends the image tokens away from the words'
own vectors: what is read off them with a pseudo-inverse is right, and yet the language model, which
looks at them by products as attention does, finds little. `polish` puts that right by descent, on
new pictures; the tower stays as it is. The word that a cell says is to have the largest product of
all, for which it may be said louder than a mix of word vectors has it.

Half of the features are left out meanwhile, and of another picture some are mixed in: what is drawn
as the eye never saw it is seen less surely than all that it learned from, and words that are much
like all others ("top hat") are the loudest wherever something is doubtful.

    python -m mmagent.finetune.bundled.refit --weights FOLDER --gguf FILE --pictograms FILE
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout, mse_loss

from mmagent.finetune.bundled import together
from mmagent.finetune.bundled.eyesight import eyesight, opened, options
from mmagent.finetune.bundled.lexicon import GROUPS, IGNORE, Lexicon, labels_of, weights_of
from mmagent.finetune.bundled.sight import Draw, evenly, look, loud_scores_of, mixed, scores_of
from mmagent.finetune.bundled.tower import Projector, save_projector
from mmagent.models.assemble import picture_side

__all__ = ["Seen", "doubtful", "polish", "product_losses", "see"]

_KINDS = {"single": 0.33, "pair": 0.16, "several": 0.08, "count": 0.12, "screen": 0.23,
          "nothing": 0.05, "other": 0.03}  # fmt: skip
_BATCH, _RATE = 48, 4e-4
_DROP, _MIX = 0.5, 0.4  # of the features, and of another picture's at most
_CELLS = {"concept": 0.2, "side": 0.15, "colour": 0.15, "number": 0.15, "letter": 0.3}


@dataclass(frozen=True)
class Seen:
    """Pictures as the tower sees them, and what should be said of them.

    Attributes:
        features: float16 [P, T, F].
        words: how much of each word every cell should say, [P, T, W].
        labels: the word of every cell by group, [P, T], as from `labels_of`.
        things: the concept of the one kind of thing that a picture shows, or -100, [P].
        numbers: how many things it shows, or -100, [P].
    """

    features: Tensor
    words: Tensor
    labels: dict[str, Tensor]
    things: Tensor
    numbers: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """All pictures of several."""
        return cls(
            torch.cat([p.features for p in parts]), torch.cat([p.words for p in parts]),
            {group: torch.cat([p.labels[group] for p in parts]) for group in GROUPS},
            torch.cat([p.things for p in parts]), torch.cat([p.numbers for p in parts]),
        )  # fmt: skip


def see(trunk: Any, draw: Draw, number: int, seed: int = 77) -> Seen:
    """Draw new pictures and look at them.

    Args:
        trunk: gives features [B, F, h, w].
        draw: draws the pictures.
        number: how many, in steps of 24.
        seed: of the pictures.
    """
    rng = np.random.default_rng(seed)
    features, words, things, numbers = [], [], [], []
    labels: dict[str, list[Tensor]] = {group: [] for group in GROUPS}
    for start in range(0, number, 24):
        kinds = [str(k) for k in rng.choice(list(_KINDS), 24, p=list(_KINDS.values()))]
        facts, cells = look(trunk, draw, rng, kinds, clean=0.3)  # [B, T, F]
        features.append(cells)
        grid = round(cells.shape[1] ** 0.5)
        for kind, shown in zip(kinds, facts, strict=True):
            words.append(weights_of(shown, grid))
            for group, label in labels_of(shown, grid).items():
                labels[group].append(label)
            one = kind in ("single", "count")
            things.append(GROUPS["concept"].index(shown.names[0]) if one else IGNORE)
            numbers.append(len(shown.names) if one or kind == "pair" else IGNORE)
        if start // 24 % 50 == 0:
            print(f"{start + 24} of {number} pictures", flush=True)
    return Seen(
        torch.cat(features), torch.stack(words),
        {group: torch.stack(rows) for group, rows in labels.items()},
        torch.tensor(things), torch.tensor(numbers),
    )  # fmt: skip


def product_losses(said: Tensor, seen: Seen, rows: Tensor, lexicon: Lexicon) -> dict[str, Tensor]:
    """What is to be made small, by part, weighted.

    Args:
        said: image tokens of some pictures, [B, T, D].
        seen: all pictures.
        rows: which of them, [B].
        lexicon: the words.
    """
    loud, much = lexicon.products(said), lexicon.read(said).mean(1)  # [B, T, W], [B, W]
    first, last = Lexicon.span("concept")
    things, numbers = seen.things[rows], seen.numbers[rows]
    parts = {"near": mse_loss(said - lexicon.mean, seen.words[rows] @ lexicon.vectors)
             / lexicon.vectors.pow(2).mean()}  # fmt: skip
    if bool((things >= 0).any()):
        parts["thing"] = 0.7 * cross_entropy(loud.mean(1)[:, first:last], things)
        parts["read thing"] = 0.2 * cross_entropy(scores_of(much * 2, "concept"), things)
    if bool((numbers >= 0).any()):
        scores = scores_of(much * 1.5, "number")[:, : len(GROUPS["number"])]
        parts["read number"] = 0.2 * cross_entropy(scores, numbers)
    for group, weight in _CELLS.items():
        first, last = Lexicon.span(group)
        label = seen.labels[group][rows]
        if group == "letter" and bool((label >= 0).any()):  # what says none is to be quiet
            scores = loud_scores_of(loud, group).flatten(0, 1)
            parts[group] = weight * evenly(scores, label.flatten())
            continue
        told = (label >= 0) & (label < last - first)
        if group == "number":
            told &= label != 1  # one thing is told by no number
        if bool(told.any()):
            parts[group] = weight * cross_entropy(loud[..., first:last][told], label[told])
    return parts


def polish(
    projector: Projector, seen: Seen, lexicon: Lexicon, *, rounds: int = 3, seed: int = 0
) -> Iterator[float]:
    """Train the projector, in place, so that words are told by products.

    Args:
        projector: as stage A left it.
        seen: the pictures.
        lexicon: the words.
        rounds: how often every picture is looked at.
        seed: of their order and of what is dropped.

    Yields:
        The mean loss of every round.
    """
    torch.manual_seed(seed)
    size = min(_BATCH, len(seen.features))
    each = len(seen.features) // size
    optimizer = torch.optim.AdamW(
        projector.parameters(), lr=_RATE, weight_decay=0.02, betas=(0.9, 0.98)
    )
    step = 0
    for _ in range(rounds):
        losses = []
        for rows in torch.randperm(len(seen.features))[: each * size].view(each, size):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min(1, (step + 1) / 20) * (1 - step / (rounds * each))
            said = projector(dropout(doubtful(seen, rows), _DROP))
            loss = torch.stack(list(product_losses(said, seen, rows, lexicon).values())).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1
            losses.append(float(loss.detach()))
        yield sum(losses) / len(losses)


def doubtful(seen: Seen, rows: Tensor) -> Tensor:
    """Features of some pictures mixed with others, [B, T, F]; codes stay as they are."""
    letters = seen.labels["letter"][rows]  # [B, T]
    coded = ((letters >= 0) & (letters < len(GROUPS["letter"]))).any(1)
    return mixed(seen.features[rows], seen.features, _MIX * (~coded)[:, None, None])


def _see_part(args: argparse.Namespace, folder: Path) -> None:
    """Look at this process's share of the pictures and write what was seen."""
    trunk, _, draw, _ = opened(args)
    rank = together.rank_of()
    seen = see(trunk, draw, math.ceil(args.pictures / args.workers), seed=77 + rank)
    torch.save(vars(seen), folder / f"{rank}.pt")


def _seen(args: argparse.Namespace) -> Seen:
    """The pictures, looked at by every process."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        together.launch(_see_part, args.workers, args, folder)
        files = sorted(folder.glob("*.pt"))
        return Seen.joined([Seen(**torch.load(file, weights_only=True)) for file in files])


def main() -> None:
    """Refit the projector of a weights folder, in place."""
    parser = options("Put the projector's words on word vectors; --weights is changed.")
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3, help="of polishing")
    args = parser.parse_args()
    trunk, projector, draw, lexicon = opened(args)
    seen = _seen(args)
    for number, loss in enumerate(polish(projector, seen, lexicon, rounds=args.rounds), 1):
        print(f"round {number} of {args.rounds}: loss {loss:.3f}", flush=True)
    print(eyesight(trunk, projector, draw, lexicon), flush=True)
    notes = {"side": str(picture_side(args.weights))}
    save_projector(projector, args.weights / "projector.safetensors", notes)


if __name__ == "__main__":
    main()
