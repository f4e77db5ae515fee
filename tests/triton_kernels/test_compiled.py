"""The kernels as machine code for an H100, which takes no GPU."""

import logging
import re
import subprocess
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from wszoo.triton_kernels.plan import Plan, make_plan

triton = pytest.importorskip("triton")
backends = pytest.importorskip("triton.backends.compiler")
compiler = pytest.importorskip("triton.compiler")

from wszoo.triton_kernels.kernels import backward, forward  # noqa: E402

LOGGER = logging.getLogger(__name__)
H100 = backends.GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
DATA = ("x", "y", "residual", "dy", "dx", "dresidual")
FLOATS = ("weight", "bias", "partial", "means", "rstds")
ALIGNED = [["tt.divisibility", 16]]
MOST_SPILLED = 16  # bytes of a thread: a register or two at the edge of a loop
SHARED = 48 * 1024  # bytes that any program may have


@dataclass(frozen=True)
class Code:
    """What became of a kernel: its PTX, and per thread or program what it needs."""

    ptx: str
    registers: int
    spilled: int
    shared: int


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def plan(channels: int, pixels: int, channels_last: bool, batch: int = 2) -> Plan:
    return make_plan(
        batch=batch,
        pixels=pixels,
        num_groups=32,
        per_group=channels // 32,
        channels_last=channels_last,
        processors=132,
    )


def kernels(cut: Plan) -> list[Any]:
    if cut.whole:
        return [forward.whole, backward.whole]
    return [forward.moments, forward.apply, backward.sums, backward.apply]


def compiled(
    kernel: Any, cut: Plan, per_group: int, pixels: int, tmp_path: Path, **options: Any
) -> Code:
    """Compile as a launch would: every pointer aligned, and sizes where sixteen divides them."""
    dtype = options.pop("dtype", "bf16")
    sizes = dict(pixels=pixels, num_groups=32)
    flags = dict(AFFINE=True, RELU=True, RESIDUAL=True, TILES=16) | options
    tiling = dict(PER_GROUP=per_group, WIDTH=cut.width, GROUPS=cut.groups, BLOCK=cut.block)
    constants = {n: v for n, v in (flags | tiling).items() if n in kernel.arg_names}
    types: dict[str, str] = {name: "i32" for name in kernel.arg_names} | {"eps": "fp32"}
    types |= dict.fromkeys(DATA, f"*{dtype}") | dict.fromkeys(FLOATS, "*fp32")
    types |= dict.fromkeys(constants, "constexpr")
    attributes = {
        (i,): ALIGNED
        for i, name in enumerate(kernel.arg_names)
        if name in DATA + FLOATS or sizes.get(name, 1) % 16 == 0
    }
    source = compiler.ASTSource(
        kernel, {n: types[n] for n in kernel.arg_names}, constants, attributes
    )
    binary = triton.compile(source, target=H100, options={"num_warps": cut.warps})
    file = tmp_path / "kernel.cubin"
    file.write_bytes(binary.asm["cubin"])
    command = [str(TOOLS / "cuobjdump"), "-res-usage", str(file)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {key: int(n) for key, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", listing)}
    return Code(
        binary.asm["ptx"], used["REG"], used["STACK"] + used["LOCAL"], binary.metadata.shared
    )


def check(code: Code, kernel: Any, cut: Plan) -> None:
    """The figures are shown with ``--log-cli-level=INFO``."""
    name = f"{kernel.__module__}.{kernel.__name__}, {cut}"
    used = f"{code.registers} registers, {code.spilled} B spilled, {code.shared} B shared"
    LOGGER.info("%s: %s", name, used)
    assert code.spilled <= MOST_SPILLED and code.shared <= SHARED, f"{name}: {used}"


def test_a_kernel_reads_sixteen_bytes_at_a_time(tmp_path: Path) -> None:
    """By the compiler's analysis of the addresses; a thread would read two otherwise."""
    cut = plan(128, 28 * 28, True)

    code = compiled(forward.whole, cut, 4, 28 * 28, tmp_path, NHWC=True)

    assert "ld.global.v4.b32" in code.ptx and "st.global.v4.b32" in code.ptx
    assert not re.search(r"(ld|st)\.global\S*\.b16", code.ptx)
    assert code.spilled == 0


@pytest.mark.slow
@pytest.mark.parametrize("side", [14, 64])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("per_group", [2, 4, 8, 16, 32, 64])
def test_every_width_compiles_without_spilling(
    per_group: int,
    channels_last: bool,
    side: int,
    tmp_path: Path,
) -> None:
    cut = plan(32 * per_group, side * side, channels_last)
    for kernel in kernels(cut):
        code = compiled(kernel, cut, per_group, side * side, tmp_path, NHWC=channels_last)

        check(code, kernel, cut)
        if channels_last or side % 4 == 0:
            assert "ld.global.v4.b32" in code.ptx


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("relu", [True, False])
def test_every_dtype_and_flag_compiles(dtype: str, relu: bool, tmp_path: Path) -> None:
    for side, channels_last in product((7, 50), (True, False)):
        cut = plan(256, side * side, channels_last)
        flags = dict(RELU=relu, RESIDUAL=not relu, AFFINE=relu, NHWC=channels_last)
        for kernel in kernels(cut):
            code = compiled(kernel, cut, 8, side * side, tmp_path, dtype=dtype, **flags)

            check(code, kernel, cut)


@pytest.mark.slow
def test_odd_widths_and_single_pixels_compile(tmp_path: Path) -> None:
    for per_group, pixels in ((3, 49), (5, 70000), (2, 1), (512, 16)):
        cut = plan(32 * per_group, pixels, True)
        for kernel in kernels(cut):
            assert compiled(kernel, cut, per_group, pixels, tmp_path, NHWC=True).registers
