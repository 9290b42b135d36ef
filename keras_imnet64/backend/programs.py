"""Keeps the programs that JAX compiles on disk, so that the next start does not compile them again.

The folder is KERAS_IMNET64_PROGRAMS_DIR, else the platform's folder for caches. A program from disk
is the same machine code, so that a run's numbers do not depend on whether it was compiled or read.
JAX's own folder, JAX_COMPILATION_CACHE_DIR, is the user's: where it is set, this module does
nothing. JAX bounds its folder only with another package, writes entries in place, does not check
them under zstandard, and does not distinguish processors, hence `core.program_folder`.
"""

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, UserError, reason
from keras_imnet64.core.paths import expand, os_error_text
from keras_imnet64.core.program_folder import ProgramFolder, program_files, remove_all
from keras_imnet64.core.types import JsonObject

FOLDER = "KERAS_IMNET64_PROGRAMS_DIR"
BOUND = "KERAS_IMNET64_PROGRAMS_MB"
JAX_FOLDER = "JAX_COMPILATION_CACHE_DIR"
DEFAULT_MB = 1000
CPU_INFO = Path("/proc/cpuinfo")
OFF = ("", "0", "off", "no", "none", "false")
MIN_COMPILE_SECONDS = 0.0  # small programs are many: 44 of the 62 of WRN-36-5, over a second


@dataclass(frozen=True)
class ProgramSettings:
    """Where compiled programs are kept.

    Attributes:
        folder: None if they are not kept, or by JAX itself.
        chosen_by: a variable of the environment, or "default".
        max_bytes: bound of the size of all programs in the folder.
    """

    folder: Path | None
    chosen_by: str
    max_bytes: int


def program_settings() -> ProgramSettings:
    """Returns where compiled programs are kept, by the environment alone.

    Raises:
        UserError: the bound is not a positive number.
    """
    max_bytes, named = _bound(), os.environ.get(FOLDER)
    if os.environ.get(JAX_FOLDER):
        return ProgramSettings(None, JAX_FOLDER, max_bytes)
    folder = None if named is not None and _is_off(named) else own_folder()
    return ProgramSettings(folder, "default" if named is None else FOLDER, max_bytes)


def own_folder() -> Path:
    """Returns the folder of this package, even while JAX has its own or no programs are kept."""
    named = os.environ.get(FOLDER)
    if named is None or _is_off(named):
        return _caches() / "keras_imnet64" / "programs"
    return expand(named).absolute()


def _is_off(named: str) -> bool:
    return named.strip().lower() in OFF


def _bound() -> int:
    text = os.environ.get(BOUND, str(DEFAULT_MB))
    try:
        megabytes = int(text)
    except ValueError:
        megabytes = 0
    if megabytes < 1:
        raise UserError(
            f"the environment variable {BOUND} must be a positive whole number of megabytes; "
            f'received "{text}": set {FOLDER}=off to keep no programs'
        )
    return megabytes * 10**6


def _caches() -> Path:
    """Returns the folder in which the platform keeps caches."""
    if sys.platform == "darwin":
        return expand("~/Library/Caches").absolute()
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if os.path.isabs(named) else expand("~/.cache").absolute()


def machine_name() -> str:
    """Returns the name of what machine code depends on: processor, threads, jaxlib.

    XLA compiles for the vector instructions of the processor, and its thread pool has the threads
    that the process may use. A home folder may be shared by many machines, and which of this JAX's
    own keys contain depends on its version.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    threads = os.environ.get("NPROC") or (len(affinity(0)) if affinity else os.cpu_count())
    facts = (platform.system(), platform.machine(), _processor(), str(threads))
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    try:
        library = version("jaxlib")
    except PackageNotFoundError:
        library = "unknown"
    return f"jax-{library}-{platform.machine()}-{digest}"


def _processor() -> str:
    """Returns the model and the instructions of the processor, as the system lists them."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return platform.processor()
    try:
        text = CPU_INFO.read_text()
    except OSError:
        return platform.processor()
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "features")
    first = text.partition("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.partition(":")[0].strip().lower() in wanted)


def keep_jax_programs() -> None:
    """Makes JAX keep its compiled programs; call it after `import jax`, before it compiles.

    What prevents that is said in one line, and JAX compiles as if there were no such folder.
    """
    import jax

    settings = program_settings()
    if settings.folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    programs = ProgramFolder(settings.folder, machine_name(), settings.max_bytes)
    try:
        programs.make()
        _give_to_jax(JaxPrograms(programs))
    except (OSError, ImportError, AttributeError) as error:
        say(_not_kept(error))


class JaxPrograms:
    """Compiled programs as JAX gets and puts them; an error of the disk is said once, and passed.

    JAX itself would write a warning for each program, which are hidden.
    """

    def __init__(self, programs: ProgramFolder) -> None:
        self.programs, self._path = programs, programs.folder  # JAX logs the path
        self.failed = False

    def get(self, key: str) -> bytes | None:
        try:
            return self.programs.get(key)
        except OSError as error:
            self._fail(error)
            return None

    def put(self, key: str, value: bytes) -> None:
        try:
            if not self.failed:
                self.programs.put(key, value)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self.failed:
            say(_not_kept(error))
        self.failed = True


def _give_to_jax(programs: JaxPrograms) -> None:
    """Makes `programs` the store of JAX; JAX has no public way to name another than a folder."""
    import jax
    from jax._src import compilation_cache

    if compilation_cache._cache is None:
        compilation_cache._cache = programs  # type: ignore[assignment]  # JAX calls get and put
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def clean_programs(*, dry_run: bool = False) -> JsonObject:
    """Removes all programs that this package keeps, of other machines and versions too.

    A process that still runs has its programs in memory.

    Args:
        dry_run: only report what would be removed.

    Returns:
        dict, fit for JSON: folder, programs (number of those removed), bytes (of all), dry_run.

    Raises:
        RunFailed: something cannot be removed.
    """
    folder = own_folder()
    files = list(program_files(folder))
    if not dry_run:
        try:
            remove_all(folder)
        except OSError as error:
            raise RunFailed(
                f"{folder} cannot be emptied ({os_error_text(error, folder)}); fix that and run "
                "the same command again"
            ) from error
    return {
        "folder": str(folder),
        "programs": len(files),
        "bytes": sum(file.bytes for file in files),
        "dry_run": dry_run,
    }


def _not_kept(error: Exception) -> str:
    return (
        f"note: compiled programs are not kept ({reason(error)}): this run goes on, and the next "
        f"one compiles again; {FOLDER} names another folder"
    )
