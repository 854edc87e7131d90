"""What a person reads who gives a model the wrong thing. In a process of its own: no check of types stands before."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASK = """
import json, torch
from helpers.models.configs import qwen3_5, qwen3_5_vision
from helpers.models.qwen3_5_vision import Qwen3_5Vision
from helpers.vision import qwen3_5 as tower

text = qwen3_5.Config(
    vocab_size=31, width=16, num_blocks=2, layer_kinds=("linear_attention", "full_attention"), num_heads=2,
    num_kv_heads=1, head_dim=8, delta_key_heads=1, delta_value_heads=1, delta_key_dim=4, delta_value_dim=4,
    conv_width=4, mlp_width=16, rotary_share=1.0, sections=(2, 1, 1),
)
model = Qwen3_5Vision(qwen3_5_vision.Config(text, tower.Config(8, 1, 1, 8, 16), image_token=7))
ids = torch.tensor([[1, 2, 3]])
asked = {
    "one row without a batch": lambda: model(ids[0]),
    "text": lambda: model(ids.float()),
    "nothing": lambda: model(ids[:, :0]),
    "with a cache": lambda: model(ids[:, :0], cache=model.new_cache()),
    "mask": lambda: model(ids, mask=torch.ones_like(ids)),
    "pixels": lambda: model(ids, images=torch.zeros(4, 8)),
    "text model": lambda: model.text(ids, images={}),
}
said = {}
for name, ask in asked.items():
    try:
        ask()
    except ValueError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
SAID = {
    "one row without a batch": "token_ids are torch.int64 of the shape (3,); they must be whole numbers (rows, tokens)",
    "text": "token_ids are torch.float32 of the shape (1, 3); they must be whole numbers",
    "nothing": "token_ids are torch.int64 of the shape (1, 0); they must be whole numbers (rows, tokens), one token",
    "with a cache": "token_ids are torch.int64 of the shape (1, 0)",
    "mask": "mask holds torch.int64; it must hold True for real tokens and False for padding",
    "pixels": "images holds a Tensor; it must hold pixel_values and image_grid_thw",
    "text model": "Qwen3_5 reads text only, and images were given",
}


def test_a_wrong_input_is_one_line_that_says_what_is_allowed():
    found = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(found.stdout)
    assert said.keys() == SAID.keys()
    for name, words in SAID.items():
        assert said[name].startswith(words)
        assert "\n" not in said[name]
