"""What the libraries below us must not do behind our back."""

import os
import subprocess
import sys


def test_onnx_runtime_leaves_no_session_on_the_disk(tmp_path):
    """Its telemetry begins with a file of an identity in the temporary folder."""
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    script = "import dermdistill; import onnxruntime"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300,
                   env=environment | {"TMPDIR": str(tmp_path)})  # fmt: skip
    assert list(tmp_path.iterdir()) == []
