"""Code that only a CPU runs, because it is faster there than plain torch.

    attention           attention with dropout: the weights are computed and dropped by our own mask
    dropout             masks of which four choices come from one random number
    frame_convolution   grouped convolution of (b, n, d) without bringing the channels forward
    heap                memory that a step frees stays in the process

Models call these as they would call torch. Each asks `switch.kernels_on(device)` and falls back to plain torch on a GPU
and where the environment variable TTSTRAIN_CPU_KERNELS is 0. GPT-SoVITS' GPT asks the same switch whether documents
are attended one by one or padded, as on a GPU.

A kernel stays only if it saves at least 3 % of a training step of a family that uses it, by

    python scripts/bench/cpu_kernels.py --threads 1

Shares of a step's CPU time on one thread of an AMD EPYC, medians of 20 rounds, from
scripts/bench/results/cpu-kernels-20261129-*.json. Width and layers name the net.

    kernel              F5 128x4   F5 384x8   F5 1024x1   GPT 64x2   GPT 256x6   GPT 512x2   VAE    Llama 256x4
    attention                                              21.5 %      11.5 %      6.5 %
    documents                                              28.5 %      12.3 %      8.3 %
    dropout             (no dropout)  2.3 %     0.9 %       9.3 %       7.2 %      4.4 %     1.4 %
    frame_convolution      7.0 %      4.5 %   -14.7 %
    heap                  -0.1 %                                        4.6 %                           6.5 %

The convolution therefore leaves wide groups to torch. Two kernels were measured and deleted: layer norm modulated clip
by clip (F5: -0.1 to 0.1 %) and the discriminator's convolutions as matrix products (VAE: -30.5 %, -1.6 % where narrow).
"""
