"""A user's data files: finding the file of each split, and reading labelled texts and images."""

from __future__ import annotations

import csv
import glob
import re
from pathlib import Path

from nqbench.api import BadInput

_WORDS = {"train": ("train",), "validation": ("valid", "val", "dev"), "test": ("test",)}
_IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def file_of(place: Path, split: str) -> Path | None:
    """The file or folder of a split in the folder ``place``, or among the files whose paths begin with ``place``; the
    first by name. A word of its name begins with the split's (``sts_test.tsv``, ``val``, ``train-1``), or, where no
    file has such a word, ends with it (``wikitrain.txt``) in a name that tells of no other split."""
    found = sorted(place.iterdir()) if place.is_dir() else sorted(place.parent.glob(f"{glob.escape(place.name)}*"))
    told = [(path, re.findall("[a-z]+", path.name.lower())) for path in found if not path.name.startswith(".")]
    for word in _WORDS[split]:
        for path, parts in told:
            if any(part.startswith(word) for part in parts):
                return path
    beginnings = tuple(word for words in _WORDS.values() for word in words)
    free = [(path, parts) for path, parts in told if not any(part.startswith(beginnings) for part in parts)]
    for word in _WORDS[split]:
        for path, parts in free:
            if any(part.endswith(word) for part in parts):
                return path
    return None


def labelled_texts(file: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a tab- or comma-separated file; a header with ``text`` (or ``sentence``) and ``label`` names
    the columns, otherwise the first column is the text. Raises BadInput for other files."""
    with file.open(encoding="utf-8", newline="") as lines:
        tabs = file.suffix.lower() in (".tsv", ".txt")
        # between tabs a quotation mark is one of the text
        form = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
        rows = [row for row in form if row]
    text, label = 0, 1
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "label" in header and {"text", "sentence"} & set(header):
        text = header.index("text" if "text" in header else "sentence")
        label = header.index("label")
        rows = rows[1:]
    if not rows or any(len(row) <= max(text, label) for row in rows):
        raise BadInput(f"{file}: expected lines of text and label, with or without a header that says text and label")
    return [row[text] for row in rows], [row[label].strip() for row in rows]


def images_of(folder: Path) -> tuple[list[Path], list[str]]:
    """Paths and labels of the images in a folder with one folder per class. Raises BadInput if there are none."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [(path, each.name) for each in classes for path in sorted(each.iterdir()) if path.suffix.lower() in _IMAGES]
    if not found:
        raise BadInput(f"{folder}: expected a folder with images for each class")
    return [path for path, _ in found], [name for _, name in found]
