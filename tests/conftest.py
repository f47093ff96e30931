"""What all tests need: no network, no chatter, few threads; property tests that neither time nor chance decides."""

import os
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("LOGURU_LEVEL", "WARNING")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FORKED: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("forked.py"))))
FORKED.preload()

# The same examples on every machine and no deadline; `HYPOTHESIS_PROFILE=search` looks for new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session")
def forked() -> Any:
    """`forked.py`: programs in processes that need not import anything."""
    return FORKED
