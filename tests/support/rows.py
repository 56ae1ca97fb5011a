"""Small tasks: rows as jsonl folders, and their TOML files."""

import json
from pathlib import Path

SENTENCE = "the old river runs past a quiet town where many people live and work near the sea"
SPLITS = (("train", 40, 0), ("validation", 12, 50), ("test", 9, 70))


def write_rows(folder: Path) -> Path:
    """Write ragged sentences with two labels (`words`) and pairs with scores (`scores`), and three tasks' files."""
    words = SENTENCE.split()
    for task, pair in (("words", False), ("scores", True)):
        (folder / task).mkdir()
        for split, count, offset in SPLITS:
            lines = []
            for index in range(count):
                number = index + offset
                text = " ".join(words[(number * 5 + k) % len(words)] for k in range(2 + number * 7 % 13))
                row = {"sentence": text, "label": number % 2}
                if pair:
                    row = {"sentence1": text, "sentence2": text[::-1][:20], "label": number * 3 % 26 / 5}
                lines.append(json.dumps(row) + "\n")
            (folder / task / f"{split}.jsonl").write_text("".join(lines))
    (folder / "words.toml").write_text('template = "words: {sentence}"\nlabels = ["no", "yes it is", "yes it was"]\n')
    (folder / "pairs.toml").write_text(
        'template = "one: {sentence1} two: {sentence2}"\nmetric = "pearson_spearman"\nscores = true\n'
        f"labels = {json.dumps([f'{step / 5:.1f}' for step in range(26)])}\n"
    )
    (folder / "open.toml").write_text(
        'template = "words: {sentence}"\ntarget = "{sentence}"\nmetric = "token_accuracy"\n'
    )
    return folder
