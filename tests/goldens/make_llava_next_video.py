"""Makes tests/goldens/llava_next_video: a small random LLaVA-NeXT-Video of transformers with what it computes.

    python -m pip install torch transformers==5.23.* && python -m tests.goldens.make_llava_next_video

The folder is a checkpoint as `save_pretrained` writes it, with reference.npz: two samples (two any-resolution
pictures; one) in one padded batch, and a video of three frames wider than high.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next_video.video_processing_llava_next_video import LlavaNextVideoVideoProcessor

from tests.goldens import family_goldens as goldens

HERE = Path(__file__).parent / "llava_next_video"
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'video' %}"
    "<video>\n{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QUESTIONS = ("Where is the red chair?", "How far is the door from the window, in metres?")
SIZES = (((50, 90), (110, 41)), ((60, 62),))  # (height, width) of each sample's pictures
TILE, PATCH, FRAMES = 28, 7, 3
CANVASES = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


def sentence_pieces() -> Tokenizer:
    """A tokenizer like Llama's: spaces are letters, one piece for a whole text, unknown letters as bytes."""
    learned = Tokenizer(models.BPE())
    text = ["▁" + line.replace(" ", "▁") for line in goldens.TEXT.split("\n")]
    learned.train_from_iterator(text, trainers.BpeTrainer(vocab_size=110, show_progress=False))
    values = json.loads(learned.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: number for number, piece in enumerate([*first, *values["vocab"]])}
    merges = [tuple(pair) for pair in values["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    return _dressed(tokenizer)


def _dressed(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for token in ("<unk>", "<s>", "</s>", "<video>", "<image>", "<pad>"):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", begin)])
    return tokenizer


def settings(tie: bool = False) -> dict:
    """Keyword arguments of LlavaNextVideoConfig."""
    seen = dict(
        model_type="clip_vision_model", hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=40,
        image_size=TILE, patch_size=PATCH, projection_dim=16,
    )  # fmt: skip
    text = dict(
        model_type="llama", hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=3,
        num_key_value_heads=3, rms_norm_eps=1e-5, tie_word_embeddings=tie, max_position_embeddings=1024,
    )  # fmt: skip
    return dict(vision_config=seen, text_config=text, tie_word_embeddings=tie, image_grid_pinpoints=CANVASES)


def prompt(images: int, question: str, kind: str = "image") -> list[dict]:
    """Chat messages with pictures before the question."""
    return [{"role": "user", "content": [{"type": kind}] * images + [{"type": "text", "text": question}]}]


def make(folder: Path, arguments: dict, seed: int = 0) -> None:
    """Writes the checkpoint and its reference."""
    torch.manual_seed(seed)
    tokenizer = sentence_pieces()
    arguments["text_config"].update(
        vocab_size=tokenizer.get_vocab_size() + 5, bos_token_id=1, eos_token_id=2, pad_token_id=None
    )
    config = transformers.LlavaNextVideoConfig(
        **arguments,
        image_token_index=tokenizer.token_to_id("<image>"),
        video_token_index=tokenizer.token_to_id("<video>"),
    )
    model = transformers.LlavaNextVideoForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    goldens.randomise(model)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        padding_side="left", extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )  # fmt: skip
    sizes = dict(size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE})
    processor = transformers.LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=CANVASES),
        tokenizer=fast,
        video_processor=LlavaNextVideoVideoProcessor(**sizes),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    goldens.save(folder, model, processor)
    images = [goldens.pictures(*sizes, seed=number) for number, sizes in enumerate(SIZES)]
    texts = [
        processor.apply_chat_template(prompt(len(shown), question), add_generation_prompt=True)
        for shown, question in zip(images, QUESTIONS, strict=True)
    ]
    flat = [image for shown in images for image in shown]
    inputs = processor(text=texts, images=flat, padding=True, return_tensors="pt")
    other = LlavaNextImageProcessor(**sizes, image_grid_pinpoints=CANVASES)(flat, return_tensors="pt")
    np.savez_compressed(
        folder / "reference.npz",
        **{f"picture_{row}_{view}": image for row, shown in enumerate(images) for view, image in enumerate(shown)},
        **goldens.numpy(inputs),
        questions=np.asarray(QUESTIONS),
        position_ids=(inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0).numpy().astype(np.int32),
        torchvision_difference=(other["pixel_values"] - inputs["pixel_values"]).abs().max().numpy(),
        **goldens.states(model, {**inputs}, _image_features),
        greedy=goldens.greedy(model, {**inputs}),
        **_video(model, processor),
        versions=goldens.versions(),
    )


def _image_features(model, inputs: dict) -> torch.Tensor:
    return torch.cat(list(model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output))


def _video(model, processor) -> dict:
    frames = goldens.pictures(*[(TILE, TILE + 12)] * FRAMES, seed=9)
    text = processor.apply_chat_template(prompt(1, QUESTIONS[0], "video"), add_generation_prompt=True)
    inputs = processor(text=[text], videos=[np.stack(frames)], do_sample_frames=False, return_tensors="pt")
    return {
        "video_frames": np.stack(frames),
        "video_rate": np.float32(1.0),
        **goldens.numpy(inputs, "video_"),
        "video_position_ids": np.arange(inputs["input_ids"].shape[1], dtype=np.int32)[None],
        **goldens.states(model, {**inputs}, _video_features, "video_"),
    }


def _video_features(model, inputs: dict) -> torch.Tensor:
    seen = model.model.get_video_features(inputs["pixel_values_videos"]).pooler_output
    return torch.cat([video.reshape(-1, video.shape[-1]) for video in seen])


if __name__ == "__main__":
    make(HERE, settings())
    print(*sorted(path.name for path in HERE.iterdir()))
