"""Settings of the suite: strict rank promotion, 8 simulated devices, one compilation cache."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The suite compiles much and runs little: less compile time for slower programs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ["SPATIALSV_CPU_SETTINGS"] = "off"  # commands compute as the tests do
# Tests and the commands they start compile the same programs.
_own_cache = "" if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="spatialsv-jax-cache-")
if _own_cache:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _own_cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure():
    """Removes the cache that this run made."""
    if _own_cache:
        shutil.rmtree(_own_cache, ignore_errors=True)
