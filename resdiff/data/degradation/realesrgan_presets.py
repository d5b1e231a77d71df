"""The numbers with which the publications run the two-stage degradation, source by source.

What they feed in and how they mix samples is not part of a degradation: Real-ESRGAN 400 px crops, of which 256 px are
kept, through a pool of 180; ResShift the shorter side reduced to 256 px, a pool of ten batches; StableSR 512 px, 180;
SeeSR 512 px, none; DiffBIR 512 px, 256 with captions.
"""

from dataclasses import replace

from resdiff.data.degradation.kernels import FinalSinc, KernelRange
from resdiff.data.degradation.realesrgan import RealESRGAN, Stage

SIZES = tuple(range(7, 22, 2))
SHAPE_PROBS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)

# options/train_realesrgan_x4plus.yml. L1 and perceptual losses see the sharpened target, the adversarial loss plain HR
REALESRGAN = RealESRGAN(
    first=Stage(
        kernels=KernelRange(
            sizes=SIZES,
            pad_to=21,
            sinc_prob=0.1,
            shape_probs=SHAPE_PROBS,
            sigma=(0.2, 3.0),
            betag=(0.5, 4.0),
            betap=(1.0, 2.0),
        ),
        resize_probs=(0.2, 0.7, 0.1),
        resize=(0.15, 1.5),
        sigma=(1.0, 30.0),
        poisson_scale=(0.05, 3.0),
        jpeg=(30.0, 95.0),
    ),
    second=Stage(
        kernels=KernelRange(
            sizes=SIZES,
            pad_to=21,
            sinc_prob=0.1,
            shape_probs=SHAPE_PROBS,
            sigma=(0.2, 1.5),
            betag=(0.5, 4.0),
            betap=(1.0, 2.0),
        ),
        blur_prob=0.8,
        resize_probs=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2),
        sigma=(1.0, 25.0),
        poisson_scale=(0.05, 2.5),
        jpeg=(30.0, 95.0),
    ),
    sinc=FinalSinc(sizes=SIZES, pad_to=21, prob=0.8),
    sharpen=True,
)

# configs/realsr_swinunet_realesrgan256_journal.yaml: kernel sides lie below blur_kernel_size (21) and ..._size2 (15)
RESSHIFT = replace(
    REALESRGAN,
    first=replace(REALESRGAN.first, kernels=replace(REALESRGAN.first.kernels, sizes=tuple(range(3, 21, 2)))),
    second=replace(
        REALESRGAN.second, kernels=replace(REALESRGAN.second.kernels, sizes=tuple(range(3, 15, 2)), pad_to=15)
    ),
    second_prob=0.5,
    sinc=FinalSinc(sizes=tuple(range(3, 15, 2)), pad_to=15, prob=0.8),
    sharpen=False,
)

# configs/degradation_testing_realesrgan.yaml, which made ImageNet-Test; blur_kernel_size is 13, ..._size2 7
RESSHIFT_TEST = RealESRGAN(
    first=Stage(
        kernels=KernelRange(
            sizes=tuple(range(3, 13, 2)),
            pad_to=13,
            sinc_prob=0.1,
            shape_probs=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
            sigma=(0.2, 0.8),
            betag=(1.0, 1.5),
            betap=(1.0, 1.2),
        ),
        resize_probs=(0.2, 0.7, 0.1),
        resize=(0.5, 1.5),
        sigma=(1.0, 15.0),
        poisson_scale=(0.05, 0.3),
        jpeg=(70.0, 95.0),
    ),
    second=Stage(
        kernels=KernelRange(
            sizes=tuple(range(3, 7, 2)),
            pad_to=7,
            sinc_prob=0.0,
            shape_probs=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
            sigma=(0.2, 0.5),
            betag=(0.5, 1.0),  # the file says 0.5 to 0.8; no such shape is drawn
            betap=(1.0, 1.2),
        ),
        blur_prob=0.2,
        resize_probs=(0.3, 0.4, 0.3),
        resize=(0.8, 1.2),
        sigma=(1.0, 10.0),
        poisson_scale=(0.05, 0.2),
        jpeg=(80.0, 100.0),
    ),
    second_prob=0.0,
    sinc=FinalSinc(sizes=tuple(range(3, 7, 2)), pad_to=7, prob=0.2),
    sharpen=False,
)

# dataloaders/realesrgan.py with params_realesrgan.yml, which AddSR took over; LR may be brought back by the caller
SEESR_YAML = replace(
    REALESRGAN,
    first=replace(REALESRGAN.first, resize=(0.3, 1.5), sigma=(1.0, 15.0), poisson_scale=(0.05, 2.0), jpeg=(60.0, 95.0)),
    second=replace(
        REALESRGAN.second,
        blur_prob=0.5,
        resize=(0.6, 1.2),
        sigma=(1.0, 12.0),
        poisson_scale=(0.05, 1.0),
        jpeg=(60.0, 100.0),
    ),
    sharpen=False,
)

# configs/stableSRNew/v2-finetune_text_T_512.yaml: the same but for milder kernels and the end
STABLESR = replace(
    SEESR_YAML,
    first=replace(
        SEESR_YAML.first,
        kernels=replace(SEESR_YAML.first.kernels, sigma=(0.2, 1.5), betag=(0.5, 2.0), betap=(1.0, 1.5)),
    ),
    second=replace(
        SEESR_YAML.second,
        kernels=replace(SEESR_YAML.second.kernels, sigma=(0.2, 1.0), betag=(0.5, 2.0), betap=(1.0, 1.5)),
    ),
    sharpen=True,
    resize_back=True,
    clip_before_back=True,
    round8=False,
    clean_prob=0.01,
)

# utils_data/make_paired_data.py: what lies in sr_bicubic/*.png, on which SeeSR trains. (Its HR is rounded too; ours is
# not. The script sets no_degradation_prob to 0.01 and does not use it.)
SEESR = replace(REALESRGAN, resize_back=True, clip_before_back=True)

# configs/train/train_stage2_v2.1.yaml: rounded after it was brought back
DIFFBIR = replace(REALESRGAN, resize_back=True)
