"""Compile kernels for chips that are not here: does it compile, and what does a program take of a multiprocessor?

    python3 -m helpers.kernels.compile_ahead                 all kernels, for the chips that each of them names
    python3 -m helpers.kernels.compile_ahead rms_norm --json

Triton's compiler and NVIDIA's assembler come with Triton's wheel and need no GPU. The interpreter accepts what the
compiler refuses (products with fewer than 16 terms, a variable that changes its type in a loop), so both must pass.
What no compiler sees is whether a kernel is fast. sm_80 is the A100, sm_90 the H100, the H200 and the H20.
"""

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import helpers.kernels
from helpers.kernels.launch import FP_FUSION, INTERPRETED, Variant, triton

REGISTERS_PER_THREAD = 255
# Of one program at most; CUDA's programming guide, table of capabilities
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
RECORDED_WITH = {"triton": "3.7.1"}  # the compiler that chose how many bytes of VARIANTS are put aside


@dataclass(frozen=True)
class Compiled:
    """What one program takes: registers per thread, bytes per thread puts aside, shared memory, matrix instructions."""

    name: str
    chip: int
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    wgmma: int  # Hopper's matrix instructions, for tiles of 64 rows and more
    mma: int  # Ampere's


def compile_for(name: str, variant: Variant, chip: int) -> Compiled:
    """Compile one variant for a chip of compute capability ``chip`` / 10.

    Raises ValueError without Triton, in the interpreter, and for a chip that the kernel does not name.
    """
    if triton is None or INTERPRETED:
        why = "Triton's interpreter is on: unset TRITON_INTERPRET" if INTERPRETED else "there is no Triton here"
        raise ValueError(f"{name} cannot be compiled: {why}")
    if chip not in variant.chips:
        raise ValueError(f"{name} is made for {', '.join(f'sm_{c}' for c in variant.chips)}, not for sm_{chip}")
    options = {"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": FP_FUSION}
    made = triton.compile(source(variant), target=_target(chip), options=options)
    ptx = made.asm["ptx"]
    wgmma, mma = ptx.count("wgmma.mma_async"), ptx.count("mma.sync")
    return Compiled(name, chip, variant.warps, *_assembled(ptx, chip), made.metadata.shared, wgmma, mma)


def in_a_process_of_its_own(files: Sequence[str]) -> list[Compiled]:
    """The variants of these files, compiled beside a process that interprets. Raises ValueError with what it said."""
    command = ["env", "-u", "TRITON_INTERPRET", sys.executable, "-m", __name__, *files, "--json"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if not said.stdout:
        raise ValueError(
            f"kernels could not be compiled: {(said.stderr.strip().splitlines() or ['nothing was said'])[-1]}"
        )
    return [Compiled(**row) for row in json.loads(said.stdout)]


def source(variant: Variant):
    """What Triton compiles: the kernel, the types of its arguments, its constants, and which arguments 16 divides."""
    from triton.compiler import ASTSource

    names = [name for name in variant.kernel.arg_names if name not in variant.constants]
    types = variant.types.split()
    if len(names) != len(types):
        raise ValueError(f"{variant.kernel.__name__} takes {', '.join(names)}; its types are {variant.types!r}")
    signature = {name: given.removesuffix(":16") for name, given in zip(names, types, strict=True)}
    signature |= dict.fromkeys(variant.constants, "constexpr")
    whole = {name for name, given in zip(names, types, strict=True) if given.endswith(":16")}
    places = [n for n, name in enumerate(variant.kernel.arg_names) if name in whole]
    return ASTSource(variant.kernel, signature, variant.constants, {(n,): [["tt.divisibility", 16]] for n in places})


def variants(files: Sequence[str] = ()) -> dict[str, Variant]:
    """The variants of the kernels in these files, of all where none is named: ``rms_norm bfloat16`` and so on.

    Raises ValueError for a file that is not there.
    """
    walked = pkgutil.walk_packages(helpers.kernels.__path__, "helpers.kernels.")
    there = {module.name.rpartition(".")[2]: module.name for module in walked if not module.ispkg}
    if unknown := set(files) - set(there):
        raise ValueError(f"helpers/kernels has no {', '.join(sorted(unknown))}; it has {', '.join(there)}")
    modules = {file: importlib.import_module(there[file]) for file in files or there}
    named = {file: getattr(module, "VARIANTS", {}) for file, module in modules.items()}
    return {f"{file} {name}": variant for file, some in named.items() for name, variant in some.items()}


def complaints(compiled: Compiled, variant: Variant) -> list[str]:
    """What is wrong with it: too much put aside, too much shared memory."""
    found = []
    if compiled.spilled_bytes > variant.spilled_bytes:
        found.append(f"{compiled.spilled_bytes} bytes per thread are put aside, {variant.spilled_bytes} are allowed")
    if compiled.shared_bytes > SHARED_BYTES[compiled.chip]:
        found.append(f"{compiled.shared_bytes} bytes of shared memory, the chip has {SHARED_BYTES[compiled.chip]}")
    return found


def _target(chip: int):
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", chip, 32)


def _assembled(ptx: str, chip: int) -> tuple[int, int]:
    """Registers a thread, and bytes that it stores for want of them, as NVIDIA's assembler says."""
    from triton.backends.nvidia.compiler import get_ptxas  # Triton 3.9 brings two, and sm_90 needs the younger

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        arch = f"-arch=sm_{chip}{'a' if chip >= 90 else ''}"
        command = [get_ptxas(chip).path, "-v", arch, str(file), "-o", str(file.with_suffix(".cubin"))]
        made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        why = (made.stderr.strip().splitlines() or ["nothing was said"])[0]
        raise ValueError(f"NVIDIA's assembler refuses what Triton {triton.__version__} made for sm_{chip}: {why}")
    said = made.stderr
    return int(re.search(r"Used (\d+) registers", said)[1]), int(re.search(r"(\d+) bytes spill stores", said)[1])


def main(argv: list[str] | None = None) -> int:
    """The command. Returns 1 where a kernel puts aside or shares more than it may."""
    parser = argparse.ArgumentParser(
        prog="python3 -m helpers.kernels.compile_ahead", description="Compile kernels ahead of time."
    )
    parser.add_argument("names", nargs="*", help="files of helpers/kernels, without .py (default: all)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    given = parser.parse_args(argv)
    chosen = variants(given.names)
    results = [compile_for(name, variant, chip) for name, variant in chosen.items() for chip in variant.chips]
    wrong = [f"{r.name} sm_{r.chip}: {text}" for r in results for text in complaints(r, chosen[r.name])]
    print(json.dumps([asdict(r) for r in results]) if given.json else "\n".join([_HEAD, *map(_row, results), *wrong]))
    return bool(wrong or not results)


_HEAD = f"{'kernel':34} {'chip':6} {'warps':>5} {'registers':>9} {'put aside':>9} {'shared':>9} {'wgmma':>5} {'mma':>5}"


def _row(r: Compiled) -> str:
    numbers = f"{r.warps:5} {r.registers:9} {r.spilled_bytes:7} B {r.shared_bytes:7} B {r.wgmma:5} {r.mma:5}"
    return f"{r.name:34} sm_{r.chip:<3} {numbers}"


if __name__ == "__main__":
    raise SystemExit(main())
