"""Memory of importing a checkpoint of the size of Qwen2.5-VL-3B, made up on the spot.

    python -m benchmarks.import_memory [--layers 36]

Writes a folder with the names and shapes of the published model in bfloat16 (random bytes are not needed: the
files are sparse), imports it as training and `spatialsv_jax.load` do, and prints the peak of anonymous memory
(RssAnon; mapped files do not count) beside what must be there: the resident parameters and the largest of them.
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

from spatialsv_jax.interop import hub
from spatialsv_jax.interop.tensor_files import INDEX
from spatialsv_jax.model import LiftingConfig, SpatialMLLM
from spatialsv_jax.spec import fake_batch

CONFIG = dict(
    model_type="qwen2_5_vl", vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_attention_heads=16,
    num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True,
    rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
    vision_config=dict(
        depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048, patch_size=14,
        spatial_merge_size=2, temporal_patch_size=2, window_size=112, fullatt_block_indexes=[7, 15, 23, 31],
    ),
)  # fmt: skip


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


def model_shapes(vision, language) -> dict:
    """Nested dicts of bfloat16 shapes of the model without heads."""
    model = SpatialMLLM(vision, language, LiftingConfig(heads=()), "qwen2_5_vl")
    batch = fake_batch(dict(B=1, V=1, H=8, W=8, P=4, S=8, Q=1, T=2, A=1, K=3, N=9), (56, 56, 3))
    shapes = hub.parameter_shapes(model, batch)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), shapes)


def their_shapes(rules, shapes: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the checkpoint, from our shapes by the table read backwards."""
    flat, found = traverse_util.flatten_dict(shapes, sep="/"), {}
    for rule in rules:
        ours = flat[rule.target].shape
        one = ours[1:] if rule.stacked else ours
        shape = rule.transform.to_theirs(np.broadcast_to(np.int8(0), one)).shape
        shape = (shape[0] * rule.part[1], *shape[1:])
        for layer in range(ours[0]) if rule.stacked else (0,):
            found[rule.source.replace("{layer}", str(layer))] = shape
    return found


def anonymous() -> int:
    """Anonymous memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon: run this on Linux.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=36, help="of the decoder")
    config = {**CONFIG, "num_hidden_layers": parser.parse_args().layers}
    layout = hub.LAYOUTS["qwen2_5_vl"]
    vision, language = layout.read(config)
    shapes = model_shapes(vision, language)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        write_sparse(Path(folder), their_shapes(layout.rules(vision, language), shapes))
        checkpoint = hub.open_checkpoint(folder)
        before, peak, done = anonymous(), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak[0] = max(peak[0], anonymous())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start = time.monotonic()
        params, _, _ = hub.import_parameters(checkpoint, shapes)
        seconds = time.monotonic() - start
        done.set()
        watcher.join()
    sizes = [array.nbytes for array in jax.tree.leaves(params)]
    giga = 2.0**30
    print(
        f"{sum(array.size for array in jax.tree.leaves(params)) / 1e9:.2f} G parameters, resident {sum(sizes) / giga:.2f} GiB, "
        f"largest {max(sizes) / giga:.2f} GiB; read in {seconds:.0f} s; anonymous memory rose by at most "
        f"{(peak[0] - before) / giga:.2f} GiB (allowed {(sum(sizes) + max(sizes)) / giga + 1:.2f})"
    )


if __name__ == "__main__":
    main()
