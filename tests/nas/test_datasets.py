"""Every dataset keeps its contract: three fixed parts that never overlap, each with every class."""

import numpy as np
import pytest

import nas
from nas.datasets import ImageData, load_part
from nas.image_files import PARTS
from nas.plugins import plugin_names


@pytest.fixture(params=plugin_names("dataset"))
def dataset(request):
    return nas.dataset(request.param)


def test_three_parts_with_every_class_in_each(dataset):
    for part in PARTS:
        data = dataset.load(part)
        assert set(data.labels.tolist()) == set(range(len(dataset.classes)))


def test_the_parts_never_overlap_and_never_change(dataset):
    images = [dataset.load(part).images for part in PARTS]
    assert all(np.array_equal(first, dataset.load(part).images) for first, part in zip(images, PARTS, strict=True))
    seen = [{image.tobytes() for image in part} for part in images]
    assert seen[0].isdisjoint(seen[1] | seen[2])
    assert seen[1].isdisjoint(seen[2])


def test_mean_and_std_are_those_of_the_images(dataset):
    pixels = np.concatenate([dataset.load(part).images for part in PARTS]) / 255
    assert np.allclose(pixels.mean((0, 1, 2)), dataset.mean, atol=0.002)
    assert np.allclose(pixels.std((0, 1, 2)), dataset.std, atol=0.002)


def test_digits_are_all_there_and_stratified():
    digits = nas.dataset("digits")
    assert [len(digits.load(part)) for part in PARTS] == [1077, 360, 360]
    for part in PARTS:
        counts = np.bincount(digits.load(part).labels)
        assert counts.max() - counts.min() <= 0.1 * counts.mean() + 2


def test_an_unknown_dataset_is_answered_with_the_known_ones():
    with pytest.raises(nas.NasError, match="dataset 'digit' does not exist; did you mean 'digits'"):
        nas.dataset("digit")


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (
            np.zeros((4, 8, 8), np.uint8),
            np.zeros(4, np.int64),
            r"images are uint8 \(4, 8, 8\); they must be uint8 \(N, height, width, 3\)",
        ),
        (np.zeros((4, 8, 8, 3), np.float32), np.zeros(4, np.int64), "images are float32"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, np.int64), r"labels are int64 \(3,\); they must be int64 \(4,\)"),
        (
            np.zeros((4, 8, 8, 3), np.uint8),
            np.full(4, 2),
            "the val part has labels from 2 to 2; with 2 classes they must be from 0 to 1",
        ),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), "the val part has no images"),
        (None, None, "load: None is a NoneType; it must be a nas.ImageData"),
    ],
)
def test_a_dataset_of_ones_own_with_wrong_images_is_told_what_is_allowed(images, labels, sentence):
    class Own:
        name = "own"
        classes = ("a", "b")

        def load(self, part):
            return None if images is None else ImageData(images=images, labels=labels)

    with pytest.raises(nas.NasError, match=sentence):
        load_part(Own(), "val")
