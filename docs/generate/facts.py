"""The reference of data sets, of the files of a run, and of exit statuses."""

from dataclasses import Field, fields
from inspect import getdoc
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from generate.markdown import code, entries, fence, heading, page, paragraphs, prose, table
from keras_imnet64.core.errors import EXIT_STATUSES
from keras_imnet64.data.datasets import DATASETS, find_dataset
from keras_imnet64.data.forms import FORMS
from keras_imnet64.data.locations import Dataset
from keras_imnet64.records import (
    Environment,
    EpochRow,
    FileScore,
    Metrics,
    NotFiniteSteps,
    ProcessEntry,
)
from keras_imnet64.runs import Run

EXAMPLE_OF_DOWNSAMPLED = "downsampled/pets_64x64"

# --------------------------------------------------------------------------------------- data sets


def data_sets_page() -> str:
    """Returns the page of all data sets."""
    families: dict[str, list[Dataset]] = {}
    for name, row in DATASETS.items():
        families.setdefault(name.partition("/")[0], []).append(row)
    downsampled = find_dataset(EXAMPLE_OF_DOWNSAMPLED)
    return page(
        "Data sets",
        "What `data.dataset` of a recipe and the [`data` commands](commands.md#data) can name. "
        "ImageNet and Tiny ImageNet are for non-commercial research; none of their images comes "
        "with this package.",
        table(
            ["data set", "images", "classes", "pixels"],
            [cells(row, family) for family, rows in families.items() for row in rows],
        ),
        "Data lies in the folder of `--data-dir`, else of `TFDS_DATA_DIR`, else in "
        "`~/tensorflow_datasets`.",
        *(family_section(family, rows) for family, rows in families.items()),
        heading(2, code("downsampled"), "downsampled"),
        f"What `data downsample` makes, such as {code(downsampled.name)}. "
        f"{paragraphs(downsampled.made_from)}",
        fence("python cli.py data downsample image_folder/pets --size 64 --out ARCHIVES", "sh"),
        heading(2, "Forms of a source", "forms"),
        "`data prepare` recognises the form of a source by its files, and `data info` shows from "
        "which form a store was made. Shards count as the form of a source unless it has more "
        "image files than shards.",
        table(["form", "files", "data sets"], forms()),
        "Labels of a published data set are never guessed. They are identified by class ids "
        "(wnids), by the complete list of ImageNet's names in order, by a file `classes.txt` with "
        "the class id of each label, one per line, or by the class ids in the names of ImageNet's "
        "images. Images keep the order of their rows, shards or batches; those of class folders "
        "are sorted.",
        heading(2, "Verified or not", "verified"),
        "Under the name of a published data set, images count as verified only if they are known "
        "to be the published ones: by the SHA-256 of the zip archives, or, in other forms, by the "
        "ids of classes and the numbers of images, for which no digests are published. "
        "`--allow-unverified` takes other images in the same form; what "
        "is made of them is kept apart, and the first lines of `fit`, `metrics.json` and the model "
        "file say that it is not verified. A name that promises no certain images, such as "
        "`image_folder`, has nothing to verify, and counts as verified.",
    )


def forms() -> list[list[str]]:
    """Returns the cells of the forms, with rows of the same form and files together."""
    rows: dict[tuple[str, str], list[str]] = {}
    for form in FORMS:
        rows.setdefault((form.name, form.looks_like), []).extend(form.datasets)
    return [
        [name, prose(files), ", ".join(map(code, sets))] for (name, files), sets in rows.items()
    ]


def cells(row: Dataset, family: str) -> list[str]:
    """Returns the cells of a data set."""
    counts = [f"{count:,}" if count else "yours" for count in row.splits.values()]
    return [
        f"[{code(row.name)}](#{family})",
        " + ".join(counts) if row.promises_images else "yours",
        f"{row.num_classes:,}" if row.num_classes else "yours",
        str(row.image_size or "any size"),
    ]


def family_section(family: str, rows: list[Dataset]) -> str:
    """Returns what a data set is, where its images come from, and the command that prepares it."""
    first = rows[0]
    source = "" if first.embedded else f" --source {first.source_hint}"
    return "\n\n".join(
        [
            heading(2, code(family), family),
            prose(first.description),
            prose(first.made_from),
            fence(f"python cli.py data prepare {first.name}{source}", "sh"),
        ]
    )


# ------------------------------------------------------------------------------------ a run folder


def run_folder_page() -> str:
    """Returns the page of a run folder's files, and of the keys in them."""
    return page(
        "Run folder",
        "`fit` writes into `saved_models/<recipe>-<backend>`, into `saved_models/NAME` with "
        "`--name NAME`, or into any folder with `--out`. A finished run is never overwritten.",
        heading(2, "Files", "files"),
        table(["file", "what it holds"], files_of_a_run()),
        "The folder of a spectral ensemble holds a run folder for each band, `branch-00`, "
        "`branch-01` and so on, and `ensemble.csv` and `ensemble.png`, the report of `ensemble`. "
        "The folder of a [sweep](../guides/sweep.md#what-you-get) holds a run folder for each "
        "cell. "
        "`export` writes into the folder too, unless `--out` says otherwise.",
        record_section("`history.csv`", "history", EpochRow),
        record_section("`metrics.json`", "metrics", Metrics),
        record_section("Scores in `metrics.json`", "scores", FileScore),
        record_section("`environment.json`", "environment", Environment),
        record_section("Processes in `environment.json`", "processes", ProcessEntry),
        record_section("`not_finite.json`", "not_finite", NotFiniteSteps),
    )


def files_of_a_run() -> list[list[str]]:
    """Returns the rows of the files: what the properties of `Run` that are paths say."""
    run = Run(Path())
    found = []
    for name, attribute in vars(Run).items():
        if not isinstance(attribute, property) or not isinstance(getattr_path(run, name), Path):
            continue
        text = getdoc(attribute)
        if not text:
            raise ValueError(f"Run.{name} needs a docstring that says what the file holds")
        file = str(getattr(run, name))
        written = file if "." in file else f"{file}/"
        found.append([code(written), " ".join(map(prose, text.split("\n\n")))])
    return found


def getattr_path(run: Run, name: str) -> object:
    """Returns a property of a run that needs no file, else None."""
    hints = get_type_hints(getattr(Run, name).fget)
    return getattr(run, name) if hints["return"] is Path else None


def record_section(title: str, anchor: str, kind: type) -> str:
    """Returns the keys of a record in a file; a field that no docstring describes is an error."""
    texts = descriptions(kind)
    missing = [field.name for field in fields(kind) if field.name not in texts]
    if missing:
        raise ValueError(f"{kind.__name__} needs a description of {missing} in its docstring")
    rows = [
        [code(key_of(kind, field)), prose(capitalized(texts[field.name]))] for field in fields(kind)
    ]
    keys = table(["key", "what it holds"], rows)
    return "\n\n".join([heading(2, title, anchor), paragraphs(kind.__doc__ or ""), keys])


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def descriptions(kind: type) -> dict[str, str]:
    """Returns {field: text} of a record, from its docstring and those of its base classes."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= entries(base.__doc__ or "", "Attributes")
    return found


def key_of(kind: type, field: Field[object]) -> str:
    """Returns the key of a field in the file, which an alias may state."""
    hint = get_type_hints(kind, include_extras=True)[field.name]
    if get_origin(hint) is Annotated:
        for note in get_args(hint)[1:]:
            if isinstance(note, FieldInfo) and note.alias:
                return note.alias
    return field.name


# ------------------------------------------------------------------------------------ exit statuses


def exit_statuses_page() -> str:
    """Returns the page of exit statuses."""
    return page(
        "Exit statuses",
        "What a command tells the shell or the program that has started it:",
        table(
            ["status", "meaning"],
            [[str(status), prose(text)] for status, text in EXIT_STATUSES.items()],
        ),
        "A script that resumes a run until it is done:",
        fence(
            "until python cli.py fit --recipe demo --name first; do\n"
            "    test $? -eq 75 || exit 1\n"
            "done",
            "sh",
        ),
    )
