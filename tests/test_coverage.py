"""Intervals hold the truth as often as they say, if lesions are drawn and not images."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks/coverage.py"


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    command = [sys.executable, BENCHMARK, "--draws", "400"]  # docs/log.md has it with 1,000
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4000 simulations" in done.stdout
