"""Kernels that are faster than plain torch on a CPU; not used on a GPU.

    attention           attention with dropout: the weights are computed here and dropped by a mask of `dropout`
    dropout             masks of which four choices come from one random number
    frame_convolution   grouped convolution of (b, n, d) without bringing the channels forward
    heap                memory that a step frees stays in the process

Models call these like functions of torch. Each asks `switch.kernels_on(device)` and falls back to plain torch on a GPU
and where the environment variable TTSTRAIN_CPU_KERNELS is 0. GPT-SoVITS' GPT asks the same switch whether it attends
document by document, or to padded documents as on a GPU.

A kernel stays only if it saves at least 3 % of a training step of a family that uses it, as measured by

    python scripts/bench/cpu_kernels.py --threads 1

Shares of a step's CPU time, one thread of an AMD EPYC, medians of 20 rounds, from the files
scripts/bench/results/cpu-kernels-20261129-*-1-threads-*.json. A net is called by its width and layers.

    attention           GPT 64x2: 21.5 %, 256x6: 11.5 %, 512x2: 6.5 %
    documents           GPT 64x2: 28.5 %, 256x6: 12.3 %, 512x2: 8.3 %
    dropout             GPT 64x2: 9.3 %, 256x6: 7.2 %, 512x2: 4.4 %; F5 384x8: 2.3 %, 1024x1: 0.9 %; VAE: 1.4 %
    frame_convolution   F5 128x4: 7.0 %, 384x8: 4.5 %, 1024x1: -14.7 %, so it leaves wide groups to torch
    heap                Llama 256x4: 8.6 %; GPT 256x6: 4.6 %; F5 128x4: -0.1 %

Two threads (…-2-threads-others.json) agree for F5 128x4 and GPT 64x2. Two kernels were measured and deleted: layer norm
modulated clip by clip (F5: -0.1 to 0.1 %), and the discriminator's convolutions as matrix products (VAE: -30.5 % at the
published width, -1.6 % at 32 channels).
"""
