"""A few seconds of ``fuzz/fuzz_container.py``, in a process of its own: it limits its memory."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory through /proc")
def test_damaged_files_with_right_checksums_end_in_one_line_or_decode(tmp_path):
    script = ROOT / "fuzz" / "fuzz_container.py"
    done = subprocess.run(
        [sys.executable, script, "--files", "400", "--seed", "7", "--keep", tmp_path / "failures"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    assert all("'decoded'" in line and "'corrupt " in line for line in lines[:8])
    assert lines[8].startswith("0 files broke a rule")
