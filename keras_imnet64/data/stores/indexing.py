"""Writing an encoded store: every listed image is decoded, and where it lies is noted.

An image is taken only if it is undamaged (see `damage`), and stays where it lies only if training,
which decodes with TensorFlow, sees the pixels that Pillow sees; else the store keeps a PNG of it.
`encoded` describes what lies in a store; the lists of images come from `sources`.
"""

import hashlib
import io
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from keras_imnet64.core.errors import RunFailed, UserError, printable
from keras_imnet64.core.files import read_json, sync_file, write_json
from keras_imnet64.core.library_logs import import_tensorflow
from keras_imnet64.core.paths import portable
from keras_imnet64.data.images.damage import JPEG_FORMATS, check_undamaged
from keras_imnet64.data.images.reading import (
    Unreadable,
    apply_orientation,
    exif_orientation,
    open_image,
    report_image_errors,
    report_unreadable,
    to_rgb,
)
from keras_imnet64.data.stores.encoded import (
    CONVERTED,
    FORMAT_VERSION,
    HASH_BYTES,
    HERE,
    KIND,
    RECORD,
    digest_of,
)
from keras_imnet64.data.stores.packing import SLACK_BYTES, new_store, require_space
from keras_imnet64.data.stores.store import open_store

AT_ONCE = 256  # images in work, which bounds memory
AS_THEY_ARE = {(kind, mode) for kind in (*JPEG_FORMATS, "PNG") for mode in ("L", "RGB")}
BYTES_PER_IMAGE = 240  # of the index, with names of usual length


@dataclass(frozen=True)
class Listed:
    """An image of a list: `name` is of a file below the root, with "/" between its parts.

    Attributes:
        offset, length: of its bytes in that file; length None is all of the file.
        label: its class, from 0.
        member: what it is called in messages beyond the file, such as a member of a tar.
    """

    name: str
    label: int
    offset: int = 0
    length: int | None = None
    member: str = ""

    @property
    def in_words(self):
        return f"{self.name}: {self.member}" if self.member else self.name


def write_index(
    path,
    listed,
    *,
    root,
    dataset,
    split,
    wnids,
    class_names,
    source,
    verified,
    skipped=None,
    progress=None,
):
    """Index a list of images into the folder `path`, replacing what was there.

    Args:
        path: the store's folder; its parents are made.
        listed: list of `Listed`, in the store's order.
        root: the folder below which their files lie.
        skipped: a list that receives (name, reason) of damaged images, which are left out; None
            refuses them.
        others: as for `packing.write_store`.

    Returns:
        EncodedStore

    Raises:
        UserError: an image is damaged, a class has none, or there is no room.
        RunFailed: writing broke off.
    """
    import_tensorflow()
    doing = f"indexing {dataset} {split}"
    meta = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "dataset": dataset,
        "source": source,
        "verified": verified,
        "split": split,
        "wnids": list(wnids),
        "class_names": list(class_names),
        "root": portable(root),
    }
    needed = len(listed) * BYTES_PER_IMAGE + SLACK_BYTES
    with new_store(path, doing, needed, meta) as work:
        with open(work / CONVERTED, "wb") as converted:
            index = _Index(root, work, converted, len(listed), doing)
            index.examine(listed, skipped, progress)
            if split == "train":  # a class without validation images is only noted, see preparing
                index.refuse_lost_classes(listed, wnids, split)
            labels = index.write()
        meta["count"] = len(labels)
        meta["class_counts"] = np.bincount(labels, minlength=len(wnids)).tolist()
        meta["digest"] = digest_of(index.hashes[: len(labels)], labels)
    return open_store(path)


def mark_unverified(path):
    """Note in a store that its images are not what the data set's name promises."""
    meta = read_json(path / "meta.json")
    try:
        write_json(path / "meta.json", meta | {"verified": False})
    except OSError as error:
        raise RunFailed(f"{path / 'meta.json'} could not be written ({error})") from error


class _Index:
    """The arrays of one store while its images are looked at."""

    def __init__(self, root, folder, converted, most, doing):
        self.root, self.folder, self.converted, self.count = root, folder, converted, 0
        self.doing = doing
        self.files = {}  # name -> number
        self.records, self.sums = np.zeros(most, RECORD), np.zeros((most, 6))
        self.hashes, self.labels = np.zeros((most, HASH_BYTES), np.uint8), np.zeros(most, np.int32)

    def examine(self, listed, skipped, progress):
        """Decode all images in threads, and note them in their order."""
        done, total = 0, len(listed)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            waiting = iter(listed)
            while part := list(itertools.islice(waiting, AT_ONCE)):
                for image, found in zip(part, pool.map(self._look_at, part), strict=True):
                    if not isinstance(found, UserError):
                        self._note(image, found)
                    elif skipped is None:
                        raise UserError(f"{found}; --skip-corrupt leaves out such images")
                    else:
                        fault = str(found).removeprefix(f"{printable(self._where(image))} ")
                        skipped.append((image.in_words, fault))
                done += len(part)
                if progress:
                    progress(self.doing, done, total)

    def _look_at(self, image):
        """A `Seen`, or the UserError that says what is wrong with the image.

        Raises:
            Unreadable: nothing is known of the image, so that it is never left out for damage.
        """
        path, where = self.root / image.name, self._where(image)
        try:
            with report_unreadable(path):
                if not path.is_file():  # a pipe would never end
                    raise UserError(f"{where} is not a file")
            with report_image_errors(where):
                with open(path, "rb") as file:
                    file.seek(image.offset)
                    content = file.read() if image.length is None else file.read(image.length)
                if not content:
                    raise UserError(f"{where} is empty")
                return look_at(content, where)
        except Unreadable:
            raise
        except UserError as error:
            return error

    def _where(self, image):
        return str(self.root / image.in_words)

    def _note(self, image, seen):
        if seen.converted:
            number, offset, length = HERE, self.converted.tell(), len(seen.converted)
            self._require_room(length)
            self.converted.write(seen.converted)
        else:
            number = self.files.setdefault(image.name, len(self.files))
            offset, length = image.offset, seen.length
        place = (number, offset, length, seen.height, seen.width, seen.orientation)
        self.records[self.count] = place
        self.sums[self.count] = seen.sums
        self.labels[self.count] = image.label
        self.hashes[self.count] = np.frombuffer(seen.sha256, np.uint8)
        self.count += 1

    def _require_room(self, length):
        """Before each PNG, for how much all of them take shows only as they are made."""
        what = f"{self.doing}, with {self.count:,} images looked at and more to keep as PNG,"
        require_space(self.folder, length + SLACK_BYTES, what)

    def refuse_lost_classes(self, listed, wnids, split):
        lost = {image.label for image in listed} - set(self.labels[: self.count].tolist())
        if lost:
            raise UserError(
                f"{self.root} has no whole image of {wnids[min(lost)]} in {split}, even with "
                "--skip-corrupt: mend the damaged ones, add others, or move the class away"
            )

    def write(self):
        """Write the arrays; returns labels int32 [N]."""
        if not self.count:
            raise UserError(f"no whole image is left of those in {self.root}")
        sync_file(self.converted)
        arrays = {
            "files": np.array([os.fsencode(name) for name in self.files] or [b"-"]),
            "pictures": self.records[: self.count],
            "hashes": self.hashes[: self.count],
            "moments": self.sums[: self.count],
            "labels": self.labels[: self.count],
        }
        for name, array in arrays.items():
            with open(self.folder / f"{name}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
                sync_file(file)
        return arrays["labels"]


@dataclass(frozen=True)
class Seen:
    """What an image is: see `encoded.RECORD`; `converted` is its PNG where it needs one."""

    length: int
    height: int
    width: int
    orientation: int
    sums: np.ndarray  # mean and mean square of each channel
    sha256: bytes
    converted: bytes


def look_at(content, where):
    """Decode an image and note what an index has to know.

    Raises:
        UserError: it is of a kind that is not taken.
        Exception: it is damaged: a DamagedImage, or whatever Pillow raises.
    """
    with open_image(io.BytesIO(content), where) as image:
        is_clean = check_undamaged(content, image.format)
        image.load()
        orientation = exif_orientation(image)
        is_plain = (image.format, image.mode) in AS_THEY_ARE and not _needs_pillow(image)
        colours = to_rgb(image, where)
        is_progressive = "progressive" in image.info
        as_it_is = (
            is_clean and is_plain and _is_trained_on(content, np.asarray(colours), is_progressive)
        )
        if not as_it_is:
            colours, orientation = apply_orientation(colours, orientation), 1
    pixels = np.asarray(colours)
    return Seen(
        length=len(content),
        height=pixels.shape[0],
        width=pixels.shape[1],
        orientation=orientation,
        sums=_sums(pixels),
        sha256=hashlib.sha256(content).digest(),
        converted=b"" if as_it_is else _png(colours),
    )


def _needs_pillow(image):
    """Whether a PNG is more than its pixels: transparent in places, or animated."""
    is_animated = image.format == "PNG" and getattr(image, "n_frames", 1) > 1
    return image.has_transparency_data or is_animated


def _is_trained_on(content, pixels, is_progressive):
    """Whether training decodes a file to these very pixels, uint8 [h, w, 3].

    Of a progressive JPEG its quarters are looked at too: where scans are missing, decoders smooth
    over blocks, and a window of the image has other neighbours to smooth with.
    """
    from keras_imnet64.data.stores.decoding import decoded

    height, width = pixels.shape[:2]
    boxes = [(0, 0, height, width), *(_quarters(height, width) if is_progressive else ())]
    return all(
        np.array_equal(decoded(content, (height, width), (top, left, rows, columns)), part)
        for top, left, rows, columns in boxes
        for part in [pixels[top : top + rows, left : left + columns]]
    )


def _quarters(height, width):
    """(top, left, height, width) of each quarter of an image."""
    down, right = height // 2, width // 2
    return [
        (top, left, rows, columns)
        for top, rows in ((0, down), (down, height - down))
        for left, columns in ((0, right), (right, width - right))
        if rows and columns
    ]


def _sums(pixels):
    """float64 [6]: the mean of each channel, then of its square, from exact integers."""
    from keras_imnet64.data.stores.sums import channel_sums

    return channel_sums(pixels).ravel() / (pixels.shape[0] * pixels.shape[1])


def _png(image):
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()
