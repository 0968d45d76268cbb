"""Makes tests/goldens/qwen2_5_vl: a small random Qwen2.5-VL of transformers with what it computes.

    python -m pip install torch transformers==5.23.* && python -m tests.goldens.make_qwen2_5_vl

The folder is a checkpoint as `save_pretrained` writes it, with reference.npz: two samples (three
pictures of different sizes; one picture) in one padded batch, and a video of five frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from tests.goldens import family_goldens as goldens

HERE = Path(__file__).parent / "qwen2_5_vl"
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTIONS = ("Where is the red chair?", "How far is the door from the window, in metres?")
SIZES = (((90, 62), (56, 140), (84, 84)), ((112, 57),))  # (height, width) of each sample's pictures
FRAMES, RATE = 5, 2.0


def settings(tie: bool = True, **vision) -> dict:
    """Keyword arguments of Qwen2_5_VLConfig for a tokenizer of `SPECIAL`."""
    seen = dict(
        depth=4, hidden_size=32, intermediate_size=40, num_heads=2, out_hidden_size=24, fullatt_block_indexes=[1, 3],
        window_size=56, tokens_per_second=2,
    )  # fmt: skip
    text = dict(
        hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=1,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        tie_word_embeddings=tie, max_position_embeddings=512,
    )  # fmt: skip
    return dict(vision_config={**seen, **vision}, text_config=text, tie_word_embeddings=tie)


def prompt(images: int, question: str, video: bool = False) -> list[dict]:
    """Chat messages with pictures before the question."""
    kind = "video" if video else "image"
    return [{"role": "user", "content": [{"type": kind}] * images + [{"type": "text", "text": question}]}]


def make(folder: Path, arguments: dict, seed: int = 0) -> None:
    """Writes the checkpoint and its reference."""
    torch.manual_seed(seed)
    tokenizer = goldens.byte_pairs(SPECIAL)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    arguments["text_config"].update(
        vocab_size=tokenizer.get_vocab_size() + 5, bos_token_id=None, eos_token_id=ids["<|im_end|>"], pad_token_id=None
    )
    config = transformers.Qwen2_5_VLConfig(
        **arguments,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    goldens.randomise(model)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    budget = {"shortest_edge": 56 * 56, "longest_edge": 84 * 140}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=budget),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(size=budget),
        chat_template=CHAT,
    )
    goldens.save(folder, model, processor)
    np.savez_compressed(
        folder / "reference.npz", **_images(model, processor), **_video(model, processor), versions=goldens.versions()
    )


def _images(model, processor) -> dict:
    images = [goldens.pictures(*sizes, seed=number) for number, sizes in enumerate(SIZES)]
    texts = [
        processor.apply_chat_template(prompt(len(shown), question), add_generation_prompt=True)
        for shown, question in zip(images, QUESTIONS, strict=True)
    ]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    other = Qwen2VLImageProcessor(size=processor.image_processor.size)(
        [image for shown in images for image in shown], return_tensors="pt"
    )
    return {
        **{f"picture_{row}_{view}": image for row, shown in enumerate(images) for view, image in enumerate(shown)},
        **goldens.numpy(inputs),
        "questions": np.asarray(QUESTIONS),
        "position_ids": positions.numpy().astype(np.int32),
        "torchvision_difference": (other["pixel_values"] - inputs["pixel_values"]).abs().max().numpy(),
        **goldens.states(model, dict(inputs), _image_features),
        "greedy": goldens.greedy(model, dict(inputs)),
    }


def _image_features(model, inputs: dict) -> torch.Tensor:
    return torch.cat(model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output)


def _video(model, processor) -> dict:
    # A size that no rule changes: torchvision, which alone scales frames there, differs from Pillow.
    frames = goldens.pictures(*[(84, 112)] * FRAMES, seed=9)
    text = processor.apply_chat_template(prompt(1, QUESTIONS[0], video=True), add_generation_prompt=True)
    metadata = transformers.video_utils.VideoMetadata(
        total_num_frames=FRAMES, fps=RATE, frames_indices=list(range(FRAMES)), duration=FRAMES / RATE
    )
    inputs = processor(
        text=[text], videos=[np.stack(frames)], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    asked = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    asked["second_per_grid_ts"] = torch.as_tensor(inputs["second_per_grid_ts"])
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
    )
    return {
        "video_frames": np.stack(frames),
        "video_rate": np.float32(RATE),
        **goldens.numpy(inputs, "video_"),
        "video_position_ids": positions.numpy().astype(np.int32),
        **goldens.states(model, asked, _video_features, "video_"),
    }


def _video_features(model, inputs: dict) -> torch.Tensor:
    seen = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    return torch.cat(seen.pooler_output)


if __name__ == "__main__":
    make(HERE, settings())
    print(*sorted(path.name for path in HERE.iterdir()))
