"""Names and shapes of the nets' parameters, as upstream's files hold them. Imports no torch: plans count from this.

What upstream's constructors hard-code is written here as constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ttstrain.families.gpt_sovits.config import GptNetConfig, VaeNetConfig, Version

BERT_CHANNELS = 1024
SSL_CHANNELS = 768  # of HuBERT
SSL_STRIDE = 2  # 50 HuBERT frames are 25 semantic tokens
SPEC_CHANNELS = 1025  # n_fft 2048
REFERENCE_CHANNELS = 704  # lowest bins of the reference's spectrogram; v1 reads all
SPEAKER_CHANNELS = 20_480  # of ERes2NetV2
MRTE_CHANNELS = 512
STYLE_HIDDEN = 128
STYLE_KERNEL = 5
RELATIVE_WINDOW = 4  # of the text encoders' attention, to either side
WAVENET_KERNEL = 5
POSTERIOR_LAYERS = 16
FLOWS = (0, 2, 4, 6)  # a flip, without parameters, follows each
FLOW_LAYERS = 4
EDGE_KERNEL = 7  # of the decoder's first and last convolution
SYMBOLS = {"v1": 322, "v2": 732, "v2Pro": 732, "v2ProPlus": 732}
PERIODS = (2, 3, 5, 7, 11)
PRO_PERIODS = (2, 3, 5, 7, 11, 17, 23)
SCALE_LAYERS = ((16, 15), (64, 41), (256, 41), (1024, 41), (1024, 41), (1024, 5))  # channels and kernel
SCALE_GROUP = 4  # input channels of each group between the first and the last layer
PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
PERIOD_KERNEL = 5
POST_KERNEL = 3

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Named = Iterator[tuple[str, Shape]]


def gpt_shapes(config: GptNetConfig) -> Shapes:
    """List the GPT's parameters, `gpt.*`."""
    return {f"gpt.{name}": shape for name, shape in _gpt(config)}


def generator_shapes(config: VaeNetConfig, version: Version) -> Shapes:
    """List the VAE's parameters, `vae.*`; with a frozen quantizer its `ssl_proj` is none of them."""
    return {f"vae.{name}": shape for name, shape in _generator(config, version)}


def discriminator_shapes(config: VaeNetConfig, version: Version) -> Shapes:
    """List the discriminator's parameters, `discriminator.*`."""
    return {f"discriminator.{name}": shape for name, shape in _discriminator(config, version)}


# ---------------------------------------------------------------- the GPT


def _gpt(config: GptNetConfig) -> Named:
    d = config.hidden_dim
    yield from _linear("bert_proj", BERT_CHANNELS, d)
    yield "ar_text_embedding.word_embeddings.weight", (config.phoneme_vocab_size, d)
    yield "ar_text_position.alpha", (1,)
    yield "ar_audio_embedding.word_embeddings.weight", (config.vocab_size, d)
    yield "ar_audio_position.alpha", (1,)
    for layer in range(config.n_layer):
        block = f"h.layers.{layer}"
        yield f"{block}.self_attn.in_proj_weight", (3 * d, d)
        yield f"{block}.self_attn.in_proj_bias", (3 * d,)
        yield from _linear(f"{block}.self_attn.out_proj", d, d)
        yield from _linear(f"{block}.linear1", d, 4 * d)
        yield from _linear(f"{block}.linear2", 4 * d, d)
        for norm in ("norm1", "norm2"):
            yield f"{block}.{norm}.weight", (d,)
            yield f"{block}.{norm}.bias", (d,)
    yield "ar_predict_layer.weight", (config.vocab_size, d)


# ---------------------------------------------------------------- the VAE


def _generator(config: VaeNetConfig, version: Version) -> Named:
    h, z, g = config.hidden_channels, config.inter_channels, config.gin_channels
    yield from _text_encoder(config, version)
    yield from _decoder(config)
    yield from _conv("enc_q.pre", SPEC_CHANNELS, h, 1)
    yield from _wavenet("enc_q.enc", h, POSTERIOR_LAYERS, g)
    yield from _conv("enc_q.proj", h, 2 * z, 1)
    for flow in FLOWS:
        yield from _conv(f"flow.flows.{flow}.pre", z // 2, h, 1)
        yield from _wavenet(f"flow.flows.{flow}.enc", h, FLOW_LAYERS, g)
        yield from _conv(f"flow.flows.{flow}.post", h, z // 2, 1)
    yield from _style_encoder("ref_enc", SPEC_CHANNELS if version == "v1" else REFERENCE_CHANNELS, g)
    if not config.freeze_quantizer:
        yield from _conv("ssl_proj", SSL_CHANNELS, SSL_CHANNELS, SSL_STRIDE)
    if version in ("v2Pro", "v2ProPlus"):
        yield from _linear("sv_emb", SPEAKER_CHANNELS, g)
        yield from _linear("ge_to512", g, MRTE_CHANNELS)
        yield "prelu.weight", (g,)


def _text_encoder(config: VaeNetConfig, version: Version) -> Named:
    h = config.hidden_channels
    yield from _conv("enc_p.ssl_proj", SSL_CHANNELS, h, 1)
    yield from _attention_layers("enc_p.encoder_ssl", config, config.n_layers // 2)
    yield from _attention_layers("enc_p.encoder_text", config, config.n_layers)
    yield "enc_p.text_embedding.weight", (SYMBOLS[version], h)
    for part in ("conv_q", "conv_k", "conv_v", "conv_o"):
        yield from _conv(f"enc_p.mrte.cross_attention.{part}", MRTE_CHANNELS, MRTE_CHANNELS, 1)
    yield from _conv("enc_p.mrte.c_pre", h, MRTE_CHANNELS, 1)
    yield from _conv("enc_p.mrte.text_pre", h, MRTE_CHANNELS, 1)
    yield from _conv("enc_p.mrte.c_post", MRTE_CHANNELS, h, 1)
    yield from _attention_layers("enc_p.encoder2", config, config.n_layers // 2)
    yield from _conv("enc_p.proj", h, 2 * config.inter_channels, 1)


def _attention_layers(name: str, config: VaeNetConfig, layers: int) -> Named:
    h, f, k = config.hidden_channels, config.filter_channels, config.kernel_size
    for layer in range(layers):
        for part in ("emb_rel_k", "emb_rel_v"):
            yield f"{name}.attn_layers.{layer}.{part}", (1, 2 * RELATIVE_WINDOW + 1, h // config.n_heads)
        for part in ("conv_q", "conv_k", "conv_v", "conv_o"):
            yield from _conv(f"{name}.attn_layers.{layer}.{part}", h, h, 1)
        yield from _conv(f"{name}.ffn_layers.{layer}.conv_1", h, f, k)
        yield from _conv(f"{name}.ffn_layers.{layer}.conv_2", f, h, k)
        for norm in ("norm_layers_1", "norm_layers_2"):
            yield f"{name}.{norm}.{layer}.gamma", (h,)
            yield f"{name}.{norm}.{layer}.beta", (h,)


def _decoder(config: VaeNetConfig) -> Named:
    channels = config.upsample_initial_channel
    kernels = config.resblock_kernel_sizes
    yield from _conv("dec.conv_pre", config.inter_channels, channels, EDGE_KERNEL)
    yield from _conv("dec.cond", config.gin_channels, channels, 1)
    for stage, upsample_kernel in enumerate(config.upsample_kernel_sizes):
        narrower = channels // 2
        yield f"dec.ups.{stage}.weight_g", (channels, 1, 1)
        yield f"dec.ups.{stage}.weight_v", (channels, narrower, upsample_kernel)  # transposed: input channels first
        yield f"dec.ups.{stage}.bias", (narrower,)
        channels = narrower
        for block, (kernel, dilations) in enumerate(zip(kernels, config.resblock_dilation_sizes, strict=True)):
            for convs in ("convs1", "convs2"):
                for layer in range(len(dilations)):
                    name = f"dec.resblocks.{len(kernels) * stage + block}.{convs}.{layer}"
                    yield from _normed_conv(name, channels, channels, kernel)
    yield "dec.conv_post.weight", (1, channels, EDGE_KERNEL)


def _wavenet(name: str, hidden: int, layers: int, style: int) -> Named:
    yield from _normed_conv(f"{name}.cond_layer", style, 2 * hidden * layers, 1)
    for layer in range(layers):
        yield from _normed_conv(f"{name}.in_layers.{layer}", hidden, 2 * hidden, WAVENET_KERNEL)
        last = layer == layers - 1
        yield from _normed_conv(f"{name}.res_skip_layers.{layer}", hidden, hidden if last else 2 * hidden, 1)


def _style_encoder(name: str, inputs: int, style: int) -> Named:
    yield from _linear(f"{name}.spectral.0.fc", inputs, STYLE_HIDDEN)
    yield from _linear(f"{name}.spectral.3.fc", STYLE_HIDDEN, STYLE_HIDDEN)
    for layer in range(2):
        yield from _conv(f"{name}.temporal.{layer}.conv1.conv", STYLE_HIDDEN, 2 * STYLE_HIDDEN, STYLE_KERNEL)
    for part in ("w_qs", "w_ks", "w_vs", "fc"):
        yield from _linear(f"{name}.slf_attn.{part}", STYLE_HIDDEN, STYLE_HIDDEN)
    yield from _linear(f"{name}.fc.fc", STYLE_HIDDEN, style)


# ---------------------------------------------------------------- the discriminator


def _discriminator(config: VaeNetConfig, version: Version) -> Named:
    most = config.discriminator_channels
    inputs = 1
    for layer, (channels, kernel) in enumerate(SCALE_LAYERS):
        outputs = min(channels, most)
        grouped = 0 < layer < len(SCALE_LAYERS) - 1
        yield from _normed_conv(f"discriminators.0.convs.{layer}", SCALE_GROUP if grouped else inputs, outputs, kernel)
        inputs = outputs
    yield from _normed_conv("discriminators.0.conv_post", inputs, 1, POST_KERNEL)
    for index, _ in enumerate(periods(version), start=1):
        inputs = 1
        for layer, channels in enumerate(PERIOD_CHANNELS):
            outputs = min(channels, most)
            yield from _normed_conv(f"discriminators.{index}.convs.{layer}", inputs, outputs, PERIOD_KERNEL, 1)
            inputs = outputs
        yield from _normed_conv(f"discriminators.{index}.conv_post", inputs, 1, POST_KERNEL, 1)


def periods(version: Version) -> tuple[int, ...]:
    """List the periods, in samples, that the discriminator folds the sound by."""
    return PRO_PERIODS if version in ("v2Pro", "v2ProPlus") else PERIODS


# ---------------------------------------------------------------- layers


def _linear(name: str, inputs: int, outputs: int) -> Named:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _conv(name: str, inputs: int, outputs: int, kernel: int) -> Named:
    yield f"{name}.weight", (outputs, inputs, kernel)
    yield f"{name}.bias", (outputs,)


def _normed_conv(name: str, inputs: int, outputs: int, *kernel: int) -> Named:
    """A convolution under weight norm, in the names that torch gave it first."""
    yield f"{name}.weight_g", (outputs, 1, *(1 for _ in kernel))
    yield f"{name}.weight_v", (outputs, inputs, *kernel)
    yield f"{name}.bias", (outputs,)
