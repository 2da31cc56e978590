"""The VAE with a GAN decoder that turns semantic tokens into sound, upstream's "s2"."""
