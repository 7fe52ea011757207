"""What a benchmark ran on: the processor, what it can do at best, and a process's peak memory."""

import os
import platform
import resource
import sys
import time
from pathlib import Path

import torch

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDE, TIMES = 2048, 5  # of the square matrices that are multiplied, and how often
MATTER = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # what a fast kernel may use


def description() -> str:
    """Processor, cores, what it has for fast arithmetic, and torch's version."""
    model, flags = platform.processor() or platform.machine(), ""
    path = Path("/proc/cpuinfo")
    if path.exists():
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        told = {key.strip(): value.strip() for key, value in lines.items()}
        known = told.get("flags", "").split()
        model = told.get("model name", model)
        flags = ", " + " ".join(name for name in MATTER if name in known)
    return f"{model}, {os.cpu_count()} cores{flags}, torch {torch.__version__}"


def rates(threads: int) -> dict[str, float]:
    """Billions of operations a second of a large matrix product, the best of a few, by format."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = {}
    for name, dtype in FORMATS.items():
        a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in "ab")
        seconds = []
        for _ in range(TIMES):
            # The clock of this process alone, which other work on the machine slows less.
            started = time.process_time()
            a @ b
            seconds.append((time.process_time() - started) / threads)
        found[name] = 2 * SIDE**3 / min(seconds) / 1e9
    torch.set_num_threads(before)
    return found


def reset_peak() -> None:
    """Forget the peak so far, where the system can (Linux)."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak_mb() -> float:
    """The most memory that this process held, since the last reset on Linux."""
    path = Path("/proc/self/status")
    if path.exists():
        line = next(x for x in path.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
