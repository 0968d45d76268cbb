"""Settings of the suite: strict rank promotion, 8 simulated devices, one compilation cache."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The suite compiles much and runs little: less compile time for slower programs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
