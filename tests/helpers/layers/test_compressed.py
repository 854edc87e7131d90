"""Windows, entries and the indexer: what they are made of, any split of a text, uneven rows, transformers' modules."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4CSACompressor, DeepseekV4HCACompressor

from helpers.compare import causality_probe, max_error
from helpers.layers import compressed, compressor
from helpers.layers.compressed import CompressedAttention, Sizes, attend_with_sinks, in_window
from helpers.layers.compressor import Compressor, EntryIndexer, Recent, complete, pool
from helpers.layers.ragged import Rows, arrange
from helpers.layers.rope import frequencies

WIDTH, HEAD, RANK, TURNED = 20, 12, 10, 6
RADIANS = frequencies(TURNED, 1.6e5)
SIZES = Sizes(WIDTH, RANK, num_heads=6, head_dim=HEAD, window=5, output_groups=3, output_rank=4, epsilon=1e-6)
KINDS = pytest.mark.parametrize("kind", ["window", "heavy", "sparse"])
OVERLAP = pytest.mark.parametrize(("ratio", "overlap"), [(4, True), (8, False), (3, True), (1, False), (1, True)])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for seed, (name, weight) in enumerate(module.named_parameters()):
        weight.data = float("norm" in name) + 0.4 * drawn(*weight.shape, seed=seed)
    return module.eval()


def layer(kind: str, k: int = 2) -> CompressedAttention:
    """One attention layer with every number random."""
    made = indexer = None
    if kind == "heavy":
        made = Compressor(WIDTH, HEAD, 6, overlap=False, epsilon=1e-6)
    if kind == "sparse":
        made = Compressor(WIDTH, HEAD, 4, overlap=True, epsilon=1e-6)
        indexer = EntryIndexer(WIDTH, RANK, num_heads=16, head_dim=8, ratio=4, k=k, epsilon=1e-6)
    return randomised(CompressedAttention(SIZES, made, indexer))


def whole(x: torch.Tensor, start: int = 0) -> Rows:
    """Rows of which every token is real."""
    return arrange(torch.zeros(x.shape[:2], dtype=torch.long), None, torch.full((len(x),), start))


def uneven(x: torch.Tensor, start: torch.Tensor, lengths: torch.Tensor) -> Rows:
    positions, known = start[:, None] + torch.arange(x.shape[1]), (tuple(start.tolist()), tuple(lengths.tolist()))
    return Rows(x[..., 0].long(), positions, lengths, None, x.shape[1], *known)


@pytest.fixture(autouse=True)
def _no_gradients(request):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize("start", [0, 2, 30])
def test_a_query_sees_the_tokens_of_its_window_and_no_other(window, start):
    positions = torch.arange(start, start + 6)[None]
    key = torch.arange(start - window + 1, start + 6)
    wanted = [[bool(p >= 0 and p <= t and t - p < window) for p in key.tolist()] for t in positions[0].tolist()]
    assert in_window(positions, window)[0].tolist() == wanted


@pytest.mark.parametrize("ratio", [1, 4, 7])
def test_an_entry_is_seen_from_the_last_of_its_tokens_on(ratio):
    seen = complete(torch.arange(40)[None], ratio, 5)[0]
    for t in range(40):
        assert seen[t].tolist() == [t >= (n + 1) * ratio - 1 for n in range(5)]


def test_pooling_is_a_mean_where_gates_are_equal_and_leaves_out_what_has_minus_infinity():
    values, gates = drawn(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    assert max_error(pool(values, gates), values.mean(dim=2)) < 1e-6
    gates[:, :, :2] = float("-inf")
    assert max_error(pool(values, gates), values[:, :, 2:].mean(dim=2)) < 1e-6
    gates[0, 0, 3, 1] = 50.0  # in one channel only
    assert max_error(pool(values, gates)[0, 0, 1], values[0, 0, 3, 1]) < 1e-6


def test_without_sinks_it_is_plain_attention():
    query, keys, seen = drawn(2, 7, 3, 8), drawn(2, 9, 8, seed=1), torch.ones(2, 7, 9, dtype=torch.bool).tril(2)
    own, none = query.new_zeros(2, 7, 0, 8), torch.ones(2, 7, 0, dtype=torch.bool)
    found = attend_with_sinks(query, keys, seen, own, none, torch.full((3,), -1e9))
    many = keys[:, None].expand(-1, 3, -1, -1)
    wanted = torch.nn.functional.scaled_dot_product_attention(query.transpose(1, 2), many, many, seen[:, None])
    assert max_error(found, wanted.transpose(1, 2)) < 1e-5
    louder = attend_with_sinks(query, keys, seen, own, none, torch.full((3,), 1e3))
    assert louder.abs().max() < 1e-6  # a loud sink takes everything and gives nothing


def test_it_is_the_same_whether_keys_are_shared_or_each_query_brings_them():
    query, keys, seen = drawn(2, 7, 3, 8), drawn(2, 9, 8, seed=1), torch.rand(2, 7, 9) < 0.5
    near, far = keys[:, :4], keys[:, 4:]
    none, unseen = query.new_zeros(2, 7, 0, 8), seen[..., :0]
    sinks, brought = drawn(3), far[:, None].expand(-1, 7, -1, -1)
    shared = attend_with_sinks(query, keys, seen, none, unseen, sinks)
    assert max_error(attend_with_sinks(query, near, seen[..., :4], brought, seen[..., 4:], sinks), shared) < 1e-5


def test_recent_vectors_are_those_before_each_rows_own_end():
    recent = Recent(3)
    first = torch.arange(1.0, 6).view(1, 5, 1).repeat(2, 1, 1)
    recent.join(first, torch.tensor([5, 1]))
    assert recent.held[..., 0].tolist() == [[3, 4, 5], [0, 0, 1]]
    joined = recent.join(10 * first[:, :2], torch.tensor([1, 2]))
    assert joined[..., 0].tolist() == [[3, 4, 5, 10, 20], [0, 0, 1, 10, 20]]
    assert recent.held[..., 0].tolist() == [[4, 5, 10], [1, 10, 20]]
    assert recent.bytes() == 2 * 3 * 1 * 4


@OVERLAP
def test_an_entry_is_made_of_its_own_tokens_and_with_overlap_of_those_before(ratio, overlap):
    module, x = randomised(Compressor(WIDTH, HEAD, ratio, overlap, 1e-6)), drawn(1, 5 * ratio + ratio - 1, WIDTH)
    before = module(x, whole(x), RADIANS)
    assert before.shape[1] == (5 if ratio > 1 else x.shape[1])
    for token in range(x.shape[1]):
        changed = x.clone()
        changed[:, token] += 1
        moved = (module(changed, whole(x), RADIANS) != before).any(dim=-1)[0].nonzero().flatten().tolist()
        own = token // ratio
        assert moved == [n for n in (own, own + 1) if n < before.shape[1] and (overlap or n == own)]


@OVERLAP
@pytest.mark.parametrize("cuts", [[1] * 26, [13, 13], [3, 1, 5, 1, 1, 9, 6], [25, 1]], ids=str)
def test_any_split_makes_the_same_entries(ratio, overlap, cuts):
    module, x = randomised(Compressor(WIDTH, HEAD, ratio, overlap, 1e-6)), drawn(2, 26, WIDTH)
    cache, start = module.new_cache(), 0
    for part in x.split(cuts, dim=1):
        found = module(part, whole(part, start), RADIANS, cache)
        start += part.shape[1]
    assert max_error(found, module(x, whole(x), RADIANS)) < 1e-5
    width = 2 * HEAD * (2 if overlap else 1)
    tail = (2 if overlap else 1) * ratio - 1
    assert cache.bytes() == 2 * 4 * (26 // ratio * HEAD + tail * width)


@OVERLAP
def test_rows_of_unequal_length_have_the_entries_that_they_have_alone(ratio, overlap):
    module, lengths = randomised(Compressor(WIDTH, HEAD, ratio, overlap, 1e-6)), [[11, 2, 5], [1, 7, 3], [4, 4, 9]]
    cache, start, alone = module.new_cache(), torch.zeros(3, dtype=torch.long), [[], [], []]
    for call, count in enumerate(lengths):
        x = drawn(3, max(count), WIDTH, seed=call)  # behind a row's end stands something
        found = module(x, uneven(x, start, torch.tensor(count)), RADIANS, cache)
        start = start + torch.tensor(count)
        for row in range(3):
            alone[row].append(x[row, : count[row]])
            text = torch.cat(alone[row])[None]
            wanted = module(text, whole(text), RADIANS)[0]
            assert max_error(found[row, : len(wanted)], wanted) < 1e-5, (call, row)


@pytest.mark.parametrize("kind", ["heavy", "sparse"])
def test_entries_and_choice_are_transformers(kind):
    module, x, latent = layer(kind, k=3), drawn(2, 43, WIDTH), drawn(2, 43, RANK, seed=1)
    theirs = (DeepseekV4HCACompressor if kind == "heavy" else DeepseekV4CSACompressor)(published(k=3)).eval()
    parts = {name: part for name, part in module.state_dict().items() if name.startswith(("compressor", "indexer"))}
    theirs.load_state_dict({theirs_name(name): part for name, part in parts.items()})
    rows = whole(x)
    wanted, bias = theirs(x, latent, rows.positions, None, 0)
    assert max_error(module.compressor(x, rows, RADIANS), wanted[:, 0]) < 1e-5
    seen = complete(rows.positions, module.compressor.ratio, wanted.shape[2])
    if kind == "sparse":
        chosen = module.indexer(x, latent, rows, RADIANS)
        assert chosen.shape == (2, 43, 3)
        few = torch.zeros(*seen.shape[:2], seen.shape[2] + 1, dtype=torch.bool).scatter(
            -1, chosen % (seen.shape[2] + 1), True
        )
        assert few[..., :-1].sum() < seen.sum()  # something was left out
        seen = few[..., :-1]
    assert torch.equal(seen, bias[:, 0] == 0)


def published(k: int) -> DeepseekV4Config:
    return DeepseekV4Config(
        hidden_size=WIDTH,
        head_dim=HEAD,
        q_lora_rank=RANK,
        qk_rope_head_dim=TURNED,
        index_n_heads=16,
        index_head_dim=8,
        index_topk=k,
        compress_rate_csa=4,
        compress_rate_hca=6,
        rope_parameters={
            "main": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": TURNED / HEAD},
            "compress": {"rope_type": "default", "rope_theta": 1.6e5, "partial_rotary_factor": TURNED / HEAD},
        },
        num_hidden_layers=1,
        layer_types=["sliding_attention"],
    )


def theirs_name(name: str) -> str:
    for ours, theirs in (
        ("indexer.compressor.", "indexer."),
        ("indexer.query.", "indexer.q_b_proj."),
        ("indexer.weights.", "indexer.scorer.weights_proj."),
        ("value.", "kv_proj."),
        ("gate.", "gate_proj."),
        ("bias", "position_bias"),
        ("norm.", "kv_norm."),
    ):
        name = name.replace(ours, theirs)
    return name.removeprefix("compressor.")


@KINDS
@pytest.mark.parametrize("cuts", [[1] * 29, [29], [7, 1, 1, 20], [28, 1], [4, 8, 17]], ids=str)
def test_any_split_of_a_text_gives_the_same_output_and_the_promised_bytes(kind, cuts):
    module, x = layer(kind), drawn(2, 29, WIDTH)
    cache, start, parts = module.new_cache(), 0, []
    assert cache.bytes() == 0
    for part in x.split(cuts, dim=1):
        parts.append(module(part, whole(part, start), RADIANS, cache))
        start += part.shape[1]
    assert max_error(torch.cat(parts, dim=1), module(x, whole(x), RADIANS)) < 1e-5
    window, heavy = 4 * HEAD, 29 // 6 * HEAD + 5 * 2 * HEAD
    sparse = 29 // 4 * (HEAD + 8) + 7 * 4 * (HEAD + 8)
    assert cache.bytes() == 2 * 4 * (window + {"window": 0, "heavy": heavy, "sparse": sparse}[kind])


@KINDS
@pytest.mark.parametrize("block", [1, 5])
def test_a_prompt_read_in_blocks_of_queries_is_the_whole(kind, block, monkeypatch):
    module, x = layer(kind), drawn(2, 23, WIDTH)
    wanted = module(x, whole(x), RADIANS)
    monkeypatch.setattr(compressed, "QUERIES_PER_BLOCK", block)
    monkeypatch.setattr(compressor, "QUERIES_PER_BLOCK", block)
    assert max_error(module(x, whole(x), RADIANS), wanted) < 1e-5


@KINDS
def test_no_position_sees_a_later_one(kind):
    module = layer(kind)
    for position in (1, 7, 8, 22):
        assert causality_probe(lambda x: module(x, whole(x), RADIANS), drawn(1, 24, WIDTH), position) == 0


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made


@KINDS
def test_a_prompt_of_twice_the_length_takes_twice_the_memory_and_not_four_times(kind):
    module, sizes = layer(kind), []
    for length in (512, 1024, 2048):
        x = drawn(1, length, WIDTH)
        with LargestTensor() as seen:
            module(x, whole(x), RADIANS)
        sizes.append(seen.largest)
    assert sizes[2] < 2.2 * sizes[1] < 2.2**2 * sizes[0]


def test_choosing_every_entry_is_reading_all_of_them():
    module, x = layer("sparse", k=99), drawn(2, 23, WIDTH)
    sparse = module(x, whole(x), RADIANS)
    module.indexer, indexer = None, module.indexer
    assert max_error(module(x, whole(x), RADIANS), sparse) < 1e-5
    module.indexer, indexer.k = indexer, 1
    assert max_error(module(x, whole(x), RADIANS), sparse) > 1e-2


def test_what_a_window_layer_makes_of_a_text_does_not_depend_on_what_stood_before_it(monkeypatch):
    module, text = layer("window"), drawn(1, 12, WIDTH)

    def after(count: int) -> torch.Tensor:
        x = torch.cat([drawn(1, count, WIDTH, seed=count), text], dim=1)
        return module(x, whole(x), RADIANS)[:, count + 4 :]

    assert max_error(after(3), after(31)) < 1e-5
    turn = compressed.rotate_last  # the classic mistake: values are keys, turned, and nobody turns the output back
    back = iter([turn, turn, lambda x, cos, sin: x] * 2)
    monkeypatch.setattr(compressed, "rotate_last", lambda *given: next(back)(*given))
    assert max_error(after(3), after(31)) > 1e-2


@KINDS
def test_the_gradient_of_every_parameter_but_the_indexers_is_there(kind):
    module, x = layer(kind), drawn(2, 23, WIDTH)
    module(x, whole(x), RADIANS).square().sum().backward()
    for name, weight in module.named_parameters():
        if "indexer" in name:
            assert weight.grad is None  # places are integers
        else:
            assert 0 < weight.grad.abs().max() < float("inf"), name
