"""Training: LoRA, diffusion models, autoencoders, CLIP pairs, ControlNets and textual inversions.

A trainer is a task (what is trained, the loss of a batch, how the result is written) that `loop.train` drives: a
generator of events. Closing it stops the run after the current step and saves; starting again goes on bit for bit.
"""
