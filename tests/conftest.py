"""Makes `from tiny import ...` work from every test folder and keeps the tests off the network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# before transformers is imported: it reads these once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# two workers with two threads each would wait for one another on every small operation
os.environ.setdefault("OMP_NUM_THREADS", "1")
