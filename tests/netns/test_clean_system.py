"""A newcomer's clean machine: the README's commands on a new minimal Debian. See the tool."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools.clean_system import CODENAMES
from tools.peers import ROOT

pytestmark = [pytest.mark.netns, pytest.mark.alone, pytest.mark.long]


@pytest.mark.timeout(5400)
@pytest.mark.parametrize("debian", sorted(CODENAMES))
def test_demo_and_tests_on_a_clean_debian(debian: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    words = (sys.executable, ROOT / "tools/clean_system.py", "--debian", str(debian))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=5300)
    assert done.returncode == 0, done.stdout + done.stderr
