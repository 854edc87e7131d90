"""What two or more lessons share: the reference implementations, the tools to measure and to draw.

Imports go one way, down these steps: words (shapes, units, device, precision), evidence (compare, measure, data,
plots, widgets), parts (layers, moe, quant), fast parts (kernels), models, using them (checkpoints, generate, train).
Nothing here imports ``course``.
"""
