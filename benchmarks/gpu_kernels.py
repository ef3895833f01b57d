"""Triton's kernels compiled for a GPU, on any machine: registers, spills and shared memory of each.

    python benchmarks/gpu_kernels.py             # for an H100 or H200 (compute capability 9.0)
    python benchmarks/gpu_kernels.py --quick     # float32 only
    python benchmarks/gpu_kernels.py --capability 80

A training step with static shapes runs on the CPU, with kernels that are compiled instead of started; needs Triton, no
GPU. A spill means that a program has too many registers; it is slow.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from benchmarks.reporting import Row, print_json, print_table
from benchmarks.training_loops import make_benchmark_corpus, project_steps

POINTERS = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64",
    torch.bool: "*i1",
}  # fmt: skip
STATIC = {"use_triton": True, "use_graphs": False}


def describe_arguments(kernel: Any, arguments: dict[str, Any]) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
    """Return types, constants and attributes of a kernel's arguments, as Triton derives them when it starts one."""
    types, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            types[parameter.name], constants[(index,)] = "constexpr", value
            continue
        is_tensor = isinstance(value, torch.Tensor)
        types[parameter.name] = POINTERS[value.dtype] if is_tensor else "i32" if isinstance(value, int) else "fp32"
        if is_tensor or (isinstance(value, int) and value % 16 == 0):  # memory of a GPU is aligned
            attributes[(index,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def read_resources(ptx: str, capability: int) -> tuple[int, int]:
    """Return the registers of a thread, and the bytes that it spills."""
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    suffix = "a" if capability >= 90 else ""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [assembler, "-v", f"-arch=sm_{capability}{suffix}", file.name, "-o", "/dev/null"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr
    registers, spilled = re.search(r"Used (\d+) registers", output), re.search(r"(\d+) bytes spill stores", output)
    assert registers is not None, output
    return int(registers[1]), int(spilled[1]) if spilled else 0


def compile_kernels(precision: str, capability: int, corpus: Any) -> list[Row]:
    """Return a row for each kernel of a step."""
    rows: dict[str, Row] = {}

    def compile_instead(kernel: Any, *values: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        name = kernel.fn.__name__
        arguments = dict(zip(kernel.arg_names, values, strict=False)) | keywords
        if name in rows:
            return
        source = ASTSource(kernel, *describe_arguments(kernel, arguments))
        options = {key: value for key, value in keywords.items() if key == "num_warps"}
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        registers, spilled = read_resources(compiled.asm["ptx"], capability)
        rows[name] = {
            "kernel": name, "precision": precision, "threads": 32 * compiled.metadata.num_warps, "registers": registers,
            "spilled bytes": spilled, "shared bytes": compiled.metadata.shared,
        }  # fmt: skip

    run = JITFunction.run
    JITFunction.run = compile_instead
    try:
        next(project_steps(corpus, "non-static", 50, "cpu", precision, static=STATIC))
    finally:
        JITFunction.run = run
    return list(rows.values())


def main() -> None:
    """Compile the kernels and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="float32 only")
    parser.add_argument("--capability", type=int, default=90, help="of the GPU, without a point (default: 90)")
    options = parser.parse_args()
    corpus, _ = make_benchmark_corpus("mr", 200, Path("absent"))
    table = []
    for precision in ("float32",) if options.quick else ("float32", "bfloat16"):
        table += compile_kernels(precision, options.capability, corpus)
    print_table(f"Kernels of a training step, compute capability {options.capability / 10}", table)
    print_json("gpu_kernels", {"quick": options.quick, "capability": options.capability}, {"kernels": table})


if __name__ == "__main__":
    main()
