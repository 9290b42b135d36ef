"""Decides which folders of a source are splits and which are classes, by their names and content.

What is read is `<split>/<class>/<image>`, or `<class>/<image>` where nothing is split yet.
Folders of people and of data hubs look otherwise: their splits are called `Train` or `test_set`,
and they lie in a folder of the same name. Such names are recognised; where a folder could be either
a split or a class, the user is asked, and answers with --splits. So are folders such as images and
annotations, which hold a whole data set or what is known about it, and no class.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.sources.finding import is_image, list_folder

TRAIN, VALIDATION, TEST = "train", "validation", "test"
WORDS = {  # of folders' names -> the split that they mean
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate"), VALIDATION),
    **dict.fromkeys(("dev", "development", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
FILLERS = {  # words beside them that change nothing
    "set", "sets", "data", "dataset", "split", "folder", "dir", "files",
    "image", "images", "img", "imgs", "pictures", "photos",
}  # fmt: skip
OF_IMAGES = {  # names, in lower case, of folders of all images of a data set
    "images", "imgs", "img", "jpegimages", "pictures", "photos", "jpg", "jpeg", "png",
}  # fmt: skip
ABOUT_IMAGES = {  # and of folders of what is known about them
    "annotation", "annotations", "annots", "labels", "bboxes", "keypoints", "attributes", "parts",
    "masks", "trimaps", "segmentations", "segmentationclass", "segmentationobject",
    "xml", "xmls", "json", "csv", "txt",
    "meta", "metadata", "docs", "scripts", "splits", "lists", "imagesets",
}  # fmt: skip
GLUED = re.compile(rf"({'|'.join(WORDS)})({'|'.join(FILLERS)})?(\d*)")
NO_SPLITS = "none"  # of --splits: every folder is a class
BELOW_SPLITS = "lay the classes below the splits, as in train/CLASS"
OR_SPLITS = ", or name the training and the validation folder with --splits TRAIN,VALIDATION"
MOST_ENTERED = 16  # lone folders within each other, since links may lead round


@dataclass(frozen=True)
class Layout:
    """Where the class folders of a source lie.

    Attributes:
        root: the folder of the splits, or of the classes where there are none.
        train, validation: names of the folders of either split below root, or None.
        aside: names of folders beside them that are not read.
        notes: sentences for the user about what was decided.
    """

    root: Path
    train: str | None = None
    validation: str | None = None
    aside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_layout(source: Path, splits: str | None = None) -> Layout:
    """The `Layout` of a folder of class folders, or of splits of them.

    Args:
        source: the folder.
        splits: what the user says about it: "none", or the names of the training and the
            validation folder with a comma between; None decides by names and content.

    Raises:
        UserError: it could be read in two ways, or a split is missing.
    """
    if splits == NO_SPLITS:
        return Layout(source)
    root = enter_lone_folders(source, stop=split_of)
    folders = _folders_in(root)
    if splits is not None:
        return _as_told(root, folders, splits)
    named = named_splits(folders)
    others = [name for name in folders if name not in named]
    if named and not _are_classes(root, named, others):
        layout = _as_splits(root, named, others)
        told = f"--splits {layout.train},{layout.validation} if they are classes"
        for split in (layout.train, layout.validation):
            _refuse_no_classes(enter_lone_folders(root / split), told)
        return layout
    _refuse_no_classes(root, f"--splits {NO_SPLITS} if every folder is a class")
    _refuse_splits_in_classes(root, folders)
    notes = [f"{name} is taken for a class like the folders beside it" for name in named]
    return Layout(root, notes=tuple(notes))


def enter_lone_folders(folder: Path, stop: Callable[[str], object] = lambda _: False) -> Path:
    """The first folder from `folder` on that holds more than one folder of folders.

    Args:
        stop: whether a lone folder of this name is not to be entered; by default all are.
    """
    for _ in range(MOST_ENTERED):
        folders = _folders_in(folder)
        if len(folders) != 1 or stop(folders[0]) or not _folders_in(folder / folders[0]):
            break
        folder /= folders[0]
    return folder


def way(outer: Path, inner: Path) -> list[Path]:
    """The folders from `outer` to `inner`, which lies in it: both, and those between."""
    folders = [inner, *inner.parents]
    return folders[: folders.index(outer) + 1][::-1]


# ------------------------------------------------------------------------------------------- names


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for, such as "test" for Test_Set; None for others."""
    split, rest = _parsed(name)
    return None if rest else split


def named_splits(names: Iterable[str]) -> dict[str, str]:
    """{name of a folder: the split that it is called like}, without the names of other folders.

    A name with other words besides, such as seg_train, counts where another split has the same
    words, as seg_test has. Of several such pairs all count, and so does every other folder that
    speaks of training, so that the user is asked which to take.
    """
    names, by_rest = list(names), {}
    for name in names:
        split, rest = _parsed(name)
        if split:
            by_rest.setdefault(rest, {})[name] = split
    plain = by_rest.pop((), {})
    pairs = [p for p in by_rest.values() if TRAIN in p.values() and len(set(p.values())) > 1]
    if not pairs or TRAIN in plain.values():
        return plain
    training = {name: TRAIN for name in names if _parsed(name)[0] == TRAIN}
    return training | {name: split for pair in pairs for name, split in pair.items()}


def _parsed(name: str) -> tuple[str | None, tuple[str, ...]]:
    """(the only split that a name speaks of, or None; its other words)."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    splits, rest = [], []
    for word in re.findall(r"[^\W_]+", text.casefold()):
        glued = GLUED.fullmatch(word)
        if glued:
            splits.append(WORDS[glued[1]])
            rest += [glued[3]] if glued[3] else []
        elif word not in FILLERS:
            rest.append(word)
    return (splits[0] if len(splits) == 1 else None), tuple(rest)


def only_one(root: Path, named: dict[str, str], split: str, remedy: str = "") -> str | None:
    """The name of the folder of a split, None where there is none.

    Args:
        remedy: what the user can do besides moving folders away.

    Raises:
        UserError: several are called like it.
    """
    names = [name for name, meant in named.items() if meant == split]
    if len(names) > 1:
        raise UserError(
            f"{root} has the folders {listed(names)}, which are all named like the {split} split: "
            f"move all but one of them away{remedy}"
        )
    return names[0] if names else None


# --------------------------------------------------------------------------------------- decisions


def _as_told(root: Path, folders: list[str], splits: str) -> Layout:
    train, _, validation = splits.partition(",")
    if train not in folders or validation not in folders or train == validation:
        raise UserError(
            f'--splits takes "{NO_SPLITS}", or the names of two folders in {root} with a comma '
            f'between, as in --splits train,test; received "{splits}"'
        )
    aside = tuple(name for name in folders if name not in (train, validation))
    return Layout(root, train, validation, aside)


def _are_classes(root: Path, named: dict[str, str], others: list[str]) -> bool:
    """Whether a folder called train is a class: trains beside cars and buses.

    It is one where it holds images itself, as folders beside it do, and no other folder speaks of
    a split. A folder called test is not, since unlabelled images often lie so.
    """
    splits = {_parsed(name)[0] for name in [*named, *others]} - {None}
    if not others or splits != {TRAIN} or any(_folders_in(root / name) for name in named):
        return False
    return not all(_folders_in(root / name) for name in others)


def _as_splits(root: Path, named: dict[str, str], others: list[str]) -> Layout:
    train, validation = (only_one(root, named, s, OR_SPLITS) for s in (TRAIN, VALIDATION))
    if train is None:
        likely = f"{others[0] if len(others) == 1 else 'TRAIN'},{next(iter(named))}"
        raise UserError(
            f"{root} has {listed(named)} but no folder train: add it, or pass one of its folders "
            f"as --source to have that split, or --splits {likely} to name the training and the "
            f"validation folder, or --splits {NO_SPLITS} if every folder is a class"
        )
    tests = [n for n, split in named.items() if split == TEST and _folders_in(root / n)]
    if validation:
        notes = [
            f"{name} is left aside, neither trained on nor scored: --splits {train},{name} takes "
            "it for validation, under another image_folder/NAME"
            for name in tests
        ]
    else:
        validation = only_one(root, dict.fromkeys(tests, TEST), TEST, OR_SPLITS)
        notes = [f"{validation} is taken for validation, for there is no folder val"]
    if not validation:
        raise _no_validation(root, train, others)
    aside = [name for name in [*named, *others] if name not in (train, validation, *tests)]
    return Layout(root, train, validation, tuple(aside), tuple(notes))


def _no_validation(root: Path, train: str, others: list[str]) -> UserError:
    is_class = f", or pass --splits {NO_SPLITS} if {train} is a class"
    if not _folders_in(root / train):
        return UserError(
            f"{root / train} holds no class folders: sort its images into folders of their "
            f"classes, as in {train}/cat/1.jpg{is_class}"
        )
    is_class = is_class if others else ""
    return UserError(
        f"{root} has a folder {train} but no val, validation or test with class folders: add one, "
        f"or pass {root / train} as --source to have it split{is_class}"
    )


def _refuse_no_classes(folder: Path, otherwise: str) -> None:
    """Refuse folders such as images and annotations where class folders are needed.

    Args:
        otherwise: what to pass where they are classes all the same.
    """
    folders = _folders_in(folder)
    odd = [name for name in folders if _is_no_class(name)]
    if not odd:
        return
    others = [name for name in folders if name not in odd]
    likely = others or [name for name in odd if name.casefold() in OF_IMAGES]
    if len(likely) == 1 and _holds_classes(folder / likely[0]):
        remedy = f"pass {folder / likely[0]} as --source"
    elif others:
        remedy = "move such folders away"
    else:
        remedy = "sort the images into folders of their classes, as in cat/1.jpg"
    raise UserError(
        f"{folder} has the folder{'s' * (len(odd) > 1)} {listed(odd)}, named like a part of a "
        f"data set and not like a class: {remedy}, or pass {otherwise}"
    )


def _is_no_class(name: str) -> bool:
    return name.casefold() in OF_IMAGES | ABOUT_IMAGES


def _holds_classes(folder: Path) -> bool:
    """Whether passing a folder as --source may work: it has class folders, or splits of them."""
    folder = enter_lone_folders(folder, stop=split_of)
    folders = _folders_in(folder)
    if any(map(_is_no_class, folders)):
        return False
    named = named_splits(folders)
    return len(folders) > 1 and all(_folders_in(folder / n) for n, s in named.items() if s == TRAIN)


def _refuse_splits_in_classes(root: Path, classes: list[str]) -> None:
    """Refuse <class>/<split>/<image>, and folders that may be splits of names unknown here."""
    common = None  # names that each class folder holds, where they hold no images besides
    for name in classes:
        folders, files = list_folder(root / name)
        named = {split_of(folder): folder for folder in folders}
        if TRAIN in named and {VALIDATION, TEST} & set(named):
            has_classes = _folders_in(root / name / named[TRAIN])
            remedy = f"pass {root / name} as --source" if has_classes else BELOW_SPLITS
            raise UserError(
                f"{root / name} holds {listed(sorted(f for s, f in named.items() if s))}, which "
                f"are named like splits: {remedy}, or pass --splits {NO_SPLITS} to mix them"
            )
        here = set() if any(map(is_image, files)) else set(folders)
        common = here if common is None else common & here
    if len(classes) > 1 and len(common or ()) > 1:
        raise UserError(
            f"{root} has the folders {listed(classes)}, and each of them holds the folders "
            f"{listed(sorted(common))}: if they are splits, say which with --splits "
            f"{classes[0]},{classes[1]}; if they are classes, pass --splits {NO_SPLITS}"
        )


def _folders_in(folder: Path) -> list[str]:
    return list_folder(folder)[0]


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a message: "a, b and c"."""
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
