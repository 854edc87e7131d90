"""Images for a language model: a tower turns patches of pixels into vectors as wide as the model, one per token.

images    what a processor gives, checked; where its vectors go among the words
encoder   the blocks of a vision transformer: every patch of an image sees every other
qwen3_5   the tower of Qwen3.5          moonvit   the tower of Kimi K2.5
"""
