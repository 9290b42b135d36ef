"""Decides which folders of a source are splits and which are classes, by their names and content.

The expected layout is `<split>/<class>/<image>`, or `<class>/<image>` without splits. Folders of
users and data hubs often differ: splits are called `Train` or `test_set`, or lie within a folder of
the same name. These variants are recognised. If a folder could be either a split or a class, an
error asks the user to decide with --splits. Folders such as images and annotations, which hold or
describe a whole data set, are refused as classes.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.sources.finding import is_image, list_folder

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_WORDS = {  # word in the name of a folder -> split
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate"), VALIDATION),
    **dict.fromkeys(("dev", "development", "eval", "evaluation"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
}
FILLERS = {  # words beside SPLIT_WORDS that do not change the meaning
    "set", "sets", "data", "dataset", "split", "folder", "dir", "files",
    "image", "images", "img", "imgs", "pictures", "photos",
}  # fmt: skip
IMAGES_FOLDERS = {  # names, in lower case, of folders with all images of a data set
    "images", "imgs", "img", "jpegimages", "pictures", "photos", "jpg", "jpeg", "png",
}  # fmt: skip
ANNOTATION_FOLDERS = {  # names of folders that describe the images
    "annotation", "annotations", "annots", "labels", "bboxes", "keypoints", "attributes", "parts",
    "masks", "trimaps", "segmentations", "segmentationclass", "segmentationobject",
    "xml", "xmls", "json", "csv", "txt",
    "meta", "metadata", "docs", "scripts", "splits", "lists", "imagesets",
}  # fmt: skip
JOINED = re.compile(  # such as trainset2
    rf"({'|'.join(SPLIT_WORDS)})({'|'.join(FILLERS)})?(\d*)"
)
NO_SPLITS = "none"  # for --splits: every folder is a class
MOVE_BELOW_SPLITS = "move the class folders into the splits, as in train/CLASS"
OR_NAME_SPLITS = ", or name the training and the validation folder with --splits TRAIN,VALIDATION"
MAX_NESTING = 16  # single folders within each other; links may form a loop
MAX_LISTED = 5  # names in a message


@dataclass(frozen=True)
class Splits:
    """The names of the folders of both splits."""

    train: str
    validation: str


@dataclass(frozen=True)
class Layout:
    """Where the class folders of a source lie.

    Attributes:
        root: the folder of the splits, or of the classes if there are no splits.
        splits: the folders of root that are the splits; None if there are no splits.
        ignored: names of other folders of root, which are not read.
        notes: sentences that tell the user what was decided.
    """

    root: Path
    splits: Splits | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_layout(source: Path, splits: str | None = None) -> Layout:
    """Returns the `Layout` of a folder of class folders, or of splits of them.

    Args:
        source: the folder.
        splits: what the user passed as --splits: "none", or the names of the training and the
            validation folder with a comma between; None decides by names and content.

    Raises:
        UserError: the layout is ambiguous, or a split is missing.
    """
    if splits == NO_SPLITS:
        return Layout(source)
    root = enter_single_folders(source, stop=split_of)
    folders = _folders_in(root)
    if splits is not None:
        return _requested_layout(root, folders, splits)
    named = named_splits(folders)
    others = [name for name in folders if name not in named]
    if named and not _are_classes(root, named, others):
        return _layout_of_splits(root, named, others)
    _refuse_annotations(root, f"--splits {NO_SPLITS} if every folder is a class")
    _refuse_splits_in_classes(root, folders)
    notes = [f"{name} is used as a class, like the folders beside it" for name in named]
    return Layout(root, notes=tuple(notes))


def enter_single_folders(folder: Path, stop: Callable[[str], object] = lambda _: False) -> Path:
    """Returns `folder`, or the folder that is reached from it through single folders.

    A single folder has no other folder beside it; it is entered if it holds folders.

    Args:
        stop: returns whether a single folder of this name must not be entered; default none.
    """
    for _ in range(MAX_NESTING):
        folders = _folders_in(folder)
        if len(folders) != 1 or stop(folders[0]) or not _folders_in(folder / folders[0]):
            break
        folder /= folders[0]
    return folder


def folders_between(outer: Path, inner: Path) -> list[Path]:
    """Returns the folders from `outer` to `inner` below it, both included."""
    folders = [inner, *inner.parents]
    return folders[: folders.index(outer) + 1][::-1]


# ------------------------------------------------------------------------------------------- names


def split_of(name: str) -> str | None:
    """Returns the split that a folder's name stands for, such as "test" for Test_Set, or None."""
    split, other_words = _parse_name(name)
    return None if other_words else split


def split_in(name: str) -> str | None:
    """Returns the split that a name contains, also beside other words, as in imagenet-train."""
    return _parse_name(name)[0]


def named_splits(names: Iterable[str]) -> dict[str, str]:
    """Returns {name: split} of the folders that are named like splits.

    A name with other words, such as seg_train, counts if a folder of another split has the same
    other words, such as seg_test. If there are several such pairs, all of them count, and so does
    every other folder that is named after training, so that the user has to choose.
    """
    names = list(names)
    by_words: dict[tuple[str, ...], dict[str, str]] = {}  # other words -> {name: split}
    for name in names:
        split, other_words = _parse_name(name)
        if split:
            by_words.setdefault(other_words, {})[name] = split
    plain = by_words.pop((), {})
    pairs = [p for p in by_words.values() if TRAIN in p.values() and len(set(p.values())) > 1]
    if not pairs or TRAIN in plain.values():
        return plain
    training = {name: TRAIN for name in names if _parse_name(name)[0] == TRAIN}
    return training | {name: split for pair in pairs for name, split in pair.items()}


def _parse_name(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Returns (the split that a name means, or None for no split or several; its other words)."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    splits: list[str] = []
    other_words: list[str] = []
    for word in re.findall(r"[^\W_]+", text.casefold()):
        if joined := JOINED.fullmatch(word):
            splits.append(SPLIT_WORDS[joined[1]])
            other_words += [joined[3]] if joined[3] else []
        elif word not in FILLERS:
            other_words.append(word)
    return (splits[0] if len(splits) == 1 else None), tuple(other_words)


def folder_of_split(root: Path, named: dict[str, str], split: str, remedy: str = "") -> str | None:
    """Returns the name of the folder that is named like a split, or None.

    Args:
        named: from `named_splits`.
        remedy: an alternative to moving folders away, for the message.

    Raises:
        UserError: several folders are named like the split.
    """
    names = [name for name, meaning in named.items() if meaning == split]
    if len(names) > 1:
        raise UserError(
            f"{root} has the folders {join_names(names)}, which are all named like the {split} "
            f"split: move all but one of them away{remedy}"
        )
    return names[0] if names else None


# --------------------------------------------------------------------------------------- decisions


def _requested_layout(root: Path, folders: list[str], splits: str) -> Layout:
    """Returns the layout that the user passed as --splits."""
    train, _, validation = splits.partition(",")
    if train not in folders or validation not in folders or train == validation:
        raise UserError(
            f'--splits takes "{NO_SPLITS}", or the names of two folders in {root} with a comma '
            f'between, as in --splits train,test; received "{splits}"'
        )
    ignored = tuple(name for name in folders if name not in (train, validation))
    return Layout(root, Splits(train, validation), ignored)


def _are_classes(root: Path, named: dict[str, str], others: list[str]) -> bool:
    """Returns whether a folder called train is a class: trains beside cars and buses.

    It is a class if it holds images itself, as another folder beside it does, and no other folder
    is named like a split. A folder called test is never a class, since it often holds unlabelled
    images.
    """
    splits = {_parse_name(name)[0] for name in [*named, *others]} - {None}
    if not others or splits != {TRAIN} or any(_folders_in(root / name) for name in named):
        return False
    return not all(_folders_in(root / name) for name in others)


def _layout_of_splits(root: Path, named: dict[str, str], others: list[str]) -> Layout:
    """Returns the layout of a folder whose folders `named` are splits, beside `others`."""
    train, validation = (
        folder_of_split(root, named, split, OR_NAME_SPLITS) for split in (TRAIN, VALIDATION)
    )
    if train is None:
        likely = f"{others[0] if len(others) == 1 else 'TRAIN'},{next(iter(named))}"
        raise UserError(
            f"{root} has {join_names(named)} but no folder train: add it, or pass one of its "
            f"folders as --source to have that split, or --splits {likely} to name the "
            f"training and the validation folder, or --splits {NO_SPLITS} if every folder is a "
            "class"
        )
    tests = [n for n, split in named.items() if split == TEST and _folders_in(root / n)]
    if validation:
        notes = [
            f"{name} is ignored, neither trained on nor scored: --splits {train},{name} uses it "
            "for validation, under another image_folder/NAME"
            for name in tests
        ]
    elif validation := folder_of_split(root, dict.fromkeys(tests, TEST), TEST, OR_NAME_SPLITS):
        notes = [f"{validation} is used for validation, since there is no folder val"]
    else:
        raise _missing_validation(root, train, others)
    for split in (train, validation):
        override = f"--splits {train},{validation} if they are classes"
        _refuse_annotations(enter_single_folders(root / split), override)
    ignored = [name for name in [*named, *others] if name not in (train, validation, *tests)]
    return Layout(root, Splits(train, validation), tuple(ignored), tuple(notes))


def _missing_validation(root: Path, train: str, others: list[str]) -> UserError:
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


def _refuse_annotations(folder: Path, override: str) -> None:
    """Refuses folders such as images and annotations where class folders are needed.

    Args:
        override: the option to pass if they are classes nevertheless.
    """
    folders = _folders_in(folder)
    refused = [name for name in folders if _is_no_class(name)]
    if not refused:
        return
    others = [name for name in folders if name not in refused]
    likely = others or [name for name in refused if name.casefold() in IMAGES_FOLDERS]
    if len(likely) == 1 and _holds_classes(folder / likely[0]):
        remedy = f"pass {folder / likely[0]} as --source"
    elif others:
        remedy = "move such folders away"
    else:
        remedy = "sort the images into folders of their classes, as in cat/1.jpg"
    raise UserError(
        f"{folder} has the folder{'s' * (len(refused) > 1)} {join_names(refused)}, named like a "
        f"part of a data set and not like a class: {remedy}, or pass {override}"
    )


def _is_no_class(name: str) -> bool:
    return name.casefold() in IMAGES_FOLDERS | ANNOTATION_FOLDERS


def _holds_classes(folder: Path) -> bool:
    """Returns whether a folder has class folders, or splits of them, and can be the --source."""
    folder = enter_single_folders(folder, stop=split_of)
    folders = _folders_in(folder)
    if any(map(_is_no_class, folders)):
        return False
    named = named_splits(folders)
    return len(folders) > 1 and all(_folders_in(folder / n) for n, s in named.items() if s == TRAIN)


def _refuse_splits_in_classes(root: Path, classes: list[str]) -> None:
    """Refuses <class>/<split>/<image>, and class folders that may be splits with unknown names.

    Class folders may be splits if they all hold the same folders, and no images.
    """
    subfolders = []  # names of the folders in each class folder; none if it holds images
    for name in classes:
        folders, files = list_folder(root / name)
        named = {split_of(folder): folder for folder in folders}
        if TRAIN in named and {VALIDATION, TEST} & set(named):
            has_classes = _folders_in(root / name / named[TRAIN])
            remedy = f"pass {root / name} as --source" if has_classes else MOVE_BELOW_SPLITS
            splits = sorted(folder for split, folder in named.items() if split)
            raise UserError(
                f"{root / name} holds {join_names(splits)}, which "
                f"are named like splits: {remedy}, or pass --splits {NO_SPLITS} to mix them"
            )
        subfolders.append(set() if any(map(is_image, files)) else set(folders))
    common = set.intersection(*subfolders) if subfolders else set()
    if len(classes) > 1 and len(common) > 1:
        raise UserError(
            f"{root} has the folders {join_names(classes)}, and each of them holds the folders "
            f"{join_names(sorted(common))}: if they are splits, say which with --splits "
            f"{classes[0]},{classes[1]}; if they are classes, pass --splits {NO_SPLITS}"
        )


def _folders_in(folder: Path) -> list[str]:
    return list_folder(folder)[0]


def join_names(names: Iterable[str]) -> str:
    """Joins names for a message: "a, b and c"."""
    names = list(names)
    if len(names) > MAX_LISTED:
        return f"{', '.join(names[:MAX_LISTED])} and {len(names) - MAX_LISTED:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
