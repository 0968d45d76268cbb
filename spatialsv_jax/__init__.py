"""SpatialSV-JAX: spatially supervised multimodal language models in JAX."""

__version__ = "0.1.0"


def load(path, mesh=None, dtype=None, on_host=False):
    """Loads a trained model, see `spatialsv_jax.loading.load` (imported on first use: it needs jax)."""
    from spatialsv_jax.loading import load as load_model

    return load_model(path, mesh, dtype, on_host)
