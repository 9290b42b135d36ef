"""Archives in the official layout of downsampled ImageNet: their table, their checks, writing them.

A train archive is a zip of `train_data_batch_<i>.npz`, the validation archive one of
`val_data.npz`. Each npz holds `data` uint8 [n, 3*s*s] (flat, all R, then G, then B), `labels`
[n] in 1..K and, in train files, `mean` [3*s*s]. (As in the published zips and
PatrykChrabaszcz/Imagenet32_Scripts.)
"""

import ast
import hashlib
import importlib.util
import io
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import sync_file, sync_folder
from keras_imnet64.core.paths import expand
from keras_imnet64.core.zips import open_zip, read_member, read_npz

MEMBERS = {
    "train": re.compile(r"train_data_batch_\d+\.npz"),
    "validation": re.compile(r"val_data\.npz"),
}
READ_BYTES = 8 * 2**20
CHUNK = 1024  # images in memory while archives are written


@dataclass(frozen=True)
class Archive:
    """A file that a data set is built from; `bytes` and `sha256` identify the published one."""

    file_name: str
    split: str
    bytes: int
    sha256: str


# -------------------------------------------------------------------------- what TFDS knows of them


def published_archives():
    """All published archives, as TFDS' own checksum table lists them.

    Returns:
        list[Archive]
    """
    table = tfds_file("datasets/imagenet_resized/checksums.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if line.strip()]
    return [
        Archive(name, "validation" if "_val_" in name else "train", int(size), sha256)
        for _, size, sha256, name in rows
    ]


def archives_of(image_size):
    """The archives that make one image size: training parts in order, then validation."""
    return sorted(
        (a for a in published_archives() if a.file_name.startswith(f"Imagenet{image_size}_")),
        key=lambda archive: archive.file_name,
    )


def imagenet_wnids():
    """The 1,000 class ids in the label order of downsampled ImageNet (map_clsloc, not sorted)."""
    text = tfds_file("image_classification/imagenet_resized_labels.txt").read_text("utf-8")
    return text.split()


def imagenet_class_names():
    """A name per class in label order; TFDS has them for sorted class ids, with SI-Score.

    'crane' and 'maillot' name two classes each: combine sets by class id, never by these. Where
    TFDS has no such list the class ids stand in for it.
    """
    wnids = imagenet_wnids()
    file = tfds_file("datasets/siscore/labels.py")
    names = _longest_list(file) if file.is_file() else []
    if len(names) != len(wnids):
        return wnids
    by_wnid = dict(zip(sorted(wnids), names, strict=True))
    return [by_wnid[wnid].split(",")[0] for wnid in wnids]


def _longest_list(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lists = [ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.List)]
    return max(lists, key=len, default=[])


def tfds_file(relative):
    """A file of the TFDS package, found without importing it (which takes seconds)."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    return Path(spec.submodule_search_locations[0]) / relative


# ------------------------------------------------------------------------------------------ checks


def verify(folder, archives, progress=None):
    """Hold the files of `folder` against the published archives, by size, then by SHA-256.

    Args:
        folder: where they lie.
        archives: the Archives wanted.
        progress: called as `progress(description, done, total)`, in bytes.

    Returns:
        dict: file name -> path.

    Raises:
        UserError: names every archive that is missing, truncated, altered or another one.
    """
    paths, problems = _present(folder, archives)
    sized = [a for a in archives if a.file_name in paths]
    right_size = [a for a in sized if paths[a.file_name].stat().st_size == a.bytes]
    for archive in sized:
        if archive not in right_size:
            problems.append(_wrong_size(paths[archive.file_name], archive, progress))
    if not problems:  # hashing takes minutes: not for a folder that is refused anyway
        for archive in right_size:
            actual = _sha256(paths[archive.file_name], progress)
            if actual != archive.sha256:
                problems.append(_wrong_content(archive, actual))
    if problems:
        raise UserError(
            f"these archives in {folder} are not the published ones: {'; '.join(problems)} "
            "(download them again, or pass --allow-unverified to use other images in that layout)"
        )
    return paths


def _present(folder, archives):
    folder = expand(folder)
    if not os.path.isdir(folder):
        raise UserError(f"--source must be a folder that holds the archives; received {folder}")
    paths = {a.file_name: folder / a.file_name for a in archives}
    missing = [name for name, path in paths.items() if not path.is_file()]
    present = {name: path for name, path in paths.items() if name not in missing}
    return present, [f"{name} is missing" for name in missing]


def _wrong_size(path, archive, progress):
    actual = path.stat().st_size
    same_size = [a for a in published_archives() if a.bytes == actual]
    if same_size and _sha256(path, progress) == same_size[0].sha256:
        return f"{archive.file_name} is really {same_size[0].file_name}"
    kind = "truncated" if actual < archive.bytes else "altered"
    return f"{archive.file_name} is {kind} ({actual:,} bytes, expected {archive.bytes:,})"


def _wrong_content(archive, actual):
    for known in published_archives():
        if known.sha256 == actual:
            return f"{archive.file_name} is really {known.file_name}"
    return f"{archive.file_name} is altered (SHA-256 {actual}, expected {archive.sha256})"


def _sha256(path, progress):
    sha, done, total = hashlib.sha256(), 0, path.stat().st_size
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            sha.update(block)
            done += len(block)
            if progress:
                progress(f"checking {path.name}", done, total)
    return sha.hexdigest()


def check_layout(folder, archives, image_size, num_classes, progress=None):
    """Hold other archives, with the published names, against the layout; every array is read.

    Returns:
        (dict: file name -> path, dict: split -> number of images).

    Raises:
        UserError: names the archive and the member that do not fit.
    """
    paths, problems = _present(folder, archives)
    if problems:
        raise UserError(f"the layout needs all its archives in {folder}: {'; '.join(problems)}")
    counts, seen = {}, {}
    for done, archive in enumerate(archives):
        path = paths[archive.file_name]
        for member, content in _members(path, archive.split):
            if member in seen:
                raise UserError(f"{path} and {seen[member]} both hold {member}")
            seen[member] = path
            count = _check_npz(f"{path}: {member}", content, image_size, num_classes)
            counts[archive.split] = counts.get(archive.split, 0) + count
        if progress:
            progress("checking the layout", done + 1, len(archives))
    return paths, counts


def _members(path, split):
    """(name, bytes) of each npz of one archive, which must hold nothing else."""
    try:
        with open_zip(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            for info in infos:
                if not MEMBERS[split].fullmatch(info.filename):
                    raise UserError(
                        f'{path} holds "{info.filename}" where the layout has '
                        f"{MEMBERS[split].pattern}"
                    )
                yield info.filename, read_member(archive, info.filename)
            if not infos:
                raise UserError(f"{path} holds no images: the zip is empty")
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a whole zip archive ({reason(error)})") from None


def _check_npz(where, content, image_size, num_classes):
    try:
        data, labels = read_npz(io.BytesIO(content), ("data", "labels")).values()
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{where} is damaged or another thing ({reason(error)}); it must hold data and labels"
        ) from None
    if labels.ndim != 1:
        raise UserError(f"{where} must hold a list of labels; received {list(labels.shape)}")
    expected = (len(labels), 3 * image_size**2)
    if data.dtype != np.uint8 or data.shape != expected:
        raise UserError(
            f"{where} must hold data uint8 {list(expected)}, one row per label; "
            f"received {data.dtype} {list(data.shape)}"
        )
    if labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(f"{where} must hold whole-number labels; received {labels.dtype}")
    if labels.min() < 1 or labels.max() > num_classes:
        raise UserError(
            f"{where} must hold labels 1..{num_classes}; received {labels.min()}..{labels.max()}"
        )
    return len(labels)


# ----------------------------------------------------------------------------------------- writing


def write_archives(
    train_paths,
    validation_path,
    train,
    validation,
    *,
    num_batches=None,
    order=None,
    progress=None,
):
    """Write images as archives in the official layout, each whole before it gets its name.

    Arrays may be memory-mapped: no more than CHUNK images are held at once. The same images
    make the same bytes.

    Args:
        train_paths: the training archives; the numbered batches are dealt over them in order.
        validation_path: the validation archive.
        train, validation: (uint8 [N, s, s, 3], labels [N] from 0).
        num_batches: npz members of the training set, by default one per archive.
        order: positions [N] of the training images in the order to write, by default theirs.
        progress: called as `progress(description, done, total)`, in images.
    """
    images, labels = train
    num_batches = num_batches or len(train_paths)
    order = np.arange(len(images)) if order is None else order
    mean = _mean(images, progress)
    numbers = np.array_split(np.arange(num_batches), len(train_paths))
    parts = np.array_split(order, num_batches)
    for path, batch_numbers in zip(train_paths, numbers, strict=True):
        members = {f"train_data_batch_{n + 1}.npz": parts[n] for n in batch_numbers}
        _write_zip(path, members, images, labels, {"mean": mean}, progress)
    images, labels = validation
    members = {"val_data.npz": np.arange(len(images))}
    _write_zip(validation_path, members, images, labels, {}, progress)


def _mean(images, progress):
    """float64 [3*s*s], from exact sums."""
    sums = np.zeros(images[:1].size, np.int64)
    for start in range(0, len(images), CHUNK):
        sums += _flat(images[start : start + CHUNK]).sum(axis=0, dtype=np.int64)
        if progress:
            progress("averaging train", min(start + CHUNK, len(images)), len(images))
    return sums / len(images)


def _write_zip(path, members, images, labels, more, progress):
    """A zip of npz members: {name: positions of its images}, each with the arrays `more`."""
    path = Path(path)
    incoming = path.with_name(f".{path.name}.writing")
    total, done = sum(map(len, members.values())), 0
    try:
        with open(incoming, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, positions in members.items():
                    with archive.open(name, "w", force_zip64=True) as member:
                        for count in _write_npz(member, positions, images, labels, more):
                            done += count
                            if progress:
                                progress(f"writing {path.name}", done, total)
            sync_file(file)
        os.replace(incoming, path)
        sync_folder(path.parent)
    finally:
        incoming.unlink(missing_ok=True)


def _write_npz(file, positions, images, labels, more):
    """Write an npz of these images piece by piece; yields how many have just been written."""
    shape = (len(positions), images[:1].size)
    with zipfile.ZipFile(file, "w") as npz:
        with npz.open("data.npy", "w", force_zip64=True) as data:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(data, header)
            for start in range(0, len(positions), CHUNK):
                chunk = positions[start : start + CHUNK]
                data.write(_flat(images[chunk]).tobytes())
                yield len(chunk)
        for name, array in ({"labels": labels[positions] + 1} | more).items():
            with npz.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _flat(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # [N, H, W, 3] -> [N, 3*H*W]
