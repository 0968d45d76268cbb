"""Makes tests/goldens/internvl3: a small random InternVL3 of transformers with what it computes.

    python -m pip install torch transformers==5.23.* && python -m tests.goldens.make_internvl3

The folder is a checkpoint as `save_pretrained` writes it, with reference.npz: two samples (two pictures that
are cut into tiles; one of a single tile) in one padded batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from tests.goldens import family_goldens as goldens

HERE = Path(__file__).parent / "internvl3"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif part['type'] == 'video' %}<video>\n{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTIONS = ("Where is the red chair?", "How far is the door from the window, in metres?")
SIZES = (((50, 90), (100, 61)), ((30, 32),))  # (height, width) of each sample's pictures
TILE, FRAMES = 28, 3


def settings(decoder: str = "qwen2", tie: bool = False) -> dict:
    """Keyword arguments of InternVLConfig."""
    seen = dict(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, image_size=[TILE, TILE],
        patch_size=[7, 7], attention_bias=True,
    )  # fmt: skip
    text = dict(
        model_type=decoder, hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=tie,
        max_position_embeddings=512,
    )  # fmt: skip
    return dict(vision_config=seen, text_config=text, tie_word_embeddings=tie, image_seq_length=4)


def prompt(images: int, question: str, kind: str = "image") -> list[dict]:
    """Chat messages with pictures before the question."""
    return [{"role": "user", "content": [{"type": kind}] * images + [{"type": "text", "text": question}]}]


def make(folder: Path, arguments: dict, seed: int = 0) -> None:
    """Writes the checkpoint and its reference."""
    torch.manual_seed(seed)
    tokenizer = goldens.byte_pairs(SPECIAL)
    arguments["text_config"].update(
        vocab_size=tokenizer.get_vocab_size() + 5, bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"), pad_token_id=None,
    )  # fmt: skip
    config = transformers.InternVLConfig(**arguments, image_token_id=tokenizer.token_to_id("<IMG_CONTEXT>"))
    model = transformers.InternVLForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    goldens.randomise(model)
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left",
        extra_special_tokens={**names, "video_token": "<video>"},
    )  # fmt: skip
    size = {"height": TILE, "width": TILE}
    colours = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    processor = transformers.InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=size, **colours),
        tokenizer=fast,
        video_processor=InternVLVideoProcessor(size=size, **colours),
        image_seq_length=4,
        chat_template=CHAT,
    )
    goldens.save(folder, model, processor)
    images = [goldens.pictures(*sizes, seed=number) for number, sizes in enumerate(SIZES)]
    texts = [
        processor.apply_chat_template(prompt(len(shown), question), add_generation_prompt=True)
        for shown, question in zip(images, QUESTIONS, strict=True)
    ]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    flat = [image for shown in images for image in shown]
    other = GotOcr2ImageProcessor(size=size, **colours, crop_to_patches=True)(flat, return_tensors="pt")
    np.savez_compressed(
        folder / "reference.npz",
        **{f"picture_{row}_{view}": image for row, shown in enumerate(images) for view, image in enumerate(shown)},
        **goldens.numpy(inputs),
        questions=np.asarray(QUESTIONS),
        position_ids=(inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0).numpy().astype(np.int32),
        torchvision_difference=(other["pixel_values"] - inputs["pixel_values"]).abs().max().numpy(),
        **goldens.states(model, {**inputs}, _features),
        greedy=goldens.greedy(model, {**inputs}),
        **_video(model, processor),
        versions=goldens.versions(),
    )


def _features(model, inputs: dict) -> torch.Tensor:
    return model.model.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)


def _video(model, processor) -> dict:
    frames = goldens.pictures(*[(TILE, TILE)] * FRAMES, seed=9)
    text = processor.apply_chat_template(prompt(1, QUESTIONS[0], "video"), add_generation_prompt=True)
    inputs = processor(text=[text], videos=[np.stack(frames)], do_sample_frames=False, return_tensors="pt")
    return {
        "video_frames": np.stack(frames),
        "video_rate": np.float32(1.0),
        **goldens.numpy(inputs, "video_"),
        "video_position_ids": np.arange(inputs["input_ids"].shape[1], dtype=np.int32)[None],
        **goldens.states(model, {**inputs}, _features, "video_"),
    }


if __name__ == "__main__":
    make(HERE, settings())
    print(*sorted(path.name for path in HERE.iterdir()))
