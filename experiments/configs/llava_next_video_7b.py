"""LLaVA-NeXT-Video-7B fine-tuned with depth, rays and points: the paper's recipe. Views are frames of a video.

Run: python -m experiments.train --config experiments/configs/llava_next_video_7b.py --workdir runs/llava_7b \\
         --config.init_from=LLaVA-NeXT-Video-7B-hf --config.data.sources.train.path=data/train

init_from is the folder of the published checkpoint; data/train a prepared data set (experiments.prepare). With
config.vision.image_size=(336,672) views are any-resolution pictures of that size.
"""

from experiments.configs.pretrained import finetune


def get_config(arg: str | None = None):
    """The phase; `llava_next_video_7b.py:tiny` trains a small model of the family on rooms, a minute on two cores."""
    return finetune("llava_next_video_7b", arg)
