"""The comparison with PyTorch runs on a bare GPU machine: jax, flax, optax and numpy are there, and nothing else of ours."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
THERE = {"jax", "flax", "optax", "numpy", "ml-dtypes"}  # ml-dtypes: jax's own
MODULES = {"orbax-checkpoint": "orbax", "tensorflow-datasets": "tensorflow_datasets", "pillow": "PIL"}


def test_our_side_of_the_comparison_needs_four_packages():
    core = re.search(r"CORE = \[(.*?)\]\n", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    absent = set(re.findall(r'"([\w-]+)', core)) - THERE
    absent -= {"etils"}  # flax's own
    assert len(absent) > 10
    names = [*(MODULES.get(name, name.replace("-", "_")) for name in absent), "torch", "transformers"]
    # None in sys.modules: importing it is an error, also where the import stands in a function of what is imported.
    code = f"import sys; sys.modules.update(dict.fromkeys({names!r})); from benchmarks import train_step; train_step.main()"
    words = "--size tiny --scenes 1 --views 1 --side 56 --questions 2 --repetitions 1 --steps 1".split()
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "our rows alone" in done.stderr, done.stderr
