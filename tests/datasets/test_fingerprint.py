"""A fingerprint is that of the images and their classes, in any order, and says what differs."""

from dataclasses import dataclass

import numpy as np
import pytest

import nas
from nas.datasets import ImageData
from nas.datasets.images.fingerprint import Fingerprint


@dataclass
class Own(nas.Dataset):
    """Arrays of two classes; every part has the same."""

    data: ImageData
    name = "own"
    classes = ("no", "yes")
    mean = std = (0.5, 0.5, 0.5)
    mirrors = False

    def load(self, part):
        return self.data


def drawn(seed=0):
    images = np.random.default_rng(seed).integers(0, 255, (8, 4, 4, 3), dtype=np.uint8)
    return ImageData(images=images, labels=np.arange(8, dtype=np.int64) % 2)


def taken(rows, labels=None):
    return ImageData(images=DATA.images[rows], labels=DATA.labels[rows] if labels is None else labels)


DATA = drawn()
BEFORE = Own(DATA).fingerprint()


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (drawn(), ""),
        (taken(np.arange(8)[::-1]), ""),
        (taken(np.arange(7)), "train/yes has 3, had 4"),
        (taken(np.arange(8), np.array([1, 0] * 4)), "other contents in train/no, train/yes"),  # the classes swapped places
        (drawn(seed=1), "other contents in train/no, train/yes"),
        (taken(np.array([0, 1, 2, 3, 4, 5, 6, 5])), "other contents in train/yes"),
    ],
)
def test_what_differs_is_said(now, said):
    assert BEFORE.difference(Own(now).fingerprint(), ["train"]) == said


def test_parts_that_one_of_them_does_not_know_do_not_differ():
    assert BEFORE.difference(Fingerprint(counts={"test": {"no": 3}}, keys={"test": {"no": ""}})) == ""


def test_of_many_classes_some_are_named():
    before, now = (Fingerprint(counts={"val": {f"c{i}": count for i in range(9)}}, keys={"val": {}}) for count in (1000, 1001))
    assert (
        before.difference(now)
        == "val/c0 has 1,001, had 1,000, val/c1 has 1,001, had 1,000, val/c2 has 1,001, had 1,000 and 6 more classes"
    )


def test_digits_are_the_same_on_every_machine():
    found = nas.dataset("digits").fingerprint()
    assert found.counts["val"]["0"] == 36
    assert found.keys["val"]["0"] == "414e41c12c86b8145f975e8ea0bcbfa2"
