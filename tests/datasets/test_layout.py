"""What a folder's tree means: classes are taken, anything that may be something else is refused with what to do."""

from pathlib import Path

import pytest

from nas.datasets.images.layout import find_parts
from nas.datasets.images.listing import class_names, list_images
from nas.errors import NasError


def plant(root: Path, tree: str) -> Path:
    """Files of no content: `train/{cat,dog}:9` is nine images in each of two folders."""
    for branch in tree.split():
        pattern, _, number = branch.partition(":")
        for folder in expanded(pattern):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(int(number or 6)):
                (root / folder / f"{i}.jpg").touch()
    return root


def expanded(pattern: str) -> list[str]:
    """The paths that a shell makes of a{b,c}d."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inside, _, after = rest.partition("}")
    return [f"{before}{one}{end}" for one in inside.split(",") for end in expanded(after)]


@pytest.mark.parametrize(
    ("tree", "classes"),
    [
        ("{cat,dog}", "cat dog"),
        ("{bus,train}", "bus train"),
        ("{bus,car,train}/{2023,2024}", "bus car train"),
        ("{bus,train}/{2023,2024}", "bus train"),
        ("{bus,car} train/{steam,diesel}", "bus car train"),
        ("{valid,invalid}", "invalid valid"),
        ("test_tube beaker", "beaker test_tube"),
        ("test_tube test_strip train_ticket", "test_strip test_tube train_ticket"),
        ("{cat,dog}/{2023,2024}", "cat dog"),
        ("{cat,dog}/2023/{01,02}", "cat dog"),
        ("{cat,dog}/{2024-01-31,2024-02-01}", "cat dog"),
        ("{cat,dog}/{January,February}", "cat dog"),
        ("{cat,dog}/{camera1,camera2}", "cat dog"),
        ("{cat,dog}/{front,left}", "cat dog"),
        ("{cat,dog}/{session_a,session_b}", "cat dog"),
        ("{cat,dog}/images", "cat dog"),
        ("{cat,dog}/JPEGImages", "cat dog"),
        ("cat/cat dog/dog", "cat dog"),
        ("{1,2,10}/{2023,2024}", "1 2 10"),
        ("{n01440764,n02102040}/images", "n01440764 n02102040"),
        ("{class_1,class_2}/{1,2}", "class_1 class_2"),
        ("cat dog wild/{lion,tiger}", "cat dog wild"),
        ("ok/{1,2,3} defect/{dent,scratch}", "defect ok"),
        ("{a,b}/{2023,2024}", "a b"),
        ("animals/{cat,dog,other} vehicles/{car,bus,other}", "animals vehicles"),
        ("cat dog :3", "cat dog"),  # a logo and two screenshots
        ("{train,val}/{cat,dog}", "cat dog"),
        ("{Train,TEST}/{cat,dog}", "cat dog"),
        ("{train,val,test}/{cat,dog}/{2023,2024}", "cat dog"),
        ("{train,test}/{cat,dog} unlabeled extra/dog", "cat dog"),
        ("{train,test}/{train,bus}", "bus train"),
        ("{train,val}/{0,1,2,3,4,5,6,7,8,9,10}", "0 1 2 3 4 5 6 7 8 9 10"),
        ("{train,val,test}/{cat,dog} test_images", "cat dog"),
        ("{images,pictures}_of_{cats,dogs}", "images_of_cats images_of_dogs pictures_of_cats pictures_of_dogs"),
        ("{mask,no_mask}", "mask no_mask"),
        ("{with_mask,without_mask}", "with_mask without_mask"),
        ("{day,night}", "day night"),
        ("{Cat,cat,bear,Éclair,eclair}", "bear Cat cat eclair Éclair"),
        ("{img1,Img2,img10}", "img1 Img2 img10"),
    ],
)
def test_what_is_a_class_is_taken_for_one(tmp_path, tree, classes):
    assert " ".join(class_names(plant(tmp_path, tree))) == classes
    assert list_images(tmp_path).paths


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        # renamed_parts
        ("{train_images,val_images}/{cats,dogs}", "arrange them as {root}/train/CLASS, {root}/val/CLASS"),
        ("{Training,Testing}/{cat,dog}", "has Testing, Training, which look like parts and no classes"),
        ("{TrainSet,TestSet}/{cat,dog}", "arrange them as {root}/train/CLASS, {root}/test/CLASS"),
        ("{trainset,validset}/{cat,dog}", "which look like parts"),
        ("{train2017,val2017}", "has train2017, val2017, which look like parts"),
        ("{images_train,images_val}/{cat,dog}", "which look like parts"),
        ("{seg_train,seg_test}/{sea,street} seg_pred", "has seg_test, seg_train, which look like parts"),
        ("{flowers_train,flowers_val}/{rose,lily}", "has flowers_train, flowers_val, which look like parts"),
        (
            "{train,valid,test}/{cat,dog}",
            "has the folder valid; the names of the parts are train/, val/ and test/: rename it to val",
        ),
        ("{train,valid}/{cat,dog}", "arrange them as {root}/train/CLASS, {root}/val/CLASS"),
        ("{train,dev}/{cat,dog}", "which look like parts"),
        # wrapped
        ("training_set/training_set/{cats,dogs} test_set/test_set/{cats,dogs}", "{root}/train/CLASS, {root}/test/CLASS"),
        ("train/train/{cats,dogs} test/test/{cats,dogs}", "move the folders in {root}/train/train up into {root}/train"),
        ("train/{cats,dogs} test/test/{cats,dogs}", "move the folders in {root}/test/test up into {root}/test"),
        # lone_wrapper
        ("photos/{cats,dogs}", "give --dataset.root {root}/photos"),
        ("archive/data/{train,test}/{cats,dogs}", "give --dataset.root {root}/archive/data"),
        ("train/{cats,dogs}", "has train/ but neither val/ nor test/; add one, or give --dataset.root {root}/train"),
        ("training_set/{cats,dogs}", "give --dataset.root {root}/training_set"),
        # no_classes
        ("{train,test}", "has 6 images and no folder of images in train/"),
        (
            "train/{cat,dog} test",
            "in test/ (6); move it out of {root} if it has no labels; without it, give --dataset.root {root}/train",
        ),
        ("{train,test}/{cat,dog} val", "has images without classes in val/ (6); move it out of {root} if it has no labels\n"),
        ("cat dog test", "has test, which looks like a part and no class"),
        ("images", "has images without classes, in images/; put the images of each class into a folder of its own"),
        ("{images,masks}", "has images and their masks, not classes"),
        ("images/{train,val} labels/{train,val}:0", "images/train"),
        (":8", "has 8 images and no folder of images; put the images of each class"),
        ("cat:0 dog:0", "has no folder of images"),
        ("cat", "has the one class cat"),
        ("cat dog :9", "has 9 images beside its class folders"),
        ("{train,val}/{cat,dog} train:9", "train has 9 images beside its class folders"),
        # groups and repeated names
        ("{site_a,site_b}/{cat,dog}", "move the images of {root}/site_a/cat to {root}/cat/site_a"),
        ("{2023,2024}/{cat,dog}", "so these are no classes"),
        ("{day,night}/{cat,dog}", "so these are no classes"),
        ("{fold1,fold2}/{1,2,3}", "so these are no classes"),
        ("{part1,part2}/{cat,dog}", "so these are no classes"),
        ("part1/{cat,dog} part2/{fox,owl}", "in part1, part2, so these are no classes"),
        ("a/{abbey,airfield} b/{bakery,bar}", "in a, b, and either may be the classes"),
        ("{A,B}/{berlin,paris}", "either may be the classes"),
        ("{train,val}/{cat,dog} test/unknown", "has images of no class of train/ in test/unknown; move test/ away"),
        ("cat dog test/{cat,dog}", "arrange {root}/train/CLASS, {root}/test/CLASS, move it away"),
        ("{amazon,dslr,webcam}/images/{bike,mug}", "in each of amazon, dslr, webcam"),
        ("{apple,banana}/{fresh,rotten}", "either may be the classes"),
        ("{train,holdout}/{cat,dog}", "which look like parts"),
        ("{train,unseen}/{cat,dog}", "either may be the classes"),
        ("{cat,dog}/{train,test}", "arrange them as {root}/train/CLASS, {root}/test/CLASS"),
        (
            "{fold1,fold2}/{train,val}/{cat,dog}",
            "train, val in each of fold1, fold2; give one, such as --dataset.root {root}/fold1",
        ),
        ("{train,test}/{site_a,site_b}/{cat,dog}", "train/site_a/cat to {root}/train/cat/site_a"),
        ("cat dog more/{cat,dog}", "has cat, dog twice: as classes, and in more/"),
        ("cat dog train/{cat,dog}", "has train, which looks like a part"),
        ("train/{cat,dog} unlabelled", "give --dataset.root {root}/train"),
    ],
)
def test_what_may_be_no_class_is_refused_with_its_tree_and_a_remedy(tmp_path, tree, says):
    with pytest.raises(NasError) as caught:
        find_parts(plant(tmp_path, tree))
    problem, *lines = str(caught.value).splitlines()
    assert says.format(root=tmp_path) in f"{problem}\n"
    assert 1 <= len(lines) <= 3
    assert all("image" in line and "folder" in line for line in lines)
