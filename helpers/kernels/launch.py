"""How a kernel comes to run: compiled on a GPU, step by step in Triton's interpreter on a CPU, or not at all.

The interpreter is switched on by the environment variable TRITON_INTERPRET=1, which must stand there before triton is
imported for the first time: triton decides as each kernel is defined, its own library's included. Triton exists for
Linux; elsewhere ``triton`` is None, kernels are plain functions that nobody launches, and every wrapper calls its
readable sibling.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from helpers.shapes import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton, tl = None, SimpleNamespace(constexpr=None)  # enough to define a kernel, and no more

MOST_PROGRAMS = 65535  # on the second and third axis of a grid; CUDA's programming guide, table of capabilities
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = triton is not None and not isinstance(tl.sum, triton.JITFunction)
FP_FUSION = True  # a * b + c in one rounding: Triton's default up to 3.9, which warns that 3.10 turns it round
_counter: ContextVar[Counter | None] = ContextVar("launches", default=None)

if triton is not None and triton.knobs.runtime.interpret and not INTERPRETED:
    raise ImportError("TRITON_INTERPRET was set after triton was imported: restart, and set it before the imports")


def kernel(function: Callable) -> Callable:
    """``triton.jit``. Triton reads the function's source, so checks that the tests put round it are taken off."""
    return triton.jit(inspect.unwrap(function)) if triton is not None else function


@dataclass(frozen=True)
class Variant:
    """One way to compile a kernel ahead of time: what is known of its arguments before it runs.

    ``types`` gives its arguments in order, without the constants: ``*fp16:16`` is a pointer to float16 at an address
    that 16 divides, ``i32`` an integer, ``i32:16`` one that 16 divides, ``fp32`` a number. ``spilled_bytes`` is what
    a thread may have to put aside for want of registers: 0, or more with the reason beside it.
    """

    kernel: Callable
    types: str
    constants: dict[str, int | float | str | None] = field(default_factory=dict)
    warps: int = 4
    stages: int = 3
    chips: tuple[int, ...] = (80, 90)
    spilled_bytes: int = 0


def launches(*tensors: Tensor) -> bool:
    """Whether a kernel can run on these: on a GPU that Triton compiles for, or with the interpreter on; and no gradient
    is wanted, which a kernel would drop without a word."""
    if triton is None or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
        return False
    return INTERPRETED or tensors[0].device.type == "cuda"


def launch(function: Callable, grid: tuple[int, ...], *arguments, warps: int = 4, stages: int = 3, **constants) -> None:
    """Start one program for each place of the grid.

    Raises ValueError without Triton, for a grid that no GPU takes, and where tiles ask for more shared memory or
    registers than this one has.
    """
    if triton is None:
        raise ValueError(f"{function.__name__} cannot run: there is no Triton for this system, it is made for Linux")
    if any(axis > MOST_PROGRAMS for axis in grid[1:]):
        raise ValueError(
            f"{function.__name__} asks for {grid} programs; the second and third axis end at {MOST_PROGRAMS}"
        )
    if (counter := _counter.get()) is not None:
        counter[function.__name__] += 1
    try:
        options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": FP_FUSION}
        function[grid](*arguments, **constants, **options)
    except triton.OutOfResources as error:
        raise ValueError(f"{function.__name__} does not fit on this GPU with {constants}: {error}") from error


@contextmanager
def launched() -> Iterator[Counter]:
    """Counts what is launched inside the block, by kernel: ``with launched() as count: ...``."""
    before, counter = _counter.get(), Counter()
    _counter.set(counter)
    try:
        yield counter
    finally:
        _counter.set(before)


def refuse_unreadable(**tensors: Tensor) -> None:
    """Raise ValueError unless a kernel reads these right: one device, a dtype it knows, rows whole in memory, no axis
    of length 0. bfloat16 is refused in the interpreter, which holds it as an integer and adds that."""
    first = next(iter(tensors.values()))
    for name, x in tensors.items():
        if x.device != first.device:
            raise ValueError(f"{name} is on {x.device} and {next(iter(tensors))} on {first.device}: move one of them")
        if x.is_floating_point() and x.dtype not in DTYPES:
            raise ValueError(f"{name} is {x.dtype}; a kernel takes {', '.join(map(str, DTYPES))}")
        if x.dtype == torch.bfloat16 and INTERPRETED:
            raise ValueError(f"{name} is bfloat16, which Triton's interpreter gets wrong: use float32 or float16")
        if x.numel() == 0:
            raise ValueError(f"{name} has the shape {tuple(x.shape)}: an axis of length 0 leaves nothing to do")
        if x.dim() and x.stride(-1) != 1:
            raise ValueError(f"{name} has strides {x.stride()}: its rows must be whole in memory, call .contiguous()")


def refuse_scattered(**tensors: Tensor) -> None:
    """``refuse_unreadable``, and ValueError unless each tensor is one piece of memory, in order."""
    refuse_unreadable(**tensors)
    for name, x in tensors.items():
        if not x.is_contiguous():
            raise ValueError(f"{name} has strides {x.stride()} for {tuple(x.shape)}: call .contiguous() first")


def refuse_mixed(**tensors: Tensor) -> None:
    """Raise ValueError unless all have one dtype: a product of two kinds would be rounded without a word."""
    if len({x.dtype for x in tensors.values()}) > 1:
        raise ValueError("one dtype is needed: " + ", ".join(f"{name} is {x.dtype}" for name, x in tensors.items()))


def may_ask(x: Tensor) -> bool:
    """Whether a number can be read back: not while a CUDA graph is captured, which waits for nothing."""
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def tile(length: int, least: int = 1, most: int = 2**20) -> int:
    """The smallest power of two that holds ``length``, between ``least`` and ``most``: tiles have such sides."""
    return min(max(1 << (length - 1).bit_length(), least), most)


def blocks(length: int, size: int) -> int:
    """How many pieces of ``size`` hold ``length``."""
    return -(-length // size)
