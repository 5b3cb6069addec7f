"""The kernel as a differentiable function of other libraries' automatic differentiation.

Import the one for your library: `backends.autograd.torch` or `backends.autograd.jax`. Each has
`predict`, the forward pass, and `loss_of`, the loss. The kernel computes their derivatives, with
native or exact numerics.
"""
