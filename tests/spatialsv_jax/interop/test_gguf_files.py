"""GGUF files: the golden Llama rewritten as llama.cpp writes it gives the same hidden states."""

from pathlib import Path

import decoder_runs
import gguf
import numpy as np
import pytest

from spatialsv_jax.interop.config_fields import read_config
from spatialsv_jax.interop.decoders import language_config
from spatialsv_jax.interop.gguf_files import GGUFFile, interleaved, llama_rules
from spatialsv_jax.interop.tensor_files import ConversionError, TensorFolder

GOLDEN = Path(__file__).parents[2] / "goldens/decoders/llama"
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
WORDS = ["<s>", "a", "b", "ab", "Ġ", "1", "2", "Ċ"]


def side_by_side(weight, heads):
    """Rows of q or k as llama.cpp stores them: row j and row j + d/2 of a head become rows 2j and 2j + 1."""
    result, size = np.empty_like(weight), len(weight) // heads
    for head in range(heads):
        for j in range(size // 2):
            result[head * size + 2 * j] = weight[head * size + j]
            result[head * size + 2 * j + 1] = weight[head * size + j + size // 2]
    return result


@pytest.fixture
def write(tmp_path):
    def write(name="a.gguf", **settings):
        config, folder = language_config(read_config(GOLDEN / "config.json")), TensorFolder(GOLDEN)
        writer = gguf.GGUFWriter(tmp_path / name, settings.pop("architecture", "llama"))
        writer.add_embedding_length(config.width)
        writer.add_block_count(config.layers)
        writer.add_context_length(config.max_length)
        writer.add_feed_forward_length(config.mlp_width)
        writer.add_head_count(config.heads)
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(settings.pop("split", "smollm"))
        writer.add_token_list(WORDS)
        writer.add_token_types([3] + [1] * (len(WORDS) - 1))
        writer.add_token_merges(["a b"])
        for key, value in settings.items():
            writer.add_string(key, value)
        for source in folder.tensors:
            value = folder.read(source)
            parts = source.removesuffix(".weight").split(".", 3)
            if "layers" in parts:
                source = f"blk.{parts[2]}.{NAMES[parts[3]]}.weight"
                if parts[3] in ("self_attn.q_proj", "self_attn.k_proj"):
                    value = side_by_side(value, config.heads)
            else:
                source = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(parts[-1], "output") + ".weight"
            writer.add_tensor(source, np.ascontiguousarray(value))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return write


def test_hidden_states_equal_those_of_transformers(write):
    file, reference = GGUFFile(write()), np.load(GOLDEN / "reference.npz")
    config = file.language_config()
    assert config == language_config(read_config(GOLDEN / "config.json"))
    module, params, _ = decoder_runs.load(config, llama_rules(config), file)
    real = reference["mask"]
    states, logits = decoder_runs.apply(module, params, reference["tokens"], real, tuple(range(5)))
    for state in range(5):
        np.testing.assert_allclose(states[state][real], reference["hidden"][state][real], atol=1e-4)
    np.testing.assert_allclose(logits[real], reference["logits"][real], atol=1e-4)


def test_interleaved_both_ways():
    weight = np.random.default_rng(0).standard_normal((12, 5))
    transform = interleaved(3)
    np.testing.assert_array_equal(transform.to_ours(side_by_side(weight, 3)), weight.T)
    np.testing.assert_array_equal(transform.to_theirs(weight.T), side_by_side(weight, 3))
    assert transform.shape((12, 5)) == (5, 12)


def test_quantised_tensors_and_parts(tmp_path):
    values = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("x.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "q.gguf")
    assert file.tensors["x.weight"].shape == (4, 64)
    step = np.abs(values).reshape(4, 2, 32).max(-1).repeat(32, -1).reshape(4, 64) / 127  # one scale for 32 values
    assert (np.abs(file.read("x.weight") - values) <= 0.51 * step).all()
    np.testing.assert_array_equal(file.read("x.weight", (slice(1, 3),)), file.read("x.weight")[1:3])


def test_the_tokenizer(write):
    tokenizer = GGUFFile(write()).tokenizer()
    assert tokenizer.encode("ab 12\n").tokens == ["ab", "Ġ", "1", "2", "Ċ"]
    assert tokenizer.decode(tokenizer.encode("ab 12\n").ids) == "ab 12\n"
    assert tokenizer.encode("<s>ab").ids == [0, 3] and tokenizer.decode([0, 3]) == "ab"
    with pytest.raises(ConversionError, match="splitting 'qwen2'; supported: gpt2, smollm"):
        GGUFFile(write("b.gguf", split="qwen2")).tokenizer()


def test_what_is_not_built_is_named(write, tmp_path):
    with pytest.raises(ConversionError, match="is of architecture 'gemma'; supported: llama"):
        GGUFFile(write(architecture="gemma")).language_config()
    with pytest.raises(ConversionError, match="rotary positions of type 'yarn'"):
        GGUFFile(write("b.gguf", **{"llama.rope.scaling.type": "yarn"})).language_config()
    (tmp_path / "c.gguf").write_bytes(write("d.gguf").read_bytes()[:300])
    (tmp_path / "e.gguf").write_bytes(b"nothing")
    for name in ("c.gguf", "e.gguf", "nowhere.gguf"):
        with pytest.raises(ConversionError, match=f"{name} is truncated or no GGUF file"):
            GGUFFile(tmp_path / name)
