"""How much memory a model takes in each engine: weights, keys and values, scratch, and the memory that these are part
of.

Engines allocate differently: how much windowed layers keep, whether they keep a latent or whole heads, the size of a
block. So each engine has its own memory model. Unknown values are None and listed, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from trilens.decoder.weights import decoder_weights, parameters
from trilens.errors import UsageError
from trilens.executors.accountant import fixed_bytes
from trilens.lenses.memory.job import Engine, Job, Memory
from trilens.lenses.memory.llama_graph import compute_bytes
from trilens.lenses.memory.own_memory import own_memory
from trilens.spec.model import Full, LatentAttention, ModelSpec, Positions, by_kind

UBATCH = 512  # llama.cpp's default --ubatch-size
PADDING = 256  # it pads contexts and windows to this
VLLM_BLOCK, VLLM_STEP = 16, 8192  # tokens of a block; tokens of a step, its default for serving on large GPUs
VLLM_WIDE, VLLM_NARROW = 256, 128  # its Marlin kernel wants experts of such multiples: the model's width, their own
TRT_BLOCK = 32
MLX_STEP, MLX_PREFILL = 256, 2048


def engine_memory(
    engine: Engine, spec: ModelSpec, job: Job, weights: int, types: Mapping[str, str] | None = None
) -> Memory:
    """`weights`: bytes as that engine holds them. `types`: trilens's own, as `held_types` says."""
    if engine == "trilens":
        if types is None:
            raise UsageError("trilens's memory needs the types of the weights")
        return own_memory(spec, types, job)
    return ENGINES[engine](spec, job, weights)


def llama_memory(spec: ModelSpec, job: Job, weights: int, *, ubatch: int = UBATCH, expanded: bool = False) -> Memory:
    """llama.cpp with flash attention and a slot a sequence; fixed states in 32-bit floats. `expanded`: of a latent
    model's file that has whole heads (one kv_b matrix, as older converters wrote it)."""
    slot = padded(job.context, PADDING)
    piece = min(ubatch, job.context * job.batch)
    positions, _ = by_kind(spec.states)
    cells = {cache: llama_kept(cache, slot, ubatch) for cache in positions}
    widths = {cache: _whole_heads(spec, cache) if expanded else _widths(cache) for cache in positions}
    kv = sum(_cache_bytes(job, *widths[cache]) * cells[cache] * job.batch for cache in positions)
    # a piece's rows see only their own slot
    buffer = compute_bytes(spec, cells, piece, sequences=job.batch, expanded=expanded, cast=job.key_type == "f32")
    scratch = buffer + spec.vocab * job.batch * 4
    return Memory(
        "llama.cpp",
        weights,
        int(kv),
        fixed_bytes(spec) * job.batch,
        scratch,
        f"mapped weights, {slot} cells a slot for {job.batch} (the context in steps of {PADDING}), one compute buffer "
        f"for pieces of {ubatch} tokens and the logits; a second copy of repacked weights on CPUs that repack",
    )


def llama_kept(cache: Positions, cells: int, ubatch: int) -> int:
    """Cells of one cache: a window keeps itself and a piece of the prompt."""
    match cache.keep:
        case Full():
            return cells
        case mask:
            return padded(min(cells, mask.size + ubatch), PADDING)


def vllm_memory(spec: ModelSpec, job: Job, weights: int, *, step: int = VLLM_STEP) -> Memory:
    """vLLM: blocks of 16 tokens; a windowed layer holds its window and a step of a prompt, and one block more. `step`:
    --max-num-batched-tokens."""

    def kept(cache: Positions) -> int:
        if isinstance(cache.keep, Full):
            return padded(job.context, VLLM_BLOCK)
        tokens = min(cache.keep.size - 1 + step, job.context)
        return padded(tokens, VLLM_BLOCK) + VLLM_BLOCK

    return Memory(
        "vllm",
        weights,
        _split_kv(spec, job, kept),
        None if _fixed_states(spec) else 0,
        None,
        "the pool is what --gpu-memory-utilization of a device leaves beside weights and activations; the KV here is "
        f"what the sequences need of it, in blocks of {VLLM_BLOCK}",
        (
            *_fixed_states(spec),
            "activations and CUDA graphs: vLLM measures them when it starts",
            *_hybrid(spec, "pages of full and windowed layers are made one size, which can reserve more"),
        ),
    )


def vllm_padding(spec: ModelSpec, split: int = 1) -> int:
    """Bytes over all devices that vLLM adds to experts in MXFP4, so that its kernel can use them. `split`: devices that
    each hold a part of every expert; 1 where whole experts are shared out. Of its kernels, this one pads most."""
    extra = 0
    for p in {p.name: p for p in parameters(decoder_weights(spec)) if ".experts." in p.name}.values():
        if len(p.shape) == 3:
            experts, *sides = p.shape
            wide, narrow = sides if p.name.endswith("down") else reversed(sides)
            part = padded(-(-narrow // split), VLLM_NARROW)
            extra += experts * (padded(wide, VLLM_WIDE) * part * split - wide * narrow)
    return extra * 17 // 32


def sglang_memory(spec: ModelSpec, job: Job, weights: int) -> Memory:
    """SGLang: one pool of tokens; a latent once a token."""
    return Memory(
        "sglang",
        weights,
        _split_kv(spec, job, lambda cache: job.context),
        None if _fixed_states(spec) else 0,
        None,
        "weights and the token pool share --mem-fraction-static of a device; the rest is for activations",
        (
            *_fixed_states(spec),
            "activations and CUDA graphs: outside the static fraction",
            *_hybrid(spec, "how the pool is split between full and windowed layers; all are counted in full here"),
        ),
    )


def mlx_memory(spec: ModelSpec, job: Job, weights: int) -> Memory:
    """MLX-LM: caches grow by 256 tokens; a rotating cache holds its window and a piece of the prompt at most."""

    def kept(cache: Positions) -> int:
        whole = padded(job.context, MLX_STEP)
        return whole if isinstance(cache.keep, Full) else min(whole, cache.keep.size + MLX_PREFILL - 1)

    return Memory(
        "mlx-lm",
        weights,
        _split_kv(spec, job, kept),
        None if _fixed_states(spec) else 0,
        None,
        f"unified memory of the machine, shared with everything else; caches grow in steps of {MLX_STEP} tokens",
        (*_fixed_states(spec), "activations and Metal's buffer cache"),
    )


def tensorrt_memory(spec: ModelSpec, job: Job, weights: int) -> Memory:
    """TensorRT-LLM's PyTorch backend: blocks of 32 tokens out of a fraction of what weights and activations leave."""

    def kept(cache: Positions) -> int:
        tokens = job.context if isinstance(cache.keep, Full) else min(job.context, cache.keep.size + TRT_BLOCK)
        return padded(tokens, TRT_BLOCK)

    return Memory(
        "tensorrt-llm",
        weights,
        _split_kv(spec, job, kept),
        None if _fixed_states(spec) else 0,
        None,
        "the pool is --free_gpu_memory_fraction of what weights and activations leave of a device; the KV here is what "
        f"the sequences need of it, in blocks of {TRT_BLOCK}",
        (
            *_fixed_states(spec),
            "activations and CUDA graphs",
            *_hybrid(spec, "whether windowed layers get pools of their own"),
        ),
    )


def transformers_memory(spec: ModelSpec, job: Job, weights: int) -> Memory:
    """transformers' DynamicCache: the latent where there is one; a window keeps one token less than it sees."""

    def kept(cache: Positions) -> int:
        return job.context if isinstance(cache.keep, Full) else min(job.context, cache.keep.size - 1)

    positions, _ = by_kind(spec.states)
    kv = sum(_cache_bytes(job, *_widths(cache)) * kept(cache) for cache in positions) * job.batch
    return Memory(
        "transformers",
        weights,
        int(kv),
        None if _fixed_states(spec) else 0,
        None,
        "what the cache's tensors hold after a step of one token; it grows by concatenation, so it takes twice that "
        "for a moment",
        (*_fixed_states(spec), "activations"),
    )


ENGINES: dict[str, Callable[[ModelSpec, Job, int], Memory]] = {
    "llama.cpp": llama_memory,
    "vllm": vllm_memory,
    "sglang": sglang_memory,
    "mlx-lm": mlx_memory,
    "tensorrt-llm": tensorrt_memory,
    "transformers": transformers_memory,
}


def padded(tokens: int, step: int) -> int:
    return -(-tokens // step) * step


def _hybrid(spec: ModelSpec, said: str) -> tuple[str, ...]:
    """The remark, for models with full and windowed layers beside each other."""
    positions, _ = by_kind(spec.states)
    return (said,) if len({isinstance(p.keep, Full) for p in positions}) > 1 else ()


def _fixed_states(spec: ModelSpec) -> tuple[str, ...]:
    """The remark on states of one size, for engines whose way of holding them is not supported."""
    _, fixed = by_kind(spec.states)
    return ("fixed-size states: their number format and the number of copies",) if fixed else ()


def _split_kv(spec: ModelSpec, job: Job, kept: Callable[[Positions], int]) -> int:
    """Over all tensor-parallel devices: heads are split, and what cannot be split is kept by each."""
    total = Fraction(0)
    positions, _ = by_kind(spec.states)
    for cache in positions:
        heads = 1 if cache.latent else cache.kv_heads
        copies = job.tensor if cache.latent else Fraction(max(job.tensor, heads), heads)
        total += _cache_bytes(job, *_widths(cache)) * kept(cache) * copies
    return int(total * job.batch)


def _cache_bytes(job: Job, keys: int, values: int) -> Fraction:
    """Of one token in one cache."""
    return keys * job.key_bytes + values * job.value_bytes


def _widths(cache: Positions) -> tuple[int, int]:
    """Numbers of keys and of values a token; a latent has no values of its own."""
    if cache.latent:
        return cache.key_dim, 0
    return cache.kv_heads * cache.key_dim, cache.kv_heads * cache.value_dim


def _whole_heads(spec: ModelSpec, cache: Positions) -> tuple[int, int]:
    """The same where a latent is expanded before it is kept."""
    for layer in spec.layers:
        match layer.mixer:
            case LatentAttention(heads=heads, nope_dim=nope, rope_dim=rope, value_dim=value) as a if a.cache == cache:
                return heads * (nope + rope), heads * value
            case _:  # its reader is none of the others, or keeps what it reads
                pass
    return _widths(cache)
