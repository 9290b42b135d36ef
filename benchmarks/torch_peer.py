"""Trains and scores the network of a recipe in PyTorch: the peer that our own step is timed beside.

    python benchmarks/torch_peer.py --recipe recipes/wrn36_2.toml --batch-size 32 \\
        --dtype mixed_bfloat16 --mode compile --image-size 64 --num-classes 1000

A worker: it prints one JSON line when it is ready, {"name": "torch 2.13.0 compile", "device":
"cuda", "parameters": ..., "compile_seconds": ...}, then answers each line of standard input with
one:

    step N     N whole training steps on one batch that lies on the device: {"seconds": s}
    forward N  N batches scored: {"seconds": s}
    memory     the peak so far above what PyTorch held before the network: {"peak_mb": m}
    quit       ends the worker

Modes are "eager", "compile" (`torch.compile`), and "tuned": compiled, and memory that is freed kept
for the next step, as PyTorch's tuning guide advises; on a GPU that is the same as "compile". All
use channels_last.

A step is what the recipe trains with: cross-entropy with label smoothing, L2, decoupled decay,
clipping, SGD or AdamW, accumulation, averaged weights. Its data are random pixels and labels; the
recipe's augmentation is left out, its schedule stays at the peak, and all pictures have the full
size. Ours also counts top-1 and top-5 accuracy and the L2 term of the loss, this step does not.
What it cannot do is refused with one sentence and exit status 2.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click
import numpy as np

from keras_imnet64.core.errors import EXIT_USER_ERROR, RunFailed, UserError
from keras_imnet64.models import parse_network
from keras_imnet64.models.options import ChannelNormalization, NetworkOptions
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.optimizers import AdamWOptions, SGDOptions
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.training.memory import anonymous_bytes, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

POLL_SECONDS = 0.02
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@click.command()
@click.option("--recipe", "name_or_path", required=True, help="A recipe's name or TOML file.")
@click.option("--batch-size", type=click.IntRange(1), required=True)
@click.option("--dtype", type=click.Choice(["float32", "mixed_bfloat16"]), required=True)
@click.option("--mode", type=click.Choice(["eager", "compile", "tuned"]), required=True)
@click.option("--image-size", type=click.IntRange(1), required=True)
@click.option("--num-classes", type=click.IntRange(2), required=True)
def main(name_or_path: str, **settings: str | int) -> None:
    """Runs the worker; the text at the top of this file describes its lines."""
    recipe = load_recipe(name_or_path)
    if importlib.util.find_spec("torch") is None:
        raise UserError("the PyTorch peer needs torch, which is not installed: pip install torch")
    with replies() as reply, programs_of_this_process():
        peer, memory, first_line = start(recipe, Settings(**settings))
        reply(first_line)
        for line in sys.stdin:
            if line.strip() == "quit":
                break
            reply(answer(line, peer, memory))


def answer(line: str, peer: Peer, memory: PeakMemory) -> dict[str, object]:
    """Returns the answer to a line of standard input."""
    command, _, count = line.strip().partition(" ")
    if command == "memory" and not count:
        return {"peak_mb": memory.megabytes()}
    if command in ("step", "forward") and count.isdecimal() and int(count):
        return {"seconds": peer.seconds(command, int(count))}
    return {"error": f"step N, forward N, memory and quit are known; received {line.strip()!r}"}


@dataclass(frozen=True)
class Settings:
    """The options of the command line but for the recipe."""

    batch_size: int
    dtype: str
    mode: str
    image_size: int
    num_classes: int


# ------------------------------------------------------------------------------------------ peer


class Peer:
    """A network in PyTorch with its optimizer and one resident batch."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        """Builds all of it; nothing is compiled before the first step."""
        check_step(recipe)
        import torch
        from torch_networks import Normalized, build_network

        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = build_network(recipe.model, settings.image_size, settings.num_classes)
        network = Normalized(network, *mean_and_std(recipe.model, settings.image_size))
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.num_parameters = sum(p.numel() for p in self.network.parameters())
        self.update = Update(self.network, recipe)
        self.label_smoothing = recipe.loss.label_smoothing
        self.num_parts = recipe.train.accumulate_steps
        self.images, self.labels = self.random_batch()
        # One graph of normalisation, network and loss, in Inductor's default mode. With the
        # allocator tuned, for WRN-12-2 at batch 64 on two cores of an AMD EPYC, it was worth
        # nothing in float32 (214 against 216 images per second) and 3 % in bfloat16 (398 against
        # 385, medians of three, 2026-11-29).
        # Neither max-autotune nor a compiled optimizer has been measured. Shapes are fixed: after
        # the small network, whose memory is taken off, they would count as variable, with which
        # the compiler takes more than a quarter of an hour for DaViT.
        is_eager = settings.mode == "eager"
        self.loss = self._loss if is_eager else torch.compile(self._loss, dynamic=False)
        self.scorer: Callable[[Tensor], Tensor] | None = None

    def random_batch(self) -> tuple[Tensor, Tensor]:
        """Returns uint8 pixels [B, H, W, 3] and labels [B] on the device."""
        import torch

        settings = self.settings
        rng = np.random.default_rng(0)
        shape = (settings.batch_size, settings.image_size, settings.image_size, 3)
        images = torch.from_numpy(rng.integers(0, 256, shape, "uint8"))
        labels = torch.from_numpy(rng.integers(0, settings.num_classes, settings.batch_size))
        return images.to(self.device), labels.to(self.device)

    def _logits(self, images: Tensor) -> Tensor:
        """Returns float32 logits; bfloat16 is autocast's, with float32 weights, as ours is."""
        import torch

        enabled = self.settings.dtype == "mixed_bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return self.network(images).float()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        from torch.nn import functional

        logits = self._logits(images)
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def step(self) -> Tensor:
        """Makes one whole training step; returns the loss of its last part."""
        parts = (tensor.chunk(self.num_parts) for tensor in (self.images, self.labels))
        for images, labels in zip(*parts, strict=True):
            loss = self.loss(images, labels)
            (loss / self.num_parts if self.num_parts > 1 else loss).backward()
        self.update()
        return loss

    def score(self) -> Tensor:
        """Returns float32 logits of the batch [B, K]."""
        import torch

        with torch.inference_mode():
            if self.scorer is None:
                self.scorer = self._make_scorer()
            return self.scorer(self.images)

    def _make_scorer(self) -> Callable[[Tensor], Tensor]:
        """Returns the function that gives logits; compiled, it keeps the weights of today.

        Freezing makes weights constants of the program: batch normalisation is folded into the
        convolutions, and kernels are laid out, and rounded to bfloat16, once.
        """
        import torch

        if self.settings.mode == "eager":
            return self._logits
        return torch.compile(self._logits, dynamic=False, options={"freezing": True})

    def seconds(self, command: str, count: int) -> float:
        """Returns the time of `count` steps or forward passes, without that of compiling."""
        work, training = (self.step, True) if command == "step" else (self.score, False)
        if self.network.training != training:
            self.network.train(training)
        if not training and self.scorer is None:
            self._wait(work())
        start = time.perf_counter()
        for _ in range(count):
            result = work()
        self._wait(result)
        return time.perf_counter() - start

    def _wait(self, result: Tensor) -> None:
        """Waits for all work of the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif not bool(torch.isfinite(result).all()):
            raise RunFailed("the PyTorch peer computed numbers that are not finite")


def mean_and_std(options: NetworkOptions, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std [3], or a mean image [H, W, 3] and 1, on the 0..1 scale.

    What a recipe measures on its images is replaced by ImageNet's numbers, in the same shape.
    """
    normalization = options.normalization
    if isinstance(normalization, ChannelNormalization):
        return np.array(normalization.mean), np.array(normalization.std)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    if normalization == "mean_image":
        return np.broadcast_to(mean, (image_size, image_size, 3)), np.ones(3)
    return mean, std


# ---------------------------------------------------------------------------------------- update


def check_step(recipe: Recipe) -> None:
    """Refuses a recipe whose training step the PyTorch side would make in another way."""
    options, loss = recipe.optimizer, recipe.loss
    if not isinstance(options, SGDOptions | AdamWOptions):
        raise UserError(
            f'the PyTorch peer trains with sgd and adamw; received optimizer "{options.name}"'
        )
    if loss.name != "cross_entropy":
        raise UserError(
            f'the PyTorch peer trains with cross_entropy; received loss.name "{loss.name}"'
        )
    for option in ("groups", "lookahead"):
        if getattr(options, option):
            raise UserError(f"the PyTorch peer has no optimizer.{option}: remove it")


class Update:
    """What follows the backward pass: L2, clipping, decay, the optimizer, averaged weights."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        options, loss = recipe.optimizer, recipe.loss
        assert isinstance(options, SGDOptions | AdamWOptions)  # `check_step` refuses others
        named = dict(network.named_parameters())
        self.parameters = list(named.values())
        self.kernels = [p for p in self.parameters if p.ndim >= 2]
        # Besides kernels, PyTorch calls the gamma of a normalisation "weight".
        penalized = [p for n, p in named.items() if loss.l2_of == "all" or n.endswith("weight")]
        self.clip_norm, self.ema = options.clip_norm, recipe.train.ema
        # l2 * w^2 has the gradient 2 * l2 * w. SGD adds it in its own pass over the weights, but
        # after clipping, and after decoupled decay has changed the weights.
        decay = 2 * loss.l2
        coupled = isinstance(options, SGDOptions) and not (self.clip_norm or options.weight_decay)
        self.l2_gradient, self.penalized = (0.0 if coupled else decay), penalized
        self.shrink = 0.0
        if isinstance(options, SGDOptions):
            self.shrink = options.learning_rate * options.weight_decay
            self.optimizer = make_sgd(options, groups(named, penalized, decay if coupled else 0.0))
        else:
            self.optimizer = make_adamw(options, groups(named, self.kernels, options.weight_decay))
        self.averages = [p.detach().clone() for p in self.parameters] if self.ema else []

    def __call__(self) -> None:
        import torch

        with torch.no_grad():
            if self.l2_gradient:
                gradients = [p.grad for p in self.penalized]
                torch._foreach_add_(gradients, self.penalized, alpha=self.l2_gradient)
            if self.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, foreach=True)
            if self.shrink:
                torch._foreach_mul_(self.kernels, 1 - self.shrink)
            self.optimizer.step()
            if self.ema:
                torch._foreach_lerp_(self.averages, self.parameters, 1 - self.ema)
        self.optimizer.zero_grad(set_to_none=True)


def groups(
    named: dict[str, nn.Parameter], decayed: list[nn.Parameter], weight_decay: float
) -> list[dict[str, object]]:
    """Returns the parameter groups of an optimizer that decays some of the parameters."""
    chosen = {id(p) for p in decayed}
    others = [p for p in named.values() if id(p) not in chosen]
    both = [{"params": decayed, "weight_decay": weight_decay}, {"params": others}]
    return [group for group in both if group["params"]]


# Fused, as PyTorch advises on a GPU; on two cores of an AMD EPYC it is no slower than foreach:
# eager steps of WRN-12-2 at batch 64 make 151.7 and 151.7 images per second in float32, 331.8 and
# 305.7 in bfloat16 (medians of six blocks in turns, the allocator as installed, 2026-11-29).


def make_sgd(options: SGDOptions, parameters: list[dict[str, object]]) -> torch.optim.Optimizer:
    from torch.optim import SGD

    return SGD(
        parameters,
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=options.nesterov and options.momentum > 0,
        fused=True,
    )


def make_adamw(options: AdamWOptions, parameters: list[dict[str, object]]) -> torch.optim.Optimizer:
    from torch.optim import AdamW

    return AdamW(
        parameters,
        lr=options.learning_rate,
        betas=(options.beta_1, options.beta_2),
        eps=options.epsilon,
        weight_decay=0.0,
        fused=True,
    )


# ------------------------------------------------------------------------------------ the process


def start(recipe: Recipe, settings: Settings) -> tuple[Peer, PeakMemory, dict[str, object]]:
    """Returns the peer after its first steps, its memory, and the first line of output.

    Before it a very small network makes a few steps, so that what PyTorch and its compiler load
    for any network counts neither as memory of this one nor as time of its compilation.
    """
    import torch

    configure(settings.mode)
    small_options = {"depth": 6, "width": 1, "normalization": recipe.model.normalization}
    small = recipe.model_copy(update={"model": parse_network("wide_resnet", small_options)})
    batch_size = 2 * recipe.train.accumulate_steps
    small_settings = replace(settings, batch_size=batch_size, image_size=8, num_classes=2)
    Peer(small, small_settings).seconds("step", 3)
    memory = PeakMemory(torch.cuda.is_available())
    peer = Peer(recipe, settings)
    first_step = peer.seconds("step", 1)
    peer.seconds("step", 2)
    first_line: dict[str, object] = {
        "name": f"torch {torch.__version__.partition('+')[0]} {settings.mode}",
        "device": peer.device.type,
        "parameters": peer.num_parameters,
        "compile_seconds": round(first_step, 2),
    }
    return peer, memory, first_line


def configure(mode: str) -> None:
    """Sets threads and precision, and the allocator in mode "tuned"."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as TensorFlow and JAX have it
    elif mode == "tuned":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, which by default it returns to the system at once.

    Else the pages of every activation are mapped and cleared anew in each step. The TCMalloc and
    jemalloc of PyTorch's tuning guide do the same.
    """
    mmap_threshold, trim_threshold, mmap_max = -3, -1, -4
    with suppress(OSError, AttributeError):  # another system or C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in {
            mmap_threshold: 2**30,
            trim_threshold: 2**31 - 1,
            mmap_max: 0,
        }.items():
            mallopt(parameter, value)


class PeakMemory:
    """The peak of memory above what was held when it was made: of the GPU, else of the process."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.before = self.peak = anonymous_bytes() if os.path.exists("/proc/self/status") else 0
        if on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif self.before:
            threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        while True:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(POLL_SECONDS)

    def megabytes(self) -> float | None:
        """Returns the peak so far to one decimal; None where the system does not count."""
        if self.on_gpu:
            import torch

            self.peak = torch.cuda.max_memory_allocated()
        return round((self.peak - self.before) / 1e6, 1) if self.peak else None


@contextmanager
def replies() -> Iterator[Callable[[dict[str, object]], None]]:
    """Gives a function that prints a JSON line; all else on standard output goes to the error."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(content: dict[str, object]) -> None:
        print(json.dumps(content), file=output, flush=True)

    yield reply


@contextmanager
def programs_of_this_process() -> Iterator[None]:
    """Lets Inductor compile anew, in a folder that is removed, unless the environment names one."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    with tempfile.TemporaryDirectory(prefix="torch-peer-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault(name, folder)
        yield


def run() -> None:
    """Calls `main`; a mistake, or memory that ran out, is one sentence on standard error."""
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        sys.exit(fail(error.format_message(), EXIT_USER_ERROR))
    except UserError as error:
        sys.exit(fail(str(error), error.exit_status))
    except Exception as error:
        if not is_out_of_memory(error) and "can't allocate memory" not in str(error):
            raise
        sys.exit(
            fail("the PyTorch peer ran out of memory: give a smaller batch", RunFailed.exit_status)
        )


def fail(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    run()
