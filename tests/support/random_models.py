"""transformers' model with random weights and ours with the same: what tests of several families begin with."""

import re

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.checkpoints.families import FAMILIES
from helpers.layers.ragged import standing_at
from helpers.models.published import names_of_experts

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}


def reference(kind: str, sizes: dict) -> torch.nn.Module:
    """transformers' model of this model_type with every number random, buffers too: a router's bias of zero hides."""
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), **EAGER).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.state_dict().values():
            around = 1.0 if weight.dim() == 1 else 0.0
            weight.copy_(around + 0.3 * torch.randn(weight.shape, generator=generator))
    return theirs


def apart(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers keeps all experts in one tensor, gate and up in one; a checkpoint holds each matrix apart."""
    published = {}
    for name, tensor in weights.items():
        place = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(tensor):
                published[f"{place}.{e}.gate_proj.weight"], published[f"{place}.{e}.up_proj.weight"] = both.chunk(2)
        elif name.endswith("experts.down_proj"):
            published |= {f"{place}.{e}.down_proj.weight": one for e, one in enumerate(tensor)}
        else:
            published[name] = tensor
    return published


def by_our_names(model: torch.nn.Module, kind: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published tensors of each of our parameters, experts stacked; every tensor is asked for once."""
    left, ours = dict(weights), {}
    for name, weight in model.state_dict().items():
        there = FAMILIES[kind].published_name(name)
        names = names_of_experts(there, len(weight) if "{e}" in there else 1)
        every = [[left.pop(part) for part in parts] for parts in names]
        ours[name] = torch.stack([torch.cat(parts) for parts in every]) if "{e}" in there else every[0][0]
    assert not left
    return ours


def ours_from(theirs: torch.nn.Module) -> torch.nn.Module:
    """Our model with transformers' weights, by their published names."""
    kind = theirs.config.model_type
    model = FAMILIES[kind].model(FAMILIES[kind].from_hf(theirs.config.to_dict())).eval()
    model.load_state_dict(by_our_names(model, kind, apart(theirs.state_dict())))
    return model


def tokens(vocab_size: int, length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def padded(vocab_size: int, lengths: list[int], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of these lengths in one batch, padded with real-looking ids, and the mask of the real ones."""
    ids, columns = tokens(vocab_size, max(lengths), len(lengths)), torch.arange(max(lengths))
    wanted = torch.tensor(lengths)[:, None]
    return ids, (columns >= max(lengths) - wanted) if left else (columns < wanted)


def placed(model: torch.nn.Module, x: torch.Tensor) -> tuple:
    """What a block needs to know of where the tokens of ``x`` stand."""
    rows = standing_at(torch.arange(x.shape[1]).expand(len(x), -1))
    return rows, model.rotary(rows.positions, x.dtype)


def watched(theirs: torch.nn.Module, ids: torch.Tensor) -> dict[str, tuple]:
    """What went into each layer ("0"), into each of its parts ("0.mlp", "0.mlp.gate"), and what came out first."""
    seen, hooks = {}, []

    def watch(name):
        def hook(_part, inputs, named, output):
            alone = isinstance(output, tuple) and not name.endswith(("gate", "indexer"))
            seen[name] = (inputs[0] if inputs else named["hidden_states"], output[0] if alone else output)

        return hook

    for name, part in theirs.model.layers.named_modules():
        if re.fullmatch(r"\d+(\.(self_attn|linear_attn|mlp|mlp\.gate|self_attn\.indexer))?", name):
            hooks.append(part.register_forward_hook(watch(name), with_kwargs=True))
    theirs(ids)
    for hook in hooks:
        hook.remove()
    return seen
