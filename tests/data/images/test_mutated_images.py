"""Damages image files at random: training reads the accepted ones as Pillow does."""

from collections import Counter

from mutated_images import DAMAGES, ENCODINGS, check_files, mutated_files

NUM_FILES = 189


def test_training_reads_accepted_files_as_pillow_does(tmp_path):
    files = mutated_files(NUM_FILES, seed=1)
    counts, wrong = check_files(files, tmp_path)
    assert wrong == []
    assert counts["accepted"] + counts["refused"] == NUM_FILES
    assert counts["accepted"] > 5 and counts["converted"] > 1  # some are accepted


def test_an_image_of_which_only_crops_differ_is_converted(tmp_path):
    """Both decoders agree on this progressive JPEG without its last scans only if it is whole."""
    name, content = list(mutated_files(2544).items())[-1]
    assert name == "02543 progressive fine RGB cut_and_closed.jpg"
    counts, wrong = check_files({name: content}, tmp_path, seed=0)
    assert wrong == []
    assert counts["converted"] == 1


def test_every_encoding_is_damaged_in_every_way():
    names = [name.split(" ", 1)[1] for name in mutated_files(54 * len(DAMAGES))]
    for damage in DAMAGES:
        marked = Counter(
            name.split(" ")[0] for name in names if name.endswith(f"{damage.__name__}.jpg")
        )
        assert set(marked) >= {name.split(" ")[0] for name in ENCODINGS if "PNG" not in name}
