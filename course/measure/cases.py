"""The list of cases, of a CPU and of a GPU, by the name that their records carry."""

from collections.abc import Callable, Iterator

import torch

from course.measure.subjects.block_sparse import block_sparse_case
from course.measure.subjects.dsa import dsa_decode_case, sparse_layer_case
from course.measure.subjects.dsa_kernels import (
    index_scores_case,
    latent_decode_case,
    sparse_decode_case,
    sparse_prompt_case,
)
from course.measure.subjects.experts import four_bits_case, moe_case, one_token_case, prompt_case
from course.measure.subjects.generate import generate_case
from course.measure.subjects.linear import delta_prompt_case, few_tokens_case, many_tokens_case
from course.measure.subjects.quant import quant_case
from course.measure.subjects.quantised import quantised_case
from course.measure.subjects.roofline import roofline_case
from course.measure.subjects.speculative import speculative_case
from helpers.measure import Measurement

Case = Callable[[torch.device], Iterator[Measurement]]

CASES: dict[str, Case] = {
    "roofline": roofline_case,
    "dsa-decode": dsa_decode_case,
    "generate": generate_case,
    "moe": moe_case,
    "quant": quant_case,
    "quantised-model": quantised_case,
    "speculative": speculative_case,
}
GPU_CASES: dict[str, Case] = {
    "roofline": roofline_case,
    "latent-decode": latent_decode_case,
    "index-scores": index_scores_case,
    "sparse-decode": sparse_decode_case,
    "sparse-prompt": sparse_prompt_case,
    "sparse-layer": sparse_layer_case,
    "block-sparse-prompt": block_sparse_case,
    "linear-few-tokens": few_tokens_case,
    "linear-many-tokens": many_tokens_case,
    "experts-prompt": prompt_case,
    "experts-four-bits": four_bits_case,
    "delta-prompt": delta_prompt_case,
    "experts-one-token": one_token_case,  # last: it tries what a graph may refuse
}


def cases_for(kind: str) -> dict[str, Case]:
    """The cases of a kind of device: "cuda", or any other."""
    return GPU_CASES if kind == "cuda" else CASES
