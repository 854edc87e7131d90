"""How the indexers of sparse attention learn: DeepSeek-V3.2's, DeepSeek-V4's, and one beside a dense Qwen3."""
