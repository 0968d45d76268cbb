"""Collectives counted from a program written by hand, and from a compiled one whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from spatialsv_jax.planning import hlo
from spatialsv_jax.training.sharding import MeshConfig, make_mesh

# A loop of five turns with a gather and a reduction in it, one asynchronous gather and a permutation outside.
TEXT = """
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: f32[2,4]) -> f32[8,4] {
  %p = f32[2,4]{1,0} parameter(0)
  ROOT %gathered = f32[8,4]{1,0} all-gather(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
}

%body (t: (s32[], f32[2,4])) -> (s32[], f32[2,4]) {
  %t = (s32[], f32[2,4]{1,0}) parameter(0)
  %x = f32[2,4]{1,0} get-tuple-element(%t), index=1
  %all = f32[8,4]{1,0} call(%x), to_apply=%inner
  %reduced = bf16[16]{0} all-reduce(%all), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %out = (s32[], f32[2,4]{1,0}) tuple(%x)
}

%condition (t: (s32[], f32[2,4])) -> pred[] {
  %t = (s32[], f32[2,4]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (arg: f32[2,4]) -> f32[8,4] {
  %arg = f32[2,4]{1,0} parameter(0)
  %loop = (s32[], f32[2,4]{1,0}) while(%arg), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %start = (f32[2,4]{1,0}, f32[8,4]{1,0:T(8,128)S(1)}) all-gather-start(%arg), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  %done = f32[8,4]{1,0} all-gather-done(%start)
  %shard = f32[2]{0} reduce-scatter(%done), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %moved = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%done), source_target_pairs={{0,1}}
}
"""


def test_a_program_written_by_hand():
    found = hlo.collectives(TEXT, 8)
    gathered, reduced = found["all-gather"], found["all-reduce"]
    assert (gathered.count, gathered.bytes) == (6, 6 * 128)  # five in the loop and the asynchronous one
    assert gathered.sent == pytest.approx(6 * 128 * 3 / 4) and gathered.largest == 128  # groups of four
    assert (reduced.count, reduced.bytes) == (5, 5 * 32) and reduced.sent == 5 * 32  # groups of two: 2 * 1/2
    assert (found["reduce-scatter"].count, found["reduce-scatter"].sent) == (1, 8 * 7)
    assert (found["collective-permute"].count, found["collective-permute"].bytes) == (1, 128)
    assert set(found) == {"all-gather", "all-reduce", "reduce-scatter", "collective-permute"}


def test_a_compiled_scan_gathers_each_layer_once():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8), jax.devices()[:8])
    split = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))

    def run(x, weights):
        return jax.lax.scan(lambda carry, w: (jnp.tanh(carry @ w), None), x, weights)[0]

    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=split("fsdp"))
    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=split(None, "fsdp"))
    text = jax.jit(run, out_shardings=split("fsdp")).lower(x, weights).compile().as_text()
    found = hlo.collectives(text, 8)
    assert found["all-gather"].bytes == 5 * 64 * 64 * 4
    assert found["all-gather"].sent == 5 * 64 * 64 * 4 * 7 / 8


# As libtpu writes it: no trip count, groups as axes of a mesh, a gather in the fusions that start and end it, a scatter.
TPU = """
HloModule jit_step

%start (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}

%done (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
}

%all-reduce-scatter.3 (p: bf16[16,8], q: bf16[16,8]) -> (bf16[4,8], bf16[4,8]) {
  %p = bf16[16,8]{1,0:T(8,128)(2,1)} parameter(0)
  %r = (bf16[16,8]{1,0:T(8,128)(2,1)}, bf16[16,8]{1,0:T(8,128)(2,1)}) all-reduce(%p, %p), channel_id=8, replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %t = (bf16[4,8]{1,0:T(8,128)(2,1)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%p, %p)
}

%turn (t: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %t = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %k = bf16[4,8]{1,0} custom-call(%t), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="splash"}
  %s = (bf16[4,8]{1,0}, bf16[16,8]{1,0}, u32[]{:S(2)}, /*index=5*/u32[]{:S(2)}) fusion(%t), kind=kCustom, calls=%start
  %d = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} fusion(%s), kind=kCustom, calls=%done
  %a = (bf16[4,8]{1,0:T(8,128)(2,1)}, bf16[4,8]{1,0:T(8,128)(2,1)}) fusion(%d), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %o = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%t)
}

%until (t: (s32[], bf16[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(36)
  %t = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (arg: bf16[4,8]) -> bf16[4,8] {
  %arg = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %loop = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) while(%arg), condition=%until, body=%turn
}
"""


def test_a_program_as_libtpu_writes_it():
    found = hlo.collectives(TPU, 8)
    gathered, scattered = found["all-gather"], found["reduce-scatter"]
    assert (gathered.count, gathered.bytes, gathered.sent) == (36, 36 * 256, 36 * 256 * 3 / 4)
    assert (scattered.count, scattered.bytes, scattered.sent) == (36, 36 * 2 * 64, 36 * 2 * 64 * 3)
    assert set(found) == {"all-gather", "reduce-scatter"}


# Two slices of four devices: each reduces within itself, the hosts exchange the sums (libtpu 0.0.42, shortened).
SLICES = """HloModule jit_step, is_scheduled=true

ENTRY %main (arg: f32[256,1024]) -> f32[256,1024] {
  %arg = f32[256,1024]{1,0:T(8,128)} parameter(0)
  %sum = f32[1024,1024]{1,0:T(8,128)} all-reduce(%arg), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %after = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce.1_0"}
  %send = (f32[256,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%arg, %after), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[256,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%after), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %received = (f32[256,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
}
"""


def test_what_goes_between_slices_is_a_kind_of_its_own():
    found = hlo.collectives(SLICES, 8, slices=2)
    within, between = found["all-reduce"], found["all-reduce between slices"]
    assert (within.count, within.bytes, within.sent) == (1, 2**22, 2**22 * 2 * 3 / 4)
    assert (between.count, between.bytes, between.sent) == (1, 2**20, 2**20)  # a ring of two: 2 x 1 / 2 of the result
    assert set(found) == {"all-reduce", "all-reduce between slices"}


def test_a_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no HLO module"):
        hlo.collectives("nothing", 8)
