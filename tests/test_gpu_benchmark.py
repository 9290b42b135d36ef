"""`benchmarks/gpu.py`: its rows on the CPU, going on after a kill, lack of memory, its table."""

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from keras_imnet64.backend.devices import Devices
from keras_imnet64.bench.rounds import Side
from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.costs import costs_of, read_table

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ENGINES = ("tensorflow", "jax")
HIDE_TENSORFLOW = """
    from importlib.machinery import PathFinder

    find = PathFinder.find_spec

    def find_spec(name, path=None, target=None):
        hidden = name.partition(".")[0] in ("tensorflow", "tensorflow_datasets")
        return None if hidden else find(name, path, target)

    PathFinder.find_spec = find_spec
"""


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def gpu():
    return import_module("gpu")


@pytest.fixture
def records():
    return import_module("gpu_records")


@pytest.fixture
def settings(records):
    return records.Settings(
        dtype="mixed_bfloat16",
        reduced=False,
        pipeline=False,
        matrix_size=1000,
        block_seconds=1.0,
        num_blocks=2,
        num_images=1,
        num_samples=10**6,
    )


@pytest.fixture
def new_row(records):
    """new_row(...) -> a `Row` of a network that nothing has been measured of."""

    def make(network="wrn36_5", engine="jax", num_devices=1, batch_size=128, **found):
        return records.Row(network, engine, num_devices, batch_size, "2030-01-02", **found)

    return make


# ------------------------------------------------------------------------------ real rows, on a CPU


def measure(folder, engines, num_devices, **environment):
    """(the finished script, rows by network and engine) at a reduced size."""
    out = folder / "rows.jsonl"
    words = ["--out", out, "--reduced", "--batch-size", "4", "--devices", str(num_devices)]
    words += [word for engine in engines for word in ("--engine", engine)]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, *rows = map(json.loads, out.read_text().splitlines())
    assert header["settings"]["reduced"]
    return done, {(row["network"], row["engine"]): row for row in rows}


def check_row(row, num_devices, fed):
    assert "failure" not in row
    assert row["num_devices"] == num_devices
    assert len(row["step_seconds"]) == 2 and min(row["step_seconds"]) > 0
    assert row["macs"] == 831_104  # 16 pixels, WRN-8-0.5
    assert len(row["fed_seconds"]) == len(row["resident_seconds"]) == (2 if fed else 0)
    assert row["loss"] < 0.9 * row["first_loss"]  # the mean over all steps on one batch


def check_that_both_make_the_same_step(rows):
    """Same start, batch and loss; bfloat16 is rounded at other places."""
    first, second = (rows["tiny", engine]["first_loss"] for engine in ENGINES)
    assert first == pytest.approx(second, rel=5e-3)


@pytest.mark.slow
def test_both_backends_on_one_device(tmp_path):
    done, rows = measure(tmp_path, ENGINES, 1)
    for engine in ENGINES:
        check_row(rows["tiny", engine], 1, fed=True)
        assert rows["matrix product", engine]["flops"] > 1e8
    check_that_both_make_the_same_step(rows)
    assert "at a reduced size" in done.stdout and "keras 3" in done.stdout
    columns, _, *rows = (
        [cell.strip() for cell in line.split("|")]
        for line in done.stdout.splitlines()
        if line.startswith("|")
    )
    assert len(rows) == 2
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        assert re.fullmatch(r"\d+\.\d%", cells["of peak"])
        assert re.fullmatch(r"-?\d+\.\d%", cells["beside the step"])


@pytest.mark.slow
def test_both_backends_on_two_devices(tmp_path):
    _, rows = measure(tmp_path, ENGINES, 2)
    for engine in ENGINES:
        check_row(rows["tiny", engine], 2, fed=True)
    check_that_both_make_the_same_step(rows)


@pytest.mark.slow
def test_jax_needs_no_tensorflow(tmp_path):
    """Neither the script nor the processes of its rows can import TensorFlow."""
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(HIDE_TENSORFLOW))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done, rows = measure(tmp_path, ENGINES, 1, PYTHONPATH=path)
    assert set(rows) == {("matrix product", "jax"), ("tiny", "jax")}
    check_row(rows["tiny", "jax"], 1, fed=False)
    assert "tensorflow is left out: tensorflow is not installed" in done.stderr
    assert "not fed with data: TensorFlow, which reads the data, is not inst" in done.stderr


# ---------------------------------------------------------------------------- the process of a row


def test_a_row_is_not_measured_on_the_cpu_in_place_of_a_gpu(records, settings, monkeypatch):
    gpu_row = import_module("gpu_row")
    cpu = Devices("jax", "cpu", ("cpu:0",))
    monkeypatch.setattr(gpu_row, "take_devices", lambda *arguments, **options: cpu)
    with pytest.raises(UserError, match="jax finds no GPU: `pip install"):
        gpu_row.take_devices_for(records.Request("", 1, settings))
    reduced = replace(settings, reduced=True)
    assert gpu_row.take_devices_for(records.Request("", 1, reduced)) is cpu


@pytest.fixture
def finished_work():
    """(work, what it was asked for): the n-th time it takes n seconds."""
    asked = []

    def work(count):
        asked.append(count)
        return float(len(asked))

    return work, asked


def test_products_warm_up_before_they_are_timed(records, settings, monkeypatch, finished_work):
    gpu_row = import_module("gpu_row")
    work, asked = finished_work
    monkeypatch.setitem(gpu_row.PRODUCTS, "jax", lambda size: work)
    product = gpu_row.Product(records.Request(None, 0, settings), Devices("jax", "cpu", ("0",)))
    assert product.reply("product 7") == {"seconds": 2.0} and asked == [7, 7]


def test_steps_warm_up_before_they_are_timed(finished_work):
    """As those of PyTorch do, whose side says that its process does not warm up by itself."""
    gpu_row = import_module("gpu_row")
    network = object.__new__(gpu_row.Network)
    network.step, asked = finished_work
    assert network.reply("step 7") == {"seconds": 2.0} and asked == [7, 7]


def test_lack_of_memory_is_a_sentence(monkeypatch, capsys):
    gpu_row = import_module("gpu_row")

    def main():
        raise RuntimeError("RESOURCE_EXHAUSTED: while trying to allocate\n8 GiB")

    monkeypatch.setattr(gpu_row, "main", main)
    with pytest.raises(SystemExit) as stop:
        gpu_row.run()
    sentence = "Error: out of memory: RESOURCE_EXHAUSTED: while trying to allocate 8 GiB\n"
    assert (stop.value.code, capsys.readouterr().err) == (1, sentence)


def test_the_process_of_a_row_ends_with_its_parent():
    """It would keep the GPU, beside what the same command then measures."""
    code = (
        "import gpu_row, time; print(next(gpu_row.lines_of_parent()), flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        child.stdin.write("a line\n")
        child.stdin.flush()
        assert child.stdout.readline() == "a line\n"
        child.stdin.close()
        assert child.wait(30) == 0


WORKER = """
    import json, os, sys, time
    print("a line of a library")
    AT_START
    print(json.dumps({"name": "torch 9", "device": DEVICE, "parameters": 7}), flush=True)
    steps = 0
    for line in map(str.strip, sys.stdin):
        task, _, count = line.partition(" ")
        steps += task == "step"
        if task == "step" and steps == 3:
            AT_THIRD
        if task == "fed":
            AT_FED
        seconds = {"fed": 0.4, "memory": 0}.get(task, 0.1) * int(count or 0)
        answer = {"peak_mb": 12.5} if task == "memory" else {"seconds": seconds}
        print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def row_of_worker(gpu, new_row, settings, tmp_path):
    """row_of_worker(AT_START="...") -> the row that a process with this behaviour makes."""

    def make(row=None, is_peer=False, pipeline=True, DEVICE="'cuda'", **behaviour):
        text = textwrap.dedent(WORKER).replace("DEVICE", DEVICE)
        for name in ("AT_START", "AT_THIRD", "AT_FED"):
            text = text.replace(name, behaviour.get(name, "pass"))
        (tmp_path / "worker.py").write_text(text)
        command = [sys.executable, str(tmp_path / "worker.py")]
        side = Side("jax", "mixed_bfloat16", command, is_peer=is_peer)
        return gpu.measure_row(row or new_row(), side, replace(settings, pipeline=pipeline))

    return make


def test_what_a_row_takes_from_its_process(row_of_worker):
    row = row_of_worker()
    assert row.failure is None and (row.parameters, row.peak_memory_mb) == (7, 12.5)
    assert row.step_seconds == row.resident_seconds == pytest.approx((0.1, 0.1))
    assert row.fed_seconds == pytest.approx((0.4, 0.4))
    assert row_of_worker(is_peer=True).fed_seconds == ()


def test_the_blocks_of_a_row_last_as_long_as_they_should(row_of_worker):
    """Of steps of 0.1 seconds a block of a second has 10."""
    check = "assert steps < 3 or int(count) == 10, count"
    assert row_of_worker(AT_THIRD=check).failure is None


@pytest.mark.parametrize(
    ("behaviour", "failure", "out_of_memory"),
    [
        ({"AT_START": "sys.exit('Error: out of memory: 8 GiB')"}, "out of memory: 8 GiB", True),
        (
            {"AT_THIRD": "sys.exit('the PyTorch peer ran out of memory: give less')"},
            "the PyTorch peer ran out of memory: give less",
            True,
        ),
        (
            {"AT_THIRD": "os.kill(os.getpid(), 9)"},
            "it was ended by signal 9 (Killed), as happens where memory runs out",
            True,
        ),
        ({"AT_START": "sys.exit('Error: no such network')"}, "no such network", False),
        ({"AT_THIRD": "1 / 0"}, "ZeroDivisionError: division by zero", False),
        ({"AT_THIRD": "break"}, "it ended without an answer", False),
        (
            {"AT_THIRD": 'print(\'{"error": "what?"}\', flush=True); continue'},
            "jax mixed_bfloat16 has not measured step: what?",
            False,
        ),
        ({"DEVICE": "'cpu'"}, "torch finds no GPU: install PyTorch for CUDA", False),
    ],
)
def test_a_row_says_why_it_ended(row_of_worker, new_row, behaviour, failure, out_of_memory):
    row = row_of_worker(**behaviour)
    assert row == new_row(
        failure=failure,
        out_of_memory=out_of_memory,
        parameters=None if {"AT_START", "DEVICE"} & set(behaviour) else 7,
    )


def test_a_pipeline_that_fails_leaves_the_step(row_of_worker):
    row = row_of_worker(AT_FED="sys.exit('Error: out of memory: 8 GiB')")
    assert (row.failure, row.out_of_memory) == ("out of memory: 8 GiB", False)
    assert len(row.step_seconds) == 2 and row.peak_memory_mb == 12.5


def test_a_row_that_takes_too_long(row_of_worker, gpu, monkeypatch):
    monkeypatch.setattr(gpu, "ROW_SECONDS", 1)
    row = row_of_worker(AT_START="time.sleep(60)")
    assert (row.failure, row.out_of_memory) == ("it took more than 1 seconds", False)


# --------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("network", ["wrn36_5", "wide_resnet50_2", "davit_tiny", "resnet50"])
def test_the_networks_are_those_of_the_recipes(network, gpu, new_row):
    recipe = gpu.recipe_of(new_row(network, "tensorflow+xla", 2, 128), "mixed_bfloat16")
    recipes = {"wide_resnet50_2": "wide_resnet50_2_64", "davit_tiny": "davit_tiny_64"}
    if network == "resnet50":
        # Of 4.089 billion at 224 pixels the stem has 0.118 and the head 0.002. Without strides in
        # the stem the body sees 64 pixels instead of 56; the stem has 64 * 64 * 27 * 64.
        expected = (4.089e9 - 0.118e9 - 0.002e9) * (64 / 56) ** 2 + 64 * 64 * 27 * 64 + 0.002e9
        assert costs_of(recipe)["macs"] == pytest.approx(expected, rel=1e-3)
    else:
        assert costs_of(recipe) == read_table()[recipes.get(network, network)]
    assert (recipe.data.batch_size, recipe.image_size) == (256, 64)
    assert (recipe.train.dtype, recipe.train.xla) == ("mixed_bfloat16", "on")
    assert recipe.data.steps_per_epoch is None


@pytest.mark.parametrize("network", ["wrn36_5", "wide_resnet50_2", "davit_tiny", "resnet50"])
def test_each_network_has_a_peer_in_pytorch(network, gpu, new_row, settings, tmp_path):
    """The options of its process are those of `torch_peer.py`, and the recipe is the same."""
    plan = gpu.Plan([network], ["torch-compile"], [128], [1], settings)
    bench = gpu.Bench(plan, None, False, tmp_path)
    row = new_row(network, "torch-compile")
    side = bench.side(row)
    assert side.is_peer and side.command[1] == str(BENCHMARKS / "torch_peer.py")
    options = dict(word.removeprefix("--").split("=", 1) for word in side.command[2:])
    written = gpu.load_recipe(options.pop("recipe"))
    assert written == gpu.recipe_of(row, "mixed_bfloat16")
    assert options == {
        "batch-size": "128",
        "dtype": "mixed_bfloat16",
        "mode": "compile",
        "image-size": "64",
        "num-classes": "1000",
    }


# ------------------------------------------------------------------------------------ plan of rows


@pytest.fixture
def bench(gpu, settings, tmp_path, monkeypatch):
    """bench(limit) -> (batch sizes tried, rows); memory takes `limit` images on a device."""
    tried = []
    limits = {}
    broken = set()

    def measure_row(row, side, settings):
        tried.append((row.engine, row.num_devices, row.batch_size))
        if row.network in broken:
            return replace(row, failure="it crashed")
        if row.network == gpu.MATRIX_PRODUCT:
            return replace(row, flops=1e12, devices=("GPU:0", "GPU:1", "GPU:2"))
        if row.batch_size > limits[row.num_devices > 1]:
            return replace(row, failure="RESOURCE_EXHAUSTED", out_of_memory=True)
        return replace(row, step_seconds=(0.5,), macs=10**9)

    monkeypatch.setattr(gpu, "measure_row", measure_row)
    monkeypatch.setattr(gpu, "is_missing", lambda module: False)
    monkeypatch.setattr(gpu, "torch_finds_no_gpu", lambda: False)

    def run(
        limit, engines=("tensorflow", "tensorflow+xla", "jax"), retry=False, fail=(), **changes
    ):
        broken.clear()
        broken.update(fail)
        limits.update({False: limit, True: changes.pop("limit_of_several", limit)})
        tried.clear()
        plan = gpu.Plan(
            networks=["wrn36_5"],
            engines=engines,
            batch_sizes=[128, 256, 512],
            device_counts=[],
            settings=settings,
        )
        results = gpu.Results(tmp_path / "rows.jsonl")
        gpu.measure(replace(plan, **changes), results, retry)
        return list(tried), results

    return run


def table_of(gpu, results):
    return gpu.markdown(results.header, list(results.rows.values()))


def test_lack_of_memory_is_a_row_and_ends_the_larger_batches(bench, gpu):
    tried, results = bench(128, engines=["jax"])
    assert tried == [
        ("jax", 1, 1),
        ("jax", 1, 128),
        ("jax", 1, 256),
        ("jax", 2, 128),
        ("jax", 3, 128),
    ]
    text = table_of(gpu, results)
    assert "| wrn36_5 | jax | 1 | 256 | memory ran out |" in text
    assert "- wrn36_5, jax, 1 x 256: RESOURCE_EXHAUSTED" in text


def test_several_devices_fall_back_to_a_batch_that_fits(bench):
    """Sums of gradients may take the memory that one device has left."""
    tried, results = bench(256, engines=["jax"], limit_of_several=128)
    assert tried[-4:] == [("jax", 2, 256), ("jax", 2, 128), ("jax", 3, 256), ("jax", 3, 128)]
    assert results.rows["wrn36_5", "jax", 2, 128].step_seconds


def test_several_devices_are_not_tried_where_nothing_fits_one(bench):
    assert bench(64, engines=["jax"])[0] == [("jax", 1, 1), ("jax", 1, 128)]


def test_several_devices_alone_take_the_largest_batch(bench):
    tried, _ = bench(256, engines=["jax"], device_counts=[2])
    assert tried == [("jax", 1, 1), ("jax", 2, 512), ("jax", 2, 256)]


def test_products_that_fail_leave_the_networks(bench, gpu):
    """How many devices there are is not known then."""
    tried, results = bench(512, engines=["jax"], fail=[gpu.MATRIX_PRODUCT])
    assert tried == [("jax", 1, size) for size in (1, 128, 256, 512)]
    text = table_of(gpu, results)
    assert "| wrn36_5 | jax | 1 | 512 | 1,024 |" in text
    assert "- matrix product, jax, 1 x 1: it crashed" in text


def test_xla_under_tensorflow_is_tried_on_one_device_alone(bench):
    tried, _ = bench(512)
    assert max(count for engine, count, _ in tried if engine == "tensorflow+xla") == 1
    assert ("tensorflow", 3, 512) in tried


def test_the_peak_is_measured_for_any_engine_of_ours(bench):
    assert bench(512, engines=["tensorflow+xla"])[0][0] == ("tensorflow", 1, 1)


def test_pytorch_alone_can_be_measured(bench, gpu):
    tried, results = bench(512, engines=["torch-eager"])
    assert tried == [("torch-eager", 1, size) for size in (128, 256, 512)]
    assert "Peak" not in table_of(gpu, results)


def test_pytorch_without_cuda_is_left_out_at_once(bench, gpu, settings, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "torch_finds_no_gpu", lambda: True)
    tried, _ = bench(512, engines=["jax", "torch-eager", "torch-compile"])
    assert {engine for engine, *_ in tried} == {"jax"}
    sentence = "torch-eager is left out: torch finds no GPU: install PyTorch for CUDA"
    assert sentence in capsys.readouterr().err
    with pytest.raises(UserError, match="no engine is left: `pip install"):
        bench(512, engines=["torch-eager"])
    assert gpu.obstacle("torch", replace(settings, reduced=True)) is None


@pytest.mark.parametrize(
    ("module", "finds_none"),
    [
        ("class cuda:\n    is_available = lambda: False", True),
        ("print('a line')\nclass cuda:\n    is_available = lambda: True", False),
        ("raise ImportError('no libcudart')", False),  # as its rows say
    ],
)
def test_pytorch_is_asked_for_a_gpu(gpu, tmp_path, monkeypatch, module, finds_none):
    (tmp_path / "torch.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gpu.torch_finds_no_gpu() is finds_none


def test_a_killed_script_goes_on_where_it_was(bench, gpu, tmp_path):
    tried, before = bench(512)
    file = tmp_path / "rows.jsonl"
    content = file.read_text()
    assert bench(512)[0] == []
    file.write_text(content[:-20])  # within the last line
    gpu.Results(file)
    assert file.read_text() == content[:-20]  # --table-only changes nothing
    again, results = bench(512)
    assert again == tried[-1:] and results.rows == before.rows
    assert file.read_text() == content


def test_failed_rows_are_measured_again_on_request(bench, gpu, monkeypatch):
    measure_row = gpu.measure_row
    crash = {"failure": "it crashed"}
    monkeypatch.setattr(gpu, "measure_row", lambda row, *rest: replace(row, **crash))
    _, results = bench(512, engines=["jax"], device_counts=[1])
    assert all(row.failure == "it crashed" for row in results.rows.values())
    assert "- wrn36_5, jax, 1 x 128: it crashed" in table_of(gpu, results)
    monkeypatch.setattr(gpu, "measure_row", measure_row)
    assert bench(512, engines=["jax"], device_counts=[1])[0] == []
    tried, results = bench(512, engines=["jax"], device_counts=[1], retry=True)
    assert len(tried) == 4 and not any(row.failure for row in results.rows.values())


@pytest.mark.parametrize(
    ("part", "name", "value", "words"),
    [
        ("machine", "cpu", "8086", "holds results of cpu 8086; received cpu "),
        ("machine", "gpus", ["H100"], "holds results of gpus ('H100',); received gpus ()"),
        ("versions", "keras", "1", "holds results of keras 1; received keras 3"),
        ("settings", "dtype", "float32", "holds results of dtype float32; received dtype mixed"),
    ],
)
def test_results_of_another_machine(bench, tmp_path, part, name, value, words):
    bench(512)
    file = tmp_path / "rows.jsonl"
    first, *rest = file.read_text().splitlines()
    header = json.loads(first)
    header[part][name] = value
    file.write_text("\n".join([json.dumps(header), *rest, ""]))
    with pytest.raises(UserError) as refusal:
        bench(512)
    assert words in str(refusal.value) and str(refusal.value).endswith("choose another --out")


@pytest.mark.parametrize(
    "content", ["no JSON\n", "[1]\n", "{}\n", '{"machine": 1}\n', "a text without an end"]
)
def test_a_file_of_something_else(gpu, tmp_path, content):
    (tmp_path / "rows").write_text(content)
    with pytest.raises(UserError, match=r"is no file of results .*: choose another --out"):
        gpu.Results(tmp_path / "rows")
    assert (tmp_path / "rows").read_text() == content


def test_a_file_that_cannot_be_used(bench, gpu, tmp_path):
    end = r"cannot be used as the file of results \(.*\): choose another --out"
    with pytest.raises(UserError, match=end):
        gpu.Results(tmp_path)  # a folder
    results = gpu.Results(tmp_path / "nowhere" / "rows")
    with pytest.raises(UserError, match=end):
        results.begin(bench(128)[1].header)


def test_a_file_that_cannot_be_written_is_refused_before_a_row_is_measured(bench, gpu):
    before = bench(128)[1]
    results = gpu.Results(before.path)
    before.path.unlink()
    before.path.mkdir()  # root may write every file
    with pytest.raises(UserError, match=r"cannot be used .*: choose another --out"):
        results.begin(before.header)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "resnet5"], "'resnet5' is not one of 'wrn36_5', 'resnet50', "),
        (["--engine", "torch"], "'torch' is not one of 'tensorflow', 'tensorflow+xla', "),
        (["--batch-size", "0"], "0 is not in the range x>=1"),
        (["--devices", "two"], "'two' is not a valid integer range"),
        (["--table-only"], "holds no results: run without --table-only first"),
    ],
)
def test_mistakes_get_a_sentence(gpu, tmp_path, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "rows"), *arguments])
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- table


def test_the_numbers_of_a_row(new_row):
    """1,000 images in 0.5 s at 10^9 multiply-accumulates: 2,000 images/s, 12 TFLOP/s."""
    table = import_module("gpu_table")
    found = {"macs": 10**9, "peak_memory_mb": 1234.5}
    fed = {"fed_seconds": (0.8,), "resident_seconds": (0.5,)}
    ours = new_row(batch_size=1000, step_seconds=(0.4, 0.5, 0.6), **found, **fed)
    four = new_row(num_devices=4, batch_size=1000, step_seconds=(0.625,), macs=10**9)
    eager = new_row(engine="torch-eager", batch_size=1000, step_seconds=(0.8,))
    compiled = new_row(engine="torch-compile", batch_size=1000, step_seconds=(0.625,))
    other = new_row(engine="torch-compile", batch_size=500, step_seconds=(0.1,))
    rows = [new_row("matrix product", flops=2.4e13), ours, four, eager, compiled, other]
    peak = table.peak_flops(rows)
    assert table.cells(ours, rows, peak)[4:] == (
        *("2,000", "± 10.0%", "12", "50.0%", "1,234", "1,250", "37.5%", "", "1.25"),
    )
    # 4,000 images in 0.625 s: 6,400 images/s, 3.2 times one device; 9.6 TFLOP/s on each.
    assert table.cells(four, rows, peak)[4:8] == ("6,400", "± 0.0%", "9.6", "40.0%")
    assert table.cells(four, rows, peak)[-2:] == ("3.20", "")
    # PyTorch's multiply-accumulates are those of the same network.
    assert table.cells(compiled, rows, peak)[4:8] == ("1,600", "± 0.0%", "9.6", "40.0%")


@pytest.mark.parametrize(("dtype", "share"), [("mixed_bfloat16", "50.0%"), ("float32", "")])
def test_the_share_of_the_peak_is_of_the_same_dtype(gpu, new_row, settings, dtype, share):
    """Products are of bfloat16, the steps of a run in float32 are not."""
    row = new_row(batch_size=1000, step_seconds=(0.5,), macs=10**9)
    rows = [new_row("matrix product", flops=2.4e13), row]
    text = gpu.markdown(gpu.header_of(replace(settings, dtype=dtype)), rows)
    assert f"| 2,000 | ± 0.0% | 12 | {share} |" in text


def test_a_row_whose_pipeline_failed_says_so(new_row):
    table = import_module("gpu_table")
    row = new_row(step_seconds=(0.5,), failure="no threads")
    assert list(table.notes([row])) == ["- wrn36_5, jax, 1 x 128, fed by the pipeline: no threads"]
