"""`benchmarks/gpu.py`: its rows on the CPU, going on after a kill, lack of memory, its table."""

import json
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.costs import read_table

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ENGINES = ("tensorflow", "jax")
REFUSE_TENSORFLOW = """
    import runpy, sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Refuse())
    sys.path.insert(0, sys.argv[1])
    sys.argv = sys.argv[1:]
    sys.argv[0] += "/gpu_row.py"
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("gpu")


@pytest.fixture
def gpu_row(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("gpu_row")


def request_for(**changes):
    """A `Request` of one small row, as a dict."""
    return {
        "network": "tiny",
        "engine": "jax",
        "num_devices": 1,
        "batch_size": 4,
        "dtype": "mixed_bfloat16",
        "virtual": True,
        "images": None,
        "num_samples": 512,
        "matrix_size": 64,
        "block_seconds": 0.01,
        "num_blocks": 2,
    } | changes


# ------------------------------------------------------------------------------ real rows, on a CPU


def measure(folder, num_devices):
    """(what the script printed, its rows by network and engine) for both backends."""
    out = folder / "rows.jsonl"
    options = {"--engines": ",".join(ENGINES), "--batch-sizes": "4", "--devices": num_devices}
    words = [str(word) for pair in options.items() for word in pair]
    child = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--out", out, "--reduced", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    header, *rows = map(json.loads, out.read_text().splitlines())
    assert header["header"]["settings"]["reduced"]
    return child.stdout, {(row["network"], row["engine"]): row for row in rows}


def check_row(row, num_devices):
    assert "failure" not in row and "pipeline_failure" not in row
    assert row["num_devices"] == num_devices
    assert len(row["step_seconds"]) == 2 and min(row["step_seconds"]) > 0
    assert row["macs"] == 831_104  # 16 pixels, WRN-8-0.5
    assert row["share_beside_step"] < 1 and len(row["fed_seconds"]) == 2
    assert row["loss"] < row["first_loss"] - 0.1  # the mean over all steps on one batch


def check_that_both_make_the_same_step(rows):
    """Same start, batch and loss; bfloat16 is rounded at other places."""
    first, second = (rows["tiny", engine]["first_loss"] for engine in ENGINES)
    assert first == pytest.approx(second, rel=5e-3)


def test_both_backends_on_one_device(tmp_path):
    printed, rows = measure(tmp_path, 1)
    for engine in ENGINES:
        check_row(rows["tiny", engine], 1)
        product = rows["matrix product", engine]
        assert product["flops"] == pytest.approx(2 * 256**3 / product["product_seconds"])
    check_that_both_make_the_same_step(rows)
    assert "at a reduced size" in printed and "keras 3" in printed
    lines = [line for line in printed.splitlines() if line.startswith("| tiny")]
    assert len(lines) == 2 and all("%" in line for line in lines)


@pytest.mark.slow
def test_both_backends_on_two_devices(tmp_path):
    _, rows = measure(tmp_path, 2)
    for engine in ENGINES:
        check_row(rows["tiny", engine], 2)
    check_that_both_make_the_same_step(rows)


def test_a_jax_row_needs_no_tensorflow(tmp_path, gpu_row):
    gpu_row.write_images(str(tmp_path / "images"), 16, 16)
    request = request_for(images=str(tmp_path / "images"))
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(REFUSE_TENSORFLOW), BENCHMARKS, json.dumps(request)],
        stdin=subprocess.PIPE,  # stays open: a row ends with its parent
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = child.stdout.read(), child.stderr.read()
    assert child.wait() == 0, errors
    found = {}
    for line in output.splitlines():
        found |= json.loads(line)
    assert len(found["step_seconds"]) == 2 and not found["imports_tensorflow"]
    assert found["pipeline_failure"] == "TensorFlow, which reads the data, is not installed"


# --------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("network", ["wrn36_5", "wide_resnet50_2", "davit_tiny", "resnet50"])
def test_the_networks_are_those_of_the_recipes(network, gpu_row):
    from keras_imnet64.recipe.costs import costs_of

    recipe = gpu_row.recipe_of(
        gpu_row.Request(**request_for(network=network, engine="tensorflow+xla", batch_size=128))
    )
    recipes = {"wide_resnet50_2": "wide_resnet50_2_64", "davit_tiny": "davit_tiny_64"}
    if network == "resnet50":
        # Of 4.089 billion at 224 pixels the stem has 0.118 and the head 0.002. Without strides in
        # the stem the body sees 64 pixels instead of 56; the stem has 64 * 64 * 27 * 64.
        expected = (4.089e9 - 0.118e9 - 0.002e9) * (64 / 56) ** 2 + 64 * 64 * 27 * 64 + 0.002e9
        assert costs_of(recipe)["macs"] == pytest.approx(expected, rel=1e-3)
    else:
        assert costs_of(recipe) == read_table()[recipes.get(network, network)]
    assert (recipe.data.batch_size, recipe.image_size) == (128, 64)
    assert (recipe.train.dtype, recipe.train.xla) == ("mixed_bfloat16", "on")
    assert recipe.data.steps_per_epoch is None


# ------------------------------------------------------------------------------------ plan of rows


@pytest.fixture
def bench(gpu, tmp_path, monkeypatch):
    """bench(limit) -> (batch sizes tried, rows); memory takes `limit` images on a device."""
    tried = []
    limits = {}

    def measure_row(request):
        tried.append((request.engine, request.num_devices, request.batch_size))
        if request.network == gpu.MATRIX_PRODUCT:
            return {"flops": 1e12, "devices": ["GPU:0", "GPU:1", "GPU:2"]}
        if request.batch_size > limits["images"]:
            return {"failure": "RESOURCE_EXHAUSTED", "out_of_memory": True}
        return {"step_seconds": [0.5], "macs": 10**9}

    monkeypatch.setattr(gpu, "measure_row", measure_row)
    monkeypatch.setattr(gpu, "unavailable", lambda engine: None)

    def run(limit, engines=("tensorflow", "tensorflow+xla", "jax"), retry=False, **changes):
        limits["images"] = limit
        tried.clear()
        plan = gpu.Plan(
            networks=("wrn36_5",),
            engines=engines,
            batch_sizes=(128, 256, 512),
            device_counts=None,
            dtype="mixed_bfloat16",
            reduced=False,
            pipeline=False,
            matrix_size=8192,
            block_seconds=1.0,
            num_blocks=1,
            num_images=1,
            num_samples=1,
        )
        results = gpu.Results(tmp_path / "rows.jsonl")
        gpu.measure(gpu.replace(plan, **changes), results, retry)
        return list(tried), results

    return run


def test_lack_of_memory_is_a_row_and_ends_the_larger_batches(bench, gpu):
    tried, results = bench(128, engines=("jax",))
    assert tried == [
        ("jax", 1, 1),
        ("jax", 1, 128),
        ("jax", 1, 256),
        ("jax", 2, 128),
        ("jax", 3, 128),
    ]
    text = gpu.markdown(results.header, list(results.rows.values()))
    assert "| wrn36_5 | jax | 1 | 256 | memory ran out |" in text


def test_xla_under_tensorflow_is_tried_on_one_device_alone(bench):
    tried, _ = bench(512)
    assert max(count for engine, count, _ in tried if engine == "tensorflow+xla") == 1
    assert ("tensorflow", 3, 512) in tried


def test_a_killed_script_goes_on_where_it_was(bench, tmp_path):
    tried, before = bench(512)
    file = tmp_path / "rows.jsonl"
    content = file.read_text()
    assert bench(512)[0] == []
    file.write_text(content[:-20])  # within the last line
    again, results = bench(512)
    assert again == tried[-1:] and results.rows == before.rows
    assert file.read_text() == content


def test_failed_rows_are_measured_again_on_request(bench, gpu, monkeypatch):
    measure_row = gpu.measure_row
    monkeypatch.setattr(gpu, "measure_row", lambda request: {"failure": "it crashed"})
    _, results = bench(512, engines=("jax",), device_counts=(1,))
    assert all(row["failure"] == "it crashed" for row in results.rows.values())
    assert "- wrn36_5, jax, 1 x 128: it crashed" in gpu.markdown(
        results.header, list(results.rows.values())
    )
    monkeypatch.setattr(gpu, "measure_row", measure_row)
    assert bench(512, engines=("jax",), device_counts=(1,))[0] == []
    tried, results = bench(512, engines=("jax",), device_counts=(1,), retry=True)
    assert len(tried) == 4 and not any("failure" in row for row in results.rows.values())


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("machine", "cpu", "results of another machine (cpu 8086); received cpu "),
        ("versions", "keras", "results of other versions (keras 8086); received keras 3"),
        ("settings", "dtype", "results of other settings (dtype 8086); received dtype mixed"),
    ],
)
def test_results_of_another_machine(bench, tmp_path, part, name, words):
    bench(512)
    file = tmp_path / "rows.jsonl"
    first, *rest = file.read_text().splitlines()
    header = json.loads(first)
    header["header"][part][name] = "8086"
    file.write_text("\n".join([json.dumps(header), *rest, ""]))
    with pytest.raises(UserError) as refusal:
        bench(512)
    assert words in str(refusal.value) and str(refusal.value).endswith("choose another --out")


@pytest.mark.parametrize("content", ["no JSON\n", "[1]\n", '{"header": {}}\n', '{"header": 1}\n'])
def test_a_file_of_something_else(gpu, tmp_path, content):
    (tmp_path / "rows").write_text(content)
    with pytest.raises(UserError, match=r"is no file of results .*: choose another --out"):
        gpu.Results(tmp_path / "rows")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "resnet5"], 'Error: --networks does not know "resnet5"; did you mean '),
        (["--engines", "torch"], 'Error: --engines does not know "torch"; '),
        (["--batch-sizes", "0"], "Error: --batch-sizes takes whole numbers from 1, such as "),
        (["--devices", "two"], "Error: --devices takes whole numbers from 1, such as "),
        (["--table-only"], "holds no results: run without --table-only first"),
    ],
)
def test_mistakes_get_a_sentence(gpu, tmp_path, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "rows"), *arguments])
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err


# -------------------------------------------------------------------------------------- table, peer


def test_the_numbers_of_a_row(gpu):
    """1,000 images in 0.5 s at 10^9 multiply-accumulates: 2,000 images/s, 12 TFLOP/s."""

    def row(engine, num_devices, seconds, **more):
        key = {"network": "wrn36_5", "engine": engine, "num_devices": num_devices}
        return key | {"batch_size": 1000, "date": "2030-01-02", "step_seconds": seconds} | more

    ours = row(
        "jax",
        1,
        [0.4, 0.5, 0.6],
        macs=10**9,
        peak_memory_mb=1234.5,
        fed_seconds=[0.8],
        share_beside_step=0.375,
    )
    rows = [
        row("jax", 1, [1.0]) | {"network": "matrix product", "flops": 2.4e13},
        ours,
        row("jax", 4, [0.625], macs=10**9),
        row("torch-eager", 1, [0.8]),
        row("torch-compile", 1, [0.625]),
    ]
    gpu_table = import_module("gpu_table")
    peak = gpu_table.peak_flops(rows)
    assert gpu_table.cells(ours, rows, peak)[4:] == (
        *("2,000", "40.0%", "12", "50.0%", "1,234", "1,250", "37.5%", "", "1.25"),
    )
    # 4,000 images in 0.625 s: 6,400 images/s, 3.2 times one device; 9.6 TFLOP/s on each.
    assert gpu_table.cells(rows[2], rows, peak)[4:8] == ("6,400", "0.0%", "9.6", "40.0%")
    assert gpu_table.cells(rows[2], rows, peak)[-2:] == ("3.20", "")
    # PyTorch's multiply-accumulates are those of the same network.
    assert gpu_table.cells(rows[4], rows, peak)[4:8] == ("1,600", "0.0%", "9.6", "40.0%")


PEER = """
    import json, sys
    print("a line of a library")
    print(json.dumps({"name": "torch 9 eager", "parameters": 7}), flush=True)
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "quit":
            break
        FAIL
        answer = {"peak_mb": 12.5} if command == "memory" else {"seconds": 0.1 * int(count)}
        print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        ("pass", {"step_seconds": pytest.approx([0.1, 0.1]), "peak_memory_mb": 12.5}),
        (
            "sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB')",
            {"out_of_memory": True},
        ),
        ("sys.exit('Error: torch has no such network')", {"failure": "torch has no such network"}),
        ("print(json.dumps({'error': 'what?'}), flush=True); continue", {"failure": "what?"}),
        ("break", {"failure": "it gave no answer"}),
    ],
)
def test_the_peer(gpu, gpu_row, tmp_path, monkeypatch, fail, expected):
    peer = tmp_path / "torch_peer.py"
    peer.write_text(textwrap.dedent(PEER).replace("FAIL", fail))
    monkeypatch.setattr(gpu, "PEER", peer)
    request = gpu_row.Request(**request_for(engine="torch-eager", block_seconds=0.5))
    found = gpu.measure_peer(request, tmp_path)
    assert expected.items() <= found.items()
    assert ("step_seconds" in found) == (fail == "pass")
    if fail == "pass":
        assert found["steps_per_block"] == 5 and found["name"] == "torch 9 eager"


def test_a_row_that_takes_too_long(gpu, gpu_row, tmp_path, monkeypatch):
    peer = tmp_path / "torch_peer.py"
    peer.write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(gpu, "PEER", peer)
    monkeypatch.setattr(gpu, "ROW_SECONDS", 0.2)
    found = gpu.measure_peer(gpu_row.Request(**request_for(engine="torch-eager")), tmp_path)
    assert found == {"failure": "it took more than 3,600 seconds"}
