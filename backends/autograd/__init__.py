"""The kernel as a differentiable function of other libraries' automatic differentiation.

One file per library, imported by those who want it: `backends.autograd.torch` and
`backends.autograd.jax`. Each has `predict`, the forward pass, and `loss_of`, the loss; their
derivatives are those that the kernel computes, with native or exact numerics.
"""
