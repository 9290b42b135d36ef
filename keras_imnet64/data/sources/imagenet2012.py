"""ImageNet-1K of 2012 from its two tars, from class folders or from TFDS' TFRecords, for an index.

Labels are positions in the sorted class ids, as TFDS and torchvision have them. The tars are never
unpacked: `ILSVRC2012_img_train.tar` holds a tar for each class, `ILSVRC2012_img_val.tar` images,
whose classes stand in a file of TFDS.
"""

import tarfile
from pathlib import Path, PurePosixPath

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.data.sources import image_folders as folders
from keras_imnet64.data.sources import layout
from keras_imnet64.data.sources.archives import imagenet_wnids, tfds_file
from keras_imnet64.data.sources.finding import list_folder, sort_files
from keras_imnet64.data.stores.indexing import ImageEntry

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
NUM_TRAIN, NUM_VALIDATION = 1_281_167, 50_000


def list_images(source, progress=None):
    """The `image_folders.Listing` of a folder that holds the tars, or train/ and val/.

    val/ may have class folders, or the images themselves under their published names.

    Raises:
        UserError: neither is there, or a tar is damaged or holds something else.
    """
    root = source = folders.source_folder(source)
    if (root / TRAIN_TAR).is_file():
        if not (root / VALIDATION_TAR).is_file():
            raise UserError(f"{root} has {TRAIN_TAR} but not {VALIDATION_TAR}; both are needed")
        return _from_tars(root, progress)
    root = layout.enter_lone_folders(root, layout.split_of)
    named = layout.named_splits(list_folder(root)[0])
    train = layout.only_one(root, named, layout.TRAIN)
    if train is None:
        raise UserError(
            f"{root} holds neither {TRAIN_TAR} and {VALIDATION_TAR} nor the folders train and val"
        )
    validation = layout.only_one(root, named, layout.VALIDATION) or "val"
    subfolders, files = list_folder(root / validation)
    if subfolders or not files:
        listing = folders.list_train_and_validation(root, train, validation)
    else:
        listing = _with_flat_validation(root, train, validation, sort_files(files))
    listing.source = source
    listing.note_loose(root, source)
    others = set(list_folder(root)[0]) - {train, validation}
    listing.aside += [f"{name}/" for name in sorted(others)]
    return listing


def _with_flat_validation(root, train, validation, found):
    """The listing where the validation images lie in one folder under their published names."""
    classes = folders.class_folders(root / train)
    listing = folders.Listing(root, list(classes), folders=f"{train} and {validation}")
    listing.note_loose(root / train)
    for label, folder in enumerate(classes.values()):
        listing.splits["train"] += listing.take_class(folder, label)
    names = [image.name for image in listing.take(found, 0)]
    for name, label in _labelled(root, names, listing.wnids):
        listing.splits["validation"].append(ImageEntry(name, label))
    return listing


def unexpected(listing):
    """What differs from ImageNet-1K, in words; empty where nothing does.

    Its tars have no published digest beyond their login, so "verified" means: its 1,000 class ids
    and as many images of each split.
    """
    if sorted(listing.wnids) != sorted(imagenet_wnids()):
        return f"its {len(listing.wnids):,} classes are not ImageNet's 1,000"
    for split, expected in (("train", NUM_TRAIN), ("validation", NUM_VALIDATION)):
        if len(listing.splits[split]) != expected:
            return f"{split} has {len(listing.splits[split]):,} images, not {expected:,}"
    return ""


def _labelled(where, names, wnids):
    """(name, label) of validation images by their published names."""
    wnid_of = validation_wnids()
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    for name in names:
        wnid = wnid_of.get(PurePosixPath(name).name)
        if wnid is None:
            raise UserError(f"{where} holds {name}, which is no validation image of ImageNet")
        if wnid not in label_of:
            raise UserError(
                f"{where} holds {name} of the class {wnid}, which the training images lack"
            )
        yield name, label_of[wnid]


def validation_wnids():
    """{published file name: class id} of the 50,000 validation images, from TFDS' list."""
    text = tfds_file("datasets/imagenet2012/validation_labels.txt").read_text("utf-8")
    names = (f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, NUM_VALIDATION + 1))
    return dict(zip(names, text.split(), strict=True))


# ---------------------------------------------------------------------------------------- the tars


def _from_tars(root, progress):
    train = root / TRAIN_TAR
    classes = {}  # class id -> images without a label yet
    with _opened(train) as outer:
        for member in _members(outer, train):
            wnid = PurePosixPath(member.name).stem
            if not member.name.endswith(".tar") or wnid in classes:
                raise UserError(f"{train} must hold one tar for each class; it has {member.name}")
            classes[wnid] = _images_within(train, outer, member)
            if progress:
                progress(f"listing {TRAIN_TAR}", len(classes), 1000)
    wnids = sorted(classes)
    if not wnids:
        raise UserError(f"{train} holds no class")
    return folders.Listing(
        root,
        wnids,
        {
            "train": [
                ImageEntry(TRAIN_TAR, label, offset, size, name)
                for label, wnid in enumerate(wnids)
                for name, offset, size in sorted(classes[wnid])
            ],
            "validation": _validation(root / VALIDATION_TAR, wnids),
        },
    )


def _images_within(path, outer, member):
    """[(name, offset in the outer tar, size)] of the tar that is a member of another."""
    with outer.extractfile(member) as content, _opened(path, content, member.name) as inner:
        found = [
            (
                f"{member.name}/{image.name}",
                member.offset_data + image.offset_data,
                image.size,
            )
            for image in _members(inner, path, member.name)
        ]
    if not found:
        raise UserError(f"{path}: {member.name} holds no image")
    return found


def _validation(path, wnids):
    with _opened(path) as archive:
        members = {}
        for member in _members(archive, path):
            name = PurePosixPath(member.name).name
            if name in members:
                raise UserError(f"{path} holds {name} twice")
            members[name] = member
    return [
        ImageEntry(path.name, label, members[name].offset_data, members[name].size, name)
        for name, label in _labelled(path, sorted(members), wnids)
    ]


def _opened(path, content=None, member=""):
    try:
        return tarfile.open(path, "r:", fileobj=content, encoding="utf-8")
    except (tarfile.TarError, OSError) as error:
        where = f"{path}: {member}" if member else path
        raise UserError(f"{where} is not a whole tar archive ({reason(error)})") from None


def _members(archive, path, inside=""):
    """The files of a tar; links and names that point outside it are refused, though never used."""
    where = f"{path}: {inside}" if inside else path
    try:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if member.isdir():
                continue
            if not member.isreg() or ".." in parts or member.name.startswith("/"):
                raise UserError(f"{where} holds {member.name}, which is a link or points outside")
            yield member
        archive.fileobj.seek(archive.offset)
        if any(archive.fileobj.read(tarfile.BLOCKSIZE)):  # where its end is marked with zeros
            raise tarfile.ReadError("it ends within a member")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{where} is not a whole tar archive ({reason(error)})") from None


# ------------------------------------------------------------------------------ TFDS' TFRecords


def built_by_tfds(data_dir):
    """The folder of the newest `imagenet2012` that TFDS has built there; None if there is none."""
    versions = sorted(Path(data_dir, "imagenet2012").glob("[0-9]*.*.*/dataset_info.json"))
    return versions[-1].parent if versions else None


def list_tfrecords(folder, progress=None):
    """The `image_folders.Listing` of what TFDS has built: where each JPEG lies in its TFRecord."""
    wnids = sorted(imagenet_wnids())
    splits = {}
    for split in ("train", "validation"):
        shards = sorted(Path(folder).glob(f"imagenet2012-{split}.tfrecord-*"))
        if not shards:
            raise UserError(f"{folder} has no TFRecords of {split}: let TFDS build it again")
        splits[split] = []
        for done, shard in enumerate(shards, start=1):
            splits[split] += _in_tfrecord(shard, len(wnids))
            if progress:
                progress(f"listing {split}", done, len(shards))
    return folders.Listing(Path(folder), wnids, splits)


def _in_tfrecord(shard, num_classes):
    """A record is its length (8 bytes), a checksum (4), a tf.train.Example, a checksum (4)."""
    from keras_imnet64.core.library_logs import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    found, end = [], shard.stat().st_size
    with open(shard, "rb") as file:
        while header := file.read(12):
            begin, length = file.tell(), int.from_bytes(header[:8], "little")
            if begin + length + 4 > end:
                raise UserError(f"{shard} is cut short: let TFDS build it again")
            content = file.read(length + 4)[:length]
            try:
                feature = tf.train.Example.FromString(content).features.feature
                image, name = (feature[k].bytes_list.value[0] for k in ("image", "file_name"))
                label = feature["label"].int64_list.value[0]
            except Exception as error:  # of protobuf, which has its own kinds, or an IndexError
                what = f"{shard} does not hold TFDS' records ({reason(error)})"
                raise UserError(f"{what}: let TFDS build it again") from None
            if not 0 <= label < num_classes:
                raise UserError(f"{shard} has an image of class {label}")
            offset, name = begin + content.index(image), name.decode(errors="replace")
            found.append(ImageEntry(shard.name, label, offset, len(image), name))
    return found
