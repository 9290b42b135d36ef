"""Lists the images of ImageNet-1K of 2012, in its two tars, class folders or TFDS' TFRecords.

Labels are positions in the sorted class ids, as in TFDS and torchvision. The tars are never
unpacked: `ILSVRC2012_img_train.tar` holds a tar for each class, `ILSVRC2012_img_val.tar` holds
images, whose classes a file of TFDS lists.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from keras_imnet64.backend.loading import import_tensorflow
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.sources import layout
from keras_imnet64.data.sources.archives import imagenet_wnids
from keras_imnet64.data.sources.finding import FoundFiles, list_folder, sort_files
from keras_imnet64.data.sources.tars import members, open_tar
from keras_imnet64.data.sources.tfds_private import package_file
from keras_imnet64.data.stores.indexing import ImageEntry

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
NUM_CLASSES, NUM_TRAIN, NUM_VALIDATION = 1_000, 1_281_167, 50_000


def list_images(source: StrPath, progress: PackProgress | None = None) -> folders.Listing:
    """Lists a folder that holds the tars, or train/ and val/.

    val/ holds class folders, or the images themselves with their published names.

    Raises:
        UserError: the folder holds neither, or a tar is damaged or holds other files.
    """
    folder = folders.source_folder(source, folders.OTHER_FORMS)
    if (folder / TRAIN_TAR).is_file():
        if not (folder / VALIDATION_TAR).is_file():
            raise UserError(f"{folder} has {TRAIN_TAR} but not {VALIDATION_TAR}; both are needed")
        return _list_tars(folder, progress)
    root = layout.enter_single_folders(folder, layout.split_of)
    named = layout.named_splits(list_folder(root)[0])
    train = layout.folder_of_split(root, named, layout.TRAIN)
    if train is None:
        raise UserError(
            f"{root} holds neither {TRAIN_TAR} and {VALIDATION_TAR} nor the folders train and val"
        )
    validation = layout.folder_of_split(root, named, layout.VALIDATION) or "val"
    subfolders, files = list_folder(root / validation)
    if subfolders or not files:
        listing = folders.list_train_and_validation(root, train, validation)
    else:
        listing = _with_flat_validation(root, train, validation, sort_files(files))
    listing.record_source(folder)
    others = set(list_folder(root)[0]) - {train, validation}
    listing.ignored += [f"{name}/" for name in sorted(others)]
    return listing


def _with_flat_validation(
    root: Path, train: str, validation: str, found: FoundFiles
) -> folders.Listing:
    """Lists class folders of training images, and a single folder of validation images."""
    classes = folders.class_folders(root / train)
    listing = folders.Listing(root, list(classes), folders=f"{train} and {validation}")
    listing.record_loose_files(root / train)
    for label, folder in enumerate(classes.values()):
        listing.splits["train"] += listing.list_class(folder, label)
    names = [image.name for image in listing.list_images(found, 0)]
    labelled = _labelled(root, names, listing.wnids)
    listing.splits["validation"] = [ImageEntry(name, label) for name, label in labelled]
    return listing


def mismatch(listing: folders.Listing) -> str:
    """Returns how a listing differs from ImageNet-1K, as a clause; empty if it does not.

    The digests of the tars are published only behind a login. Therefore "verified" means: the 1,000
    class ids of ImageNet-1K, and its number of images in each split.
    """
    if sorted(listing.wnids) != sorted(imagenet_wnids()):
        return f"its {len(listing.wnids):,} classes are not ImageNet's 1,000"
    for split, expected in (("train", NUM_TRAIN), ("validation", NUM_VALIDATION)):
        if len(listing.splits[split]) != expected:
            return f"{split} has {len(listing.splits[split]):,} images, not {expected:,}"
    return ""


def _labelled(where: Path, names: Iterable[str], wnids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yields (name, label) of validation images with their published names."""
    wnid_of = validation_wnids()
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    for name in names:
        wnid = wnid_of.get(PurePosixPath(name).name)
        if wnid is None:
            raise UserError(f"{where} holds {name}, which is not a validation image of ImageNet")
        if wnid not in label_of:
            raise UserError(
                f"{where} holds {name} of the class {wnid}, which the training images lack"
            )
        yield name, label_of[wnid]


def validation_wnids() -> dict[str, str]:
    """Returns {published file name: class id} of the validation images, from TFDS' list."""
    text = package_file("datasets/imagenet2012/validation_labels.txt").read_text("utf-8")
    names = (f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, NUM_VALIDATION + 1))
    return dict(zip(names, text.split(), strict=True))


# ---------------------------------------------------------------------------------------- the tars


def _list_tars(root: Path, progress: PackProgress | None) -> folders.Listing:
    path = root / TRAIN_TAR
    train: list[ImageEntry] = []
    with open_tar(path) as outer:
        tar_of: dict[str, tarfile.TarInfo] = {}  # by class id
        for member in members(outer, str(path)):
            wnid = PurePosixPath(member.name).stem
            if not member.name.endswith(".tar") or wnid in tar_of:
                raise UserError(f"{path} must hold one tar for each class; it has {member.name}")
            tar_of[wnid] = member
        wnids = sorted(tar_of)
        if not wnids:
            raise UserError(f"{path} holds no class")
        for label, wnid in enumerate(wnids):
            train += _list_class_tar(path, outer, tar_of[wnid], label)
            if progress:
                progress(f"listing {TRAIN_TAR}", label + 1, NUM_CLASSES)
    validation = _list_validation_tar(root / VALIDATION_TAR, wnids)
    splits = {"train": train, "validation": validation}
    return folders.Listing(root, wnids, splits, form="tar archives")


def _list_class_tar(
    path: Path, outer: tarfile.TarFile, tar: tarfile.TarInfo, label: int
) -> list[ImageEntry]:
    """Lists the images of a class, in a tar that is a member of the training tar `outer`."""
    content = outer.extractfile(tar)
    assert content is not None  # `members` yields regular files only
    where = f"{path}: {tar.name}"
    with content, open_tar(path, content, where) as inner:
        entries = [
            ImageEntry(
                TRAIN_TAR,
                label,
                offset=tar.offset_data + image.offset_data,
                length=image.size,
                member=f"{tar.name}/{image.name}",
            )
            for image in members(inner, where)
        ]
    if not entries:
        raise UserError(f"{where} holds no image")
    return sorted(entries, key=lambda entry: entry.member)


def _list_validation_tar(path: Path, wnids: Sequence[str]) -> list[ImageEntry]:
    with open_tar(path) as archive:
        found: dict[str, tarfile.TarInfo] = {}
        for member in members(archive, str(path)):
            name = PurePosixPath(member.name).name
            if name in found:
                raise UserError(f"{path} holds {name} twice")
            found[name] = member
    return [
        ImageEntry(path.name, label, found[name].offset_data, found[name].size, name)
        for name, label in _labelled(path, sorted(found), wnids)
    ]


# ------------------------------------------------------------------------------ TFDS' TFRecords


def built_by_tfds(data_dir: StrPath) -> Path | None:
    """Returns the folder of the newest `imagenet2012` that TFDS has built, or None."""
    files = Path(data_dir, "imagenet2012").glob("[0-9]*.*.*/dataset_info.json")
    return max((file.parent for file in files), key=_version, default=None)


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def list_tfrecords(folder: StrPath, progress: PackProgress | None = None) -> folders.Listing:
    """Lists the images in the TFRecords that TFDS has built."""
    wnids = sorted(imagenet_wnids())
    splits: dict[str, list[ImageEntry]] = {}
    for split in ("train", "validation"):
        shards = sorted(Path(folder).glob(f"imagenet2012-{split}.tfrecord-*"))
        if not shards:
            raise UserError(f"{folder} has no TFRecords of {split}: let TFDS build it again")
        splits[split] = []
        for done, shard in enumerate(shards, start=1):
            splits[split] += _list_tfrecord(shard, len(wnids))
            if progress:
                progress(f"listing {split}", done, len(shards))
    return folders.Listing(Path(folder), wnids, splits, form="TFRecords")


def _list_tfrecord(shard: Path, num_classes: int) -> list[ImageEntry]:
    """Lists the images of one file of records.

    A record is its length (8 bytes), a checksum (4), a tf.train.Example and a checksum (4).
    """
    import_tensorflow()
    import tensorflow as tf

    listed: list[ImageEntry] = []
    end = shard.stat().st_size
    with open(shard, "rb") as file:
        while header := file.read(12):
            begin, length = file.tell(), int.from_bytes(header[:8], "little")
            if begin + length + 4 > end:
                raise UserError(f"{shard} is cut short: let TFDS build it again")
            content = file.read(length + 4)[:length]
            try:
                features = tf.train.Example.FromString(content).features.feature
                image, name = (features[k].bytes_list.value[0] for k in ("image", "file_name"))
                label = features["label"].int64_list.value[0]
            except Exception as error:  # an error of protobuf, or an IndexError
                fault = f"{shard} does not hold TFDS' records ({reason(error)})"
                raise UserError(f"{fault}: let TFDS build it again") from None
            if not 0 <= label < num_classes:
                raise UserError(f"{shard} has an image of class {label}, not 0..{num_classes - 1}")
            offset, name = begin + content.index(image), name.decode(errors="replace")
            listed.append(ImageEntry(shard.name, label, offset, len(image), name))
    return listed
