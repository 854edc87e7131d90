"""Training, small and exact: a run that was killed goes on as if nothing had happened, bit for bit.

What makes that possible: batch number ``step`` is a function of the step alone (helpers/data), nothing else in a step
is random, and the checkpoint holds the weights, the buffers and both of AdamW's moments as they were.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from helpers.files import refuse_where_not_ours
from helpers.shapes import Float, Int, Tensor

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a weight

Loss = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> the number that training makes smaller


@runtime_checkable
class Stream(Protocol):
    """What is trained on: batch number ``step``, always the same one, and what tells two streams apart."""

    def __getitem__(self, step: int) -> Any: ...

    def identity(self) -> dict: ...


@dataclass(frozen=True)
class Settings:
    """How to train. Rates are those of AdamW (Loshchilov and Hutter, 2019)."""

    steps: int
    lr: float = 3e-3  # at its peak, after the warm-up
    warm_up: int = 100  # steps
    final: float = 0.05  # share of the peak that the cosine ends at
    weight_decay: float = 0.1  # on matrices only
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # largest norm of the whole gradient


@dataclass
class Run:
    """What a training has done so far."""

    losses: list[float] = field(default_factory=list)  # nats per token, one per step
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def step(self) -> int:
        return len(self.losses)


def initialise(model: nn.Module, seed: int, std: float = 0.02) -> None:
    """Matrices from a normal distribution; vectors and convolutions stay as their layer makes them.

    The same seed gives the same weights, provided that the layers make theirs from a seeded generator too.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and weight.shape[1] > 1:  # a convolution of each channel is channels x 1 x width
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def train_only(model: nn.Module, trained: Callable[[str], bool]) -> None:
    """Let a gradient reach the weights whose name ``trained`` takes, and no other."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(trained(name))


def learning_rate(step: int, settings: Settings) -> float:
    """A straight warm-up, then half a cosine down to ``final`` x the peak."""
    if step < settings.warm_up:
        return settings.lr * (step + 1) / settings.warm_up
    done = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    return settings.lr * (settings.final + (1 - settings.final) * (1 + math.cos(math.pi * done)) / 2)


def loss_of(model: nn.Module, batch: Int[Tensor, "B T_and_1"]) -> Float[Tensor, ""]:
    """Mean nats per token of predicting each token from those before it."""
    batch = batch.to(next(model.parameters()).device)
    return functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())


def train(
    model: nn.Module,
    batches: Stream,
    settings: Settings,
    checkpoint: Path | None = None,
    every: int = 100,
    seconds: float | None = None,
    report: Callable[[Run], None] | None = None,
    loss: Loss = loss_of,
    after: Callable[[nn.Module], None] | None = None,
) -> Run:
    """Train ``model`` in place up to ``settings.steps``, from ``checkpoint`` where there is one.

    The checkpoint is written every ``every`` steps and at the end. After ``seconds`` this sitting ends, and the same
    call goes on later. ``report`` is called after each step. ``loss(model, batches[step])`` is what is made smaller;
    weights with ``requires_grad`` off stay as they are. ``after(model)`` is called after each step, for what no
    gradient trains. ValueError where the checkpoint is damaged or belongs to another run (other settings, batches or
    sizes).
    """
    optimizer = _optimizer(model, settings)
    identity = _identity(model, batches, settings)
    run = load_checkpoint(checkpoint, model, optimizer, identity) if checkpoint and checkpoint.exists() else Run()
    model.train()
    wall, cpu = time.monotonic() - run.wall_s, time.process_time() - run.cpu_s
    limit = run.wall_s + seconds if seconds is not None else math.inf
    while run.step < settings.steps and run.wall_s < limit:
        rate = learning_rate(run.step, settings)
        run.losses.append(_step(model, optimizer, loss(model, batches[run.step]), rate, settings.clip))
        if after:
            after(model)
        run.wall_s, run.cpu_s = time.monotonic() - wall, time.process_time() - cpu
        ending = run.step == settings.steps or run.wall_s >= limit
        if checkpoint and (run.step % every == 0 or ending):
            save_checkpoint(checkpoint, model, optimizer, run, identity)
        if report:
            report(run)
    return run


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.AdamW, run: Run, identity: str) -> None:
    """Write weights, moments and the run as one safetensors file with JSON in its header.

    The file is written aside and then takes the old one's place in a single move: at every moment one whole checkpoint
    lies at ``path``, whenever the machine stops. Raises OSError that names ``path``; then it holds what it held.
    """
    tensors = _tensors(model, optimizer)
    about = {"run": asdict(run), "identity": identity, "digest": _digest(tensors)}
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_where_not_ours(path)
        save_file(tensors, part, metadata={"training": json.dumps(about)})
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    except SafetensorError as error:  # its way to tell of a full disk
        raise OSError(errno.EIO, str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.AdamW, identity: str) -> Run:
    """Fill ``model`` and ``optimizer`` from ``path``. ValueError where it is damaged or of another run."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}); remove it to begin again") from error
    if about["digest"] != _digest(tensors):
        raise ValueError(f"{path} was damaged after it was written (wrong digest); remove it to begin again")
    if about["identity"] != identity:
        raise ValueError(f"{path} belongs to another run: {about['identity']}; this one is {identity}")
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"weight.{name}"])
            if f"step.{name}" in tensors:  # a weight that has had no gradient has no moments
                optimizer.state[weight] = {key: _beside(weight, tensors[f"{key}.{name}"]) for key in MOMENTS}
    return Run(**about["run"])


def bits_per_byte(model: nn.Module, tokenizer, text: str | Sequence[str], length: int = 256, batch: int = 16) -> float:
    """Bits that ``model`` needs for one byte of ``text`` (UTF-8): comparable between tokenizers; 8 without a model.

    Every document begins after <|endoftext|>. It is read in windows of ``length`` tokens that do not overlap, so a
    token is predicted from 1 to ``length`` tokens before it, and each exactly once. ``tokenizer`` is a
    ``tokenizers.Tokenizer``. ValueError where there is no text.
    """
    documents = [text] if isinstance(text, str) else list(text)
    if not any(documents):
        raise ValueError("there is no text to measure: 0 bytes were given")
    start = tokenizer.token_to_id("<|endoftext|>")
    rows = [row for document in documents for row in _windows([start, *tokenizer.encode(document).ids], length)]
    model.eval()
    nats = sum(_nats(model, rows[i : i + batch]) for i in range(0, len(rows), batch))
    return nats / math.log(2) / sum(len(document.encode()) for document in documents)


def _windows(tokens: list[int], length: int) -> list[Tensor]:
    """Rows of up to ``length`` + 1 tokens; the last of one row is the first of the next."""
    return [torch.tensor(tokens[i : i + length + 1]) for i in range(0, len(tokens) - 1, length)]


@torch.no_grad()
def _nats(model: nn.Module, rows: list[Tensor]) -> float:
    """Sum of -log p over the rows. Short rows are filled at the end, where a causal model cannot see it."""
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    padded = padded.to(next(model.parameters()).device)
    logits = model(padded[:, :-1].clamp(min=0)).flatten(0, 1).float()
    return functional.cross_entropy(logits, padded[:, 1:].flatten(), ignore_index=-1, reduction="sum").item()


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)


def _step(model: nn.Module, optimizer: torch.optim.AdamW, loss: Float[Tensor, ""], lr: float, clip: float) -> float:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _identity(model: nn.Module, batches: Stream, settings: Settings) -> str:
    """A line that two runs share only if they take the same steps."""
    weights = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return json.dumps({"weights": weights, "trained": trained, **asdict(settings), **batches.identity()})


def _tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Every weight and buffer, and AdamW's two moments and step count for each weight that it moved, by name."""
    tensors = {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}
    for name, weight in model.named_parameters():
        tensors[f"weight.{name}"] = weight.detach()
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state[weight].items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}  # some lie in another order in memory


def _beside(weight: Tensor, moment: Tensor) -> Tensor:
    """A moment on the weight's device and in its order in memory; the step count is one number and stays as it is."""
    if moment.shape != weight.shape:
        return moment.to(weight.device)
    return torch.empty_like(weight, dtype=moment.dtype).copy_(moment)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
