"""What an export and its child processes exchange comes through JSON as it was."""

import pytest

from keras_imnet64.export.messages import (
    ExportRequest,
    MakeReport,
    StepOutcome,
    read_outcome,
    read_request,
    write_outcome,
    write_request,
)


def test_a_request_may_have_paths_that_are_no_utf_8(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    request = ExportRequest(name, "keras", [name, "b.png"], data_dir=None, cache_dir=name)
    write_request(request, tmp_path)
    assert read_request(tmp_path) == request


@pytest.mark.parametrize(
    "outcome",
    [
        StepOutcome(),
        StepOutcome(MakeReport(3, "the images given", is_stand_in=False, num_class_names=None)),
        StepOutcome(error="the disk is full", is_run_failure=True),
    ],
)
def test_an_outcome_is_read_as_it_was_written(outcome, tmp_path):
    assert read_outcome("make", tmp_path) is None
    write_outcome(outcome, "make", tmp_path)
    assert read_outcome("make", tmp_path) == outcome
    assert read_outcome("run", tmp_path) is None
