"""Lists, checks and writes archives in the official layout of downsampled ImageNet.

A training archive is a zip of `train_data_batch_<i>.npz`, the validation archive a zip of
`val_data.npz`. Each npz holds `data` uint8 [n, 3*s*s] (flat, all R, then G, then B), `labels` [n]
in 1..K and, in training files, `mean` [3*s*s], as in the published zips and
PatrykChrabaszcz/Imagenet32_Scripts.
"""

import ast
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import sync_file, sync_folder
from keras_imnet64.core.paths import expand
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.core.zips import open_zip, read_member, read_npz
from keras_imnet64.data.sources import tfds_private
from keras_imnet64.data.stores.files import write_pixels_header

MEMBERS = {
    "train": re.compile(r"train_data_batch_\d+\.npz"),
    "validation": re.compile(r"val_data\.npz"),
}
READ_BYTES = 8 * 2**20
CHUNK = 1024  # images that are in memory while archives are written

Images = tuple[np.ndarray, np.ndarray]  # uint8 [N, s, s, 3], labels [N] from 0


@dataclass(frozen=True)
class Archive:
    """A published archive: its split, size and digest."""

    file_name: str
    split: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckedLayout:
    """Archives in the official layout that need not be the published ones.

    Attributes:
        paths: {file name: path}.
        counts: {split: number of images}.
    """

    paths: dict[str, Path]
    counts: dict[str, int]


# --------------------------------------------------------------------------------- TFDS' own tables


def published_archives() -> list[Archive]:
    """Returns all published archives, from TFDS' own table of checksums."""
    file = tfds_private.package_file("datasets/imagenet_resized/checksums.tsv")
    rows = [line.split("\t") for line in file.read_text("utf-8").splitlines() if line.strip()]
    return [
        Archive(name, "validation" if "_val_" in name else "train", int(size), sha256)
        for _, size, sha256, name in rows
    ]


def archives_of(image_size: int) -> list[Archive]:
    """Returns the archives of one image size: training parts in order, then validation."""
    return sorted(
        (a for a in published_archives() if a.file_name.startswith(f"Imagenet{image_size}_")),
        key=lambda archive: archive.file_name,
    )


def imagenet_wnids() -> list[str]:
    """Returns the 1,000 class ids in the label order of downsampled ImageNet.

    That is the order of ILSVRC's map_clsloc.txt, which is not sorted.
    """
    file = tfds_private.package_file("image_classification/imagenet_resized_labels.txt")
    return file.read_text("utf-8").split()


def imagenet_class_names() -> list[str]:
    """Returns a name for each class, in the label order of downsampled ImageNet.

    'crane' and 'maillot' name two classes each, so data sets must be combined by class id. The
    names come from TFDS' SI-Score, which lists them for sorted class ids; without that list the
    class ids are returned.
    """
    wnids = imagenet_wnids()
    file = tfds_private.package_file("datasets/siscore/labels.py")
    names = _longest_list(file) if file.is_file() else []
    if len(names) != len(wnids):
        return wnids
    by_wnid = dict(zip(sorted(wnids), names, strict=True))
    return [by_wnid[wnid].split(",")[0] for wnid in wnids]


def _longest_list(file: Path) -> list[str]:
    """Returns the longest list literal in a Python file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lists = [ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.List)]
    return max(lists, key=len, default=[])


# ------------------------------------------------------------------------------------------ checks


def verify(
    folder: StrPath, archives: Sequence[Archive], progress: PackProgress | None = None
) -> dict[str, Path]:
    """Compares the archives in `folder` with the published ones, by size, then by SHA-256.

    Args:
        folder: the folder of the archives.
        archives: the archives that are needed.
        progress: called as `progress(description, done, total)`, in bytes.

    Returns:
        {file name: path}.

    Raises:
        UserError: names every archive that is missing, truncated, altered or renamed.
    """
    paths, problems = _find(folder, archives)
    present = [a for a in archives if a.file_name in paths]
    right_size = [a for a in present if paths[a.file_name].stat().st_size == a.bytes]
    for archive in present:
        if archive not in right_size:
            problems.append(_wrong_size(paths[archive.file_name], archive, progress))
    if not problems:  # hashing takes minutes, and is skipped if the folder is refused anyway
        for archive in right_size:
            actual = _sha256(paths[archive.file_name], progress)
            if actual != archive.sha256:
                problems.append(_wrong_content(archive, actual))
    if problems:
        remedy = (
            "download them again, or pass --allow-unverified to use other images in that layout"
            if present
            else "their unpacked npz files, the older pickles, Parquet and WebDataset are read too"
        )
        raise UserError(
            f"these archives in {folder} are not the published ones: {'; '.join(problems)} "
            f"({remedy})"
        )
    return paths


def _find(folder: StrPath, archives: Sequence[Archive]) -> tuple[dict[str, Path], list[str]]:
    """Returns {file name: path} of the archives in a folder, and a clause for each missing one."""
    source = expand(folder)
    if not os.path.isdir(source):
        raise UserError(f"--source must be a folder that holds the archives; received {source}")
    paths = {a.file_name: source / a.file_name for a in archives}
    missing = [name for name, path in paths.items() if not path.is_file()]
    present = {name: path for name, path in paths.items() if name not in missing}
    return present, [f"{name} is missing" for name in missing]


def _wrong_size(path: Path, archive: Archive, progress: PackProgress | None) -> str:
    """Describes an archive of the wrong size, as a clause."""
    actual = path.stat().st_size
    same_size = [a for a in published_archives() if a.bytes == actual]
    if same_size and _sha256(path, progress) == same_size[0].sha256:
        return f"{archive.file_name} is really {same_size[0].file_name}"
    kind = "truncated" if actual < archive.bytes else "altered"
    return f"{archive.file_name} is {kind} ({actual:,} bytes, expected {archive.bytes:,})"


def _wrong_content(archive: Archive, actual: str) -> str:
    """Describes an archive with the wrong SHA-256, as a clause."""
    for known in published_archives():
        if known.sha256 == actual:
            return f"{archive.file_name} is really {known.file_name}"
    return f"{archive.file_name} is altered (SHA-256 {actual}, expected {archive.sha256})"


def _sha256(path: Path, progress: PackProgress | None) -> str:
    sha, done, total = hashlib.sha256(), 0, path.stat().st_size
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            sha.update(block)
            done += len(block)
            if progress:
                progress(f"checking {path.name}", done, total)
    return sha.hexdigest()


def check_layout(
    folder: StrPath,
    archives: Sequence[Archive],
    image_size: int,
    num_classes: int,
    progress: PackProgress | None = None,
) -> CheckedLayout:
    """Checks the layout of archives with the published names, by reading every array.

    Raises:
        UserError: names the archive and the member that do not fit.
    """
    paths, problems = _find(folder, archives)
    if problems:
        raise UserError(f"the layout needs all its archives in {folder}: {'; '.join(problems)}")
    counts: dict[str, int] = {}
    archive_of: dict[str, Path] = {}  # by member
    for done, archive in enumerate(archives, start=1):
        path = paths[archive.file_name]
        for member, content in _members(path, archive.split):
            if member in archive_of:
                raise UserError(f"{path} and {archive_of[member]} both hold {member}")
            archive_of[member] = path
            count = _check_npz(f"{path}: {member}", content, image_size, num_classes)
            counts[archive.split] = counts.get(archive.split, 0) + count
        if progress:
            progress("checking the layout", done, len(archives))
    return CheckedLayout(paths, counts)


def _members(path: Path, split: str) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of each npz in an archive, which must hold no other files."""
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


def _check_npz(where: str, content: bytes, image_size: int, num_classes: int) -> int:
    """Checks the arrays of an npz, named `where` in messages. Returns its number of images."""
    try:
        data, labels = read_npz(io.BytesIO(content), ("data", "labels")).values()
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{where} is damaged or no npz file ({reason(error)}); it must hold data and labels"
        ) from None
    check_arrays(where, data, labels, image_size, num_classes)
    return len(labels)


def check_arrays(
    where: str, data: object, labels: np.ndarray, image_size: int, num_classes: int
) -> None:
    """Checks the arrays of a batch, named `where` in messages.

    Raises:
        UserError: states what was expected and what was received.
    """
    check_labels(where, labels, num_classes)
    expected = (len(labels), 3 * image_size**2)
    if not isinstance(data, np.ndarray):
        raise UserError(f"{where} must hold data as an array; received {type(data).__name__}")
    if data.dtype != np.uint8 or data.shape != expected:
        raise UserError(
            f"{where} must hold data uint8 {list(expected)}, one row per label; "
            f"received {data.dtype} {list(data.shape)}"
        )


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
    """Checks the labels of a batch, as `check_arrays` does."""
    if labels.ndim != 1:
        raise UserError(f"{where} must hold a list of labels; received {list(labels.shape)}")
    if not len(labels):
        raise UserError(f"{where} must hold labels of images; received none")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where} must hold whole-number labels; received {labels.dtype}")
    if labels.min() < 1 or labels.max() > num_classes:
        raise UserError(
            f"{where} must hold labels 1..{num_classes}; received {labels.min()}..{labels.max()}"
        )


# ----------------------------------------------------------------------------------------- writing


def write_archives(
    train_paths: Sequence[StrPath],
    validation_path: StrPath,
    train: Images,
    validation: Images,
    *,
    num_batches: int | None = None,
    order: np.ndarray | None = None,
    progress: PackProgress | None = None,
) -> None:
    """Writes images as archives in the official layout; each appears only when it is complete.

    Arrays may be memory-mapped: at most CHUNK images are in memory at once. The same images give
    the same bytes.

    Args:
        train_paths: the training archives, which share the numbered batches in order.
        validation_path: the validation archive.
        train, validation: (uint8 [N, s, s, 3], labels [N] from 0).
        num_batches: number of npz members of the training set, by default one per archive.
        order: positions [N] of the training images in the order to write, by default 0, 1, ...
        progress: called as `progress(description, done, total)`, in images.
    """
    images, _ = train
    num_batches = num_batches or len(train_paths)
    order = np.arange(len(images)) if order is None else order
    arrays = {"mean": _mean(images, progress)}
    numbers = np.array_split(np.arange(num_batches), len(train_paths))
    parts = np.array_split(order, num_batches)
    for path, batch_numbers in zip(train_paths, numbers, strict=True):
        members = {f"train_data_batch_{n + 1}.npz": parts[n] for n in batch_numbers}
        _write_zip(Path(path), members, train, arrays, progress)
    members = {"val_data.npz": np.arange(len(validation[0]))}
    _write_zip(Path(validation_path), members, validation, {}, progress)


def _mean(images: np.ndarray, progress: PackProgress | None) -> np.ndarray:
    """Returns the mean image, float64 [3*s*s], from exact sums."""
    sums = np.zeros(images[:1].size, np.int64)
    for start in range(0, len(images), CHUNK):
        sums += _flat(images[start : start + CHUNK]).sum(axis=0, dtype=np.int64)
        if progress:
            progress("averaging train", min(start + CHUNK, len(images)), len(images))
    return sums / len(images)


def _write_zip(
    path: Path,
    members: Mapping[str, np.ndarray],
    split: Images,
    arrays: Mapping[str, np.ndarray],
    progress: PackProgress | None,
) -> None:
    """Writes a zip of npz members.

    Args:
        members: {name: positions of its images in `split`}.
        arrays: the arrays that each member holds besides its images and labels.
    """
    incoming = path.with_name(f".{path.name}.writing")
    total, done = sum(map(len, members.values())), 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(f"writing {path.name}", done, total)

    try:
        with open(incoming, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, positions in members.items():
                    with archive.open(name, "w", force_zip64=True) as member:
                        _write_npz(member, positions, split, arrays, report)
            sync_file(file)
        os.replace(incoming, path)
        sync_folder(path.parent)
    finally:
        incoming.unlink(missing_ok=True)


def _write_npz(
    file: IO[bytes],
    positions: np.ndarray,
    split: Images,
    arrays: Mapping[str, np.ndarray],
    report: Callable[[int], None],
) -> None:
    """Writes an npz of the images at `positions`; calls `report(images just written)`."""
    images, labels = split
    with zipfile.ZipFile(file, "w") as npz:
        with npz.open("data.npy", "w", force_zip64=True) as data:
            shape = (len(positions), images[:1].size)
            write_pixels_header(data, shape)
            for start in range(0, len(positions), CHUNK):
                chunk = positions[start : start + CHUNK]
                data.write(_flat(images[chunk]).tobytes())
                report(len(chunk))
        for name, array in {"labels": labels[positions] + 1, **arrays}.items():
            with npz.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # [N, H, W, 3] -> [N, 3*H*W]
