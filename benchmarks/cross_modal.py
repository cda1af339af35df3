"""How well does one question find a picture? Text to picture among 1,000 held-out pictures.

Pictograms of styles that the eye was never trained on are drawn on plain backgrounds. For every
concept a question asks for it; a hit is any picture of that concept. Beside it stand chance, and
what the text embedder alone would find if every picture had its true caption (an upper bound).

    python benchmarks/cross_modal.py --pictograms .build/pictograms.npy

Needs the rendered pictograms: python -m mmagent.finetune.bundled.pictograms
"""

from __future__ import annotations

import argparse
import io
import json
import platform
from pathlib import Path

import numpy as np

from mmagent.embedders import BundledEmbedder
from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.pictograms import HELD_OUT, Sheet
from mmagent.finetune.bundled.scenes import SceneMaker

FORMS = ("{}", "a picture of {}", "Where did I show you {}?")


def main() -> None:
    """Draw, embed, search, and print a table; the numbers also go to a JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
    parser.add_argument("--model", type=Path, help="an assembled model folder; else the user's")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(".build/cross_modal.json"))
    args = parser.parse_args()

    sheet = Sheet.load(args.pictograms)
    maker = SceneMaker(sheet)
    rng = np.random.default_rng(2026)
    rows = [r for r, i in enumerate(sheet.items) if i.style in HELD_OUT and i.label >= 0]
    chosen = [
        rows[int(k)] for k in rng.permutation(np.resize(rng.permutation(len(rows)), args.pictures))
    ]
    labels = np.array([sheet.items[row].label for row in chosen])
    pictures = []
    for row in chosen:
        buffer = io.BytesIO()
        maker.single(rng, row=row, clean=True).image.save(buffer, "PNG")
        pictures.append(buffer.getvalue())

    embedder = BundledEmbedder(args.model)
    seen = np.array(embedder.embed_images(pictures))
    captions = np.array(
        embedder.embed_documents([f"a picture of {CONCEPTS[k].phrase}" for k in labels])
    )
    concepts = sorted(set(labels.tolist()))
    report: dict[str, dict[str, float]] = {}
    for form in FORMS:
        questions = np.array(
            embedder.embed_documents([form.format(CONCEPTS[k].phrase) for k in concepts])
        )
        line: dict[str, float] = {}
        for name, vectors in (("pictures", seen), ("captions", captions)):
            order = np.argsort(-(questions @ vectors.T), axis=1)
            right = labels[order] == np.array(concepts)[:, None]
            line[f"{name} recall@1"] = float(right[:, 0].mean())
            line[f"{name} recall@5"] = float(right[:, :5].any(1).mean())
        share = np.array([(labels == k).mean() for k in concepts])
        line["chance recall@5"] = float((1 - (1 - share) ** 5).mean())
        report[form] = {key: round(value, 3) for key, value in line.items()}
    head = list(next(iter(report.values())))
    print("| question | " + " | ".join(head) + " |")
    print("|---" * (len(head) + 1) + "|")
    for form, line in report.items():
        print(f"| {form} | " + " | ".join(f"{line[key]:.1%}" for key in head) + " |")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"machine": platform.processor() or platform.machine(), "pictures": len(chosen),
             "concepts": len(concepts), "styles": sorted(HELD_OUT)}  # fmt: skip
    args.out.write_text(json.dumps({**about, "results": report}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
