"""Triton kernels, each beside the function that launches it.

They read lengths, positions and pages from the batch's tensors, and choose grids from shapes alone: a step made of them can
be recorded. Nothing assumes a warp's width, and what is NVIDIA's alone (`common.take_turn`, `common.ask_ahead`, an instruction
in `packed`) is left out elsewhere, so they compile for NVIDIA and AMD alike.
"""
