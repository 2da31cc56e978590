"""The parts of the count, one file each. A file here must define `PART`; nothing else lists it.

Parts may import what tests share, such as `small_runs`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests" / "support"))
