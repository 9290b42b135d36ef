"""Damaged files by the hundred: what is accepted, training reads as Pillow does."""

from collections import Counter

from mutated_images import DAMAGES, ENCODINGS, mutated, outcome

NUM_FILES = 189


def test_what_is_accepted_is_read_alike_by_training(tmp_path):
    files = mutated(NUM_FILES, seed=1)
    counts, wrong = outcome(files, tmp_path)
    assert wrong == []
    assert counts["accepted"] + counts["refused"] == NUM_FILES
    assert counts["accepted"] > 5 and counts["converted"] > 1  # not all are refused


def test_a_image_of_which_only_windows_differ_is_converted(tmp_path):
    """A progressive JPEG without its last scans: whole it is the same under both decoders."""
    name, content = list(mutated(2544).items())[-1]
    assert name == "02543 progressive fine RGB cut_and_closed.jpg"
    counts, wrong = outcome({name: content}, tmp_path, seed=0)
    assert wrong == []
    assert counts["converted"] == 1


def test_every_encoding_is_damaged_in_every_way():
    names = [name.split(" ", 1)[1] for name in mutated(54 * len(DAMAGES))]
    for damage in DAMAGES:
        marked = Counter(
            name.split(" ")[0] for name in names if name.endswith(f"{damage.__name__}.jpg")
        )
        assert set(marked) >= {name.split(" ")[0] for name in ENCODINGS if "PNG" not in name}
