"""The networks of Stable Diffusion: UNet, VAE, CLIP text encoders, ControlNet."""
