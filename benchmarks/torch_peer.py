"""The same training batches by a PyTorch DataLoader, as a careful user would write it; needs the extra [parity].

What is like ours: the shards, the records and questions of a batch, JPEG and PNG decoding by Pillow, the tokenizer (the
same file, through transformers), every field of a batch. What is PyTorch's: tensors throughout, float32 geometry by
batched products and `interpolate`, batched tokenisation, `default_collate`, persistent worker processes of one thread each.
Colours go through transformers' image processor for Qwen2.5-VL (`pictures="transformers"`), which most users run and
which lays out patches, each twice; or through plain tensor operations (`pictures="torch"`), the leanest way.
What does not change from row to row (the prompt's tokens and positions) is made once, as ours is.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from data_pipelines.records import Question, Record
from data_pipelines.storage import open_split
from data_pipelines.transforms.geometry import SAME_SURFACE
from spatialsv_jax.geometry import MIN_VALID_PIXELS

AFTER = "<|im_end|>\n<|im_start|>assistant\n"


@dataclasses.dataclass(frozen=True)
class Work:
    """What a row is made of; plain values, sent to the workers."""

    folder: str  # prepared data set
    order: tuple[tuple[int, tuple[int, ...]], ...]  # record and its questions, row after row
    image_size: tuple[int, int]
    label_size: tuple[int, int]
    questions: int  # Q
    question_tokens: int  # T
    answer_tokens: int  # A
    tokenizer_file: str
    end_id: int
    pad_id: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    prefix: dict[str, np.ndarray]  # the fields that are the same in every row
    pictures: str  # "torch" or "transformers"


class Rows(torch.utils.data.Dataset):
    """Row `i` of the order, fields as in `spatialsv_jax.spec.BATCH`; pictures are channels first, or patches."""

    def __init__(self, work: Work):
        self.work, self.source = work, open_split(work.folder, "train")
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=work.tokenizer_file)
        self.prefix = {name: torch.as_tensor(value) for name, value in work.prefix.items()}
        self.mean, self.std = (torch.tensor(part).reshape(3, 1, 1) for part in (work.mean, work.std))
        self.images = image_processor(work) if work.pictures == "transformers" else None
        height, width = work.label_size
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        self.pixels = torch.stack([u, v, torch.ones_like(u)]).reshape(3, -1)

    def __len__(self) -> int:
        return len(self.work.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, chosen = self.work.order[index]
        record = self.source[number]
        pictures = [Image.open(io.BytesIO(data)) for data in record.images]
        pictures = [picture if picture.mode == "RGB" else picture.convert("RGB") for picture in pictures]
        return {
            **self.prefix,
            "pixel_values": self.colours(pictures),
            **self.geometry(record),
            **self.text([record.questions[place] for place in chosen]),
            "view_valid": torch.ones(len(pictures), dtype=torch.bool),
            "has_features": torch.tensor(False),
            "record_index": torch.tensor(number, dtype=torch.int32),
            "source_index": torch.tensor(0, dtype=torch.int32),
        }

    def colours(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """float32[V,3,h,w], or float32[patches,1176] of all views."""
        if self.images is not None:
            return self.images(images=list(pictures), return_tensors="pt").pixel_values
        values = torch.empty(len(pictures), 3, pictures[0].height, pictures[0].width)
        for view, picture in zip(values, pictures, strict=True):  # turned and converted in one pass
            view.copy_(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        if values.shape[-2:] != self.work.image_size:
            values = functional.interpolate(values, self.work.image_size, mode="bicubic", antialias=True)
            values = values.round_().clamp_(0, 255)
        return values.mul_(1 / (255 * self.std)).sub_(self.mean / self.std)

    def geometry(self, record: Record) -> dict[str, torch.Tensor]:
        """Depth on the label grid and cameras, in the first posed view's frame and the scene's scale."""
        steps = np.stack([np.array(Image.open(io.BytesIO(data))) for data in record.depths])
        depth = torch.from_numpy(np.multiply(steps, record.depth_unit_m, dtype=np.float32))
        height, width = self.work.label_size
        scale = torch.tensor([[width / depth.shape[2]], [height / depth.shape[1]], [1.0]])
        depth = resample(depth, (height, width))
        valid, posed = depth > 0, torch.from_numpy(record.pose_valid)
        intrinsics = torch.from_numpy(record.intrinsics).float() * scale
        poses = torch.from_numpy(record.camera_to_world)
        reference = int((posed & valid.flatten(1).any(1)).nonzero()[0])
        poses = (torch.linalg.inv(poses[reference]) @ poses).float()
        rays = poses[:, :3, :3] @ torch.linalg.inv(intrinsics) @ self.pixels
        points = rays * depth.flatten(1)[:, None] + poses[:, :3, 3:]
        counted = (valid & posed[:, None, None]).flatten(1)
        # Written out: torch's own norm over an axis of three takes eighty times as long on a CPU.
        unit = (points.square().sum(1).sqrt() * counted).sum() / counted.sum()
        poses[:, :3, 3] /= unit
        return {
            "depth": depth / unit,
            "valid": valid,
            "covered": torch.ones_like(valid),
            "intrinsics": intrinsics,
            "camera_to_world": poses,
            "pose_valid": posed,
            "depth_valid": valid.flatten(1).any(1),
            "scene_scale_m": unit,
            "has_geometry": valid.sum() >= MIN_VALID_PIXELS,
        }

    def text(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """Questions with their answers, packed into Q slots of T tokens."""
        work = self.work
        asked = self.tokenizer([prompt(question) + AFTER for question in questions], add_special_tokens=False)
        answers = self.tokenizer([question.answer.strip() for question in questions], add_special_tokens=False)
        tokens = torch.full((work.questions, work.question_tokens), work.pad_id, dtype=torch.int32)
        mask, is_answer = (torch.zeros(tokens.shape, dtype=torch.bool) for _ in range(2))
        places = torch.zeros(work.questions, work.answer_tokens, dtype=torch.int32)
        for slot, (start, reply) in enumerate(zip(asked.input_ids, answers.input_ids, strict=True)):
            whole = [*start, *reply, work.end_id]
            tokens[slot, : len(whole)] = torch.tensor(whole, dtype=torch.int32)
            mask[slot, : len(whole)] = True
            is_answer[slot, len(start) : len(whole)] = True
            places[slot, : len(whole) - len(start)] = torch.arange(len(start), len(whole), dtype=torch.int32)
        return {
            "question_tokens": tokens,
            "question_mask": mask,
            "question_valid": torch.arange(work.questions) < len(questions),
            "answer_mask": is_answer,
            "answer_positions": places,
            "answer_valid": places > 0,
            "has_text": torch.tensor(len(questions) > 0),
        }


def image_processor(work: Work):
    """transformers' processor for the pictures of Qwen2.5-VL: on torchvision where that works, else on Pillow."""
    try:
        from transformers import Qwen2VLImageProcessor as Processor
    except ImportError:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
    area = work.image_size[0] * work.image_size[1]
    return Processor(
        size={"shortest_edge": area, "longest_edge": area}, image_mean=list(work.mean), image_std=list(work.std)
    )


def prompt(question: Question) -> str:
    """The question and its options, "<view:0>" written as "image 1"."""
    options = [f"{chr(65 + place)}. {option}" for place, option in enumerate(question.options)]
    text = "\n".join([question.text, *options]).strip()
    return re.sub(r"<view:(\d+)>", lambda match: f"image {int(match[1]) + 1}", text)


def resample(depth: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Depth float32[V,h,w] at `size`: inverse depth interpolated within surfaces, the nearest pixel elsewhere."""
    if depth.shape[-2:] == size:
        return depth
    inverse = 1 / depth
    nearest = functional.interpolate(depth[:, None], size, mode="nearest-exact")[:, 0]
    blended = functional.interpolate(inverse[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    ys, xs = (neighbours(old, new) for old, new in zip(depth.shape[-2:], size, strict=True))
    # Bit 1: on a line along its row; bit 2: along its column. Only pixels beside a new one's centre are looked at.
    lines = torch.zeros(inverse.shape, dtype=torch.uint8)
    lines[:, :, 1:-1] = straight(inverse[:, :, :-2], inverse[:, :, 1:-1], inverse[:, :, 2:])
    lines[:, 1:-1] |= straight(inverse[:, :-2], inverse[:, 1:-1], inverse[:, 2:]).to(torch.uint8) * 2
    upper, lower = (lines.index_select(1, y) for y in ys)
    (upper_left, upper_right), (lower_left, lower_right) = (
        [rows.index_select(2, x) for x in xs] for rows in (upper, lower)
    )
    in_row, in_column = (upper_left | upper_right) & (lower_left | lower_right), (upper_left | lower_left) & (upper_right | lower_right)  # fmt: skip
    smooth = (in_row & 1 | in_column & 2).eq(3) & blended.isfinite()
    return torch.where(smooth, 1 / blended, nearest)


def neighbours(old: int, new: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The pixels on both sides of each new pixel's centre, along one axis."""
    first = ((torch.arange(new) + 0.5) * (old / new) - 0.5).floor().long()
    return first.clamp(0, old - 1), (first + 1).clamp(0, old - 1)


def straight(before: torch.Tensor, middle: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
    """bool: pixels lie on the line through their neighbours in inverse depth."""
    return (before + behind).sub_(middle, alpha=2).abs_() < SAME_SURFACE * middle


class Order(torch.utils.data.Sampler):
    """The first `rows` rows, in order; `rows` may be changed between passes."""

    def __init__(self, rows: int):
        self.rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rows))

    def __len__(self) -> int:
        return self.rows


class Peer:
    """Persistent workers, and passes over the order.

    Args:
      work: what a row is made of.
      batch: rows of a batch.
      workers: processes.
    """

    def __init__(self, work: Work, batch: int, workers: int):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # workers have one thread each
        self._batches = torch.utils.data.DataLoader(
            Rows(work), batch_size=batch, sampler=Order(len(work.order)), num_workers=workers, persistent_workers=True,
            multiprocessing_context="spawn",
        )  # fmt: skip
        self._iterator = None

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """One pass."""
        self._iterator = iter(self._batches)
        return self._iterator

    @property
    def processes(self) -> list[int]:
        """Ids of the workers, once there was a pass."""
        return [worker.pid for worker in self._iterator._workers]

    def close(self) -> None:
        """Ends the workers."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()


def pictures_of(values: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """float32[...,V,h,w,3] of a peer's `pixel_values`: channels first, or patches of 14 in merge blocks of 2, twice."""
    if values.ndim == 5:
        return values.transpose(0, 1, 3, 4, 2)
    height, width = image_size
    blocks = values.reshape(len(values), -1, height // 28, width // 28, 2, 2, 3, 2, 14, 14)
    if not np.array_equal(blocks[..., 0, :, :], blocks[..., 1, :, :]):
        raise ValueError("The two frames of a patch differ.")
    return blocks[..., 0, :, :].transpose(0, 1, 2, 4, 7, 3, 5, 8, 6).reshape(len(values), -1, height, width, 3)
