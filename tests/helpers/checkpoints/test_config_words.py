"""Every word of config.json, in every family: obeyed as transformers obeys it, or refused in one line.

A tiny random checkpoint of each family is asked with one word changed at a time: each that transformers' configuration
class has, each that its code asks for, other names of the same setting, and the same setting at another level. Ours may
answer as transformers does, or refuse; it may never be silently another model.
"""

import copy
import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig

from course.parity.configs import CONFIGS
from course.parity.runs import IMAGES, TEXT, TOKEN, beginning_in, named, prompts, save_random, tasks, their_logits
from helpers.checkpoints import CheckpointError, load
from helpers.checkpoints.families import CONFIG_NAMES, FAMILIES
from helpers.checkpoints.folder import CONFIG
from helpers.config_words import BESIDE, CONTEXT, INSIDE
from helpers.models import published
from helpers.models.configs import deepseek_v3, deepseek_v4, deepseek_v32, glm5, kimi_k25, qwen3, qwen3_5
from helpers.vision import moonvit
from helpers.vision import qwen3_5 as tower

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
Change = tuple[tuple[str, ...], str, object]  # level, word, value
LEVELS = ("text_config", "vision_config")
FAMILY = pytest.mark.parametrize("family", CONFIGS)
pytestmark = pytest.mark.usefixtures("no_gradients")

# Words that are read beside those of the tables.
READ = {"rope_scaling", "rope_parameters", "type", "architectures", "layer_types", "quantization_config", "model_type"}
READ |= {"text_config", "vision_config", "mlp_layer_types", "compress_rates", "projection_hidden_size"}
READ |= {"index_topk_freq", "index_topk_pattern", "index_skip_topk_offset", "full_attention_interval", CONTEXT}
READ |= {"num_hash_layers", "compress_ratios", "sliding_window", "head_dim", "num_key_value_heads", *BESIDE, *INSIDE}
TABLES = (qwen3, qwen3_5, deepseek_v3, deepseek_v32, glm5, deepseek_v4, tower, moonvit)
for table in TABLES:
    READ |= {*table.ONLY, *getattr(table, "OTHER_NAMES", {})}
READ |= {name for names in CONFIG_NAMES.values() for name in names.values()} | {*published.EVERYWHERE, *kimi_k25.OLDER}

# Words that are not read, and why that is right.
HARMLESS = {
    "dtype": "load() is told the dtype; transformers too begins with float32 where nobody asks for another",
    "initializer_range": "for weights that a file does not hold, and then ours refuses",
    "attention_dropout": "in training only",
    "router_jitter_noise": "in training only",
    "router_aux_loss_coef": "of a loss",
    "output_router_logits": "what is returned beside the logits",
    "output_hidden_states": "what is returned beside the logits",
    "return_dict": "what is returned beside the logits",
    "use_return_dict": "what is returned beside the logits",
    "use_cache": "whether a cache is kept; here a caller gives one",
    "chunk_size_feed_forward": "the same numbers, a piece at a time",
    "pad_token_id": "of generation, and the row of the embedding that gets no gradient",
    "bos_token_id": "of generation",
    "eos_token_id": "of generation",
    "video_token_id": "no video is read here",
    "vision_start_token_id": "a token like others",
    "vision_end_token_id": "a token like others",
    "pos_emb_time": "of videos",
    "id2label": "of classifiers",
    "label2id": "of classifiers",
    "num_labels": "of classifiers",
    "problem_type": "of classifiers",
    "max_window_layers": "with use_sliding_window alone, which is refused",
    "use_sliding_window": "read by Qwen3",
    "transformers_version": "who wrote the file",
    "qk_head_dim": "the sum of two words that are read",
    "num_attention_heads": "another name of a tower's num_heads",
    "pretraining_tp": "a way to compute the same, which transformers has no more",
    "number_of_conv_states": "how many states a cache has room for",
    "is_heterogeneous": "says that there is a per_layer_config, which is refused",
}
# Values to try where the one that stands there does not tell which others there are.
ON = "attention_bias mlp_bias use_sliding_window is_decoder add_cross_attention is_encoder_decoder"
OFF = "norm_topk_prob rope_interleave attn_output_gate use_qk_norm"
SWITCHES = {**{word: [True] for word in ON.split()}, **{word: [False] for word in OFF.split()}}
SWITCHES |= {
    "is_causal": [False, None],
    "indexer_rope_interleave": [True, False],
    "use_bidirectional_attention": [True],
}
SCHEDULES = {
    "layer_types": [["full_attention"] * 4, ["sliding_attention"] * 3, ["full_attention"] * 2],
    "mlp_layer_types": [["sparse"] * 3, ["dense", "sparse"], ["dense"] * 3, ["hash_moe", "hash_moe", "moe", "moe"]],
    "indexer_types": [["full"] * 4, []],
    "index_topk_pattern": ["FFSS"],
    "index_topk_freq": [2, -3],
    "full_attention_interval": [2],
    "compress_ratios": [[0, 128, 4, 4]],
    "num_hash_layers": [2],
    "compress_rate_csa": [8],
    "compress_rate_hca": [4],
    "compress_rates": [{"compressed_sparse_attention": 8, "heavily_compressed_attention": 4}],
    "per_layer_config": [{"0": {"head_dim": 8}}],
    "sliding_window": [4],
    "attention_chunk_size": [4],
    "moe_layer_freq": [2],
    "deepstack_visual_indexes": [[0]],
}
WORDS = {
    "hidden_act": ["gelu"],
    "scoring_func": ["softmax", "sigmoid"],
    "topk_method": ["greedy"],
    "architectures": [["Qwen3ForSequenceClassification"]],
    "model_type": ["deepseek_v32"],
    "pretraining_tp": [4],
    "pad_token_id": [3],
    "eos_token_id": [3, [1, 2]],
    "logit_scale": [3.0],
    "attn_logit_softcapping": [3.0],
    "partial_rotary_factor": [0.5, 0.25],
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
ROTARY = {  # inside the rotary settings
    "rope_theta": [77.0, None],
    "rope_type": ["linear", "dynamic", "yarn", "default", None],
    "type": ["linear", "yarn", "default"],
    "partial_rotary_factor": [0.5, 0.25, 1.0],
    "factor": [3.0],
    "attention_factor": [1.7, 1.0, None],
    "mscale": [0.3],
    "mscale_all_dim": [0.4],
    "beta_fast": [3.0],
    "beta_slow": [0.1],
    "truncate": [False],
    "original_max_position_embeddings": [16],
    "mrope_section": [[1, 4, 3]],
    "mrope_interleaved": [False],
}
TWICE = {  # beside what stands there already
    "rope_theta": [77.0, None],
    "rope_type": ["linear"],
    "mrope_section": [[1, 4, 3]],
    "original_max_position_embeddings": [16, None],
    "rope_scaling": [
        None,
        {},
        {"type": "yarn", **YARN},
        {"type": "linear", "factor": 2.0},
        {"rope_type": "default", "rope_theta": 55.0},
        {"type": "default", "rope_theta": 55.0, "partial_rotary_factor": 0.25},
        {"type": "linear", "rope_type": "default"},
        {"full_attention": {"rope_type": "default", "rope_theta": 5.0}},
    ],
    "rope_parameters": [
        {"rope_theta": 5.0},
        {"main": {"rope_theta": 5.0}, "compress": {"rope_type": "default"}},
        {"main": {"rope_theta": 5.0}, "compress": {"rope_type": "yarn", "rope_theta": 6.0, **YARN}},
        {"main": {"rope_theta": 5.0}},
    ],
    "compress_rope_theta": [44.0],
    "num_local_experts": [4, 8],
    "num_experts": [4],
    "n_routed_experts": [4],
    "num_mtp_layers": [0, 1],
    "intermediate_size": [24],
    "head_dim": [4, None],
    "qk_head_dim": [4],
    "qk_rope_head_dim": [4],
    "num_heads": [4],
    "depth": [1],
    "num_attention_heads": [1],
    "num_hidden_layers": [1],
    "first_k_dense_replace": [0],
    "torch_dtype": ["float16"],
    "vt_num_attention_heads": [1],
}
OTHERS = SWITCHES | SCHEDULES | WORDS | TWICE
CLASSES = {kind: named(tiny.config) for kind, tiny in CONFIGS.items()}


def levels(family: str) -> dict[tuple[str, ...], type]:
    """Where words stand in this family's file, and the class that transformers reads them with."""
    whole = CLASSES[family]
    parts = {"text_config": CLASSES["deepseek_v3"]} if family == "kimi_k25" else {}
    return {(): whole} | {(name,): parts.get(name, part) for name, part in whole.sub_configs.items()}


def asked_by_code(cls: type) -> set[str]:
    """What the code of transformers' model, and of its masks and caches, asks of a configuration."""
    place = cls.__module__.replace("configuration_", "modeling_")
    modules = (place, "transformers.masking_utils", "transformers.cache_utils", "transformers.modeling_rope_utils")
    __import__(place)
    code = "".join(Path(sys.modules[module].__file__).read_text(encoding="utf-8") for module in modules)
    code = re.sub(r'""".*?"""|#[^\n]*', "", code, flags=re.DOTALL)
    named_words = re.findall(r'getattr\(\s*[\w.]*config,\s*"([a-z]\w*)"', code)
    return {*named_words, *re.findall(r"\bconfig\.([a-z]\w*)", code)}


def test_every_word_that_transformers_reads_is_read_here_or_known_to_be_harmless():
    """A new version with a new word is seen here: read it, refuse it, or say in HARMLESS why it changes nothing."""
    known = READ | {*HARMLESS}
    classes = {cls for family in CONFIGS for cls in levels(family).values()}
    new = {
        f"{cls.__name__}.{word}"
        for cls in classes
        for word in {field.name for field in dataclasses.fields(cls)} | asked_by_code(cls)
        if word not in known and not callable(getattr(cls, word, None))
    }
    assert not new, f"transformers {transformers.__version__} reads words that nobody here looked at: {sorted(new)}"


def test_every_family_is_asked():
    assert set(CONFIGS) == set(FAMILIES)


class Case:
    """A tiny random checkpoint of one family, and the tokens and images that it is asked with."""

    def __init__(self, family: str, folder: Path):
        save_random(family, folder)
        self.folder, self.path, self.family = folder, folder / CONFIG, FAMILIES[family]
        self.config = json.loads(self.path.read_text())
        self.model = named(CONFIGS[family].model)
        given = prompts(family, IMAGES if IMAGES in tasks(family) else TEXT)
        self.row, self.images = given.rows[0], beginning_in(given.rows[0][None], given.pictures)
        self.weights = self.model.from_pretrained(folder, **EAGER).state_dict()

    def ours(self, config: dict) -> torch.Tensor | CheckpointError:
        self.path.write_text(json.dumps(config))
        try:
            return load(self.folder)(self.row[TOKEN][None], images=self.images)[0]
        except CheckpointError as error:
            return error

    def theirs(self, config: dict) -> torch.Tensor | Exception:
        """Their answer, or why this configuration makes no model that these weights fit."""
        self.path.write_text(json.dumps(config))
        try:
            model = self.model._from_config(AutoConfig.from_pretrained(self.folder), dtype=torch.float32, **EAGER)
            model.load_state_dict(self.weights)
            return their_logits(model.eval(), self.row, self.images)
        except Exception as error:
            return error

    def is_passed_over(self, change: Change) -> bool:
        """Whether our model is the same with it as without."""
        try:
            return self.family.from_hf(changed(self.config, [change])) == self.family.from_hf(self.config)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
            return False

    def wrong(self, change: Change) -> str:
        """What is wrong with our answer to a word that we read; empty where it is theirs, or refused."""
        config = changed(self.config, [change])
        if isinstance(ours := self.ours(config), CheckpointError):
            return "a refusal of several lines" * ("\n" in str(ours))
        return "" if is_same(ours, self.theirs(config)) else "another model"

    def read_by_them(self, changes: list[Change], base: torch.Tensor) -> list[Change]:
        """Of words that we pass over, those that change their answer: all tried at once, and then in halves."""
        if not changes or is_same(self.theirs(changed(self.config, changes)), base):
            return []
        if len(changes) == 1:
            return [] if isinstance(self.theirs(changed(self.config, changes)), Exception) else changes
        half = len(changes) // 2
        return [*self.read_by_them(changes[:half], base), *self.read_by_them(changes[half:], base)]


def is_same(one: torch.Tensor | Exception, other: torch.Tensor | Exception) -> bool:
    """Where transformers makes no model, ours is not another one."""
    if isinstance(other, Exception) or isinstance(one, Exception):
        return isinstance(other, Exception)
    return bool((one - other).abs().max() <= 1e-3 * max(other.abs().max().item(), 1.0))


def changes_of(config: dict) -> list[Change]:
    """Every word at every level, and inside the rotary settings, with every value to try."""
    found = []
    for level, cls in levels(config["model_type"]).items():
        here = at(config, level)
        words = {field.name for field in dataclasses.fields(cls)} | {*here}
        words |= {*BESIDE, *cls.attribute_map} if level == ("vision_config",) else {*OTHERS}
        found += [(level, word, value) for word in sorted(words) for value in tried(word, here, cls)]
        inside = rotary_levels(here, level)
        found += [(place, word, value) for place in inside for word in ROTARY for value in ROTARY[word]]
    return [change for change in found if change[:2] not in (((), "image_token_id"), ((), "model_type"))]


def rotary_levels(here: dict, level: tuple[str, ...]) -> list[tuple[str, ...]]:
    rope = (*level, "rope_parameters")
    if not isinstance(here.get("rope_parameters"), dict):
        return []
    return [(*rope, name) for name in ("main", "compress") if name in here["rope_parameters"]] or [rope]


def at(config: dict, level: tuple[str, ...]) -> dict:
    for name in level:
        config = config[name]
    return config


def tried(word: str, here: dict, cls: type) -> list:
    """Values that are not the one that stands there, or that transformers takes where none does."""
    if word in (*LEVELS, "transformers_version"):
        return []
    default = next((field.default for field in dataclasses.fields(cls) if field.name == word), None)
    value = here.get(word, default)
    others = {bool: lambda: [not value], int: lambda: [value + 1, 0], float: lambda: [value * 1.5 + 0.1]}
    others |= {str: lambda: ["other"], list: lambda: [value[::-1], value[:-1]]}
    return [*others.get(type(value), list)(), *OTHERS.get(word, [])]


def changed(config: dict, changes: list[Change]) -> dict:
    new = copy.deepcopy(config)
    for level, word, value in changes:
        at(new, level)[word] = value
    return new


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = {}

    def case(family: str) -> Case:
        if family not in made:
            made[family] = Case(family, tmp_path_factory.mktemp(family))
        return made[family]

    return case


@FAMILY
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated")
def test_a_changed_word_is_obeyed_as_transformers_does_or_refused(cases, family):
    case = cases(family)
    base = case.theirs(case.config)
    assert is_same(case.ours(case.config), base)
    changes = changes_of(case.config)
    passed_over = [change for change in changes if case.is_passed_over(change)]
    assert len(passed_over) > 30
    assert not {str(change): what for change in changes if change not in passed_over if (what := case.wrong(change))}
    while passed_over:  # one value per word at a time
        turn = list({change[:2]: change for change in passed_over}.values())
        passed_over = [change for change in passed_over if change not in turn]
        assert not case.read_by_them(turn, base)
