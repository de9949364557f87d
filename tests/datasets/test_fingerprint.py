"""A fingerprint is that of the images and their classes, in any order, and says what differs."""

from dataclasses import replace

import numpy as np
import pytest

import nas
from nas.datasets import ImageData, fingerprint
from nas.datasets.images.fingerprint import Fingerprint


class Two:
    classes = ("no", "yes")


def parts(num=8, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 255, (num, 4, 4, 3), dtype=np.uint8)
    return {"train": ImageData(images=images, labels=np.arange(num, dtype=np.int64) % 2)}


def taken(data, rows, labels=None):
    return {"train": ImageData(images=data.images[rows], labels=data.labels[rows] if labels is None else labels)}


BEFORE = fingerprint(Two, parts())
DATA = parts()["train"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (parts(), ""),
        (taken(DATA, np.arange(8)[::-1]), ""),
        (taken(DATA, np.arange(7)), "train/yes has 3, had 4"),
        (taken(DATA, np.arange(8), np.array([1, 0] * 4)), "other contents in train/no, train/yes"),  # the classes swapped places
        (parts(seed=1), "other contents in train/no, train/yes"),
        (taken(DATA, np.array([0, 1, 2, 3, 4, 5, 6, 5])), "other contents in train/yes"),
        ({}, ""),  # nothing was read that could differ
    ],
)
def test_what_differs_is_said(now, said):
    assert BEFORE.difference(fingerprint(Two, now)) == said


def test_a_file_is_known_by_its_own_digest():
    digests = tuple(bytes([i]) for i in range(8))
    one, other = ({"train": replace(data["train"], digests=digests)} for data in (parts(), parts(seed=1)))
    assert fingerprint(Two, one) == fingerprint(Two, other) != BEFORE


def test_of_many_classes_some_are_named():
    before, now = (Fingerprint(counts={"val": {f"c{i}": count for i in range(9)}}, keys={"val": {}}) for count in (1000, 1001))
    assert (
        before.difference(now)
        == "val/c0 has 1,001, had 1,000, val/c1 has 1,001, had 1,000, val/c2 has 1,001, had 1,000 and 6 more classes"
    )


def test_digits_are_the_same_on_every_machine():
    digits = nas.dataset("digits")
    found = fingerprint(digits, {"val": digits.load("val")})
    assert found.counts["val"]["0"] == 36
    assert found.keys["val"]["0"] == "414e41c12c86b8145f975e8ea0bcbfa2"
