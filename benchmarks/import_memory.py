"""Memory of importing a checkpoint of 3 billion parameters, made up on the spot.

    python -m benchmarks.import_memory [--layers 36]

Writes a folder with the names and shapes of Qwen2.5-3B's language model in bfloat16 (random bytes are
not needed: the files are sparse), imports it, and prints the peak of anonymous memory (RssAnon; mapped
files do not count) beside what must be there: the resident parameters and the largest of them.
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from spatialsv_jax.backbones.decoder import Decoder, Rows
from spatialsv_jax.interop.arrays import read_parameters
from spatialsv_jax.interop.conversion import match
from spatialsv_jax.interop.decoders import decoder_rules, language_config
from spatialsv_jax.interop.tensor_files import INDEX, TensorFolder
from spatialsv_jax.partitioning import create

QWEN = dict(
    model_type="qwen2", vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_attention_heads=16,
    num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True,
)  # fmt: skip


def shapes_of(config) -> dict[str, jax.ShapeDtypeStruct]:
    """path -> bfloat16 shape of every parameter of a decoder."""
    module = Decoder(config)

    def init(key):
        x, none = jnp.zeros((1, 1, config.width)), jnp.zeros((1, 1, 1, config.head_dim // 2))
        rows = Rows(none, none, jnp.ones((1, 1), bool), None, None, None, 1, 0)
        return module.init(key, x, rows)["params"]

    boxed = jax.eval_shape(init, jax.random.key(0))
    tree = traverse_util.flatten_dict(jax.eval_shape(lambda: create(jax.random.key(0), boxed)), sep="/")
    return {path: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16) for path, leaf in tree.items()}


def write_sparse(folder: Path, tensors: dict[str, tuple[int, ...]], files: int = 4) -> None:
    """Safetensors files whose values are holes (zeros), with their index."""
    names, weight_map = list(tensors), {}
    for number in range(files):
        file, header, at = f"model-{number + 1:05d}-of-{files:05d}.safetensors", {}, 0
        for name in names[number * len(names) // files : (number + 1) * len(names) // files]:
            size = 2
            for side in tensors[name]:
                size *= side
            header[name] = {"dtype": "BF16", "shape": list(tensors[name]), "data_offsets": [at, at + size]}
            weight_map[name], at = file, at + size
        text = json.dumps(header).encode()
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + at)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def anonymous() -> int:
    """Anonymous memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon: run this on Linux.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=36)
    args = parser.parse_args()
    config = language_config({**QWEN, "num_hidden_layers": args.layers})
    shapes = shapes_of(config)
    theirs = {}
    for rule in decoder_rules(config):
        ours = shapes[rule.target].shape
        layers = range(ours[0]) if rule.stacked else (0,)
        one = ours[1:] if rule.stacked else ours
        for layer in layers:
            theirs[rule.source.replace("{layer}", str(layer))] = rule.transform.to_theirs(
                np.broadcast_to(np.int8(0), one)
            ).shape
    with tempfile.TemporaryDirectory() as folder:
        write_sparse(Path(folder), theirs)
        files = TensorFolder(folder)
        conversion = match(decoder_rules(config), files.tensors, {path: leaf.shape for path, leaf in shapes.items()})
        before, peak, done = anonymous(), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak[0] = max(peak[0], anonymous())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start = time.monotonic()
        params = read_parameters(conversion, files, shapes)
        seconds = time.monotonic() - start
        done.set()
        watcher.join()
    sizes = [array.nbytes for array in params.values()]
    giga = 2.0**30
    print(
        f"{sum(array.size for array in params.values()) / 1e9:.2f} G parameters, resident {sum(sizes) / giga:.2f} GiB, "
        f"largest {max(sizes) / giga:.2f} GiB; read in {seconds:.0f} s; anonymous memory rose by at most "
        f"{(peak[0] - before) / giga:.2f} GiB (allowed {(sum(sizes) + max(sizes)) / giga + 1:.2f})"
    )


if __name__ == "__main__":
    main()
