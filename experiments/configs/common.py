"""Every legal key of a training phase, with the defaults that small models use.

A phase is one optimisation with its own directory. A config file returns either one phase, or a
run: `prepare` (data to make) and `phases` in the order in which they run.
"""

from __future__ import annotations

from ml_collections import ConfigDict

# Cameras need views that overlap; walks turn least and are learned last.
ROOMS_MIX = {"walk": 0.6, "rotation": 0.2, "around": 0.15, "free": 0.05}


def source(path: str = "rooms", **changes) -> ConfigDict:
    """One source of a mixture; `path` is a folder, or the name of an entry of `prepare`."""
    values = dict(
        path=path,
        split="train",
        per_batch=16,  # rows of every global batch
        groups=("grounding", "spatial"),
        types=(),  # question types; () = all
        views=0,  # 0 = all views of a record; 1 = one view a sample
        text=True,
        geometry=True,
        text_share=1.0,  # share of scenes whose questions are used
        text_seed=0,  # which scenes these are
        unlabelled="keep",  # scenes without text: "keep" them for the 3D losses, "drop" them, or "only" them
        labels="measured",  # or a folder of label files, the name of a label phase, or "online" (config.online)
        confidence_quantile=0.0,  # this share of a label file's pixels, the least confident ones, is masked
        confidence_weights=False,  # pixels of label files count by their confidence
        multi_view="off",  # "agrees": keep pixels that another view confirms; "contradicts": all that none denies
        features="auto",  # teacher features: "auto" = those of `labels`, "none", a folder of label files, or "online"
        shuffle3d=False,  # control: geometry of another record
        augment=False,  # geometry only: views mirrored, recoloured, half the time in another order
    )
    return ConfigDict({**values, **changes})


def divided(path: str, share: float, labelled: int, unlabelled: int = 0, seed: int = 0, **changes) -> dict:
    """Sources "labelled", the scenes with text, and with `unlabelled` rows "unlabelled", the others without.

    Args:
      path: of the data.
      share: of the scenes that have text.
      labelled, unlabelled: rows of every global batch.
      seed: which scenes these are.
      changes: further values of both.
    """
    same = dict(text_share=share, text_seed=seed, **changes)
    sources = {"labelled": source(path, per_batch=labelled, unlabelled="drop", **same)}
    if unlabelled:
        sources["unlabelled"] = source(path, per_batch=unlabelled, unlabelled="only", text=False, **same)
    return sources


def get_config() -> ConfigDict:
    """The defaults. Config files change what they need and no more."""
    return ConfigDict(
        dict(
            name="",
            stage="train",
            model="mllm",  # or "teacher"
            family="tiny",  # of the mllm: a key of BACKBONES
            seed=0,
            init_from="",  # workdir or checkpoint step to start from, or the name of an earlier phase
            vision=dict(
                image_size=64, patch_size=8, stem="conv", width=96, layers=2, heads=4, mlp_ratio=4, merge=2,
                trainable=False,
            ),
            language=dict(
                vocab_size=0,  # 0 = the tokenizer's
                width=96, layers=4, heads=4, kv_heads=2, head_dim=24, mlp_width=256, rope_theta=1e4,
                rope_sections=(), rope_factor=1.0, max_length=0, norm_eps=1e-6, qkv_bias=False, qk_norm=False,
                lora_rank=0, lora_alpha=16.0, lora_targets=("q", "k", "v", "o", "gate", "up", "down"),
                tie_embeddings=True, visual_attention="causal", attention="auto", remat="none", unroll=4, dtype="float32",
            ),
            lifting=dict(
                heads=("depth", "ray", "points"), distill_features=0, width=128, channels=(16, 32, 32, 32), features=16,
                output="label", shared_projector=False, dual_dpt=False, stop_gradient=False, fresh=False, taps=(), dtype="float32",
                refine="full", remat="none", chunk_views=0, loop_heads=False,  # what the heads cost: docs/sharding.md
            ),
            teacher=dict(
                image_size=64, patch_size=8, merge=2, width=128, layers=10, heads=4, mlp_ratio=4, alt_start=2, taps=(3, 5, 7, 9),
                channels=(16, 32, 32, 32), features=16, dtype="float32", unroll=4,
            ),
            losses=dict(
                text=1.0, distill=0.0, depth=1.0, ray=1.0, points=1.0, confidence_lambda=0.2, quantile=0.0, remat=False,
                # Extensions (docs/method.md, 3.8); pose and scale need lifting heads of these names.
                consistency=0.0, lifted_points=0.0, scale_invariant=0.0, scale_invariant_balance=1.0, pose=0.0, scale=0.0,
                ema=0.0,
            ),
            ema=dict(decay=0.0, noise=0.0),  # the averaged model that losses.ema learns from
            # The teacher in the training step, for sources with labels or features "online" (docs/teachers.md, "Online").
            online=dict(
                teacher="",  # "da3" or "vggt"
                checkpoint="", metric_checkpoint="", resize="", process_res=0, dtype="bfloat16",
                features=-1,  # tap to distil, 0 to 3; -1 = none
                height=0, width=0,  # of pictures as it reads them; 0 = those of the first record
            ),
            optimizer=dict(
                name="muon", vision=3e-3, projector=3e-3, language=3e-3, adapters=3e-3, lifting=3e-3, warmup_share=0.03,
                weight_decay=0.0, clip=1.0, b1=0.9, b2=0.999, adam_factor=1.0,
                newton_schulz_steps=5, preconditioning="frobenius", moments="float32",  # or "bfloat16"
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1, context=1, slices=1),  # docs/sharding.md
            data=dict(
                sources=dict(rooms=source()), questions=24, question_tokens=48, answer_tokens=4, views=4,
                label_size=(32, 32), buckets=1, seed=0, threads=2, buffer=4,
                cache_mb=1024, verify=4,
                vision_cache="",  # folder for the frozen encoder's features ("auto": in the workdir); "" = run the encoder
            ),
            training=dict(
                steps=1000, log_every=20, gradient_norm_every=0, tensorboard=True, profile="",
                cards_every=0,  # steps between pictures of what the model sees, in TensorBoard; 0 = never (docs/report.md)
                microbatches=1,  # passes that a batch is cut into; the update stays the same
                skip_budget=0, skip_spike=0.0,  # bad steps that are left out (docs/sharding.md); 0 = the first one ends the run
                wandb="",  # project in Weights & Biases, needs the [wandb] extra
                log_records=False,  # which records each process loaded, to records-pN.jsonl
            ),
            checkpoint=dict(every=500, keep=2),
            evaluation=dict(split="test", scenes=0, report_scenes=6),
        )
    )  # fmt: skip
