"""Fast parts: one Triton kernel a file, each the sibling of a readable function, with its signature and its answer.

Each file has the picture of its tiles, the bytes and the FLOP by formula (``cost``), a kernel that loads, computes and
stores, and a wrapper that checks what it is given. On a GPU the wrapper launches the kernel; on a CPU it calls the
readable sibling, unless Triton's interpreter is on (``launch`` says how), which is how a kernel is proved right without
a GPU. ``compile_ahead`` compiles every one of them for chips that are not here. What was expected of them and what was
measured stands in LOG.md. ``implementations`` says which readable function each stands for, and ``helpers.use`` puts
them into a whole model.
"""
