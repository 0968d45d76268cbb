"""Packaging of SpatialSV-JAX."""

from setuptools import find_packages, setup

CORE = [
    "jax>=0.10.2,<0.12",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "tensorflow-datasets>=4.9.10,<5",
    "ml-collections>=1.1,<2",
    "numpy>=2.0",
    "scipy>=1.14",
    "trimesh>=4.5",
    "array-record>=0.8",
    "pillow>=10",
    "safetensors>=0.8",
    "ml-dtypes>=0.5",
    "tokenizers>=0.21",
    "embreex>=4.4",
    "tensorboardX>=2.6.2",
    "matplotlib>=3.9",
    "tqdm>=4.66",
]

setup(
    name="spatialsv-jax",
    version="0.1.0",
    description="Spatially supervised multimodal language models in JAX",
    python_requires=">=3.11",
    packages=find_packages(include=["spatialsv_jax*", "data_pipelines*", "experiments*"]),
    install_requires=CORE,
    extras_require={
        "gguf": ["gguf>=0.19"],
        "video": ["av>=14"],
        "parity": ["torch", "torchvision", "transformers>=5.23,<5.24", "peft", "gguf>=0.19"],
        "tpu_programs": ["libtpu==0.0.42.*"],
        "test": [
            "av>=14",
            "gguf>=0.19",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6",
            "ruff>=0.8",
        ],
    },
)
