"""The API under load: throughput beside bare ONNX Runtime, and how it refuses an excess.

    python benchmarks/serve_load.py BUNDLE IMAGE [--seconds 10] [--requests 10000]

`wrk` (Debian's package) asks on loopback. Exit 1 if the server answers fewer images a second than
0.8x of bare ONNX Runtime in one thread at the batch size that the server worked in, if the p99 of
answered requests at twice the saturating connections exceeds one second, if anything is
answered other than 200 or 429, or if memory grows by more than 30 MB over the requests.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import requests

from dermdistill.bundle import Bundle, open_runtime

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import server

LEAST_RATIO, MOST_P99_MS, MOST_GROWTH_MB = 0.8, 1000.0, 30.0
SATURATING, DOUBLE = 32, 64  # connections; the gate lets 32 in
SCRIPT = """
wrk.method, wrk.body = "POST", io.open("%s", "rb"):read("*a")
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() good, busy, other = 0, 0, 0 end
function response(status)
  if status == 200 then good = good + 1
  elseif status == 429 then busy = busy + 1
  else other = other + 1 end
end
function done(summary, latency)
  local sums = {good = 0, busy = 0, other = 0}
  for _, thread in ipairs(threads) do
    for name, value in pairs(sums) do sums[name] = value + thread:get(name) end
  end
  print(string.format("RESULT %%d %%d %%d %%f %%f %%f", sums.good, sums.busy, sums.other,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def wrk(address: str, image: Path, connections: int, seconds: int) -> dict:
    """One run of wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % image.resolve())
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s",
                   script.name, f"{address}/v1/predict"]  # fmt: skip
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = map(float, re.search(r"RESULT (.*)", text)[1].split())
    return dict(zip(("good", "busy", "other", "seconds", "p50_ms", "p99_ms"), values, strict=True))


def bare(bundle: Bundle, image: Path, size: int, seconds: float) -> float:
    """Images a second of ONNX Runtime alone, in one thread, decoded beforehand."""
    runtime = open_runtime(bundle, "onnx", 1)
    pixels = np.stack([bundle.preprocess(image)] * size)
    runtime.predict(pixels)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        runtime.predict(pixels)
        count += size
    return count / (time.perf_counter() - start)


def memory(process: psutil.Process) -> int:
    """Bytes of a server and its decoders."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def batch_size(address: str) -> float:
    """Mean images a call of the model, from the server's own counts."""
    found = dict(re.findall(r"(dermdistill_(?:images|batches)_total) (\S+)",
                            requests.get(f"{address}/metrics", timeout=9).text))  # fmt: skip
    return float(found["dermdistill_images_total"]) / float(found["dermdistill_batches_total"])


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    failed = []
    with server(options.bundle) as address:
        process = next(one for one in psutil.Process().children() if "serve" in one.cmdline())
        for connections in (SATURATING, DOUBLE):  # warm, and the largest batch was met once
            wrk(address, options.image, connections, 3)
        before = memory(process)
        full = wrk(address, options.image, SATURATING, options.seconds)
        size = max(1, round(batch_size(address)))
        rate = full["good"] / full["seconds"]
        double = wrk(address, options.image, DOUBLE, options.seconds)
        asked = full["good"] + double["good"] + double["busy"]
        while asked < options.requests:
            more = wrk(address, options.image, SATURATING, options.seconds)
            asked += more["good"] + more["busy"]
        growth = (memory(process) - before) / 1e6
    alone = bare(Bundle(options.bundle), options.image, size, 5)
    print(f"saturated, {SATURATING} connections: {rate:.0f} images/s, p50 {full['p50_ms']:.0f} ms, "
          f"p99 {full['p99_ms']:.0f} ms, mean batch {size}; bare ONNX Runtime at that batch "
          f"{alone:.0f} images/s: {rate / alone:.2f}x")  # fmt: skip
    print(f"excess, {DOUBLE} connections: {double['good'] / double['seconds']:.0f} images/s, "
          f"{double['busy']:.0f} refused, p99 {double['p99_ms']:.0f} ms")  # fmt: skip
    print(f"memory after {asked:,.0f} requests: {growth:+.1f} MB")
    if rate < LEAST_RATIO * alone:
        failed.append("throughput")
    if double["p99_ms"] > MOST_P99_MS or not double["busy"]:
        failed.append("excess")
    if full["other"] or double["other"]:
        failed.append("other statuses")
    if growth > MOST_GROWTH_MB:
        failed.append("memory")
    print("fell short: " + ", ".join(failed) if failed else "all held")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
