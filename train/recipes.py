"""The recipes by name; each is one entry of ``RECIPES``."""

from dataclasses import replace

from wszoo.training.recipe import Recipe

# Muon, for it learned more per photo than SGD in a short trial that is not kept here. The rate
# stays flat for long, so that a run can be prolonged.
E6_TIN200 = Recipe(
    phases=((4, 64), (2, 80)),
    batch_size=256,
    lr=0.02,
    head_lr=2e-3,
    weight_decay=0.04,
    warmup_steps=74,
    test_size=112,
    stored_pixels=64,
    held_out_per_class=25,
)
E14_TIN200 = replace(E6_TIN200, phases=((10, 64), (4, 80)))

# Six epochs more on e14_tin200, whose rate had come to zero: it starts again at half the peak.
E20_TIN200 = replace(
    E6_TIN200,
    phases=((1, 64), (5, 80)),
    lr=0.01,
    head_lr=1e-3,
    warmup_steps=37,
    decay=1.0,
    start_tag="e14_tin200",
    seed=1,
)

# Eight more on e20_tin200, half of the photos cut and mixed, for that run began to overfit: its
# loss fell to 1.7 in training and stayed at 2.2 on the photos held out.
E28_TIN200 = replace(
    E20_TIN200,
    phases=((2, 64), (6, 80)),
    cutmix=1.0,
    mix_prob=0.5,
    start_tag="e20_tin200",
    seed=2,
)

# Enough for the test net, which has 0.3 million parameters in its body.
E3_TIN200 = replace(E6_TIN200, phases=((3, 64),), test_size=64)

# Half an hour on one H100, with the photos in its memory; not run yet.
H100_30MIN_TIN200 = replace(
    E6_TIN200,
    phases=((30, 64), (20, 96), (10, 128)),
    test_size=128,
    batch_size=512,
    auto_augment="rand-m7-mstd0.5-inc1",
    cutmix=1.0,
    mix_prob=0.5,
    ema=0.9995,
)

# How the weights tagged jhu_in1k were made: ResNet-50 by the first, the other nets by the second
# (Qiao et al. 2019, joe-siyuan-qiao/pytorch-classification).
JHU_IN1K = Recipe(
    phases=((90, 224),),
    batch_size=256,
    test_size=224,
    test_crop=0.875,
    optimizer="sgd",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    decay_all=True,
    schedule="step",
    milestones=(30, 60),
    crop_scale=(0.08, 1.0),
    label_smoothing=0.0,
    precision="fp32",
)
JHU_B128_IN1K = replace(JHU_IN1K, phases=((100, 224),), batch_size=128, milestones=(30, 60, 90))

# Wightman et al. 2021, "ResNet strikes back", procedures A3 (shortened) and A2, which are made
# for batches of 2048: LAMB, BCE, mixup and cutmix, RandAugment.
E100_IN1K = Recipe(
    phases=((100, 160),),
    batch_size=2048,
    test_size=224,
    test_crop=0.95,
    optimizer="lamb",
    lr=8e-3,
    momentum=0.9,
    weight_decay=0.02,
    schedule="cosine",
    warmup_epochs=5,
    crop_scale=(0.08, 1.0),
    auto_augment="rand-m6-mstd0.5-inc1",
    mixup=0.1,
    cutmix=1.0,
    label_smoothing=0.0,
    bce=True,
)
E300_IN1K = replace(
    E100_IN1K,
    phases=((300, 224),),
    lr=5e-3,
    auto_augment="rand-m7-mstd0.5-inc1",
    drop_path=0.05,
)

RECIPES: dict[str, Recipe] = {
    "e3_tin200": E3_TIN200,
    "e6_tin200": E6_TIN200,
    "e14_tin200": E14_TIN200,
    "e20_tin200": E20_TIN200,
    "e28_tin200": E28_TIN200,
    "h100_30min_tin200": H100_30MIN_TIN200,
    "jhu_in1k": JHU_IN1K,
    "jhu_b128_in1k": JHU_B128_IN1K,
    "e100_in1k": E100_IN1K,
    "e300_in1k": E300_IN1K,
    # For killing: about two minutes of one core on a few hundred photos.
    "faults": replace(
        E6_TIN200,
        phases=((10, 32),),
        batch_size=16,
        test_size=32,
        warmup_steps=20,
        stored_pixels=None,
        held_out_per_class=2,
        precision="fp32",
        ema=0.99,
    ),
    "smoke": replace(E6_TIN200, phases=((1, 32), (1, 40)), batch_size=8, test_size=32),
}
