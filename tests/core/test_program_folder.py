"""The folder of compiled programs: its bound, damage, other processes, folders that cannot be."""

import os
import subprocess
import sys
import time

import pytest

from keras_imnet64.core.program_folder import (
    ABANDONED_SECONDS,
    DIGEST_BYTES,
    ProgramFolder,
    program_files,
)

WRITER = """
import sys
from keras_imnet64.core.program_folder import ProgramFolder
programs = ProgramFolder(sys.argv[1], "machine", 20_000)
programs.make()
for number in range(60):
    name = f"program {number}"
    found = programs.get(name)
    assert found in (None, name.encode() * 100), found
    programs.put(name, name.encode() * 100)
"""


def made(tmp_path, max_bytes=10_000, machine="machine"):
    programs = ProgramFolder(tmp_path / "programs", machine, max_bytes)
    programs.make()
    return programs


def total(tmp_path):
    return sum(file.bytes for file in program_files(tmp_path / "programs"))


def at(programs, name, seconds_ago):
    """Says that a program was used so long ago."""
    moment = time.time() - seconds_ago
    os.utime(programs._path(name), (moment, moment))


def test_a_program_is_found_again_under_its_name_and_machine_alone(tmp_path):
    programs = made(tmp_path)
    programs.put("jit_step-1", b"code")
    assert made(tmp_path).get("jit_step-1") == b"code"
    assert programs.get("jit_step-2") is None
    assert made(tmp_path, machine="another").get("jit_step-1") is None


def test_what_was_used_longest_ago_makes_room_for_new_programs(tmp_path):
    programs, other = made(tmp_path), made(tmp_path, machine="another")
    other.put("of another machine", b"0" * 3000)
    at(other, "of another machine", 500)
    for number in range(3):
        programs.put(f"{number}", b"0" * 3000)
        at(programs, f"{number}", 100 - number)
    assert other.get("of another machine") is None  # 12,000 bytes are too many
    assert programs.get("0") is not None  # used now
    programs.put("3", b"0" * 3000)
    assert [name for name in "0123" if programs.get(name) is None] == ["1"]
    assert total(tmp_path) <= 10_000


def test_a_process_stays_within_the_bound_after_each_program(tmp_path):
    """Files are counted again after every hundredth of the bound, which is kept free until then."""
    programs = made(tmp_path, max_bytes=100_000)
    sizes = [10_000] * 10 + [100] * 30  # with the digest in front
    for number, size in enumerate(sizes):
        programs.put(f"{number}", b"0" * (size - DIGEST_BYTES))
        assert total(tmp_path) <= 100_000
    assert total(tmp_path) > 90_000


def test_a_program_beyond_the_bound_is_not_kept_and_nothing_makes_room_for_it(tmp_path):
    programs = made(tmp_path)
    programs.put("small", b"0" * 3000)
    programs.put("large", b"0" * 10_000)
    assert programs.get("large") is None
    assert programs.get("small") is not None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_program_is_removed_and_can_be_put_again(tmp_path, damage):
    programs = made(tmp_path)
    programs.put("step", b"code" * 100)
    path = programs._path("step")
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes({"cut": content[:100], "flipped": content, "empty": b""}[damage])
    assert programs.get("step") is None
    assert not path.exists()
    programs.put("step", b"code" * 100)
    assert programs.get("step") == b"code" * 100


def test_a_write_that_fails_leaves_nothing(tmp_path):
    programs = made(tmp_path, max_bytes=10**7)
    code = (
        "import resource, signal, sys\n"
        "from keras_imnet64.core.program_folder import ProgramFolder\n"
        "programs = ProgramFolder(sys.argv[1], 'machine', 10**7)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"  # as a disk that is full
        "try:\n    programs.put('step', b'0' * 10_000)\n"
        "except OSError:\n    print('refused')\n"
    )
    child = [sys.executable, "-c", code, str(tmp_path / "programs")]
    assert subprocess.run(child, capture_output=True, text=True, check=True).stdout == "refused\n"
    assert programs.get("step") is None
    assert list(program_files(tmp_path / "programs")) == []


def test_what_a_killed_process_left_is_removed_and_other_files_stay(tmp_path):
    programs = made(tmp_path)
    path = programs._path("step")
    old = path.with_name(f"{path.name}.1.unfinished")
    new = path.with_name(f"{path.name}.2.unfinished")
    for file in (old, new, programs.folder / "notes.txt"):
        file.write_bytes(b"0" * 50_000)
    os.utime(old, (0, time.time() - ABANDONED_SECONDS - 10))
    programs.put("other", b"code")
    assert not old.exists()
    assert new.exists()
    assert (programs.folder / "notes.txt").exists()


def test_processes_share_the_folder_without_locks(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "programs")]
    children = [subprocess.Popen(command) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert 0 < total(tmp_path) <= 20_000


def test_a_folder_that_others_may_write_is_refused(tmp_path):
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs").chmod(0o777)
    with pytest.raises(PermissionError, match="other users may write into"):
        made(tmp_path)


def test_a_new_folder_is_for_its_user_alone(tmp_path):
    assert made(tmp_path).folder.stat().st_mode & 0o777 == 0o700
