"""Our encoder before SmolLM2-135M, on rooms: a language-grounded small model on one GPU.

Run: python -m experiments.train --config experiments/configs/smol.py --workdir runs/smol \
         --config.phases.base.init_from=SmolLM2-135M-Instruct.gguf

init_from of the base is a GGUF file (python -m pip install -e ".[gguf]") or a Hugging Face folder of SmolLM2, of any size;
the encoder starts from nothing. Not run at full size yet; `smol.py:tiny` starts from nothing.
"""

from ml_collections import ConfigDict

from experiments.configs.rooms_run import Scale, base_phase, run, scale_for, spatial_phase

SCALE = Scale(
    scenes=20000, test=200, other=50, image=256, labels=128, patch=16, base_steps=20000, spatial_steps=10000, rows=16,
    questions=8, vision_layers=6, dpt=(128, 256, 512, 512), features_3d=128,
)  # fmt: skip
RATES = dict(name="adamw", vision=3e-4, projector=3e-4, language=5e-5, lifting=3e-4)
# SmolLM2-135M's own sizes; those of the model in init_from are taken.
LANGUAGE = dict(width=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp_width=1536, rope_theta=1e5, norm_eps=1e-5)


def get_config(arg: str | None = None):
    """The run: base (words and places of single views), then text, depth, rays and points on four views."""
    scale = scale_for(arg, SCALE)
    phases = {"base": base_phase(scale), "spatial": spatial_phase(scale)}
    for phase in phases.values():
        phase.family = "smol"
        phase.optimizer.update(RATES)
        phase.data.question_tokens, phase.data.answer_tokens = 192, 96  # bytes, or a third as many pieces of words
        if not arg:
            phase.vision.update(width=384, heads=6)
            phase.language.update(LANGUAGE, dtype="bfloat16", remat="dots", unroll=1)
            phase.lifting.update(width=512, dtype="bfloat16")
    phases["base"].vision.trainable = True
    if not arg:
        phases["spatial"].family = "auto"
        kept = ("visual_attention", "attention", "remat", "unroll", "dtype")
        phases["base"].family = "auto"
        for phase in phases.values():
            phase.language = ConfigDict({key: phase.language[key] for key in kept})
    return run("smol", scale, phases)
