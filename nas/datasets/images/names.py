"""What a folder's name says: a part, a group of images, or a class."""

import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from nas.datasets.images.splits import PARTS
from nas.errors import NasError

PART_OF: Final = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "eval", "evaluation", "minival"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
}
"""Word in a folder's name → the part that it stands for."""
MAY_BE_CLASSES: Final = (["train"], ["training"], ["valid"])  # a vehicle; an exercise; the opposite of invalid


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


IMAGE_WORDS: Final = _words_of("""
    image images img imgs photo photos photograph photographs pic pics picture pictures jpg jpeg jpegs png raw original originals
    frame frames file files jpegimages
""")
COMPANIONS: Final = IMAGE_WORDS | _words_of("""
    set sets data dataset datasets split splits part fold sample samples folder dir seg cls classification resized cropped crops
    crop small full new final my processed aug augmented labelled labeled unlabelled unlabeled the of and
""")
"""Words beside a part's own in the name of a part: training_set, my test images, seg_train."""
LABEL_WORDS: Final = _words_of("""
    mask masks label labels annotation annotations annots gt groundtruth segmentation segmentations segmentationclass bbox boxes
""")
GROUP_WORDS: Final = IMAGE_WORDS | _words_of("""
    site sites fold batch patient subject user client person participant camera cam webcam dslr phone mobile iphone canon nikon
    sony samsung gopro drone device sensor scanner session run scene video clip sequence seq location place station hospital
    centre center lab source domain group part split set subset folder dir directory year month week day night date time visit
    series shot view angle front back rear left right top bottom side indoor indoors outdoor outdoors summer winter spring
    autumn morning evening rgb color colour gray grey grayscale small large new old augmented aug cropped resized version
    jan january feb february mar march apr april may jun june jul july august sep sept september oct october nov november
    dec december
""")
"""Words for where, when or how images were taken, which are seldom what a network should tell apart."""
CLASS_WORDS: Final = _words_of("class classes label category species type")
WORD: Final = re.compile(r"[^\W\d_]+")
CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
GLUED: Final = re.compile(rf"^({'|'.join(PART_OF)})(sets?|data|dataset|images?|imgs?|split)$")
DATE: Final = re.compile(r"(19|20)\d\d(\D.*|\d{4}.*)?")


def words(name: str) -> list[str]:
    """The words of a name in lower case: TrainImages, train_images and trainimages2017 are train, images."""
    spaced = CAMEL.sub(" ", unicodedata.normalize("NFKC", name)).casefold()
    return [part for word in WORD.findall(spaced) for part in (GLUED.sub(r"\1 \2", word).split())]


def part_of(name: str) -> str | None:
    """The part that a name stands for, such as val for Validation_Images; None if it has another word."""
    said = words(name)
    parts = [PART_OF[word] for word in said if word in PART_OF]
    plain = all(word in PART_OF or word in COMPANIONS or len(word) == 1 for word in said)
    return parts[0] if parts and plain else None


def parts_among(names: Iterable[str]) -> dict[str, str]:
    """Name → part, of those that stand for parts beside each other: flowers_train and flowers_val too."""
    parts = {name: part for name in names if (part := part_of(name))}
    by_rest: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        said = words(name)
        if stands_for := [PART_OF[word] for word in said if word in PART_OF]:
            by_rest.setdefault(tuple(word for word in said if word not in PART_OF), {})[name] = stands_for[0]
    for alike in by_rest.values():
        if len(set(alike.values())) > 1:
            parts |= alike
    return parts


def grouping(names: Iterable[str]) -> int:
    """How much names look like groups of images, not classes: 2 for site_a, 2024-05 or camera1, 1 for numbers, else 0."""
    names = list(names)
    said = [[word for word in words(name) if len(word) > 1] for name in names]
    if all(DATE.fullmatch(name) and set(of_name) <= GROUP_WORDS for name, of_name in zip(names, said, strict=True)):
        return 2
    if all(of_name and set(of_name) <= GROUP_WORDS for of_name in said):
        return 2
    counted = all(re.search(r"\d", name) or any(len(word) == 1 for word in words(name)) for name in names)
    return int(counted and len(set(map(tuple, said))) == 1 and not CLASS_WORDS.intersection(said[0]))


def class_name(folder: str) -> str:
    """The class of a folder's name: composed (NFC), as the same name may be stored decomposed.

    Raises: NasError for a name that is no text on one line.
    """
    raw = os.fsencode(folder)
    try:
        folder = raw.decode()  # Python's own decoding depends on the locale
    except UnicodeDecodeError:
        raise NasError(f"the name of the class folder {str(raw)[2:-1]} is not text in UTF-8; rename the folder") from None
    if folder != folder.strip() or any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in folder):
        raise NasError(
            f"the name of the class folder {folder!r} has a control character, or a space at an end; rename the folder"
        )
    return unicodedata.normalize("NFC", folder)


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Sorts names as timm does, by numbers and without regard to case; of two that are equal to timm, by their characters."""
    pieces = re.split(r"(\d+)", name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def shown(path: object) -> str:
    """A path as printable text on one line, whatever its bytes."""
    return repr(str(path))[1:-1]


assert set(PART_OF.values()) == set(PARTS)
