"""The timing on a GPU, as far as it goes without one."""

from collections import Counter

import pytest
import timm
import torch
from torch import nn

from wszoo.layers import GroupNorm
from wszoo.triton_kernels import compare_on_cuda
from wszoo.triton_kernels.speed import resnet50_sites


@pytest.mark.parametrize("image_size", [224, 65])
def test_the_timed_norms_are_those_of_resnet50(image_size: int) -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50_gn_ws").eval()
        seen: Counter[tuple[int, int]] = Counter()

        def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[inputs[0].shape[1], inputs[0].shape[2]] += 1

        for module in model.modules():
            if isinstance(module, GroupNorm):
                module.register_forward_pre_hook(count)
        model(torch.empty(1, 3, image_size, image_size))

    sites = resnet50_sites(image_size)
    timed: Counter[tuple[int, int]] = Counter()
    for site in sites:
        timed[site.channels, site.size] += site.count
    assert timed == seen
    assert sum(site.count for site in sites if site.residual) == 16
    assert sum(site.count for site in sites if not site.relu) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ValueError, match="no CUDA GPU here to time the Triton kernels on"):
        compare_on_cuda()


@pytest.mark.gpu
def test_each_batch_has_a_row_per_norm_and_a_sum() -> None:
    rows = compare_on_cuda(batches=(1,), image_size=64, rounds=1)

    sites = resnet50_sites(64)
    assert len(rows) == 2 * (len(sites) + 1)
    assert all(row.ours_ms > 0 and row.theirs_ms > 0 for row in rows)
    total = sum(site.count * row.ours_ms for site, row in zip(sites, rows, strict=False))
    assert rows[len(sites)].ours_ms == pytest.approx(total)
    assert rows[len(sites)].name == "ResNet-50's norms, batch 1, beside group_norm"
